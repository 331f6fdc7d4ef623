//! A rule's backends in words and columns.

use comfy_table::CellAlignment;

use super::print::{lines, plain_table};
use crate::api::round_trips::RoundTripView;
use crate::api::view::{BackendView, JudgedView, RuleView, age};
use crate::health::saved::BackendOrder;

/// Whether there is anything to say of shares.
pub fn are_shared(rule: &RuleView) -> bool {
    rule.to.len() > 1 || rule.to.iter().any(|to| to.weight != 1 || to.priority != 0)
}

/// All of them, with commas.
pub fn all(rule: &RuleView) -> String {
    rule.to.iter().map(|to| to.addr.as_str()).collect::<Vec<_>>().join(",")
}

/// The first one, how many more there are, and how many are up if not all can be used.
pub fn first(rule: &RuleView) -> String {
    let down = rule.to.iter().filter(|to| is_out(to)).count();
    match &rule.to[..] {
        [] => "-".into(),
        [only] => only.addr.clone(),
        [first, others @ ..] if down == 0 => format!("{} +{}", first.addr, others.len()),
        [first, others @ ..] => {
            format!("{} +{}, {}/{} up", first.addr, others.len(), rule.to.len() - down, rule.to.len())
        }
    }
}

/// Whether it gets no flows for something that is wrong with it, or because somebody says so.
fn is_out(backend: &BackendView) -> bool {
    matches!(backend.state.as_str(), "down" | "unresolved")
}

/// Why backends that somebody should look after are down.
pub fn complaints(rule: &RuleView) -> impl Iterator<Item = String> {
    rule.to.iter().filter(|to| to.order.is_none()).flat_map(|to| {
        let down = to.judged().filter(|(_, judged)| judged.state == "down");
        down.map(|(protocol, judged)| {
            let error = judged.last_error.as_ref().map(|error| format!(": {error}")).unwrap_or_default();
            format!("{} is down for {protocol}{error}", to.addr)
        })
    })
}

/// What `relayctl show` says of each, with the rule's state of things in mind.
pub fn facts(rule: &RuleView) -> Vec<(&'static str, String)> {
    rule.to.iter().flat_map(|backend| facts_of(rule, backend)).collect()
}

fn facts_of(rule: &RuleView, backend: &BackendView) -> Vec<(&'static str, String)> {
    let addresses = match &backend.addresses[..] {
        [] => String::new(),
        addresses => format!(" ({})", addresses.join(", ")),
    };
    let mut text = format!("{}{addresses}", backend.addr);
    if are_shared(rule) {
        text += &format!(", weight {}, priority {}", backend.weight, backend.priority);
    }
    text += &format!(", {}", state(backend));
    if rule.to.len() > 1 {
        let flows = &backend.flows;
        text += &format!(", {} flows now of {} in all{}", flows.active, flows.total, share(rule, backend));
    }
    let mut facts = vec![("to", text)];
    facts.extend(backend.lookup.as_ref().map(|lookup| ("name", lookup.sentence())));
    facts.extend(backend.pool.map(|pool| ("pool", pool.sentence())));
    facts.extend(round_trips(backend).map(|sentence| ("rtt", sentence)));
    facts.extend(
        backend
            .judged()
            .filter_map(|(protocol, judged)| Some(("error", failure(backend, protocol, judged)?))),
    );
    facts
}

/// `backend 0.4 ms (p90 0.6, p99 1.2), client 21 ms (p90 34, p99 80)`: medians.
fn round_trips(backend: &BackendView) -> Option<String> {
    let leg = |(name, leg): (&str, &RoundTripView)| {
        let [median, p90, p99] = [leg.p50_ms, leg.p90_ms, leg.p99_ms].map(milliseconds);
        format!("{name} {median} ms (p90 {p90}, p99 {p99})")
    };
    let legs: Vec<String> = backend.legs().map(leg).collect();
    (!legs.is_empty()).then(|| legs.join(", "))
}

/// With as many digits as buckets are good for.
fn milliseconds(number: f64) -> String {
    match number {
        ..0.995 => format!("{number:.2}"),
        ..9.95 => format!("{number:.1}"),
        _ => format!("{number:.0}"),
    }
}

/// `up for 3 min, probed in 0.4 ms`; each protocol by itself if they are not in the same state.
fn state(backend: &BackendView) -> String {
    let all: Vec<(&str, &JudgedView)> = backend.judged().collect();
    let shown =
        |judged: &JudgedView| format!("{} for {}{}", judged.state, age(judged.since_seconds), probed(judged));
    let verdicts = match &all[..] {
        [] => None,
        [(_, only)] => Some(shown(only)),
        [(_, tcp), (_, udp)] if tcp.state == udp.state => {
            Some(shown(if tcp.latency_ms.is_some() || udp.latency_ms.is_none() { tcp } else { udp }))
        }
        several => {
            let each = several.iter().map(|(protocol, judged)| format!("{protocol} {}", shown(judged)));
            Some(each.collect::<Vec<_>>().join(", "))
        }
    };
    match (backend.order, verdicts) {
        (Some(order), Some(verdicts)) => format!("{} by order ({verdicts})", ordered(order)),
        (Some(order), None) => format!("{} by order", ordered(order)),
        (None, Some(verdicts)) if backend.state != "unresolved" => verdicts,
        (None, _) => backend.state.clone(),
    }
}

const fn ordered(order: BackendOrder) -> &'static str {
    match order {
        BackendOrder::Drain => "draining",
        BackendOrder::Down => "down",
    }
}

fn probed(judged: &JudgedView) -> String {
    judged.latency_ms.map(|latency| format!(", probed in {latency:.1} ms")).unwrap_or_default()
}

/// What has last gone wrong, and when.
fn failure(backend: &BackendView, protocol: &str, judged: &JudgedView) -> Option<String> {
    let error = judged.last_error.as_ref()?;
    let when = judged.last_failure_seconds.map(|ago| format!(", {} ago", age(ago))).unwrap_or_default();
    Some(format!("{} for {protocol}{when}: {error}", backend.addr))
}

/// How many of the rule's flows it has had, in percent.
fn share(rule: &RuleView, backend: &BackendView) -> String {
    percent(rule, backend).map(|percent| format!(" ({percent} %)")).unwrap_or_default()
}

fn percent(rule: &RuleView, backend: &BackendView) -> Option<u64> {
    let all: u64 = rule.to.iter().map(|to| to.flows.total).sum();
    (all > 0).then(|| (backend.flows.total.saturating_mul(100) + all / 2) / all)
}

/// What `relayctl backend NAME` prints.
pub fn table(rule: &RuleView) -> String {
    let mut table = plain_table();
    table.set_header([
        "BACKEND",
        "WEIGHT",
        "PRIORITY",
        "STATE",
        "PROBE",
        "FLOWS",
        "TOTAL",
        "SHARE",
        "LAST ERROR",
    ]);
    for backend in &rule.to {
        table.add_row(row(rule, backend));
    }
    for index in [1, 2, 4, 5, 6, 7] {
        if let Some(column) = table.column_mut(index) {
            column.set_cell_alignment(CellAlignment::Right);
        }
    }
    lines(&table)
}

fn row(rule: &RuleView, backend: &BackendView) -> [String; 9] {
    let judged: Vec<(&str, &JudgedView)> = backend.judged().collect();
    let latest = judged.iter().filter(|(_, judged)| judged.last_error.is_some());
    let error = latest.min_by_key(|(_, judged)| judged.last_failure_seconds.unwrap_or(u64::MAX));
    let latency = judged.iter().find_map(|(_, judged)| judged.latency_ms);
    [
        backend.addr.clone(),
        backend.weight.to_string(),
        backend.priority.to_string(),
        short_state(backend, &judged),
        latency.map(|latency| format!("{latency:.1} ms")).unwrap_or_default(),
        backend.flows.active.to_string(),
        backend.flows.total.to_string(),
        percent(rule, backend).map(|percent| format!("{percent} %")).unwrap_or_default(),
        error.and_then(|(protocol, judged)| failure_in_short(protocol, judged)).unwrap_or_default(),
    ]
}

fn short_state(backend: &BackendView, judged: &[(&str, &JudgedView)]) -> String {
    match (backend.order, judged) {
        (Some(_), _) => format!("{} by order", backend.state),
        (None, [(_, tcp), (_, udp)]) if tcp.state != udp.state => {
            format!("tcp {}, udp {}", tcp.state, udp.state)
        }
        (None, [(_, one), ..]) if backend.state == one.state => {
            format!("{} for {}", one.state, age(one.since_seconds))
        }
        (None, _) => backend.state.clone(),
    }
}

fn failure_in_short(protocol: &str, judged: &JudgedView) -> Option<String> {
    let error = judged.last_error.as_ref()?;
    let when = judged.last_failure_seconds.map(|ago| format!(", {} ago", age(ago))).unwrap_or_default();
    Some(format!("{protocol}{when}: {error}"))
}

/// The same with raw numbers, for scripts.
pub fn tsv(rule: &RuleView) -> String {
    let mut text =
        String::from("addr\tweight\tpriority\tstate\torder\ttcp\tudp\tflows_active\tflows_total\tfailed\n");
    for backend in &rule.to {
        let verdict =
            |judged: &Option<JudgedView>| judged.as_ref().map(|it| it.state.clone()).unwrap_or_default();
        let cells = [
            backend.addr.clone(),
            backend.weight.to_string(),
            backend.priority.to_string(),
            backend.state.clone(),
            backend.order.map(|order| order.as_str().to_owned()).unwrap_or_default(),
            verdict(&backend.tcp),
            verdict(&backend.udp),
            backend.flows.active.to_string(),
            backend.flows.total.to_string(),
            backend.failed.to_string(),
        ];
        text += &cells.join("\t");
        text.push('\n');
    }
    text
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::api::view::FlowsView;

    fn backend(addr: &str, state: &str, total: u64) -> BackendView {
        BackendView {
            addr: addr.into(),
            weight: 1,
            state: state.into(),
            flows: FlowsView { active: 1, total },
            ..BackendView::default()
        }
    }

    fn verdict(state: &str) -> JudgedView {
        JudgedView { state: state.into(), since_seconds: 90, ..JudgedView::default() }
    }

    fn plain(to: Vec<BackendView>) -> RuleView {
        let value = serde_json::json!({
            "name": "r", "listen": [":80"], "protocol": "tcp", "to": [], "enabled": true, "state": "active",
            "plane": { "ipv4": { "plane": "user" }, "ipv6": { "plane": "user" } },
            "counters": { "unit": "ip", "ingress": { "packets": 0, "bytes": 0 },
                "egress": { "packets": 0, "bytes": 0 }, "flows": { "active": 0, "total": 0 }, "drops": {} },
        });
        RuleView { to, ..serde_json::from_value(value).expect("rule") }
    }

    #[test]
    fn protocols_are_told_apart_where_they_differ() {
        let both = |tcp: &str, udp: &str| BackendView {
            tcp: Some(JudgedView { latency_ms: Some(0.44), ..verdict(tcp) }),
            udp: Some(verdict(udp)),
            ..backend("b:80", tcp, 0)
        };
        assert_eq!(state(&both("up", "up")), "up for 1 min, probed in 0.4 ms");
        assert_eq!(
            state(&both("up", "unknown")),
            "tcp up for 1 min, probed in 0.4 ms, udp unknown for 1 min"
        );
        let drained = BackendView { order: Some(BackendOrder::Drain), ..both("up", "up") };
        assert_eq!(state(&drained), "draining by order (up for 1 min, probed in 0.4 ms)");
        assert_eq!(state(&backend("b:80", "unresolved", 0)), "unresolved");
    }

    #[test]
    fn shares_are_of_all_flows_and_lists_tell_who_is_down() {
        let rule =
            plain(vec![backend("a:80", "up", 2), backend("b:80", "down", 1), backend("c:80", "unknown", 0)]);
        let percents: Vec<Option<u64>> = rule.to.iter().map(|to| percent(&rule, to)).collect();
        assert_eq!(percents, [Some(67), Some(33), Some(0)]);
        assert_eq!(first(&rule), "a:80 +2, 2/3 up");
        let none = plain(vec![backend("a:80", "up", 0), backend("b:80", "up", 0)]);
        assert_eq!((percent(&none, &none.to[0]), first(&none)), (None, "a:80 +1".to_owned()));
    }
}
