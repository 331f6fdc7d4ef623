//! Which plane carries each rule, and why not a faster one: what goes into a plan, and what comes out. Pure.

mod decide;

use std::collections::{BTreeMap, HashMap};
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};
use std::sync::Arc;
use std::time::Instant;

pub use self::decide::{DETACHED, Known, candidates, reweighed, rule, way_to};
use relay_common::meter::Closed;
use relay_common::net::Protocol;

use crate::balance::Weights;
use crate::config::Origin;
use crate::config::settings::Hook;
use crate::health::weigh::{Outlook, RuleHealth};
use crate::host::{HostView, Lacks, Path, WayTo};
use crate::proxy::pool::{End, Ends};
use crate::proxy::service::Target;
use crate::proxy::tunnel::{Acceptor, Connector, Tunnels};
use crate::rule::{
    Accept, Balance, Connect, Host, Listener, PortRange, Protocols, Rule, RuleName, Staying, Timeouts,
    UdpNat, Usual,
};

/// A name's addresses in the order to try them, never none; or why it has none.
pub type Resolved = Result<Arc<[IpAddr]>, String>;

/// What the plan depends on besides the rules.
#[derive(Debug)]
pub struct Facts<'a> {
    /// The hook that the kernel plane uses, or why there is none.
    pub kernel: Result<Hook, &'a str>,
    pub host: &'a HostView,
    /// The ways to IPv4 backends; one without has no route.
    pub paths: &'a BTreeMap<WayTo, Path>,
    /// Every name of a backend. One that is missing is being resolved.
    pub resolved: &'a BTreeMap<Host, Resolved>,
    /// Listeners that cannot be had, by rule name: another program has the port.
    pub taken: &'a BTreeMap<RuleName, String>,
    /// What keeps relayd from listening for a rule's clients.
    pub lacks: &'a HashMap<RuleName, Lacks>,
    /// `relayctl down`: nobody carries anything.
    pub down: bool,
    /// What is known of backends, of the rules that have any judged.
    pub health: &'a HashMap<RuleName, RuleHealth>,
    pub now: Instant,
    /// Rules whose quota is used up or whose time is over.
    pub closed: &'a HashMap<RuleName, Closed>,
    /// What rules' tunnels are made of.
    pub tunnels: &'a Tunnels,
}

/// A rule and who carries it.
#[derive(Clone, Debug, PartialEq)]
pub struct PlannedRule {
    pub rule: Arc<Rule>,
    pub origin: Origin,
    /// No new flows; old ones finish.
    pub draining: bool,
    /// Nothing passes, and what there is ends.
    pub closed: Option<Closed>,
    pub ipv4: Carriage,
    pub ipv6: Carriage,
    /// What keeps the rule from working as written.
    pub faults: Vec<Fault>,
    /// Each backend's, in the order to try them.
    pub addresses: Box<[Arc<[IpAddr]>]>,
    /// What its backends get of new flows, on both planes.
    pub weights: Arc<Weights>,
    /// What that was made of; `None`: there is nothing to choose.
    pub outlook: Option<Box<Outlook>>,
    /// The part that the kernel plane carries.
    pub kernel: Option<Arc<KernelRule>>,
    /// The part that the user plane carries.
    pub user: Option<Arc<UserRule>>,
    /// Where the programs count packets of the host's own programs.
    pub watched: Option<Arc<UserRule>>,
    /// Where flows and sessions may go, others end; `None`: they go on wherever they go.
    pub backends: Option<Arc<Staying>>,
}

/// Who carries one address family of a rule.
#[derive(Clone, Debug, Eq, PartialEq)]
pub enum Carriage {
    Kernel(Hook),
    /// The host's own programs; it is counted.
    Watched,
    /// relayd itself, and why not the kernel, which may carry UDP all the same.
    User(String),
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
    #[error("its {0} is not kept, since that takes the kernel plane's programs: {1}")]
    RateUnkept(&'static str, String),
    #[error("nothing counts it, since that takes the kernel plane's programs: {0}")]
    Uncounted(String),
    #[error("{0} does not resolve: {1}")]
    Unresolved(Host, String),
    #[error("{0} is being resolved")]
    Resolving(Host),
    /// The second: what to ask `ip route get` for.
    #[error("there is no route to {0}; `ip route get {1}` says the same")]
    NoRoute(IpAddr, String),
    #[error("connect.source: {0} is not an address of this host; `ip address` lists them")]
    SourceNotHere(IpAddr),
    #[error("connect.source: {0} cannot reach {1}, which has no address of its family")]
    SourceFamily(IpAddr, Host),
    #[error("connect.interface: there is no interface {0}; `ip link` lists them")]
    NoWayOut(Box<str>),
    #[error("{0}")]
    Tunnel(String),
}

impl Fault {
    /// Whether it is the host's present state rather than the rule that is at fault: such a rule may be added, and
    /// works as soon as the host does.
    pub const fn may_pass(&self) -> bool {
        matches!(self, Self::NoRoute(..))
    }
}

/// What the kernel plane needs to know of a rule.
#[derive(Clone, Debug, Eq, PartialEq)]
pub struct KernelRule {
    /// Not TCP where that needs relayd.
    pub protocols: Protocols,
    pub listeners: Arc<[KernelListener]>,
    /// For IPv6 clients, which are translated.
    pub listeners_v6: Arc<[KernelListener<Ipv6Addr>]>,
    /// One for each backend of the rule; `None`: it has no address yet.
    pub ends: Box<[Option<KernelEnd>]>,
    /// What each backend is known by where clients are to keep theirs ([`crate::balance::Table::new`]).
    pub names: Box<[Arc<str>]>,
    pub balance: Balance,
    pub timeouts: Usual<Timeouts>,
}

/// A backend as the kernel plane reaches it.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub struct KernelEnd {
    pub way: WayTo,
    /// Where a listener's first port goes; `None`: ports stay as they are.
    pub first_port: Option<u16>,
}

impl KernelRule {
    /// Whether it carries who comes from elsewhere to addresses of this one's family.
    pub fn carries(&self, address: IpAddr, protocol: Protocol) -> bool {
        let is_heard =
            if address.is_ipv4() { !self.listeners.is_empty() } else { !self.listeners_v6.is_empty() };
        is_heard && self.protocols.has(protocol)
    }
}

/// What the user plane needs to know of a rule.
#[derive(Clone, Debug, Eq, PartialEq)]
pub struct UserRule {
    pub protocols: Protocols,
    /// The families of clients that it listens for. IPv4 also where the kernel carries it: packets of the host to itself
    /// pass no interface.
    pub ipv4: bool,
    pub ipv6: bool,
    /// One for each backend of the rule.
    pub ends: Box<[End]>,
    pub balance: Balance,
    pub timeouts: Usual<Timeouts>,
    pub udp_nat: UdpNat,
    pub accept: Usual<Accept>,
    pub connect: Usual<Connect>,
    /// What its legs are wrapped in.
    pub acceptor: Option<Arc<Acceptor>>,
    pub connector: Option<Arc<Connector>>,
    /// Where its clients' packets come in, loopback left out.
    pub heard_v4: Arc<[KernelListener]>,
    pub heard_v6: Arc<[KernelListener<Ipv6Addr>]>,
}

impl UserRule {
    /// Whether any backend has an address.
    pub fn has_address(&self) -> bool {
        self.ends.iter().any(|end| !end.addresses.is_empty())
    }

    /// Where clients of one listener go. `ends`: the rule's backends, as all of its listeners share them.
    pub fn target(&self, listener: &Listener, ends: &Arc<Ends>) -> Target {
        Target {
            ends: ends.clone(),
            first_port: listener.ports.first(),
            timeouts: self.timeouts.clone(),
            udp_nat: self.udp_nat,
            accept: self.accept.clone(),
            connect: self.connect.clone(),
            acceptor: self.acceptor.clone(),
            connector: self.connector.clone(),
        }
    }
}

/// A listener as the programs look for it.
#[derive(Clone, Debug, Eq, Hash, Ord, PartialEq, PartialOrd)]
pub struct KernelListener<A = Ipv4Addr> {
    pub on: KernelOn<A>,
    pub ports: PortRange,
}

#[derive(Clone, Copy, Debug, Eq, Hash, Ord, PartialEq, PartialOrd)]
pub enum KernelOn<A = Ipv4Addr> {
    Everywhere,
    Address(A),
    Interface(u32),
}

/// How a rule is doing.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub enum RuleState {
    Active,
    /// A watch that counts.
    Watching,
    Disabled,
    Draining,
    /// Its quota, or its group's, is used up.
    Blocked,
    /// Its time, or its group's, is over.
    Expired,
    /// Part of it works, or nobody can carry it here.
    Degraded,
    /// Nothing of it works, because of a fault.
    Error,
}

impl RuleState {
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Active => "active",
            Self::Watching => "watching",
            Self::Disabled => "disabled",
            Self::Draining => "draining",
            Self::Blocked => "blocked",
            Self::Expired => "expired",
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

    /// Whether it is meant to carry anything now.
    pub fn is_on(&self) -> bool {
        self.rule.enabled && self.closed.is_none()
    }

    fn is_carried(&self) -> bool {
        self.kernel.is_some()
            || self.watched.is_some()
            || self.user.as_ref().is_some_and(|user| user.has_address())
    }

    pub fn state(&self) -> RuleState {
        match () {
            () if !self.rule.enabled => RuleState::Disabled,
            () if self.closed == Some(Closed::Expired) => RuleState::Expired,
            () if self.closed == Some(Closed::Quota) => RuleState::Blocked,
            () if !self.is_carried() && !self.faults.is_empty() => RuleState::Error,
            () if !self.is_carried() || !self.faults.is_empty() => RuleState::Degraded,
            () if self.draining => RuleState::Draining,
            () if self.rule.is_watch => RuleState::Watching,
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
            (None, Carriage::Kernel(_) | Carriage::User(_) | Carriage::Watched, _) => return None,
        };
        let state = if state == RuleState::Error { "does not work" } else { "is degraded" };
        Some(format!("rule \"{}\" {state}: {why}", self.rule.name))
    }

    fn hears_ipv4(&self) -> bool {
        self.rule.listen.iter().any(|listener| listener.on.takes_ipv4())
    }
}
