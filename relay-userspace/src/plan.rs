//! Which plane carries each rule, and why not a faster one. Pure: facts in, plan out.

use std::collections::BTreeMap;
use std::net::{IpAddr, Ipv4Addr};
use std::sync::Arc;

use crate::config::Origin;
use crate::config::settings::Hook;
use crate::host::{HostView, Path};
use crate::rule::{Host, ListenOn, Listener, PlaneChoice, PortRange, Protocols, Rule, RuleName, Timeouts};

/// What the plan depends on besides the rules.
#[derive(Debug)]
pub struct Facts<'a> {
    /// The hook that the kernel plane uses, or why there is none.
    pub kernel: Result<Hook, &'a str>,
    pub host: &'a HostView,
    /// The ways to IPv4 backends; one without has no route.
    pub paths: &'a BTreeMap<Ipv4Addr, Path>,
    /// Every name of a backend, resolved, or why not. One that is missing is being resolved.
    pub resolved: &'a BTreeMap<Host, Result<IpAddr, String>>,
    /// Listeners that cannot be had, by rule name: another program has the port.
    pub taken: &'a BTreeMap<RuleName, String>,
}

/// A rule and who carries it.
#[derive(Clone, Debug, PartialEq)]
pub struct PlannedRule {
    pub rule: Arc<Rule>,
    pub origin: Origin,
    /// No new flows; old ones finish.
    pub draining: bool,
    pub ipv4: Carriage,
    pub ipv6: Carriage,
    /// What keeps the rule from working as written.
    pub faults: Vec<Fault>,
    /// The part that the kernel plane carries.
    pub kernel: Option<Arc<KernelRule>>,
}

/// Who carries one address family of a rule.
#[derive(Clone, Debug, Eq, PartialEq)]
pub enum Carriage {
    Kernel(Hook),
    /// Nobody, and why.
    None(String),
}

/// Why a rule, or part of it, does not work. Adding a rule with a fault is refused; a rule that gets one later keeps
/// what still works.
#[derive(Clone, Debug, Eq, PartialEq, thiserror::Error)]
pub enum Fault {
    #[error("{0} is not an address of this host; `ip address` lists them")]
    AddressNotHere(IpAddr),
    #[error("there is no interface {0}")]
    NoInterface(Box<str>),
    #[error("{0}")]
    PortInUse(String),
    #[error("it would feed itself: the backend {0} is the rule's own listener {1}")]
    SelfLoop(String, String),
    #[error("plane = \"kernel\", but the kernel plane cannot carry it: {0}")]
    KernelImpossible(String),
    #[error("{0} does not resolve: {1}")]
    Unresolved(Host, String),
    #[error("{0} is being resolved")]
    Resolving(Host),
    #[error("there is no route to {0}; `ip route get {0}` says the same")]
    NoRoute(Ipv4Addr),
}

impl Fault {
    /// Whether it is the host's present state rather than the rule that is at fault: such a rule may be added, and
    /// works as soon as the host does.
    pub const fn may_pass(&self) -> bool {
        matches!(self, Self::NoRoute(_))
    }
}

/// What the kernel plane needs to know of a rule.
#[derive(Clone, Debug, Eq, PartialEq)]
pub struct KernelRule {
    pub protocols: Protocols,
    pub listeners: Vec<KernelListener>,
    pub backend: Ipv4Addr,
    /// Where a listener's first port goes; `None`: ports stay as they are.
    pub first_port: Option<u16>,
    pub timeouts: Timeouts,
}

#[derive(Clone, Debug, Eq, Hash, Ord, PartialEq, PartialOrd)]
pub struct KernelListener {
    pub on: KernelOn,
    pub ports: PortRange,
}

#[derive(Clone, Copy, Debug, Eq, Hash, Ord, PartialEq, PartialOrd)]
pub enum KernelOn {
    Everywhere,
    Address(Ipv4Addr),
    Interface(u32),
}

/// How a rule is doing.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub enum RuleState {
    Active,
    Disabled,
    Draining,
    /// Part of it works, or nobody can carry it here.
    Degraded,
    /// Nothing of it works, because of a fault.
    Error,
}

impl RuleState {
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Active => "active",
            Self::Disabled => "disabled",
            Self::Draining => "draining",
            Self::Degraded => "degraded",
            Self::Error => "error",
        }
    }
}

impl PlannedRule {
    /// Whether it works less than it should.
    pub fn is_ill(&self) -> bool {
        matches!(self.state(), RuleState::Degraded | RuleState::Error)
    }

    pub fn state(&self) -> RuleState {
        match () {
            () if !self.rule.enabled => RuleState::Disabled,
            () if self.kernel.is_none() && !self.faults.is_empty() => RuleState::Error,
            () if self.kernel.is_none() || !self.faults.is_empty() => RuleState::Degraded,
            () if self.draining => RuleState::Draining,
            () => RuleState::Active,
        }
    }
}

impl PlannedRule {
    /// Why the rule does not work as written, in a sentence; `None` if it does.
    pub fn complaint(&self) -> Option<String> {
        let state = self.state();
        if !self.is_ill() {
            return None;
        }
        let why = match (self.faults.first(), &self.ipv4, &self.ipv6) {
            (Some(fault), _, _) => fault.to_string(),
            (None, Carriage::None(_), Carriage::None(reason)) if !self.hears_ipv4() => reason.clone(),
            (None, Carriage::None(reason), _) => reason.clone(),
            (None, Carriage::Kernel(_), _) => return None,
        };
        let state = if state == RuleState::Error { "does not work" } else { "is degraded" };
        Some(format!("rule \"{}\" {state}: {why}", self.rule.name))
    }

    fn hears_ipv4(&self) -> bool {
        self.rule.listen.iter().any(|listener| listener.on.takes_ipv4())
    }
}

const USER_PLANE: &str = "the user plane is not built yet";

/// Plans one rule.
pub fn rule(rule: &Arc<Rule>, origin: &Origin, draining: bool, facts: &Facts<'_>) -> PlannedRule {
    let mut faults = Vec::new();
    let listeners = listeners(rule, facts, &mut faults);
    let address = backend(rule, facts, &mut faults);
    if let Some(text) = facts.taken.get(&rule.name) {
        faults.push(Fault::PortInUse(text.clone()));
    }
    if let Some(IpAddr::V4(address)) = address
        && let Some(fault) = self_loop(rule, address, facts.host)
    {
        faults.push(fault);
    }
    let blocked = faults.iter().any(|fault| matches!(fault, Fault::PortInUse(_) | Fault::SelfLoop(..)));
    let verdict = match carried_v4(rule, address, facts) {
        Ok(_) if blocked => Err("see the fault".to_owned()),
        Ok(_) if listeners.is_empty() && rule.listen.iter().any(on_loopback) => {
            Err(format!("connections of this host to itself need the user plane: {USER_PLANE}"))
        }
        Ok(_) if listeners.is_empty() => Err("it has no IPv4 listener".to_owned()),
        verdict => verdict,
    };
    let (ipv4, kernel) = match verdict {
        Ok((hook, backend)) => {
            if !facts.paths.contains_key(&backend) {
                faults.push(Fault::NoRoute(backend));
            }
            let kernel = KernelRule {
                protocols: rule.protocols,
                listeners,
                backend,
                first_port: rule.to.first().and_then(crate::rule::Backend::first_port),
                timeouts: rule.timeouts,
            };
            (Carriage::Kernel(hook), Some(Arc::new(kernel)))
        }
        Err(reason) => {
            if rule.plane == PlaneChoice::Kernel && rule.enabled && faults.is_empty() {
                faults.push(Fault::KernelImpossible(reason.clone()));
            }
            (Carriage::None(reason), None)
        }
    };
    let ipv6 = Carriage::None(ipv6_reason(rule));
    PlannedRule { rule: rule.clone(), origin: origin.clone(), draining, ipv4, ipv6, faults, kernel }
}

fn ipv6_reason(rule: &Rule) -> String {
    if !rule.listen.iter().any(|listener| listener.on.takes_ipv6()) {
        return "it has no IPv6 listener".into();
    }
    format!("IPv6 clients need the user plane: {USER_PLANE}")
}

/// Whether the kernel plane can carry IPv4 clients to this address.
fn carried_v4(rule: &Rule, address: Option<IpAddr>, facts: &Facts<'_>) -> Result<(Hook, Ipv4Addr), String> {
    if !rule.enabled {
        return Err("the rule is disabled".into());
    }
    if !rule.listen.iter().any(|listener| listener.on.takes_ipv4()) {
        return Err("it has no IPv4 listener".into());
    }
    if rule.plane == PlaneChoice::User {
        return Err(format!("plane = \"user\": {USER_PLANE}"));
    }
    match address {
        None => Err("its backend has no address yet".into()),
        Some(IpAddr::V6(_)) => Err(format!("an IPv6 backend needs the user plane: {USER_PLANE}")),
        Some(address @ IpAddr::V4(_)) if facts.host.is_own(address) => {
            Err(format!("a backend on this host needs the user plane: {USER_PLANE}"))
        }
        Some(IpAddr::V4(address)) => match facts.kernel {
            Ok(hook) => Ok((hook, address)),
            Err(reason) => Err(reason.to_owned()),
        },
    }
}

fn backend(rule: &Rule, facts: &Facts<'_>, faults: &mut Vec<Fault>) -> Option<IpAddr> {
    let host = &rule.to.first()?.host;
    match (host, facts.resolved.get(host)) {
        (Host::Address(address), _) | (_, Some(Ok(address))) => Some(*address),
        // nobody asks for the names of a disabled rule
        _ if !rule.enabled => None,
        (_, Some(Err(error))) => {
            faults.push(Fault::Unresolved(host.clone(), error.clone()));
            None
        }
        (_, None) => {
            faults.push(Fault::Resolving(host.clone()));
            None
        }
    }
}

fn on_loopback(listener: &Listener) -> bool {
    matches!(listener.on, ListenOn::Address(address) if address.is_loopback())
}

fn listeners(rule: &Rule, facts: &Facts<'_>, faults: &mut Vec<Fault>) -> Vec<KernelListener> {
    let mut found = Vec::new();
    for Listener { on, ports } in &rule.listen {
        let on = match on {
            ListenOn::Everywhere | ListenOn::EverywhereV4 => KernelOn::Everywhere,
            ListenOn::EverywhereV6 => continue,
            // only this host talks to those, and its packets do not pass an interface
            ListenOn::Address(address) if address.is_loopback() => continue,
            ListenOn::Address(address) if !facts.host.is_own(*address) => {
                faults.push(Fault::AddressNotHere(*address));
                continue;
            }
            ListenOn::Address(IpAddr::V4(address)) => KernelOn::Address(*address),
            ListenOn::Address(IpAddr::V6(_)) => continue,
            ListenOn::Interface(name) => match facts.host.link_by_name(name) {
                Some(link) => KernelOn::Interface(link.index),
                None => {
                    faults.push(Fault::NoInterface(name.clone()));
                    continue;
                }
            },
        };
        found.push(KernelListener { on, ports: *ports });
    }
    found
}

/// A backend that is the rule's own listener: every packet would come back, one hop older.
fn self_loop(rule: &Rule, backend: Ipv4Addr, host: &HostView) -> Option<Fault> {
    let to = rule.to.first()?;
    if !host.is_own(IpAddr::V4(backend)) {
        return None;
    }
    let target = |listener: &Listener| {
        let first = to.first_port().unwrap_or(listener.ports.first());
        let last = u32::from(first) + listener.ports.len() - 1;
        PortRange::new(first, u16::try_from(last).unwrap_or(u16::MAX))
    };
    let hears = |on: &ListenOn| match on {
        ListenOn::Everywhere | ListenOn::EverywhereV4 | ListenOn::Interface(_) => true,
        ListenOn::Address(address) => *address == IpAddr::V4(backend),
        ListenOn::EverywhereV6 => false,
    };
    for from in &rule.listen {
        let ports = target(from)?;
        if let Some(own) = rule.listen.iter().find(|own| hears(&own.on) && own.ports.overlaps(ports)) {
            return Some(Fault::SelfLoop(to.to_string(), own.to_string()));
        }
    }
    None
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::host::{HostAddress, NextHop};
    use crate::rule::Backend;

    fn host() -> HostView {
        let mut host = HostView::default();
        host.addresses.insert(HostAddress { address: Ipv4Addr::new(192, 0, 2, 1).into(), interface: 2 });
        host
    }

    fn planned_with(listen: &str, to: &str, plane: PlaneChoice, kernel: Result<Hook, &str>) -> PlannedRule {
        let rule = Rule {
            name: RuleName::parse("r").expect("name"),
            note: None,
            enabled: true,
            listen: vec![Listener::parse(listen).expect(listen)],
            protocols: Protocols::Both,
            to: vec![Backend::parse(to).expect(to)],
            plane,
            force: false,
            timeouts: Timeouts::default(),
        };
        planned_rule(rule, kernel)
    }

    fn planned_rule(rule: Rule, kernel: Result<Hook, &str>) -> PlannedRule {
        let unresolved = Err("no such host".to_owned());
        let resolved = BTreeMap::from([(Host::Name("gone.example".into()), unresolved)]);
        let hop = NextHop { interface: 2, gateway: None, mtu: 1500 };
        let path = Path { source: Ipv4Addr::new(192, 0, 2, 1), hop };
        let paths = BTreeMap::from([(Ipv4Addr::new(203, 0, 113, 10), path)]);
        let facts =
            Facts { kernel, host: &host(), paths: &paths, resolved: &resolved, taken: &BTreeMap::new() };
        super::rule(&Arc::new(rule), &Origin::CommandLine, false, &facts)
    }

    fn planned(listen: &str, to: &str) -> PlannedRule {
        planned_with(listen, to, PlaneChoice::Auto, Ok(Hook::Tc))
    }

    #[test]
    fn the_kernel_carries_ipv4_to_ipv4() {
        let planned = planned(":80", "203.0.113.10:80");
        assert_eq!(planned.ipv4, Carriage::Kernel(Hook::Tc));
        assert_eq!(planned.state(), RuleState::Active);
        assert!(matches!(&planned.ipv6, Carriage::None(reason) if reason.contains("user plane")));
    }

    #[test]
    fn what_it_cannot_carry_says_why() {
        for (listen, to, reason) in [
            ("[::]:80", "203.0.113.10:80", "no IPv4 listener"),
            ("127.0.0.1:80", "203.0.113.10:80", "of this host to itself"),
            (":80", "[2001:db8::1]:80", "IPv6 backend"),
            (":80", "127.0.0.1:81", "on this host"),
            (":80", "192.0.2.1:81", "on this host"),
        ] {
            let planned = planned(listen, to);
            assert!(
                matches!(&planned.ipv4, Carriage::None(why) if why.contains(reason)),
                "{:?}",
                planned.ipv4
            );
            assert_eq!(planned.state(), RuleState::Degraded, "{listen} {to}");
        }
    }

    #[test]
    fn faults_are_named() {
        for (listen, to, text) in [
            ("192.0.2.9:80", "203.0.113.10:80", "192.0.2.9 is not an address of this host"),
            ("%eth7:80", "203.0.113.10:80", "no interface eth7"),
            (":80", "gone.example:80", "gone.example does not resolve: no such host"),
            (":80", "new.example:80", "new.example is being resolved"),
            (":80", "192.0.2.1", "feed itself"),
            (":80-90", "127.0.0.1:85", "feed itself"),
        ] {
            let planned = planned(listen, to);
            assert_eq!(planned.faults.len(), 1, "{listen} {to}: {:?}", planned.faults);
            assert!(planned.faults[0].to_string().contains(text), "{}", planned.faults[0]);
            assert_eq!(planned.state(), RuleState::Error, "{listen} {to}");
        }
    }

    #[test]
    fn a_disabled_rule_needs_no_name() {
        for to in ["gone.example:80", "new.example:80"] {
            let rule = Rule { enabled: false, ..(*planned(":80", to).rule).clone() };
            let planned = planned_rule(rule, Ok(Hook::Tc));
            assert_eq!((planned.state(), &planned.faults[..]), (RuleState::Disabled, &[][..]), "{to}");
        }
    }

    #[test]
    fn a_backend_without_a_route_may_get_one() {
        let planned = planned(":80", "203.0.113.11:80");
        assert_eq!(planned.faults, [Fault::NoRoute(Ipv4Addr::new(203, 0, 113, 11))]);
        assert_eq!(planned.state(), RuleState::Degraded);
        assert!(planned.kernel.is_some(), "flows that it has stay");
    }

    #[test]
    fn plane_kernel_is_a_fault_only_where_nothing_can_be_carried() {
        let by = |listen, kernel| planned_with(listen, "203.0.113.10:80", PlaneChoice::Kernel, kernel);
        assert_eq!(by(":80", Ok(Hook::Tc)).faults, []);
        assert!(matches!(by("[::]:80", Ok(Hook::Tc)).faults[..], [Fault::KernelImpossible(_)]));
        assert!(matches!(by(":80", Err("CAP_BPF is missing")).faults[..], [Fault::KernelImpossible(_)]));
    }
}
