//! What a digest says.

use std::collections::BTreeSet;

use jiff::tz::TimeZone;

use super::super::message::timestamp;
use super::kept::Standing;
use crate::api::view::{BackendView, RuleView, StatusView, age, size};
use crate::rule::RuleName;

/// The digest's lines. `only`: of these rules; `before`: what the last one has told.
pub fn report(
    status: &StatusView,
    rules: &[RuleView],
    only: Option<&BTreeSet<RuleName>>,
    before: &Standing,
    now: u64,
    zone: &TimeZone,
) -> String {
    let is_meant =
        |rule: &&RuleView| only.is_none_or(|only| only.iter().any(|name| name.as_str() == rule.name));
    let rules: Vec<&RuleView> = rules.iter().filter(is_meant).collect();
    let [from, until] = [before.time, now]
        .map(|time| timestamp(time).to_zoned_datetime(zone.clone()).strftime("%Y-%m-%d %H:%M").to_string());
    let mut lines = vec![format!("{from} to {until} {}", name(zone)), running(status, &rules)];
    let down: Vec<String> = rules.iter().flat_map(|rule| down(rule)).collect();
    if down.is_empty() {
        lines.push("no backend is down".into());
    }
    lines.extend(down);
    lines.extend(carried(&rules, before, now));
    lines.join("\n")
}

/// As people call it.
fn name(zone: &TimeZone) -> &str {
    zone.iana_name().unwrap_or("local time")
}

/// `up 3 d 4 h; 2 rules: 1 active, 1 degraded`
fn running(status: &StatusView, rules: &[&RuleView]) -> String {
    let states: BTreeSet<&str> = rules.iter().map(|rule| rule.state.as_str()).collect();
    let count = |state: &str| rules.iter().filter(|rule| rule.state == state).count();
    let states: Vec<String> = states.into_iter().map(|state| format!("{} {state}", count(state))).collect();
    let noun = if rules.len() == 1 { "rule" } else { "rules" };
    let up = age(status.uptime_seconds);
    if rules.is_empty() {
        return format!("relayd up {up}; no rules");
    }
    format!("relayd up {up}; {} {noun}: {}", rules.len(), states.join(", "))
}

/// Backends that are down, or have never answered though they were asked.
fn down(rule: &RuleView) -> Vec<String> {
    let line = |backend: &BackendView| {
        let is =
            |state: &str| backend.state == state || backend.judged().any(|(_, judged)| judged.state == state);
        let error = backend.judged().find_map(|(_, judged)| judged.last_error.clone());
        let said = match &error {
            _ if is("unresolved") => "does not resolve",
            _ if is("down") => "is down",
            Some(_) if is("unknown") => "has not answered yet",
            _ => return None,
        };
        let error = error.map(|error| format!(": {error}")).unwrap_or_default();
        Some(format!("{}: backend {} {said}{error}", rule.name, backend.addr))
    };
    rule.to.iter().filter(|_| rule.enabled).filter_map(line).collect()
}

/// What each has carried since, the most first. A rule that has begun anew has carried all that it has.
fn carried(rules: &[&RuleView], before: &Standing, now: u64) -> Vec<String> {
    let after = Standing::of(&rules.iter().map(|rule| (*rule).clone()).collect::<Vec<_>>(), now);
    let mut rows: Vec<(String, [u64; 3])> = after
        .rules
        .into_iter()
        .map(|(name, totals)| {
            let old = before.rules.get(&name).copied().unwrap_or_default();
            let is_anew = totals.iter().zip(old).any(|(new, old)| *new < old);
            let old = if is_anew { [0; 3] } else { old };
            (name, std::array::from_fn(|index| totals[index] - old[index]))
        })
        .collect();
    rows.sort_by_key(|(_, [ingress, egress, _])| std::cmp::Reverse(ingress.saturating_add(*egress)));
    let (busy, idle): (Vec<_>, Vec<_>) = rows.into_iter().partition(|(_, amounts)| *amounts != [0; 3]);
    let line = |(name, [ingress, egress, flows]): &(String, [u64; 3])| {
        let noun = if *flows == 1 { "flow" } else { "flows" };
        format!("{name}: {} in, {} out, {flows} {noun}", size(*ingress), size(*egress))
    };
    let mut lines: Vec<String> = busy.iter().map(line).collect();
    if !idle.is_empty() {
        let names: Vec<&str> = idle.iter().map(|(name, _)| name.as_str()).take(10).collect();
        let more = idle.len() - names.len();
        let more = if more > 0 { format!(" and {more} more") } else { String::new() };
        lines.push(format!("without traffic: {}{more}", names.join(", ")));
    }
    lines
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeMap;

    use super::super::super::message::tests::EIGHT;
    use super::*;

    fn rule(name: &str, bytes: u64, to: &str) -> RuleView {
        let to: serde_json::Value = serde_json::from_str(to).expect("JSON");
        let traffic = |bytes: u64| serde_json::json!({ "packets": 1, "bytes": bytes });
        serde_json::from_value(serde_json::json!({
            "name": name, "listen": [":80"], "protocol": "tcp", "enabled": true, "state": "active", "to": [to],
            "plane": { "ipv4": { "plane": "kernel" }, "ipv6": { "plane": "none" } },
            "counters": { "unit": "ip", "ingress": traffic(0), "egress": traffic(0), "flows": { "active": 0, "total": 0 },
                "drops": {}, "lifetime": { "ingress": traffic(bytes), "egress": traffic(2 * bytes), "flows": bytes } },
        }))
        .expect("rule")
    }

    #[test]
    fn a_digest_tells_the_difference_and_who_is_down() {
        let up = r#"{ "addr": "203.0.113.2:80", "weight": 1, "state": "up" }"#;
        let down = r#"{ "addr": "203.0.113.3:80", "weight": 1, "state": "down",
            "tcp": { "state": "down", "since_seconds": 9, "successes": 0, "failures": 2, "last_error": "connection refused" } }"#;
        let rules =
            [rule("dns", 1024, up), rule("web", 4096, down), rule("idle", 7, up), rule("new", 100, up)];
        let before = [("dns", [5000, 5000, 5000]), ("web", [1024, 2048, 1096]), ("idle", [7, 14, 7])];
        let before = Standing {
            time: EIGHT - 86_400,
            rules: before.map(|(name, totals)| (name.to_owned(), totals)).into(),
        };
        let status = StatusView { uptime_seconds: 4 * 86_400, ..StatusView::default() };
        let zone = TimeZone::get("Asia/Shanghai").expect("zone");
        let text = report(&status, &rules, None, &before, EIGHT, &zone);
        let lines = [
            "2026-11-22 16:00 to 2026-11-23 16:00 Asia/Shanghai",
            "relayd up 4 d 0 h; 4 rules: 4 active",
            "web: backend 203.0.113.3:80 is down: connection refused",
            "web: 3.0 KiB in, 6.0 KiB out, 3000 flows",
            "dns: 1.0 KiB in, 2.0 KiB out, 1024 flows",
            "new: 100 B in, 200 B out, 100 flows",
            "without traffic: idle",
        ];
        assert_eq!(text.lines().collect::<Vec<_>>(), lines);
        let only = BTreeSet::from([RuleName::parse("idle").expect("name")]);
        let text = report(&status, &rules, Some(&only), &before, EIGHT, &TimeZone::UTC);
        assert_eq!(
            text.lines().skip(1).collect::<Vec<_>>(),
            ["relayd up 4 d 0 h; 1 rule: 1 active", "no backend is down", lines[6]]
        );
        let none = report(
            &status,
            &[],
            None,
            &Standing { time: EIGHT, rules: BTreeMap::new() },
            EIGHT,
            &TimeZone::UTC,
        );
        assert!(none.ends_with("relayd up 4 d 0 h; no rules\nno backend is down"), "{none}");
    }
}
