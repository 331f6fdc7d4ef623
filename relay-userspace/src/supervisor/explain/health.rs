//! Saying how backends are judged, which of them are not well and why, and what somebody has ordered.

use relay_common::net::Protocol;

use crate::api::view::{BackendView, JudgedView, RuleView, age};
use crate::config::quantity::format_duration;
use crate::health::saved::BackendOrder;
use crate::health::tiers::Basis;
use crate::plan::PlannedRule;
use crate::rule::{Balance, Check, CheckKind, Failback, Rule};

/// Everything that keeps a backend from its part, and how that is found out.
pub fn health(planned: &PlannedRule, view: &RuleView) -> Vec<String> {
    let rule = &*planned.rule;
    let mut lines = Vec::new();
    for backend in &view.to {
        lines.extend(backend.order.map(|order| ordered(rule, backend, order)));
        lines.extend(backend.judged().filter_map(|(protocol, judged)| unwell(backend, protocol, judged)));
    }
    if view.to.iter().any(|to| to.judged().next().is_some()) {
        lines.extend(asked(rule));
        lines.extend(failback(rule));
    }
    lines
}

/// Why new flows of a protocol go where they go, if that is not because all is well.
pub fn basis(planned: &PlannedRule, view: &RuleView, protocol: Protocol) -> Option<String> {
    let text = match planned.outlook.as_ref()?.basis.get(&protocol)? {
        Basis::Good => {
            let better = better(planned, view, protocol)?;
            return Some(format!("{better} is up again, but they have not gone back to it"));
        }
        Basis::Doubtful => "nobody is up, and these never answered",
        Basis::AllDown => "all are down, so these are kept in case it is only the checks that fail",
        Basis::AllBarred => "all have an order or no weight",
    };
    Some(text.into())
}

/// A backend that is up and comes before those that get new flows.
fn better<'a>(planned: &PlannedRule, view: &'a RuleView, protocol: Protocol) -> Option<&'a str> {
    let rule = &*planned.rule;
    let rank = |index: usize| {
        let place = if rule.balance == Balance::First { index } else { 0 };
        (rule.to[index].priority, place)
    };
    let weights = planned.weights.of(protocol).iter().enumerate();
    let chosen = weights.filter(|(_, weight)| **weight > 0).map(|(index, _)| rank(index)).min()?;
    let is_up = |to: &BackendView| {
        let mut judged = to.judged().filter(|(name, _)| *name == protocol.as_str());
        to.weight > 0 && to.order.is_none() && judged.any(|(_, judged)| judged.state == "up")
    };
    let mut better = view.to.iter().enumerate().filter(|(index, to)| rank(*index) < chosen && is_up(to));
    better.next().map(|(_, to)| to.addr.as_str())
}

fn ordered(rule: &Rule, backend: &BackendView, order: BackendOrder) -> String {
    let what = match order {
        BackendOrder::Drain => "drains by order: no new flows, old ones go on",
        BackendOrder::Down => "is down by order",
    };
    let addr = &backend.addr;
    format!("{addr} {what}; `relayctl backend {} {addr} --up` ends that", rule.name)
}

fn unwell(backend: &BackendView, protocol: &str, judged: &JudgedView) -> Option<String> {
    let (addr, since) = (&backend.addr, age(judged.since_seconds));
    let error = judged.last_error.as_deref();
    let why = match judged.state.as_str() {
        "up" => return None,
        "unknown" => error.unwrap_or("nothing has been heard of it yet"),
        _ => error.unwrap_or("it fails"),
    };
    let ago = judged.last_failure_seconds.map(|ago| format!(" ({} ago)", age(ago))).unwrap_or_default();
    Some(format!("{addr} is {} for {protocol}, for {since}: {why}{ago}", judged.state))
}

/// How backends are judged, each protocol of the rule by what there is for it.
fn asked(rule: &Rule) -> Vec<String> {
    let Check { kind, interval, timeout, fall, rise, cooldown, port, .. } = rule.check();
    let cooldown = format_duration(cooldown);
    let what = match &kind {
        CheckKind::Passive => None,
        CheckKind::Tcp => Some(("TCP", "whether they take a connection".to_owned())),
        CheckKind::Tls { .. } => Some(("TCP", "whether they finish a TLS handshake".to_owned())),
        CheckKind::Http(http) => {
            let scheme = if http.tls { "https" } else { "http" };
            Some(("TCP", format!("how they answer a GET of {} by {scheme}", http.path)))
        }
        CheckKind::Udp { .. } => Some(("UDP", "whether they answer a datagram".to_owned())),
    };
    let mut lines = Vec::new();
    if let Some((protocol, what)) = &what {
        let (interval, timeout) = (format_duration(interval), format_duration(timeout));
        let port = port.map(|port| format!(" on port {port}")).unwrap_or_default();
        lines.push(format!(
            "{protocol}: every {interval} backends are asked{port} {what}, within {timeout} ({})",
            kind.as_str()
        ));
    }
    let left = rule
        .protocols
        .iter()
        .map(Protocol::as_str)
        .filter(|protocol| what.as_ref().is_none_or(|(asked, _)| !asked.eq_ignore_ascii_case(protocol)));
    let left: Vec<String> = left.map(str::to_uppercase).collect();
    if !left.is_empty() {
        lines.push(format!("{}: what becomes of flows tells how backends are (passive)", left.join(" and ")));
    }
    lines.push(format!(
        "a backend is down after {fall} failures in a row, and up after {rise} answers in a row, {cooldown} after its last failure \
         at the soonest"
    ));
    lines
}

/// When flows go back to a better tier, where there are several.
fn failback(rule: &Rule) -> Option<String> {
    let mut priorities = rule.to.iter().map(|to| to.priority);
    let first = priorities.next()?;
    let has_tiers =
        priorities.any(|other| other != first) || (rule.balance == Balance::First && rule.to.len() > 1);
    has_tiers.then(|| {
        let when = match rule.check().failback {
            Failback::Auto => "at once when it is up again (failback = \"auto\")".to_owned(),
            Failback::Manual => format!(
                "by `relayctl backend {} ADDR --up`, not by themselves (failback = \"manual\")",
                rule.name
            ),
            Failback::Delay(delay) => {
                let delay = format_duration(delay);
                format!("when it has been up for {delay} (failback = \"{delay}\")")
            }
        };
        format!("new flows go back to a better backend {when}")
    })
}
