//! Planning one rule: who can carry it, family by family, and what is wrong with it.

use std::borrow::Cow;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};
use std::sync::Arc;

use relay_common::net::Protocol;

use super::{Carriage, Facts, Fault, KernelListener, KernelOn, KernelRule, PlannedRule, UserRule};
use crate::config::Origin;
use crate::config::settings::Hook;
use crate::host::{HostView, WayTo};
use crate::rule::{Connect, Host, ListenOn, Listener, OnDown, PlaneChoice, PortRange, Protocols, Rule};

const NO_ADDRESS: &str = "its backend has no address yet";
const TURNED_AWAY: &str = "its backend has no address yet; who comes is refused as no_backend";
/// What `relayctl down` leaves.
pub const DETACHED: &str = "relayd is detached (`relayctl reload` attaches again)";

/// Plans one rule.
pub fn rule(rule: &Arc<Rule>, origin: &Origin, draining: bool, facts: &Facts<'_>) -> PlannedRule {
    let mut faults = missing(rule, facts.host);
    let listeners = listeners_v4(rule, facts.host);
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
    let hears_itself = user_v4.is_ok();
    planned.ipv4 = ipv4(&mut planned, listeners, &addresses, user_v4, facts);
    planned.ipv6 = ipv6(rule, user_for(&user, lacks.ipv6), facts);
    if rule.plane == PlaneChoice::Kernel
        && let Carriage::None(reason) = &planned.ipv4
        && rule.enabled
        && planned.faults.is_empty()
    {
        planned.faults.push(Fault::KernelImpossible(reason.clone()));
    }
    if let Ok(user) = user {
        // of IPv4 clients that the kernel carries, those on this host itself
        let ipv4 = hears_itself && !matches!(planned.ipv4, Carriage::None(_));
        let ipv6 = matches!(planned.ipv6, Carriage::User(_));
        let heard_v4 = if ipv4 { listeners_v4(rule, facts.host) } else { Vec::new() };
        let heard_v6 = if ipv6 { listeners_v6(rule, facts.host) } else { Vec::new() };
        let user = UserRule { ipv4, ipv6, heard_v4, heard_v6, ..user };
        planned.user = (ipv4 || ipv6).then(|| Arc::new(user));
    }
    if addresses.is_empty() {
        planned.ipv4 = turned_away(planned.ipv4);
        planned.ipv6 = turned_away(planned.ipv6);
    }
    planned
}

/// The user plane listens for a rule without an address, too, so that who is refused is counted. That carries nobody.
fn turned_away(carriage: Carriage) -> Carriage {
    match carriage {
        Carriage::User(_) => Carriage::None(TURNED_AWAY.into()),
        Carriage::Kernel(_) | Carriage::None(_) => carriage,
    }
}

/// Why nobody can listen for a family at all.
fn deaf(rule: &Rule, host: &HostView, name: &str, family: impl Fn(&ListenOn) -> bool) -> Option<String> {
    let mut listeners = rule.listen.iter().map(|listener| &listener.on).filter(|on| family(on)).peekable();
    if listeners.peek().is_none() {
        return Some(format!("it has no {name} listener"));
    }
    let is_here = |on: &ListenOn| match on {
        ListenOn::Address(address) => address.is_loopback() || host.is_own(*address),
        ListenOn::Interface(name) => host.link_by_name(name).is_some(),
        ListenOn::Everywhere | ListenOn::EverywhereV4 | ListenOn::EverywhereV6 => true,
    };
    (!listeners.any(is_here)).then(|| "see the fault".to_owned())
}

/// Who carries IPv4 clients. Fills in the kernel's part.
fn ipv4(
    planned: &mut PlannedRule,
    listeners: Vec<KernelListener>,
    addresses: &[IpAddr],
    user: Result<(), String>,
    facts: &Facts<'_>,
) -> Carriage {
    let rule = &planned.rule;
    if let Some(why) = deaf(rule, facts.host, "IPv4", ListenOn::takes_ipv4) {
        return Carriage::None(why);
    }
    match (kernel_plane(rule, &listeners, addresses, facts), user) {
        (Ok(_), _) if is_blocked(&planned.faults) => Carriage::None("see the fault".into()),
        (Ok((hook, way)), user) => {
            let needs_relayd = rule.needs_relayd();
            let udp_alone = needs_relayd.is_some();
            planned.kernel = Some(Arc::new(KernelRule {
                protocols: if udp_alone { Protocols::Udp } else { rule.protocols },
                listeners,
                way,
                first_port: rule.to.first().and_then(crate::rule::Backend::first_port),
                timeouts: rule.timeouts,
            }));
            if !facts.paths.contains_key(&way) {
                planned.faults.push(Fault::NoRoute(way.backend, question(rule, way.backend)));
            }
            match (needs_relayd, user) {
                (None, _) => Carriage::Kernel(hook),
                (Some(reason), Ok(())) => Carriage::User(format!("{reason}; UDP stays in the kernel")),
                (Some(_), Err(reason)) => Carriage::None(format!("{reason}; UDP stays in the kernel")),
            }
        }
        (Err(reason), _) if rule.plane == PlaneChoice::Kernel => Carriage::None(reason),
        (Err(reason), Ok(())) => Carriage::User(reason),
        (Err(_), Err(reason)) => Carriage::None(reason),
    }
}

/// Who carries IPv6 clients.
fn ipv6(rule: &Rule, user: Result<(), String>, facts: &Facts<'_>) -> Carriage {
    if let Some(why) = deaf(rule, facts.host, "IPv6", ListenOn::takes_ipv6) {
        return Carriage::None(why);
    }
    match user {
        Ok(()) if rule.plane == PlaneChoice::User => Carriage::User("plane = \"user\"".into()),
        Ok(()) => Carriage::User("the kernel plane carries IPv4 clients only".into()),
        Err(reason) => Carriage::None(reason),
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

/// The backend, if the kernel plane can carry IPv4 clients to it; or why not.
fn kernel_plane(
    rule: &Rule,
    listeners: &[KernelListener],
    addresses: &[IpAddr],
    facts: &Facts<'_>,
) -> Result<(Hook, WayTo), String> {
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
    let address = addresses.iter().find_map(|address| match address {
        IpAddr::V4(address) => Some(*address),
        IpAddr::V6(_) => None,
    });
    let address = match address {
        None if addresses.is_empty() => return Err(NO_ADDRESS.into()),
        None => return Err("the backend is IPv6".into()),
        Some(address) if facts.host.is_own(address.into()) => {
            return Err("the backend is on this host".into());
        }
        Some(address) => address,
    };
    if listeners.is_empty() {
        return Err("its listeners are for connections of this host to itself".into());
    }
    // what keeps it from being asked for is a fault
    let way = way_to(rule, address, facts.host).ok_or("see the fault")?;
    facts.kernel.map(|hook| (hook, way)).map_err(ToOwned::to_owned)
}

/// What to ask the kernel for the way to a rule's backend; `None`: there can be none.
pub fn way_to(rule: &Rule, backend: Ipv4Addr, host: &HostView) -> Option<WayTo> {
    let source = match rule.connect.source {
        None => None,
        Some(IpAddr::V4(source)) => Some(source),
        Some(IpAddr::V6(_)) => return None,
    };
    let interface = match &rule.connect.interface {
        None => None,
        Some(name) => Some(host.link_by_name(name)?.index),
    };
    Some(WayTo { backend, source, interface })
}

/// The same question, as one would type it.
fn question(rule: &Rule, backend: Ipv4Addr) -> String {
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

/// Where the backend is; empty while nobody knows.
fn backend(rule: &Rule, facts: &Facts<'_>, faults: &mut Vec<Fault>) -> Arc<[IpAddr]> {
    let nowhere = Arc::default;
    let Some(host) = rule.to.first().map(|backend| &backend.host) else { return nowhere() };
    match (host, facts.resolved.get(host)) {
        // an IPv4 address in IPv6 notation is one
        (Host::Address(address), _) => Arc::new([address.to_canonical()]),
        (_, Some(Ok(addresses))) => addresses.clone(),
        // nobody asks for the names of a disabled rule
        _ if !rule.enabled => nowhere(),
        (_, Some(Err(error))) => {
            faults.push(Fault::Unresolved(host.clone(), error.clone()));
            nowhere()
        }
        (_, None) => {
            faults.push(Fault::Resolving(host.clone()));
            nowhere()
        }
    }
}

/// The addresses of a backend that the rule's source can talk to.
fn reachable(rule: &Rule, addresses: Arc<[IpAddr]>, faults: &mut Vec<Fault>) -> Arc<[IpAddr]> {
    let Some((source, to)) = rule.connect.source.zip(rule.to.first()) else { return addresses };
    let suiting: Arc<[IpAddr]> =
        addresses.iter().copied().filter(|address| rule.connect.suits(*address)).collect();
    if suiting.is_empty() && !addresses.is_empty() {
        faults.push(Fault::SourceFamily(source, to.host.clone()));
    }
    suiting
}

/// What the rule listens on or goes out by, and the host has not.
fn missing(rule: &Rule, host: &HostView) -> Vec<Fault> {
    let fault = |listener: &Listener| match &listener.on {
        ListenOn::Address(address) if !host.is_own(*address) => Some(Fault::AddressNotHere(*address)),
        ListenOn::Interface(name) if host.link_by_name(name).is_none() => {
            Some(Fault::NoInterface(name.clone()))
        }
        _ => None,
    };
    let mut faults: Vec<Fault> = rule.listen.iter().filter_map(fault).collect();
    let Connect { source, interface, .. } = &rule.connect;
    faults.extend(source.filter(|source| !host.is_own(*source)).map(Fault::SourceNotHere));
    let gone = interface.as_deref().filter(|name| host.link_by_name(name).is_none());
    faults.extend(gone.map(|name| Fault::NoWayOut(name.into())));
    faults
}

fn listeners_v4(rule: &Rule, host: &HostView) -> Vec<KernelListener> {
    listeners(rule, host, ListenOn::takes_ipv4, |address| match address {
        IpAddr::V4(address) => Some(address),
        IpAddr::V6(_) => None,
    })
}

fn listeners_v6(rule: &Rule, host: &HostView) -> Vec<KernelListener<Ipv6Addr>> {
    listeners(rule, host, ListenOn::takes_ipv6, |address| match address {
        IpAddr::V4(_) => None,
        IpAddr::V6(address) => Some(address),
    })
}

/// A rule's listeners of one family, as far as the host has them.
fn listeners<A>(
    rule: &Rule,
    host: &HostView,
    takes: impl Fn(&ListenOn) -> bool,
    of_family: impl Fn(IpAddr) -> Option<A>,
) -> Vec<KernelListener<A>> {
    let listener = |Listener { on, ports }: &Listener| {
        let on = match on {
            ListenOn::Everywhere | ListenOn::EverywhereV4 | ListenOn::EverywhereV6 => KernelOn::Everywhere,
            // only this host talks to those, and its packets do not pass an interface
            ListenOn::Address(address) if address.is_loopback() => return None,
            ListenOn::Address(address) if !host.is_own(*address) => return None,
            ListenOn::Address(address) => KernelOn::Address(of_family(*address)?),
            ListenOn::Interface(name) => KernelOn::Interface(host.link_by_name(name)?.index),
        };
        Some(KernelListener { on, ports: *ports })
    };
    rule.listen.iter().filter(|listener| takes(&listener.on)).filter_map(listener).collect()
}

/// A backend that is the rule's own listener: every packet would come back, one hop older.
fn self_loop(rule: &Rule, backend: IpAddr, host: &HostView) -> Option<Fault> {
    let to = rule.to.first()?;
    if !host.is_own(backend) {
        return None;
    }
    let target = |listener: &Listener| {
        let first = to.first_port().unwrap_or(listener.ports.first());
        let last = u32::from(first) + listener.ports.len() - 1;
        PortRange::new(first, u16::try_from(last).unwrap_or(u16::MAX))
    };
    let hears = |on: &ListenOn| match on {
        ListenOn::Everywhere => true,
        ListenOn::EverywhereV4 => backend.is_ipv4(),
        ListenOn::EverywhereV6 => backend.is_ipv6(),
        ListenOn::Address(address) => *address == backend,
        // what the host sends to itself comes in on the loopback interface
        ListenOn::Interface(_) => !backend.is_loopback(),
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
mod tests;
