//! Saying in sentences how a rule is carried and why.

mod health;
mod spread;

use std::collections::BTreeMap;
use std::fmt::Display;
use std::net::IpAddr;

use crate::api::view::{BackendView, ExplainView, RuleView};
use crate::config::quantity::{format_duration, format_rate};
use crate::config::{Origin, encode};
use crate::host::{ClaimRange, Path, WayTo};
use crate::plan::{Carriage, KernelListener, KernelOn, KernelRule, PlannedRule};
use crate::rule::{Backend, PortRange, Rule};

/// What explanations refer to, from the latest plan.
#[derive(Clone, Debug, Default)]
pub struct Facts {
    pub paths: BTreeMap<WayTo, Path>,
    pub interfaces: BTreeMap<u32, Box<str>>,
    pub claims: ClaimRange,
}

pub fn explain(planned: &PlannedRule, view: RuleView, facts: &Facts) -> ExplainView {
    let mut lines = Vec::new();
    for (family, carriage) in [("IPv4", &planned.ipv4), ("IPv6", &planned.ipv6)] {
        lines.push(match carriage {
            Carriage::Kernel(hook) => format!("{family} clients: the kernel plane, at {}", hook_name(*hook)),
            Carriage::Watched => {
                format!("{family} clients: the host's own programs; their packets are counted")
            }
            Carriage::User(reason) => format!("{family} clients: the user plane, since {reason}"),
            Carriage::None(reason) => format!("{family} clients: not carried, since {reason}"),
        });
    }
    lines.extend(planned.faults.iter().map(|fault| format!("fault: {fault}")));
    let legs = [("the client leg", &view.accept), ("the backend leg", &view.connect)].into_iter();
    lines.extend(
        legs.filter(|(_, leg)| !leg.is_plain()).map(|(name, leg)| format!("{name}: {}", leg.sentence())),
    );
    lines.extend(view.to.iter().filter_map(name));
    if !planned.rule.is_watch {
        lines.extend(spread::spread(planned, &view));
        lines.extend(health::health(planned, &view));
    }
    if planned.user.is_some() {
        lines.extend(way_out(&planned.rule));
    }
    if let Some(kernel) = &planned.kernel {
        lines.extend(kernel.listeners.iter().map(|listener| heard(listener, "IPv4", kernel, planned, facts)));
        let listeners_v6 = kernel.listeners_v6.iter();
        lines.extend(listeners_v6.map(|listener| heard(listener, "IPv6", kernel, planned, facts)));
        lines.extend(kernel.ends.iter().flatten().map(|end| match facts.paths.get(&end.way) {
            Some(path) => way(end.way.backend, path, facts),
            None if kernel.ends.len() > 1 => {
                format!("{} gets no new flows until there is a route to it", end.way.backend)
            }
            None => "new flows are refused as no_route until there is one".to_owned(),
        }));
        let claims = facts.claims;
        lines.push(format!(
            "source ports {}-{}, at most {} flows per protocol and backend port at once",
            claims.first,
            claims.last,
            claims.len()
        ));
        let timeouts = &kernel.timeouts;
        lines.push(format!(
            "idle flows end after {} (TCP), {} (TCP half closed), {} (UDP)",
            format_duration(timeouts.tcp_idle),
            format_duration(timeouts.half_close),
            format_duration(timeouts.udp)
        ));
        lines.push("the host's own firewall does not see this traffic".into());
    }
    lines.extend(admission(&planned.rule));
    let origin = match &planned.origin {
        Origin::File(path) => path.display().to_string(),
        Origin::CommandLine => "relayd's command line".into(),
    };
    ExplainView { rule: view, config: encode::shown(&planned.rule, None), origin, lines }
}

/// What a backend's name has resolved to.
fn name(backend: &BackendView) -> Option<String> {
    let lookup = backend.lookup.as_ref()?.sentence();
    let addresses = match &backend.addresses[..] {
        [] => "no address".to_owned(),
        addresses => addresses.join(", "),
    };
    Some(format!("{} has {addresses}: {lookup}", backend.addr))
}

/// Who is let in, where that is not everybody.
fn admission(rule: &Rule) -> Vec<String> {
    let mut lines = Vec::new();
    if let Some(list) = &rule.accept.allow {
        let networks: Vec<String> = list.networks().iter().map(ToString::to_string).collect();
        lines.push(format!("only clients of {} are let in", listed(&networks)));
    }
    for (name, most) in rule.limits.set() {
        lines.push(match name {
            "connections" => format!("at most {most} connections at once, of both planes"),
            "connections_per_ip" => format!("at most {most} connections of one address at once"),
            "new_flows" => format!("at most {most} new flows a second, of both planes"),
            _ => format!("at most {most} new flows of one address a second"),
        });
    }
    for (name, rate) in rule.rates.set() {
        let way = match name {
            "ingress" => "from clients",
            "egress" => "to clients",
            _ => "from and as much to each client (an IPv4 address, or an IPv6 /64)",
        };
        lines.push(format!("at most {} {way}, of both planes", format_rate(rate)));
    }
    lines
}

/// Networks, or backends, that an explanation lists.
const SHOWN: usize = 8;

const fn hook_name(hook: crate::config::settings::Hook) -> &'static str {
    match hook {
        crate::config::settings::Hook::Xdp => "XDP, with tc behind it",
        _ => "tc",
    }
}

fn heard<A: Display>(
    listener: &KernelListener<A>,
    family: &str,
    kernel: &KernelRule,
    planned: &PlannedRule,
    facts: &Facts,
) -> String {
    let on = match &listener.on {
        KernelOn::Everywhere => format!("every {family} address of this host"),
        KernelOn::Address(address) => address.to_string(),
        KernelOn::Interface(index) => {
            let name = facts.interfaces.get(index).map_or("an interface that is gone", |name| name);
            format!("every {family} address, on {name}")
        }
    };
    let ports = listener.ports;
    let (noun, verb) = if ports.is_single() { ("port", "goes") } else { ("ports", "go") };
    let targets: Vec<String> = planned.rule.to.iter().map(|to| target(to, ports)).collect();
    let one_of = if targets.len() > 1 { "one of " } else { "" };
    format!("{on}, {noun} {ports}/{} {verb} to {one_of}{}", kernel.protocols, listed(&targets))
}

/// Items with commas, the first few of many.
fn listed(items: &[String]) -> String {
    let more = items.len().saturating_sub(SHOWN);
    let more = if more > 0 { format!(" and {more} more") } else { String::new() };
    format!("{}{more}", items[..items.len().min(SHOWN)].join(", "))
}

fn target(to: &Backend, listen: PortRange) -> String {
    let last = |first: u16| u16::try_from(u32::from(first) + listen.len() - 1).ok();
    match to.first_port().and_then(|first| PortRange::new(first, last(first)?)) {
        Some(ports) => format!("{}:{ports}", to.host),
        None if listen.is_single() => format!("{to}, same port"),
        None => format!("{to}, same ports"),
    }
}

/// What the user plane's sockets towards backends are bound to.
fn way_out(rule: &Rule) -> Option<String> {
    let source = rule.connect.source.map(|source| format!(" from {source}"));
    let interface = rule.connect.interface.as_ref().map(|name| format!(" on {name}"));
    if source.is_none() && interface.is_none() {
        return None;
    }
    let backend = if rule.to.len() > 1 { "backends" } else { "the backend" };
    let (source, interface) = (source.unwrap_or_default(), interface.unwrap_or_default());
    Some(format!("the user plane reaches {backend}{source}{interface}"))
}

fn way(backend: IpAddr, path: &Path, facts: &Facts) -> String {
    let interface =
        facts.interfaces.get(&path.hop.interface).map_or("an interface that is gone", |name| name);
    let via = path.hop.gateway.map_or("directly".to_owned(), |gateway| format!("by {gateway}"));
    format!("{backend} is reached {via} on {interface}, from {}, MTU {}", path.source, path.hop.mtu)
}
