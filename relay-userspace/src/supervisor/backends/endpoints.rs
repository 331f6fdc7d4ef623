//! Which endpoints of a rule are judged, and how.

use std::net::{IpAddr, SocketAddr};
use std::sync::Arc;

use relay_common::net::Protocol;

use super::EndName;
use crate::health::Probe;
use crate::plan::PlannedRule;
use crate::proxy::tunnel::Connector;
use crate::rule::{Backend, Check, CheckKind, Connect, Host, Rule};

/// Whether there is anything to judge backends for: there are several, or somebody wants to know.
pub(super) fn is_judged(rule: &Rule) -> bool {
    rule.to.len() > 1 || rule.check.is_some()
}

/// Everybody who is to be asked: where flows go to at present, each protocol by itself.
pub(super) fn endpoints(planned: &PlannedRule) -> Vec<(EndName, usize, Probe)> {
    let rule = &planned.rule;
    if !rule.enabled || !is_judged(rule) {
        return Vec::new();
    }
    let connect = Arc::new(Connect::clone(&rule.connect));
    let checks = rule.protocols.iter().map(|protocol| (protocol, Arc::new(check(rule, protocol))));
    let checks: Vec<(Protocol, Arc<Check>)> = checks.collect();
    let mut endpoints = Vec::new();
    for (index, to) in rule.to.iter().enumerate() {
        let Some(address) = address(planned, index) else { continue };
        let name = match &to.host {
            Host::Address(_) => None,
            Host::Name(name) => Some(Arc::from(&**name)),
        };
        for (protocol, check) in &checks {
            let (check, connect) = (check.clone(), connect.clone());
            let connector = connector(planned, &check);
            let address = SocketAddr::new(address, port(rule, to));
            endpoints.push((
                (*protocol, to.to_string().into()),
                index,
                Probe { address, name: name.clone(), check, connect, connector },
            ));
        }
    }
    endpoints
}

/// What judges flows of a protocol: the rule's probe if it is one for it, else what becomes of them.
fn check(rule: &Rule, protocol: Protocol) -> Check {
    let check = rule.check();
    let is_for = |kind: &CheckKind| match kind {
        CheckKind::Passive => true,
        CheckKind::Udp { .. } => protocol == Protocol::Udp,
        CheckKind::Tcp | CheckKind::Tls { .. } | CheckKind::Http(_) => protocol == Protocol::Tcp,
    };
    let kind = if is_for(&check.kind) { check.kind.clone() } else { CheckKind::Passive };
    Check { kind, ..check }
}

/// What a `tcp` check opens besides the connection, where it asks where sessions go.
fn connector(planned: &PlannedRule, check: &Check) -> Option<Arc<Connector>> {
    let is_asked = check.kind == CheckKind::Tcp && check.port.is_none();
    planned.user.as_ref().filter(|_| is_asked)?.connector.clone()
}

/// The address that new flows go to; `None` while there is none.
fn address(planned: &PlannedRule, index: usize) -> Option<IpAddr> {
    let of_kernel = planned.kernel.as_ref().and_then(|kernel| kernel.ends[index]).map(|end| end.way.backend);
    let of_user = || planned.user.as_ref().and_then(|user| user.ends[index].addresses.first().copied());
    of_kernel.or_else(of_user)
}

/// Of a range its first port stands for all.
fn port(rule: &Rule, to: &Backend) -> u16 {
    to.first_port().unwrap_or_else(|| rule.listen[0].ports.first())
}
