//! The two ends of a rule, as far as the host has them: where its backend is, what it listens on.

use std::net::{IpAddr, Ipv6Addr};
use std::sync::Arc;

use crate::host::HostView;
use crate::plan::{Facts, Fault, KernelListener, KernelOn};
use crate::rule::{Backend, Connect, Host, ListenOn, Listener, PortRange, Rule};

/// Where each backend is; empty while nobody knows.
pub(super) fn backends(rule: &Rule, facts: &Facts<'_>, faults: &mut Vec<Fault>) -> Vec<Arc<[IpAddr]>> {
    let backend = |to: &Backend| reachable(rule, to, backend(rule, to, facts, faults), faults);
    rule.to.iter().map(backend).collect()
}

fn backend(rule: &Rule, to: &Backend, facts: &Facts<'_>, faults: &mut Vec<Fault>) -> Arc<[IpAddr]> {
    let nowhere = Arc::default;
    match (&to.host, facts.resolved.get(&to.host)) {
        // an IPv4 address in IPv6 notation is one
        (Host::Address(address), _) => Arc::new([address.to_canonical()]),
        (_, Some(Ok(addresses))) => addresses.clone(),
        // nobody asks for the names of a disabled rule
        _ if !rule.enabled => nowhere(),
        (host, Some(Err(error))) => {
            faults.push(Fault::Unresolved(host.clone(), error.clone()));
            nowhere()
        }
        (host, None) => {
            faults.push(Fault::Resolving(host.clone()));
            nowhere()
        }
    }
}

/// The addresses of a backend that the rule's source can talk to.
fn reachable(rule: &Rule, to: &Backend, addresses: Arc<[IpAddr]>, faults: &mut Vec<Fault>) -> Arc<[IpAddr]> {
    let Some(source) = rule.connect.source else { return addresses };
    let suiting: Arc<[IpAddr]> =
        addresses.iter().copied().filter(|address| rule.connect.suits(*address)).collect();
    if suiting.is_empty() && !addresses.is_empty() {
        faults.push(Fault::SourceFamily(source, to.host.clone()));
    }
    suiting
}

/// What the rule listens on or goes out by, and the host has not.
pub(super) fn missing(rule: &Rule, host: &HostView) -> Vec<Fault> {
    let fault = |listener: &Listener| match &listener.on {
        ListenOn::Address(address) if !host.is_own(*address) => Some(Fault::AddressNotHere(*address)),
        ListenOn::Interface(name) if host.link_by_name(name).is_none() => {
            Some(Fault::NoInterface(name.clone()))
        }
        _ => None,
    };
    let mut faults: Vec<Fault> = rule.listen.iter().filter_map(fault).collect();
    let Connect { source, interface, .. } = &*rule.connect;
    faults.extend(source.filter(|source| !host.is_own(*source)).map(Fault::SourceNotHere));
    let gone = interface.as_deref().filter(|name| host.link_by_name(name).is_none());
    faults.extend(gone.map(|name| Fault::NoWayOut(name.into())));
    faults
}

pub(super) fn listeners_v4(rule: &Rule, host: &HostView) -> Arc<[KernelListener]> {
    listeners(rule, host, ListenOn::takes_ipv4, |address| match address {
        IpAddr::V4(address) => Some(address),
        IpAddr::V6(_) => None,
    })
}

pub(super) fn listeners_v6(rule: &Rule, host: &HostView) -> Arc<[KernelListener<Ipv6Addr>]> {
    listeners(rule, host, ListenOn::takes_ipv6, |address| match address {
        IpAddr::V4(_) => None,
        IpAddr::V6(address) => Some(address),
    })
}

/// A rule's listeners of one family, as far as the host has them.
pub(super) fn listeners<A>(
    rule: &Rule,
    host: &HostView,
    takes: impl Fn(&ListenOn) -> bool,
    of_family: impl Fn(IpAddr) -> Option<A>,
) -> Arc<[KernelListener<A>]> {
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
pub(super) fn self_loop(rule: &Rule, to: &Backend, backend: IpAddr, host: &HostView) -> Option<Fault> {
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

/// Why nobody can listen for a family at all.
pub(super) fn deaf(
    rule: &Rule,
    host: &HostView,
    name: &str,
    family: impl Fn(&ListenOn) -> bool,
) -> Option<String> {
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
