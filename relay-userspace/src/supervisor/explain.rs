//! Saying in sentences how a rule is carried and why.

use std::collections::BTreeMap;
use std::net::Ipv4Addr;

use crate::api::view::{ExplainView, RuleView};
use crate::config::quantity::format_duration;
use crate::config::{Origin, encode};
use crate::host::{ClaimRange, Path};
use crate::plan::{Carriage, KernelListener, KernelOn, PlannedRule};

/// What explanations refer to, from the latest plan.
#[derive(Clone, Debug, Default)]
pub struct Facts {
    pub paths: BTreeMap<Ipv4Addr, Path>,
    pub interfaces: BTreeMap<u32, Box<str>>,
    pub claims: ClaimRange,
}

pub fn explain(planned: &PlannedRule, view: RuleView, facts: &Facts) -> ExplainView {
    let mut lines = Vec::new();
    for (family, carriage) in [("IPv4", &planned.ipv4), ("IPv6", &planned.ipv6)] {
        lines.push(match carriage {
            Carriage::Kernel(hook) => format!("{family} clients: the kernel plane, at {}", hook_name(*hook)),
            Carriage::None(reason) => format!("{family} clients: not carried, since {reason}"),
        });
    }
    lines.extend(planned.faults.iter().map(|fault| format!("fault: {fault}")));
    if let Some(kernel) = &planned.kernel {
        lines.extend(kernel.listeners.iter().map(|listener| heard(listener, planned, facts)));
        lines.push(match facts.paths.get(&kernel.backend) {
            Some(path) => way(kernel.backend, path, facts),
            None => "new flows are refused as no_route until there is one".to_owned(),
        });
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
    let origin = match &planned.origin {
        Origin::File(path) => path.display().to_string(),
        Origin::CommandLine => "relayd's command line".into(),
    };
    ExplainView { rule: view, config: encode::to_json(&planned.rule), origin, lines }
}

const fn hook_name(hook: crate::config::settings::Hook) -> &'static str {
    match hook {
        crate::config::settings::Hook::Xdp => "XDP, with tc behind it",
        _ => "tc",
    }
}

fn heard(listener: &KernelListener, planned: &PlannedRule, facts: &Facts) -> String {
    let on = match listener.on {
        KernelOn::Everywhere => "every address of this host".to_owned(),
        KernelOn::Address(address) => address.to_string(),
        KernelOn::Interface(index) => {
            let name = facts.interfaces.get(&index).map_or("an interface that is gone", |name| name);
            format!("every address, on {name}")
        }
    };
    let to = planned.rule.to.first().map(ToString::to_string).unwrap_or_default();
    let ports = listener.ports;
    let target = match planned.rule.to.first().and_then(crate::rule::Backend::first_port) {
        Some(first) if !ports.is_single() => {
            format!("{to} to {}", u32::from(first) + ports.len() - 1)
        }
        Some(_) => to,
        None => format!("{to}, same port"),
    };
    format!("{on}, port {ports}/{} goes to {target}", planned.rule.protocols)
}

fn way(backend: Ipv4Addr, path: &Path, facts: &Facts) -> String {
    let interface =
        facts.interfaces.get(&path.hop.interface).map_or("an interface that is gone", |name| name);
    let via = path.hop.gateway.map_or("directly".to_owned(), |gateway| format!("by {gateway}"));
    format!("{backend} is reached {via} on {interface}, from {}, MTU {}", path.source, path.hop.mtu)
}
