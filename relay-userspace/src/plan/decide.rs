//! Planning one rule: who can carry it, family by family, and what is wrong with it.

mod ends;

use std::borrow::Cow;
use std::net::{IpAddr, Ipv6Addr};
use std::sync::Arc;

use relay_common::net::{Protocol, ipv6_to_wire, is_global_unicast};

use self::ends::{backend, deaf, listeners_v4, listeners_v6, missing, reachable, self_loop};
use super::{Carriage, Facts, Fault, KernelListener, KernelRule, PlannedRule, UserRule};
use crate::config::Origin;
use crate::config::settings::Hook;
use crate::host::{HostView, WayTo};
use crate::rule::{ListenOn, OnDown, PlaneChoice, Protocols, Rule};

const NO_ADDRESS: &str = "its backend has no address yet";
const TURNED_AWAY: &str = "its backend has no address yet; who comes is refused as no_backend";
/// What `relayctl down` leaves.
pub const DETACHED: &str = "relayd is detached (`relayctl reload` attaches again)";

/// Plans one rule.
pub fn rule(rule: &Arc<Rule>, origin: &Origin, draining: bool, facts: &Facts<'_>) -> PlannedRule {
    let mut faults = missing(rule, facts.host);
    let addresses = reachable(rule, backend(rule, facts, &mut faults), &mut faults);
    if let Some(text) = facts.taken.get(&rule.name) {
        faults.push(Fault::PortInUse(text.clone()));
    }
    faults.extend(addresses.iter().find_map(|address| self_loop(rule, *address, facts.host)));
    let mut planned = PlannedRule {
        rule: rule.clone(),
        origin: origin.clone(),
        draining,
        ipv4: Carriage::None(String::new()),
        ipv6: Carriage::None(String::new()),
        faults,
        kernel: None,
        user: None,
        // without an address there is nothing to go by
        backends: (rule.on_down == OnDown::Reset && !addresses.is_empty()).then(|| addresses.clone()),
    };
    let user = user_plane(&planned, &addresses, facts);
    let lacks = facts.lacks.get(&rule.name).cloned().unwrap_or_default();
    let user_v4 = user_for(&user, lacks.ipv4);
    let user_v6 = user_for(&user, lacks.ipv6);
    let (hears_itself, hears_itself_v6) = (user_v4.is_ok(), user_v6.is_ok());
    let way = kernel_plane(rule, &addresses, facts);
    let (mut carried_v4, mut carried_v6) = (listeners_v4(rule, facts.host), listeners_v6(rule, facts.host));
    let why = deaf(rule, facts.host, "IPv4", ListenOn::takes_ipv4);
    let hook = hook_for(&planned, &way, why, !carried_v4.is_empty());
    planned.ipv4 = carriage(rule, &hook, user_v4);
    if hook.is_err() {
        carried_v4.clear();
    }
    let why = deaf(rule, facts.host, "IPv6", ListenOn::takes_ipv6);
    // XDP leaves IPv6 to the program at tc behind it
    let hook = hook_for(&planned, &way, why, !carried_v6.is_empty()).map(|_| Hook::Tc);
    planned.ipv6 = carriage(rule, &hook, user_v6);
    if hook.is_err() {
        carried_v6.clear();
    }
    if let Ok((_, way)) = way
        && !(carried_v4.is_empty() && carried_v6.is_empty())
    {
        carry(&mut planned, way, (carried_v4, carried_v6), facts);
    }
    if rule.plane == PlaneChoice::Kernel
        && let (Carriage::None(ipv4), Carriage::None(ipv6)) = (&planned.ipv4, &planned.ipv6)
        && rule.enabled
        && planned.faults.is_empty()
    {
        let takes_ipv4 = rule.listen.iter().any(|listener| listener.on.takes_ipv4());
        planned.faults.push(Fault::KernelImpossible(if takes_ipv4 { ipv4 } else { ipv6 }.clone()));
    }
    if let Ok(user) = user {
        // of IPv4 clients that the kernel carries, those on this host itself
        let ipv4 = hears_itself && !matches!(planned.ipv4, Carriage::None(_));
        let ipv6 = hears_itself_v6 && !matches!(planned.ipv6, Carriage::None(_));
        planned.user = hearing(rule, user, (ipv4, ipv6), facts.host);
    }
    if addresses.is_empty() {
        planned.ipv4 = turned_away(planned.ipv4);
        planned.ipv6 = turned_away(planned.ipv6);
    }
    planned
}

/// The user plane's part, with who listens of the families that it hears.
fn hearing(
    rule: &Rule,
    user: UserRule,
    (ipv4, ipv6): (bool, bool),
    host: &HostView,
) -> Option<Arc<UserRule>> {
    let heard_v4 = if ipv4 { listeners_v4(rule, host) } else { Vec::new() };
    let heard_v6 = if ipv6 { listeners_v6(rule, host) } else { Vec::new() };
    let user = UserRule { ipv4, ipv6, heard_v4, heard_v6, ..user };
    (ipv4 || ipv6).then(|| Arc::new(user))
}

/// The user plane listens for a rule without an address, too, so that who is refused is counted. That carries nobody.
fn turned_away(carriage: Carriage) -> Carriage {
    match carriage {
        Carriage::User(_) => Carriage::None(TURNED_AWAY.into()),
        Carriage::Kernel(_) | Carriage::None(_) => carriage,
    }
}

/// By which hook the kernel plane carries clients of one family; or why it does not. `way`: of both; `deaf`: why nobody can
/// listen; `heard`: whether others than this host can reach a listener.
fn hook_for(
    planned: &PlannedRule,
    way: &Result<(Hook, WayTo), String>,
    deaf: Option<String>,
    heard: bool,
) -> Result<Hook, NotCarried> {
    if let Some(why) = deaf {
        return Err(NotCarried { why, by_nobody: true });
    }
    let not_here = |why: String| NotCarried { why, by_nobody: false };
    let (hook, _) = way.as_ref().map_err(|why| not_here(why.clone()))?;
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
    way: WayTo,
    (listeners, listeners_v6): (Vec<KernelListener>, Vec<KernelListener<Ipv6Addr>>),
    facts: &Facts<'_>,
) {
    let rule = &planned.rule;
    planned.kernel = Some(Arc::new(KernelRule {
        protocols: if rule.needs_relayd().is_some() { Protocols::Udp } else { rule.protocols },
        listeners,
        listeners_v6,
        way,
        first_port: rule.to.first().and_then(crate::rule::Backend::first_port),
        timeouts: rule.timeouts,
    }));
    if !facts.paths.contains_key(&way) {
        planned.faults.push(Fault::NoRoute(way.backend, question(rule, way.backend)));
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

/// The backend, if the kernel plane can carry clients to it; or why not.
fn kernel_plane(rule: &Rule, addresses: &[IpAddr], facts: &Facts<'_>) -> Result<(Hook, WayTo), String> {
    if !rule.enabled {
        return Err("the rule is disabled".into());
    }
    if rule.plane == PlaneChoice::User {
        return Err("plane = \"user\"".into());
    }
    if let Some(reason) = rule.needs_relayd()
        && (!rule.protocols.has(Protocol::Udp) || rule.plane == PlaneChoice::Kernel)
    {
        return Err(reason.into());
    }
    let candidates = candidates(rule, addresses);
    let Some(&first) = candidates.first() else {
        let why = if addresses.is_empty() { NO_ADDRESS } else { "the backend is on this link only" };
        return Err(why.into());
    };
    if candidates.iter().any(|address| facts.host.is_own(*address)) {
        return Err("the backend is on this host".into());
    }
    // what keeps them from being asked for is a fault
    let ways = || candidates.iter().filter_map(|address| way_to(rule, *address, facts.host));
    let way = ways().find(|way| facts.paths.contains_key(way)).or_else(|| way_to(rule, first, facts.host));
    let way = way.ok_or("see the fault")?;
    let hook = facts.kernel.map_err(ToOwned::to_owned)?;
    // XDP carries IPv4 to IPv4
    Ok((if way.backend.is_ipv4() { hook } else { Hook::Tc }, way))
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

/// Where the user plane would send clients; or why it cannot carry the rule.
fn user_plane(planned: &PlannedRule, addresses: &[IpAddr], facts: &Facts<'_>) -> Result<UserRule, String> {
    let rule = &planned.rule;
    if !rule.enabled {
        return Err("the rule is disabled".into());
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
    let first_port = rule.to.first().and_then(crate::rule::Backend::first_port);
    Ok(UserRule {
        protocols: rule.protocols,
        ipv4: false,
        ipv6: false,
        addresses: addresses.to_vec(),
        first_port,
        timeouts: rule.timeouts,
        udp_nat: rule.udp_nat,
        accept: rule.accept.clone(),
        connect: rule.connect.clone(),
        heard_v4: Vec::new(),
        heard_v6: Vec::new(),
    })
}

fn is_blocked(faults: &[Fault]) -> bool {
    faults.iter().any(|fault| {
        let is_way_out =
            matches!(fault, Fault::SourceNotHere(_) | Fault::SourceFamily(..) | Fault::NoWayOut(_));
        is_way_out || matches!(fault, Fault::PortInUse(_) | Fault::SelfLoop(..))
    })
}

#[cfg(test)]
mod tests;
