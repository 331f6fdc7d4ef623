//! A rule: where it listens, what it carries, where that goes.
//!
//! Plain values without serialisation, sockets or clocks. Everything typed was parsed once, at the edge.

pub mod accept;
pub mod allow;
pub mod backend;
pub mod balance;
pub mod check;
pub mod connect;
pub mod counting;
pub mod expiry;
pub mod group;
pub mod limit;
pub mod listen;
pub mod overlap;
pub mod quota;
pub mod rate;
pub mod staying;
pub mod tunnel;
pub mod usual;

use std::fmt;
use std::sync::Arc;
use std::time::Duration;

use relay_common::net::Protocol;

pub use self::accept::Accept;
pub use self::allow::{AllowList, Network};
pub use self::backend::{Backend, BackendPorts, Host};
pub use self::balance::Balance;
pub use self::check::{Check, CheckKind, Failback, HttpCheck, StatusRange};
pub use self::connect::{Connect, ProxyVersion};
pub use self::expiry::Expiry;
pub use self::group::{Group, GroupName, Groups};
pub use self::limit::Limits;
pub use self::listen::{ListenOn, Listener, PortRange};
pub use self::quota::Quota;
pub use self::rate::Rates;
pub use self::staying::{Destination, Staying};
pub use self::tunnel::{
    AcceptTls, AcceptTunnel, AcceptWs, ConnectTls, ConnectTunnel, ConnectWs, Identity, MaskChoice, Transport,
    UdpOver, Verify,
};
pub use self::usual::Usual;

/// A rule as configured.
#[derive(Clone, Debug, Eq, PartialEq)]
pub struct Rule {
    pub name: RuleName,
    pub note: Option<Box<str>>,
    pub enabled: bool,
    /// Never empty.
    pub listen: Box<[Listener]>,
    pub protocols: Protocols,
    /// Empty for a watch alone.
    pub to: Box<[Backend]>,
    pub balance: Balance,
    /// `None`: what [`Rule::check`] says.
    pub check: Option<Box<Check>>,
    pub plane: PlaneChoice,
    pub udp_nat: UdpNat,
    pub on_down: OnDown,
    /// Take ports that other programs listen on.
    pub force: bool,
    pub timeouts: Usual<Timeouts>,
    pub accept: Usual<Accept>,
    pub connect: Usual<Connect>,
    pub limits: Limits,
    pub rates: Usual<Rates>,
    pub quota: Option<Box<Quota>>,
    pub expires: Option<Box<Expiry>>,
    /// Whose quota, rate and end hold beside its own.
    pub group: Option<GroupName>,
    /// Each port is counted by itself, too.
    pub count_ports: bool,
    /// A port of the host's own programs, which is counted and not touched: it has no backends.
    pub is_watch: bool,
}

impl Rule {
    /// A rule with everything else at its default.
    pub fn new(name: RuleName, listen: Vec<Listener>, to: Vec<Backend>) -> Self {
        Self {
            name,
            note: None,
            enabled: true,
            listen: listen.into(),
            protocols: Protocols::default(),
            to: to.into(),
            balance: Balance::default(),
            check: None,
            plane: PlaneChoice::default(),
            udp_nat: UdpNat::default(),
            on_down: OnDown::default(),
            force: false,
            timeouts: Usual::default(),
            accept: Usual::default(),
            connect: Usual::default(),
            limits: Limits::default(),
            rates: Usual::default(),
            quota: None,
            expires: None,
            group: None,
            count_ports: false,
            is_watch: false,
        }
    }

    /// Whether the ports that it listens on are taken for it.
    pub const fn takes_ports(&self) -> bool {
        self.enabled && !self.is_watch
    }

    /// `rule`, or `watch`.
    pub const fn kind(&self) -> &'static str {
        if self.is_watch { "watch" } else { "rule" }
    }

    /// Whether it listens on every address, whatever the host has.
    pub fn is_everywhere(&self) -> bool {
        self.listen.iter().all(|listener| {
            matches!(listener.on, ListenOn::Everywhere | ListenOn::EverywhereV4 | ListenOn::EverywhereV6)
        })
    }

    /// Why relayd itself must carry the rule's TCP, if it must.
    pub fn needs_relayd(&self) -> Option<&'static str> {
        let reason = || self.accept.needs_relayd().or(self.connect.needs_relayd());
        self.protocols.has(Protocol::Tcp).then(reason).flatten()
    }

    /// Why relayd itself must carry the rule's UDP, if it must.
    pub fn udp_needs_relayd(&self) -> Option<&'static str> {
        let reason = || match () {
            () if self.accept.takes_datagrams() => {
                Some("relayd takes UDP out of its tunnel (accept.udp_over = \"tunnel\")")
            }
            () if self.connect.sends_datagrams() => {
                Some("relayd sends UDP through its tunnel (connect.udp_over = \"tunnel\")")
            }
            () => None,
        };
        self.protocols.has(Protocol::Udp).then(reason).flatten()
    }

    /// Which protocols its clients come by: datagrams in tunnels come by TCP.
    pub fn heard(&self) -> Protocols {
        if self.accept.takes_datagrams() { Protocols::Tcp } else { self.protocols }
    }

    /// Whether a leg of it is more than plain TCP.
    pub fn has_tunnel(&self) -> bool {
        self.accept.tunnel.is_some() || self.connect.tunnel.is_some()
    }

    /// How its backends are judged. Without a word about it they are asked where there is another one to go to; UDP has no
    /// question that suits everybody.
    pub fn check(&self) -> Check {
        let is_asked = self.to.len() > 1 && self.protocols.has(Protocol::Tcp);
        let kind = if is_asked { CheckKind::Tcp } else { CheckKind::Passive };
        self.check.as_deref().cloned().unwrap_or_else(|| Check { kind, ..Check::default() })
    }

    /// How many ports the rule takes, per protocol and family.
    pub fn ports(&self) -> u32 {
        self.listen.iter().map(|listener| listener.ports.len()).sum()
    }
}

/// What a rule is called: `[A-Za-z0-9._-]{1,64}`.
#[derive(Clone, Debug, Eq, Hash, Ord, PartialEq, PartialOrd)]
pub struct RuleName(Arc<str>);

impl RuleName {
    pub const MAX: usize = 64;
    /// What a rule name may look like, for error texts.
    pub const FORM: &str = "a name is 1 to 64 of A-Z a-z 0-9 . _ -";

    /// `None` for anything that is not a rule name.
    pub fn parse(text: &str) -> Option<Self> {
        let fits = (1..=Self::MAX).contains(&text.len());
        let allowed = |byte: u8| byte.is_ascii_alphanumeric() || matches!(byte, b'.' | b'_' | b'-');
        (fits && text.bytes().all(allowed)).then(|| Self(text.into()))
    }

    pub fn as_str(&self) -> &str {
        &self.0
    }
}

impl fmt::Display for RuleName {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

/// Which protocols a rule carries.
#[derive(Clone, Copy, Debug, Default, Eq, PartialEq)]
pub enum Protocols {
    Tcp,
    Udp,
    #[default]
    Both,
}

impl Protocols {
    pub const ALL: [Self; 3] = [Self::Tcp, Self::Udp, Self::Both];

    pub fn parse(text: &str) -> Option<Self> {
        Self::ALL.into_iter().find(|protocols| protocols.as_str() == text)
    }

    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Tcp => "tcp",
            Self::Udp => "udp",
            Self::Both => "tcp+udp",
        }
    }

    pub const fn has(self, protocol: Protocol) -> bool {
        matches!((self, protocol), (Self::Both, _) | (Self::Tcp, Protocol::Tcp) | (Self::Udp, Protocol::Udp))
    }

    pub fn iter(self) -> impl Iterator<Item = Protocol> {
        Protocol::ALL.into_iter().filter(move |&protocol| self.has(protocol))
    }
}

impl fmt::Display for Protocols {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.as_str())
    }
}

/// Who is asked to carry a rule.
#[derive(Clone, Copy, Debug, Default, Eq, PartialEq)]
pub enum PlaneChoice {
    /// The kernel where it can, per address family.
    #[default]
    Auto,
    Kernel,
    User,
}

impl PlaneChoice {
    pub const ALL: [Self; 3] = [Self::Auto, Self::Kernel, Self::User];

    pub fn parse(text: &str) -> Option<Self> {
        Self::ALL.into_iter().find(|choice| choice.as_str() == text)
    }

    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Auto => "auto",
            Self::Kernel => "kernel",
            Self::User => "user",
        }
    }
}

/// Whose datagrams a UDP client of the user plane gets.
#[derive(Clone, Copy, Debug, Default, Eq, PartialEq)]
pub enum UdpNat {
    /// The backend's alone.
    #[default]
    Restricted,
    /// Anybody's who finds the port.
    FullCone,
}

impl UdpNat {
    pub const ALL: [Self; 2] = [Self::Restricted, Self::FullCone];

    pub fn parse(text: &str) -> Option<Self> {
        Self::ALL.into_iter().find(|nat| nat.as_str() == text)
    }

    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Restricted => "restricted",
            Self::FullCone => "fullcone",
        }
    }
}

/// What becomes of flows and sessions whose backend's address is the rule's no more.
#[derive(Clone, Copy, Debug, Default, Eq, PartialEq)]
pub enum OnDown {
    /// They go on.
    #[default]
    Keep,
    /// They end.
    Reset,
}

impl OnDown {
    pub const ALL: [Self; 2] = [Self::Keep, Self::Reset];

    pub fn parse(text: &str) -> Option<Self> {
        Self::ALL.into_iter().find(|on_down| on_down.as_str() == text)
    }

    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Keep => "keep",
            Self::Reset => "reset",
        }
    }
}

/// How long flows and sessions may take, and stay silent.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub struct Timeouts {
    /// For each address of a backend.
    pub connect: Duration,
    /// For what a client must send before it is connected.
    pub handshake: Duration,
    pub tcp_idle: Duration,
    pub half_close: Duration,
    pub udp: Duration,
    pub keepalive: Keepalive,
}

/// How the kernel asks a silent TCP peer whether it is still there (`TCP_KEEPIDLE`, `TCP_KEEPINTVL`, `TCP_KEEPCNT`).
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub struct Keepalive {
    pub idle: Duration,
    pub interval: Duration,
    pub count: u8,
}

impl Keepalive {
    /// The kernel takes whole seconds up to this (`MAX_TCP_KEEPIDLE` in include/net/tcp.h).
    pub const LONGEST: Duration = Duration::from_secs(32_767);
}

impl Default for Keepalive {
    fn default() -> Self {
        Self { idle: Duration::from_secs(15), interval: Duration::from_secs(15), count: 3 }
    }
}

impl Default for Timeouts {
    fn default() -> Self {
        Self {
            connect: Duration::from_secs(5),
            handshake: Duration::from_secs(10),
            tcp_idle: Duration::from_secs(125 * 60),
            half_close: Duration::from_secs(60),
            udp: Duration::from_secs(180),
            keepalive: Keepalive::default(),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_rule_with_a_choice_asks_its_backends() {
        let listen = vec![Listener::parse(":80").expect("listener")];
        let rule = |to: &[&str], protocols| {
            let to = to.iter().map(|text| Backend::parse(text).expect(text)).collect();
            Rule { protocols, ..Rule::new(RuleName::parse("r").expect("name"), listen.clone(), to) }
        };
        assert_eq!(rule(&["10.0.0.1"], Protocols::Both).check().kind, CheckKind::Passive);
        assert_eq!(rule(&["10.0.0.1", "10.0.0.2"], Protocols::Both).check(), Check::default());
        assert_eq!(rule(&["10.0.0.1", "10.0.0.2"], Protocols::Udp).check().kind, CheckKind::Passive);
        let given = Check { rise: 5, ..Check::default() };
        let rule = Rule { check: Some(given.clone().into()), ..rule(&["10.0.0.1"], Protocols::Udp) };
        assert_eq!(rule.check(), given);
    }

    #[test]
    fn names_are_short_plain_words() {
        for good in ["tokyo", "a", "hk-443", "x_1.2", &"n".repeat(64)] {
            assert!(RuleName::parse(good).is_some(), "{good}");
        }
        for bad in ["", "two words", "東京", "a/b", "a\n", &"n".repeat(65)] {
            assert!(RuleName::parse(bad).is_none(), "{bad}");
        }
    }
}
