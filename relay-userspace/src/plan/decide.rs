//! Planning one rule: who can carry it, family by family, and what is wrong with it.

mod ends;
mod watch;
mod weights;

use std::borrow::Cow;
use std::net::{IpAddr, Ipv6Addr};
use std::sync::Arc;

use relay_common::meter::Closed;
use relay_common::net::{Protocol, ipv6_to_wire, is_global_unicast};

use self::ends::{backends, deaf, listeners_v4, listeners_v6, missing, self_loop};
use self::weights::weighed;
pub use self::weights::{Known, reweighed};
use super::{Carriage, Facts, Fault, KernelEnd, KernelListener, KernelRule, PlannedRule, UserRule};
use crate::config::Origin;
use crate::config::settings::Hook;
use crate::host::{HostView, WayTo};
use crate::proxy::pool::End;
use crate::proxy::tunnel::tls::ConfigFault;
use crate::proxy::tunnel::{Acceptor, Connector};
use crate::rule::quota::Over;
use crate::rule::{Backend, ListenOn, PlaneChoice, Protocols, Rule};

const NO_ADDRESS: &str = "its backend has no address yet";
const TURNED_AWAY: &str = "its backend has no address yet; who comes is refused as no_backend";
/// What `relayctl down` leaves.
pub const DETACHED: &str = "relayd is detached (`relayctl reload` attaches again)";

/// Plans one rule.
pub fn rule(rule: &Arc<Rule>, origin: &Origin, draining: bool, facts: &Facts<'_>) -> PlannedRule {
    if rule.is_watch {
        return watch::watch(rule, origin, facts);
    }
    let mut faults = missing(rule, facts.host);
    let backends = backends(rule, facts, &mut faults);
    if let Some(text) = facts.taken.get(&rule.name) {
        faults.push(Fault::PortInUse(text.clone()));
    }
    faults.extend(
        addresses(rule, &backends).find_map(|(to, address)| self_loop(rule, to, address, facts.host)),
    );
    let tunnels = tunnels(rule, origin, facts).unwrap_or_else(|fault| {
        faults.push(fault);
        (None, None)
    });
    let closed = facts.closed.get(&rule.name).copied();
    let mut planned = PlannedRule { draining, closed, faults, ..undecided(rule, origin, &backends) };
    let names: Box<[Arc<str>]> = rule.to.iter().map(|to| to.to_string().into()).collect();
    let user = user_plane(&planned, &backends, &names, tunnels, facts);
    let lacks = facts.lacks.get(&rule.name).cloned().unwrap_or_default();
    let user_v4 = user_for(&user, lacks.ipv4);
    let user_v6 = user_for(&user, lacks.ipv6);
    let (hears_itself, hears_itself_v6) = (user_v4.is_ok(), user_v6.is_ok());
    let ends = kernel_plane(&planned, &backends, facts);
    let heard = (listeners_v4(rule, facts.host), listeners_v6(rule, facts.host));
    let (mut carried_v4, mut carried_v6) = heard.clone();
    let why = deaf(rule, facts.host, "IPv4", ListenOn::takes_ipv4);
    let hook = hook_for(&planned, &ends, why, !carried_v4.is_empty());
    planned.ipv4 = carriage(rule, &hook, user_v4);
    if hook.is_err() {
        carried_v4 = Arc::default();
    }
    let why = deaf(rule, facts.host, "IPv6", ListenOn::takes_ipv6);
    // XDP leaves IPv6 to the program at tc behind it
    let hook = hook_for(&planned, &ends, why, !carried_v6.is_empty()).map(|_| Hook::Tc);
    planned.ipv6 = carriage(rule, &hook, user_v6);
    if hook.is_err() {
        carried_v6 = Arc::default();
    }
    if let Ok((_, ends)) = ends
        && !(carried_v4.is_empty() && carried_v6.is_empty())
    {
        carry(&mut planned, ends, names, (carried_v4, carried_v6), facts);
    }
    planned.faults.extend(unmet(&planned, facts));
    if let Ok(user) = user {
        // of IPv4 clients that the kernel carries, those on this host itself
        let ipv4 = hears_itself && !matches!(planned.ipv4, Carriage::None(_));
        let ipv6 = hears_itself_v6 && !matches!(planned.ipv6, Carriage::None(_));
        planned.user = hearing(user, (ipv4, ipv6), heard);
    }
    if backends.iter().all(|addresses| addresses.is_empty()) {
        planned.ipv4 = turned_away(planned.ipv4);
        planned.ipv6 = turned_away(planned.ipv6);
    }
    weighed(planned, Known { health: facts.health, paths: facts.paths, now: facts.now })
}

/// What the rule asks for that cannot be had: terms that only programs keep, a plane that nobody can be on.
fn unmet(planned: &PlannedRule, facts: &Facts<'_>) -> Vec<Fault> {
    let rule = &planned.rule;
    let kept = facts.kernel.err().zip(unkept(rule));
    let mut faults: Vec<Fault> =
        kept.map(|(why, what)| Fault::RateUnkept(what, why.into())).into_iter().collect();
    if rule.plane == PlaneChoice::Kernel
        && let (Carriage::None(ipv4), Carriage::None(ipv6)) = (&planned.ipv4, &planned.ipv6)
        && planned.is_on()
        && planned.faults.is_empty()
        && faults.is_empty()
    {
        let takes_ipv4 = rule.listen.iter().any(|listener| listener.on.takes_ipv4());
        faults.push(Fault::KernelImpossible(if takes_ipv4 { ipv4 } else { ipv6 }.clone()));
    }
    faults
}

/// What of a rule only programs can keep. That a quota is used up relayd sees by itself.
fn unkept(rule: &Rule) -> Option<&'static str> {
    let throttles = rule.quota.as_ref().is_some_and(|quota| quota.over != Over::Block);
    match () {
        () if !rule.rates.is_none() => Some("rate"),
        () if throttles => Some("quota.over"),
        () if rule.count_ports => Some("count_ports"),
        () => None,
    }
}

/// A rule that nobody carries so far.
fn undecided(rule: &Arc<Rule>, origin: &Origin, backends: &[Arc<[IpAddr]>]) -> PlannedRule {
    PlannedRule {
        rule: rule.clone(),
        origin: origin.clone(),
        draining: false,
        closed: None,
        ipv4: Carriage::None(String::new()),
        ipv6: Carriage::None(String::new()),
        faults: Vec::new(),
        addresses: backends.into(),
        weights: Arc::default(),
        outlook: None,
        backends: None,
        watched: None,
        kernel: None,
        user: None,
    }
}

/// The user plane's part, with who listens of the families that it hears.
fn hearing(user: UserRule, (ipv4, ipv6): (bool, bool), heard: Listeners) -> Option<Arc<UserRule>> {
    let heard_v4 = if ipv4 { heard.0 } else { Arc::default() };
    let heard_v6 = if ipv6 { heard.1 } else { Arc::default() };
    let user = UserRule { ipv4, ipv6, heard_v4, heard_v6, ..user };
    (ipv4 || ipv6).then(|| Arc::new(user))
}

/// The user plane listens for a rule without an address, too, so that who is refused is counted. That carries nobody.
fn turned_away(carriage: Carriage) -> Carriage {
    match carriage {
        Carriage::User(_) => Carriage::None(TURNED_AWAY.into()),
        Carriage::Kernel(_) | Carriage::Watched | Carriage::None(_) => carriage,
    }
}

/// By which hook the kernel plane carries clients of one family; or why it does not. `ends`: of both; `deaf`: why nobody can
/// listen; `heard`: whether others than this host can reach a listener.
fn hook_for(
    planned: &PlannedRule,
    ends: &Result<(Hook, Ends), String>,
    deaf: Option<String>,
    heard: bool,
) -> Result<Hook, NotCarried> {
    if let Some(why) = deaf {
        return Err(NotCarried { why, by_nobody: true });
    }
    let not_here = |why: String| NotCarried { why, by_nobody: false };
    let (hook, _) = ends.as_ref().map_err(|why| not_here(why.clone()))?;
    if !heard {
        return Err(not_here("its listeners are for connections of this host to itself".into()));
    }
    if is_blocked(&planned.faults) {
        return Err(NotCarried { why: "see the fault".into(), by_nobody: true });
    }
    Ok(*hook)
}

/// Why the kernel plane does not carry a family.
struct NotCarried {
    why: String,
    /// The user plane does not either.
    by_nobody: bool,
}

/// Who carries clients of one family.
fn carriage(rule: &Rule, hook: &Result<Hook, NotCarried>, user: Result<(), String>) -> Carriage {
    match (hook, user) {
        (Ok(hook), user) => match (rule.needs_relayd(), user) {
            (None, _) => Carriage::Kernel(*hook),
            (Some(reason), Ok(())) => Carriage::User(format!("{reason}; UDP stays in the kernel")),
            (Some(_), Err(reason)) => Carriage::None(format!("{reason}; UDP stays in the kernel")),
        },
        (Err(NotCarried { why, .. }), _) if rule.plane == PlaneChoice::Kernel => Carriage::None(why.clone()),
        (Err(NotCarried { why, by_nobody: true }), _) => Carriage::None(why.clone()),
        (Err(NotCarried { why, .. }), Ok(())) => Carriage::User(why.clone()),
        (Err(_), Err(reason)) => Carriage::None(reason),
    }
}

/// Fills in the kernel's part.
fn carry(
    planned: &mut PlannedRule,
    ends: Ends,
    names: Box<[Arc<str>]>,
    (listeners, listeners_v6): Listeners,
    facts: &Facts<'_>,
) {
    let rule = &planned.rule;
    planned.kernel = Some(Arc::new(KernelRule {
        protocols: if rule.needs_relayd().is_some() { Protocols::Udp } else { rule.protocols },
        listeners,
        listeners_v6,
        ends,
        names,
        balance: rule.balance,
        timeouts: rule.timeouts.clone(),
    }));
    let Some(kernel) = &planned.kernel else { return };
    let ways = kernel.ends.iter().flatten().map(|end| end.way);
    let cut_off = ways.filter(|way| !facts.paths.contains_key(way));
    planned.faults.extend(cut_off.map(|way| Fault::NoRoute(way.backend, question(rule, way.backend))));
}

/// A rule's backends as the kernel plane reaches them.
type Ends = Box<[Option<KernelEnd>]>;

/// Where a rule listens, of each family.
type Listeners = (Arc<[KernelListener]>, Arc<[KernelListener<Ipv6Addr>]>);

/// Every address of every backend.
fn addresses<'a>(
    rule: &'a Rule,
    backends: &'a [Arc<[IpAddr]>],
) -> impl Iterator<Item = (&'a Backend, IpAddr)> {
    rule.to
        .iter()
        .zip(backends)
        .flat_map(|(to, addresses)| addresses.iter().map(move |address| (to, *address)))
}

/// Why nobody is to carry the rule now, if so.
fn off(planned: &PlannedRule) -> Option<&'static str> {
    match planned.closed {
        _ if !planned.rule.enabled => Some("the rule is disabled"),
        Some(Closed::Quota) => Some("its quota is used up (`relayctl quota` shows it)"),
        Some(Closed::Expired) => Some("its time is over (`expires`)"),
        None => None,
    }
}

/// Whether the user plane can carry one family.
fn user_for(user: &Result<UserRule, String>, lack: Option<Cow<'static, str>>) -> Result<(), String> {
    match (user, lack) {
        (Err(reason), _) => Err(reason.clone()),
        (Ok(_), Some(lack)) => Err(lack.into_owned()),
        (Ok(_), None) => Ok(()),
    }
}

/// The backends, if the kernel plane can carry clients to them; or why not.
fn kernel_plane(
    planned: &PlannedRule,
    backends: &[Arc<[IpAddr]>],
    facts: &Facts<'_>,
) -> Result<(Hook, Ends), String> {
    let rule = &planned.rule;
    if let Some(why) = off(planned) {
        return Err(why.into());
    }
    if rule.plane == PlaneChoice::User {
        return Err("plane = \"user\"".into());
    }
    if let Some(reason) = rule.udp_needs_relayd() {
        return Err(reason.into());
    }
    if let Some(reason) = rule.needs_relayd()
        && (!rule.protocols.has(Protocol::Udp) || rule.plane == PlaneChoice::Kernel)
    {
        return Err(reason.into());
    }
    let ends = rule.to.iter().zip(backends).map(|(to, addresses)| kernel_end(rule, to, addresses, facts));
    let ends = ends.collect::<Result<Ends, String>>()?;
    let ways: Vec<WayTo> = ends.iter().flatten().map(|end| end.way).collect();
    if ways.is_empty() {
        return Err(NO_ADDRESS.into());
    }
    let hook = facts.kernel.map_err(ToOwned::to_owned)?;
    // XDP carries IPv4 to IPv4
    Ok((if ways.iter().any(|way| way.backend.is_ipv4()) { hook } else { Hook::Tc }, ends))
}

/// One backend, if it has an address; or why no backend can be carried to.
fn kernel_end(
    rule: &Rule,
    to: &Backend,
    addresses: &[IpAddr],
    facts: &Facts<'_>,
) -> Result<Option<KernelEnd>, String> {
    let candidates = candidates(rule, addresses);
    let Some(&first) = candidates.first() else {
        let is_local = !addresses.is_empty();
        return if is_local { Err(named(rule, to, "is on this link only")) } else { Ok(None) };
    };
    if candidates.iter().any(|address| facts.host.is_own(*address)) {
        return Err(named(rule, to, "is on this host"));
    }
    // what keeps them from being asked for is a fault
    let ways = || candidates.iter().filter_map(|address| way_to(rule, *address, facts.host));
    let way = ways().find(|way| facts.paths.contains_key(way)).or_else(|| way_to(rule, first, facts.host));
    let way = way.ok_or("see the fault")?;
    Ok(Some(KernelEnd { way, first_port: to.first_port() }))
}

/// Something about a backend, which needs its name only beside others.
fn named(rule: &Rule, to: &Backend, what: &str) -> String {
    if rule.to.len() == 1 { format!("the backend {what}") } else { format!("the backend {to} {what}") }
}

/// Where the kernel plane may send a rule's flows: the first address of each family, in the order of the addresses.
pub fn candidates(rule: &Rule, addresses: &[IpAddr]) -> Vec<IpAddr> {
    let is_reachable = |address: &IpAddr| match address {
        IpAddr::V4(_) => true,
        // others mean something on one link only
        IpAddr::V6(address) => address.is_loopback() || is_global_unicast(&ipv6_to_wire(*address)),
    };
    let mut candidates: Vec<IpAddr> = Vec::new();
    for address in addresses.iter().filter(|address| rule.connect.suits(**address) && is_reachable(address)) {
        if candidates.iter().all(|known| known.is_ipv4() != address.is_ipv4()) {
            candidates.push(*address);
        }
    }
    candidates
}

/// What to ask the kernel for the way to a rule's backend; `None`: there can be none.
pub fn way_to(rule: &Rule, backend: IpAddr, host: &HostView) -> Option<WayTo> {
    let source = rule.connect.source;
    if !rule.connect.suits(backend) {
        return None;
    }
    let interface = match &rule.connect.interface {
        None => None,
        Some(name) => Some(host.link_by_name(name)?.index),
    };
    Some(WayTo { backend, source, interface })
}

/// The same question, as one would type it.
fn question(rule: &Rule, backend: IpAddr) -> String {
    let source = rule.connect.source.map(|source| format!(" from {source}")).unwrap_or_default();
    let interface = rule.connect.interface.as_ref().map(|name| format!(" oif {name}")).unwrap_or_default();
    format!("{backend}{source}{interface}")
}

/// What wraps a rule's legs.
type Wrapping = (Option<Arc<Acceptor>>, Option<Arc<Connector>>);

fn tunnels(rule: &Rule, origin: &Origin, facts: &Facts<'_>) -> Result<Wrapping, Fault> {
    if !rule.enabled || !rule.has_tunnel() {
        return Ok((None, None));
    }
    let folder = origin.folder();
    let accept = rule.accept.tunnel.as_deref().map(|tunnel| Arc::new(tunnel.clone().in_folder(folder)));
    let connect = rule.connect.tunnel.as_deref().map(|tunnel| Arc::new(tunnel.clone().in_folder(folder)));
    let fault = |leg: &str, fault: ConfigFault| Fault::Tunnel(format!("{leg}: {fault}"));
    let acceptor = accept.map(|tunnel| facts.tunnels.acceptor(&tunnel)).transpose();
    let connector = connect.map(|tunnel| facts.tunnels.connector(&tunnel)).transpose();
    Ok((
        acceptor.map_err(|error| fault("accept", error))?,
        connector.map_err(|error| fault("connect", error))?,
    ))
}

/// Where the user plane would send clients; or why it cannot carry the rule.
fn user_plane(
    planned: &PlannedRule,
    backends: &[Arc<[IpAddr]>],
    names: &[Arc<str>],
    (acceptor, connector): Wrapping,
    facts: &Facts<'_>,
) -> Result<UserRule, String> {
    let rule = &planned.rule;
    if let Some(why) = off(planned) {
        return Err(why.into());
    }
    if facts.down {
        return Err(DETACHED.into());
    }
    if rule.plane == PlaneChoice::Kernel {
        return Err("plane = \"kernel\"".into());
    }
    if is_blocked(&planned.faults) {
        return Err("see the fault".into());
    }
    let end = |((to, addresses), name): ((&Backend, &Arc<[IpAddr]>), &Arc<str>)| End {
        name: name.clone(),
        addresses: addresses.clone(),
        first_port: to.first_port(),
        weight: to.weight,
        priority: to.priority,
    };
    Ok(UserRule {
        protocols: rule.heard(),
        ipv4: false,
        ipv6: false,
        ends: rule.to.iter().zip(backends).zip(names).map(end).collect(),
        balance: rule.balance,
        timeouts: rule.timeouts.clone(),
        udp_nat: rule.udp_nat,
        accept: rule.accept.clone(),
        connect: rule.connect.clone(),
        acceptor,
        connector,
        heard_v4: Arc::default(),
        heard_v6: Arc::default(),
    })
}

fn is_blocked(faults: &[Fault]) -> bool {
    faults.iter().any(|fault| {
        let is_way_out =
            matches!(fault, Fault::SourceNotHere(_) | Fault::SourceFamily(..) | Fault::NoWayOut(_));
        is_way_out || matches!(fault, Fault::PortInUse(_) | Fault::SelfLoop(..) | Fault::Tunnel(_))
    })
}

#[cfg(test)]
mod tests;
