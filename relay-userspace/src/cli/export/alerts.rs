//! Alerting rules for Prometheus.

use std::fmt::Write as _;

use super::any_of;
use crate::api::view::RuleView;

/// One alert; `text` may have labels in it (`{{ $labels.rule }}`).
struct Alert {
    name: &'static str,
    expression: String,
    lasting: &'static str,
    severity: &'static str,
    text: String,
    /// The rule that it is about, where the expression has no such label.
    rule: Option<String>,
}

/// Refusals that are what the rule wants are none to be woken for.
const WANTED: &str = "not_allowed|limit_.*|rate|quota|expired|draining|proxy_untrusted";

/// A file for `rule_files:`. About rules that are enabled, and about relayd, which Prometheus scrapes as `job`.
pub fn alerts(rules: &[RuleView], job: &str) -> String {
    let mut text = String::from(
        "# Written by `relayctl export prometheus-rules`; write it again when rules come or go.\n\
         groups:\n- name: relay\n  rules:\n",
    );
    let enabled: Vec<&RuleView> = rules.iter().filter(|rule| rule.enabled).collect();
    let mut all = of_relayd(job);
    all.extend(of_terms());
    if !enabled.is_empty() {
        all.extend(of_rules(&any_of(enabled.iter().map(|rule| rule.name.as_str()))));
        all.extend(enabled.iter().map(|rule| missing(&rule.name, job)));
    }
    for alert in &all {
        let Alert { name, expression, lasting, severity, text: summary, rule } = alert;
        let rule = rule.as_ref().map(|rule| format!("      rule: '{rule}'\n")).unwrap_or_default();
        let _infallible = write!(
            text,
            "  - alert: {name}\n    expr: '{expression}'\n    for: {lasting}\n    labels:\n      severity: {severity}\n\
             {rule}    annotations:\n      summary: '{summary}'\n"
        );
    }
    text
}

fn of_relayd(job: &str) -> Vec<Alert> {
    vec![
        Alert {
            name: "RelayDown",
            expression: format!("up{{job=\"{job}\"}} == 0"),
            lasting: "1m",
            severity: "critical",
            text: "relayd on {{ $labels.instance }} does not answer; the kernel plane goes on forwarding"
                .into(),
            rule: None,
        },
        Alert {
            name: "RelayReloadFailed",
            expression: "relay_config_last_reload_success == 0".into(),
            lasting: "1m",
            severity: "warning",
            text: "relayd on {{ $labels.instance }} has refused its configuration and goes by the old one"
                .into(),
            rule: None,
        },
        Alert {
            name: "RelayTableFull",
            expression: "sum by (instance) (increase(relay_rule_drops_total{reason=\"table_full\"}[5m])) > 0"
                .into(),
            lasting: "0m",
            severity: "critical",
            text: "{{ $labels.instance }} has no room for new flows; raise [daemon] max_flows".into(),
            rule: None,
        },
    ]
}

/// Quotas and ends, of rules and groups.
fn of_terms() -> Vec<Alert> {
    vec![
        Alert {
            name: "RelayQuota",
            expression: "relay_quota_used_bytes / relay_quota_bytes >= 0.9".into(),
            lasting: "0m",
            severity: "warning",
            text: "{{ $labels.kind }} {{ $labels.name }} on {{ $labels.instance }} has used {{ $value | humanizePercentage }} of its quota".into(),
            rule: None,
        },
        Alert {
            name: "RelayExpiry",
            expression: "relay_expiry_timestamp_seconds - time() < 3 * 86400".into(),
            lasting: "0m",
            severity: "warning",
            text: "{{ $labels.kind }} {{ $labels.name }} on {{ $labels.instance }} ends within three days, or has ended".into(),
            rule: None,
        },
    ]
}

fn of_rules(names: &str) -> Vec<Alert> {
    vec![
        Alert {
            name: "RelayRuleNotCarried",
            expression: format!(
                "(count by (instance, rule) (relay_rule_plane{{rule=~\"{names}\",plane=\"none\"}}) == 2) unless on (instance, rule) relay_rule_state{{state=~\"blocked|expired\"}}"
            ),
            lasting: "1m",
            severity: "critical",
            text: "no plane carries rule {{ $labels.rule }} on {{ $labels.instance }}; `relayctl explain` says why".into(),
            rule: None,
        },
        Alert {
            name: "RelayBackendDown",
            expression: format!("relay_backend_up{{rule=~\"{names}\"}} == 0"),
            lasting: "1m",
            severity: "warning",
            text: "backend {{ $labels.backend }} of rule {{ $labels.rule }} is down for {{ $labels.protocol }} on {{ $labels.instance }}".into(),
            rule: None,
        },
        Alert {
            name: "RelayNoBackend",
            expression: format!("max by (instance, rule, protocol) (relay_backend_up{{rule=~\"{names}\"}}) == 0"),
            lasting: "30s",
            severity: "critical",
            text: "rule {{ $labels.rule }} on {{ $labels.instance }} has no backend left for {{ $labels.protocol }}".into(),
            rule: None,
        },
        Alert {
            name: "RelayDrops",
            expression: format!(
                "sum by (instance, rule, reason) (rate(relay_rule_drops_total{{rule=~\"{names}\",reason!~\"{WANTED}\"}}[5m])) > 1"
            ),
            lasting: "10m",
            severity: "warning",
            text: "rule {{ $labels.rule }} on {{ $labels.instance }} refuses packets: {{ $labels.reason }}".into(),
            rule: None,
        },
    ]
}

/// A rule that was there when this was written.
fn missing(name: &str, job: &str) -> Alert {
    Alert {
        name: "RelayRuleMissing",
        expression: format!(
            "absent(relay_rule_flows_total{{job=\"{job}\",rule=\"{name}\"}}) and on () up{{job=\"{job}\"}} == 1"
        ),
        lasting: "5m",
        severity: "warning",
        text: format!("rule {name} is gone from relayd"),
        rule: Some(name.into()),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn dots_in_names_stand_for_themselves() {
        let rule = |name: &str, enabled: bool| {
            let rule = serde_json::json!({
                "name": name, "listen": [":80"], "protocol": "tcp", "enabled": enabled, "state": "active", "to": [],
                "plane": { "ipv4": { "plane": "kernel" }, "ipv6": { "plane": "none" } },
                "counters": { "unit": "ip", "ingress": { "packets": 0, "bytes": 0 },
                    "egress": { "packets": 0, "bytes": 0 }, "flows": { "active": 0, "total": 0 }, "drops": {} },
            });
            serde_json::from_value(rule).expect("rule")
        };
        let text = alerts(&[rule("web", true), rule("tokyo.1", true), rule("off", false)], "relay");
        assert!(text.contains("relay_backend_up{rule=~\"web|tokyo\\\\.1\"} == 0"), "{text}");
        assert!(text.contains("rule: 'tokyo.1'") && !text.contains("off\""), "{text}");
        assert!(!alerts(&[], "relay").contains("RelayBackendDown"));
    }
}
