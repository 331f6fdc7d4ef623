//! A dashboard for Grafana. Its rules are a variable that Grafana fills by itself, so it need not be written again.

use serde_json::{Value, json};

/// Of the grid, which is 24 wide.
const HALF: u64 = 12;
const QUARTER: u64 = 6;
const LOW: u64 = 4;
const HIGH: u64 = 8;

/// What is chosen at the dashboard's head.
const CHOSEN: &str = "instance=~\"$instance\",rule=~\"$rule\"";

/// A panel before it has its place.
struct Panel {
    kind: &'static str,
    title: &'static str,
    /// Grafana's name of it.
    unit: &'static str,
    size: (u64, u64),
    /// PromQL, and what its lines are called.
    queries: Vec<(String, &'static str)>,
}

/// The dashboard as Grafana imports it.
pub fn dashboard() -> Value {
    let panels = place(&panels());
    json!({
        "uid": "relay", "title": "Relay", "tags": ["relay"], "schemaVersion": 38, "version": 1, "editable": true,
        "refresh": "10s", "time": { "from": "now-1h", "to": "now" }, "timezone": "browser",
        "templating": { "list": [
            { "name": "datasource", "label": "Prometheus", "type": "datasource", "query": "prometheus" },
            variable("instance", "Host", "label_values(relay_build_info, instance)"),
            variable("rule", "Rule", "label_values(relay_rule_bytes_total{instance=~\"$instance\"}, rule)"),
        ] },
        "panels": panels,
    })
}

fn variable(name: &str, label: &str, query: &str) -> Value {
    json!({
        "name": name, "label": label, "type": "query", "datasource": source(), "definition": query,
        "query": { "query": query, "refId": name }, "refresh": 2, "sort": 1,
        "includeAll": true, "multi": true, "current": { "text": ["All"], "value": ["$__all"] },
    })
}

fn source() -> Value {
    json!({ "type": "prometheus", "uid": "${datasource}" })
}

fn panels() -> Vec<Panel> {
    rules().into_iter().chain(backends()).collect()
}

fn rate(metric: &str, more: &str) -> String {
    format!("rate({metric}{{{CHOSEN}{more}}}[$__rate_interval])")
}

fn bits(direction: &str) -> String {
    format!("8 * {}", rate("relay_rule_bytes_total", &format!(",direction=\"{direction}\"")))
}

fn packets(direction: &str) -> String {
    rate("relay_rule_packets_total", &format!(",direction=\"{direction}\""))
}

fn quantile(part: &str) -> String {
    let of = rate("relay_backend_rtt_seconds_bucket", ",leg=\"backend\"");
    format!("histogram_quantile({part}, sum by (le, rule, backend) ({of}))")
}

fn now(title: &'static str, unit: &'static str, query: String) -> Panel {
    Panel { kind: "stat", title, unit, size: (QUARTER, LOW), queries: vec![(query, "")] }
}

fn over_time(title: &'static str, unit: &'static str, queries: Vec<(String, &'static str)>) -> Panel {
    Panel { kind: "timeseries", title, unit, size: (HALF, HIGH), queries }
}

fn rules() -> Vec<Panel> {
    vec![
        now("In", "bps", format!("sum({})", bits("ingress"))),
        now("Out", "bps", format!("sum({})", bits("egress"))),
        now("Live flows", "short", format!("sum(relay_rule_active_flows{{{CHOSEN}}})")),
        now(
            "Backends down",
            "short",
            format!("count(min by (instance, rule, backend) (relay_backend_up{{{CHOSEN}}}) == 0) or vector(0)"),
        ),
        over_time("In, by rule", "bps", vec![(format!("sum by (rule) ({})", bits("ingress")), "{{rule}}")]),
        over_time("Out, by rule", "bps", vec![(format!("sum by (rule) ({})", bits("egress")), "{{rule}}")]),
        over_time(
            "Packets",
            "pps",
            vec![
                (format!("sum by (rule) ({})", packets("ingress")), "{{rule}} in"),
                (format!("sum by (rule) ({})", packets("egress")), "{{rule}} out"),
            ],
        ),
        over_time(
            "New flows a second",
            "short",
            vec![(format!("sum by (rule) ({})", rate("relay_rule_flows_total", "")), "{{rule}}")],
        ),
        over_time(
            "Live flows, by rule",
            "short",
            vec![(format!("sum by (rule) (relay_rule_active_flows{{{CHOSEN}}})"), "{{rule}}")],
        ),
        over_time(
            "Quotas used",
            "percentunit",
            vec![(
                "max by (kind, name) (relay_quota_used_bytes{instance=~\"$instance\"} / relay_quota_bytes{instance=~\"$instance\"})"
                    .into(),
                "{{kind}} {{name}}",
            )],
        ),
        over_time(
            "Refused packets, by reason",
            "pps",
            vec![(
                // with those that belong to no rule
                "sum by (rule, reason) (rate(relay_rule_drops_total{instance=~\"$instance\",rule=~\"$rule|\"}[$__rate_interval]))"
                    .into(),
                "{{rule}} {{reason}}",
            )],
        ),
    ]
}

fn backends() -> Vec<Panel> {
    vec![
        over_time(
            "New flows, by backend",
            "short",
            vec![(
                format!("sum by (rule, backend) ({})", rate("relay_backend_flows_total", "")),
                "{{rule}} {{backend}}",
            )],
        ),
        over_time(
            "Backends that can be used",
            "bool_on_off",
            vec![(format!("min by (rule, backend) (relay_backend_up{{{CHOSEN}}})"), "{{rule}} {{backend}}")],
        ),
        over_time(
            "Round trip to backends",
            "s",
            vec![
                (quantile("0.5"), "{{rule}} {{backend}} half"),
                (quantile("0.99"), "{{rule}} {{backend}} 99 %"),
            ],
        ),
        over_time(
            "What backends have failed",
            "short",
            vec![(
                format!("sum by (rule, backend, source) ({})", rate("relay_backend_failures_total", "")),
                "{{rule}} {{backend}} {{source}}",
            )],
        ),
    ]
}

/// Side by side as long as there is room, then below.
fn place(panels: &[Panel]) -> Vec<Value> {
    let (mut x, mut y) = (0, 0);
    let mut placed = Vec::new();
    for (id, panel) in (1u64..).zip(panels) {
        let (width, height) = panel.size;
        let targets = panel.queries.iter().zip('A'..).map(|((expression, legend), name)| {
            json!({ "refId": name.to_string(), "expr": expression, "legendFormat": legend, "datasource": source() })
        });
        placed.push(json!({
            "id": id, "type": panel.kind, "title": panel.title, "datasource": source(),
            "gridPos": { "x": x, "y": y, "w": width, "h": height },
            "fieldConfig": { "defaults": { "unit": panel.unit, "min": 0 }, "overrides": [] },
            "targets": targets.collect::<Vec<_>>(),
        }));
        x += width;
        if x >= 2 * HALF {
            (x, y) = (0, y + height);
        }
    }
    placed
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn no_panel_covers_another() {
        let dashboard = dashboard();
        let panels = dashboard["panels"].as_array().expect("panels");
        let mut taken = std::collections::HashSet::new();
        for panel in panels {
            let at = |key: &str| panel["gridPos"][key].as_u64().expect("number");
            for x in at("x")..at("x") + at("w") {
                assert!(x < 24, "{panel}");
                for y in at("y")..at("y") + at("h") {
                    assert!(taken.insert((x, y)), "{panel}");
                }
            }
        }
        assert_eq!(panels.len(), 15);
    }
}
