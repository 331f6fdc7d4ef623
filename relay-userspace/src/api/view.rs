//! What the API answers: the shapes that `relayctl -o json` prints. Fields are only ever added.

mod alerts;
mod interfaces;
mod past;
mod quotas;

use std::collections::BTreeMap;

use serde::{Deserialize, Serialize};
use serde_json::{Map, Value};

pub use self::alerts::{AlertChange, AlertTestView, AlertView};
pub use self::interfaces::InterfaceView;
pub use self::past::{
    AccountView, HistoryRowView, HistoryView, InterfaceTrafficView, LifetimeView, MachineView, PortView,
};
pub use self::quotas::{ExpiryView, LedgerView, QuotaView, TermsView};
use super::round_trips::{RoundTripView, RoundTripsView};
use crate::health::saved::BackendOrder;
use crate::rule::Transport;

/// One rule.
#[derive(Clone, Debug, Deserialize, PartialEq, Serialize)]
pub struct RuleView {
    pub name: String,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub note: Option<String>,
    pub listen: Vec<String>,
    pub protocol: String,
    /// What clients wrap their connections in, and those to backends are wrapped in.
    #[serde(default)]
    pub accept: LegView,
    #[serde(default)]
    pub connect: LegView,
    pub to: Vec<BackendView>,
    /// Who of them gets a new flow: roundrobin, iphash, leastconn, first
    #[serde(default)]
    pub balance: String,
    /// What its traffic may be at most, as configured: `ingress`, `egress`.
    #[serde(default, skip_serializing_if = "BTreeMap::is_empty")]
    pub rate: BTreeMap<String, String>,
    /// How far its quota is used.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub quota: Option<QuotaView>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub expires: Option<ExpiryView>,
    /// Whose quota, rate and end hold, too.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub group: Option<String>,
    pub enabled: bool,
    /// active, disabled, draining, degraded, blocked, expired, error
    pub state: String,
    /// What keeps the rule from working as written.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub faults: Vec<String>,
    pub plane: PlanesView,
    pub counters: CountersView,
}

/// One leg's tunnel. What is absent goes by the backend, or is anything.
#[derive(Clone, Debug, Deserialize, PartialEq, Serialize)]
pub struct LegView {
    /// plain, tls, ws, wss
    pub transport: String,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub host: Option<String>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub path: Option<String>,
    /// The file of our certificate, as configured.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub cert: Option<String>,
    /// Of the certificate that clients are shown: what they may pin.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub fingerprint: Option<String>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub sni: Option<String>,
    /// ca, insecure, pin:sha256/...
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub verify: Option<String>,
}

impl Default for LegView {
    fn default() -> Self {
        let transport = Transport::Plain.as_str().into();
        Self { transport, host: None, path: None, cert: None, fingerprint: None, sni: None, verify: None }
    }
}

impl LegView {
    pub fn is_plain(&self) -> bool {
        self.transport == Transport::Plain.as_str()
    }

    /// `wss, host www.example.com, path /ws`.
    pub fn sentence(&self) -> String {
        let facts = [
            ("host", &self.host),
            ("path", &self.path),
            ("certificate", &self.cert),
            ("fingerprint", &self.fingerprint),
            ("sni", &self.sni),
            ("verify", &self.verify),
        ];
        let facts =
            facts.into_iter().filter_map(|(name, value)| Some(format!(", {name} {}", value.as_ref()?)));
        format!("{}{}", self.transport, facts.collect::<String>())
    }
}

#[derive(Clone, Debug, Default, Deserialize, PartialEq, Serialize)]
pub struct BackendView {
    pub addr: String,
    pub weight: u16,
    #[serde(default)]
    pub priority: u16,
    /// up, down, unknown, unresolved; by order: draining, down
    pub state: String,
    /// The address of a name that is tried first.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub resolved: Option<String>,
    /// All addresses of a name, in the order to try them.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub addresses: Vec<String>,
    /// How a name is kept up to date.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub lookup: Option<LookupView>,
    /// What somebody has ordered by hand.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub order: Option<BackendOrder>,
    /// How it is judged for TCP, if it is.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub tcp: Option<JudgedView>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub udp: Option<JudgedView>,
    /// Flows and sessions that it has, and has had; of a rule's only backend, those of the rule.
    #[serde(default)]
    pub flows: FlowsView,
    /// Sessions that it has failed.
    #[serde(default)]
    pub failed: u64,
    /// Tunnels to it that wait for clients, where the rule holds any.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub pool: Option<PoolView>,
    /// How long round trips take, to it and to the clients that it got.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub rtt: Option<RoundTripsView>,
}

impl BackendView {
    /// How long round trips take, for each leg of which that is known.
    pub fn legs(&self) -> impl Iterator<Item = (&'static str, &RoundTripView)> {
        let rtt = self.rtt.as_ref();
        let both = rtt.map(|rtt| [("backend", &rtt.backend), ("client", &rtt.client)]).into_iter().flatten();
        both.filter_map(|(leg, taken)| Some((leg, taken.as_ref()?)))
    }

    /// How it is judged, for each protocol that it is judged for.
    pub fn judged(&self) -> impl Iterator<Item = (&'static str, &JudgedView)> {
        let both = [("tcp", &self.tcp), ("udp", &self.udp)].into_iter();
        both.filter_map(|(protocol, judged)| Some((protocol, judged.as_ref()?)))
    }
}

/// Tunnels that are held open for clients to come (`connect.pool`).
#[derive(Clone, Copy, Debug, Default, Deserialize, PartialEq, Serialize)]
pub struct PoolView {
    /// Those that wait now.
    pub open: u64,
    /// Clients that got one.
    pub taken: u64,
    /// Clients that had to wait for a tunnel of their own.
    pub missed: u64,
}

impl PoolView {
    /// `4 tunnels wait; 120 clients got one, 3 did not`.
    pub fn sentence(&self) -> String {
        let waiting =
            if self.open == 1 { "1 tunnel waits".into() } else { format!("{} tunnels wait", self.open) };
        format!("{waiting}; {} clients got one, {} did not", self.taken, self.missed)
    }
}

/// What is known of a backend for one protocol.
#[derive(Clone, Debug, Default, Deserialize, PartialEq, Serialize)]
pub struct JudgedView {
    /// up, down, unknown
    pub state: String,
    pub since_seconds: u64,
    /// Of the last probe that was answered.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub latency_ms: Option<f64>,
    /// What the last failure was; kept when it answers again.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub last_error: Option<String>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub last_failure_seconds: Option<u64>,
    /// Since relayd has started.
    pub successes: u64,
    pub failures: u64,
}

/// When a name was looked up, and when it will be.
#[derive(Clone, Debug, Default, Deserialize, PartialEq, Serialize)]
pub struct LookupView {
    /// Seconds since the last answer; absent: none since relayd has started.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub age_seconds: Option<u64>,
    /// Seconds until the next lookup; absent: when /etc/hosts changes.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub next_seconds: Option<u64>,
    /// What was wrong with the last lookup.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub error: Option<String>,
}

impl LookupView {
    /// `asked 3 s ago, again in 57 s`.
    pub fn sentence(&self) -> String {
        let asked = match self.age_seconds {
            Some(age) => format!("asked {age} s ago"),
            None => "known from before relayd was started".into(),
        };
        let again = match self.next_seconds {
            Some(next) => format!("again in {next} s"),
            None => "again when /etc/hosts changes".into(),
        };
        let error = self.error.as_ref().map(|error| format!(" (the last lookup failed: {error})"));
        format!("{asked}, {again}{}", error.unwrap_or_default())
    }
}

#[derive(Clone, Debug, Deserialize, PartialEq, Serialize)]
pub struct PlanesView {
    pub ipv4: PlaneView,
    pub ipv6: PlaneView,
}

/// Who carries one address family.
#[derive(Clone, Debug, Deserialize, PartialEq, Serialize)]
pub struct PlaneView {
    /// kernel, user, none
    pub plane: String,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub hook: Option<String>,
    /// Why not a faster plane.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub reason: Option<String>,
}

impl PlaneView {
    /// `kernel/tc`, `none`.
    pub fn short(&self) -> String {
        match &self.hook {
            Some(hook) => format!("{}/{hook}", self.plane),
            None => self.plane.clone(),
        }
    }
}

#[derive(Clone, Debug, Default, Deserialize, PartialEq, Serialize)]
pub struct CountersView {
    /// ip: bytes of the IP layer on the client leg; payload: what was passed on, where no eBPF counts it
    pub unit: String,
    pub ingress: TrafficView,
    pub egress: TrafficView,
    pub flows: FlowsView,
    /// Refused packets by reason.
    pub drops: BTreeMap<String, u64>,
    /// All that rules of this name have ever carried, over restarts, reboots and edits; the fields above begin anew.
    #[serde(default)]
    pub lifetime: LifetimeView,
}

#[derive(Clone, Copy, Debug, Default, Deserialize, PartialEq, Serialize)]
pub struct TrafficView {
    pub packets: u64,
    pub bytes: u64,
}

#[derive(Clone, Copy, Debug, Default, Deserialize, PartialEq, Serialize)]
pub struct FlowsView {
    pub active: u64,
    pub total: u64,
}

/// How relayd is doing.
#[derive(Clone, Debug, Default, Deserialize, PartialEq, Serialize)]
pub struct StatusView {
    pub version: String,
    pub pid: u32,
    pub uptime_seconds: u64,
    /// The main configuration file; absent with rules from the command line.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub config: Option<String>,
    pub kernel: KernelView,
    pub interfaces: Vec<InterfaceView>,
    pub traffic: MachineView,
    pub flows: TablesView,
    /// Rules by state.
    pub rules: BTreeMap<String, usize>,
    pub reload: ReloadView,
    /// Kernel settings that `relayctl down` puts back.
    pub sysctls: Vec<String>,
    /// Packets refused that belong to no rule.
    pub drops: BTreeMap<String, u64>,
    /// Who watches flows by now.
    #[serde(default)]
    pub observers: usize,
    /// Seconds until an unconfirmed apply is undone.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub unconfirmed_seconds: Option<u64>,
}

#[derive(Clone, Debug, Default, Deserialize, PartialEq, Serialize)]
pub struct KernelView {
    pub available: bool,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub reason: Option<String>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub hook: Option<String>,
    /// Flows of an earlier relayd were taken over.
    pub adopted: bool,
    /// Tables that the host's routes, addresses or next hops do not fit into, and what becomes of those left out.
    #[serde(default, skip_serializing_if = "BTreeMap::is_empty")]
    pub full: BTreeMap<String, String>,
}

/// Flows in the established tables, and what each takes.
#[derive(Clone, Copy, Debug, Default, Deserialize, PartialEq, Serialize)]
pub struct TablesView {
    pub tcp: u64,
    pub udp: u64,
    pub unproven: u64,
    /// Per protocol.
    pub max_flows: u32,
}

#[derive(Clone, Debug, Default, Deserialize, PartialEq, Serialize)]
pub struct ReloadView {
    pub success: bool,
    /// Seconds since.
    pub age_seconds: u64,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub error: Option<String>,
}

/// What a change did, or with a dry run would do.
#[derive(Clone, Debug, Default, Deserialize, PartialEq, Serialize)]
pub struct ChangeView {
    pub changes: Vec<RuleChange>,
    /// Alerts that change; what about them is not shown.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub alerts: Vec<AlertChange>,
    /// Where it was saved; absent if nothing was saved.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub saved: Option<String>,
    /// Why it was not saved, and other things worth knowing.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub notes: Vec<String>,
    pub dry_run: bool,
    /// Some rules do not work as written.
    pub degraded: bool,
    /// Seconds within which `relayctl apply --confirm` wants its confirmation.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub confirm_within: Option<u64>,
}

#[derive(Clone, Debug, Default, Deserialize, PartialEq, Serialize)]
pub struct RuleChange {
    /// added, changed, removed, draining, resumed, quota reset; of a backend: draining, down, up
    pub action: String,
    pub name: String,
    /// It is a group.
    #[serde(default, skip_serializing_if = "std::ops::Not::not")]
    pub is_group: bool,
    /// The one of its backends that the change is about.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub backend: Option<String>,
    /// The rule's keys before and after.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub before: Option<Map<String, Value>>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub after: Option<Map<String, Value>>,
}

/// Why a rule is carried as it is.
#[derive(Clone, Debug, Deserialize, PartialEq, Serialize)]
pub struct ExplainView {
    pub rule: RuleView,
    /// The rule as configured.
    pub config: Map<String, Value>,
    /// Where it is kept.
    pub origin: String,
    /// One thing worth knowing per line.
    pub lines: Vec<String>,
}

/// What a walk along a rule has met.
#[derive(Clone, Debug, Deserialize, PartialEq, Serialize)]
pub struct WalkView {
    pub rule: String,
    /// Nothing failed.
    pub ok: bool,
    pub steps: Vec<StepView>,
}

#[derive(Clone, Debug, Deserialize, PartialEq, Serialize)]
pub struct StepView {
    /// The one that it is about, as configured; absent: the rule itself.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub backend: Option<String>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub address: Option<String>,
    /// listen, certificate, dns, connect, proxy, tls, websocket, mux, payload, udp
    pub step: String,
    /// ok, failed, skipped
    pub result: String,
    /// The cause, of what is not ok; README.md lists all.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub code: Option<String>,
    /// Keys of the rule that may not match the other end.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub options: Vec<String>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub ms: Option<f64>,
    /// What was found, or the cause and the remedy.
    pub text: String,
}

impl StepView {
    pub const OK: &str = "ok";
    pub const FAILED: &str = "failed";
    pub const SKIPPED: &str = "skipped";
}

/// What `relayctl down` removed, or with a dry run would remove.
#[derive(Clone, Debug, Default, Deserialize, PartialEq, Serialize)]
pub struct DownView {
    #[serde(default)]
    pub dry_run: bool,
    pub hooks: usize,
    pub pins: usize,
    pub sysctls: Vec<String>,
    pub failed: Vec<String>,
}

/// Something that happened.
#[derive(Clone, Debug, Deserialize, PartialEq, Serialize)]
pub struct EventView {
    /// Seconds since 1970.
    pub time: u64,
    /// `rule.added`, `rule.state`, `backend.down`, `reload`, `interface`, ...; README.md lists all
    pub kind: String,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub rule: Option<String>,
    pub text: String,
}

/// Seconds as people say them: `5 s`, `3 min`, `2 h 10 min`, `4 d 1 h`.
pub fn age(seconds: u64) -> String {
    match seconds {
        0..60 => format!("{seconds} s"),
        60..3600 => format!("{} min", seconds / 60),
        3600..86_400 => format!("{} h {} min", seconds / 3600, seconds % 3600 / 60),
        _ => format!("{} d {} h", seconds / 86_400, seconds % 86_400 / 3600),
    }
}

/// Bytes in the largest unit that leaves a digit before the point.
pub fn size(bytes: u64) -> String {
    const UNITS: [&str; 6] = ["B", "KiB", "MiB", "GiB", "TiB", "PiB"];
    let mut value = bytes as f64;
    let mut unit = 0;
    while value >= 1024.0 && unit + 1 < UNITS.len() {
        value /= 1024.0;
        unit += 1;
    }
    if unit == 0 { format!("{bytes} B") } else { format!("{value:.1} {}", UNITS[unit]) }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn sizes_are_readable() {
        assert_eq!(size(0), "0 B");
        assert_eq!(size(1023), "1023 B");
        assert_eq!(size(1536), "1.5 KiB");
        assert_eq!(size(5 * 1024 * 1024 * 1024), "5.0 GiB");
    }
}
