//! What Prometheus and Grafana are given: by Prometheus's own checker, and by a server that scrapes relayd.

use std::fs;

use harness::prometheus::{Prometheus, is_missing, promtool};
use harness::traffic::{Client, tcp_server};
use harness::world::RELAY;
use harness::{World, eventually};
use serde_json::{Value, json};

const RULES: &str = "[metrics]\nlisten = \"127.0.0.1:9464\"\n\
                     [[rule]]\nname = \"web\"\nlisten = \":8080\"\nto = \"203.0.113.2:80\"\nquota = \"1GB\"\n\
                     [[rule]]\nname = \"tokyo.1\"\nlisten = \":8081\"\nto = [\"203.0.113.2:81\", \"nosuch.invalid:80\"]\n";

/// The older text format, which is all that the checker reads: counters and infos by their samples' names.
fn older(text: &str) -> String {
    let kinds: Vec<(&str, &str)> =
        text.lines().filter_map(|line| line.strip_prefix("# TYPE ")?.split_once(' ')).collect();
    let renamed = |name: &str| match kinds.iter().find(|(known, _)| *known == name) {
        Some((_, "counter")) => format!("{name}_total"),
        Some((_, "info")) => format!("{name}_info"),
        _ => name.to_owned(),
    };
    let line = |line: &str| {
        let mut words = line.splitn(4, ' ');
        match (words.next(), words.next(), words.next(), words.next()) {
            (Some("#"), Some("EOF" | "UNIT"), ..) => String::new(),
            (Some("#"), Some("TYPE"), Some(name), Some("info")) => {
                format!("# TYPE {} gauge\n", renamed(name))
            }
            (Some("#"), Some(what), Some(name), Some(rest)) => format!("# {what} {} {rest}\n", renamed(name)),
            _ => format!("{line}\n"),
        }
    };
    text.lines().map(line).collect()
}

#[test]
fn the_checker_finds_no_fault() {
    if is_missing() {
        return;
    }
    let world = World::new();
    let daemon = world.start(RULES);
    let metrics = harness::http::Http::unix(&daemon.ctl.socket).get("/metrics").body;
    let said = promtool(&["check", "metrics"], &older(&metrics));
    assert_eq!((said.code, said.err.as_str()), (0, ""), "{said:?}");
    let path = world.folder().join("alerts.yml");
    fs::write(&path, daemon.ctl.ok(&["export", "prometheus-rules"])).expect("written");
    let said = promtool(&["check", "rules", &path.display().to_string()], "");
    assert!(said.code == 0 && said.out.contains("rules found"), "{said:?}");
}

#[test]
fn a_server_scrapes_relayd_and_answers_everything_that_the_dashboard_asks() {
    if is_missing() {
        return;
    }
    let world = World::new();
    let daemon = world.start(RULES);
    let _server = tcp_server(&world.backend, 80);
    let path = world.folder().join("alerts.yml");
    fs::write(&path, daemon.ctl.ok(&["export", "prometheus-rules"])).expect("written");
    let target = "127.0.0.1:9464".parse().expect("address");
    let prometheus = Prometheus::start(&world.relay, world.folder(), target, &path);
    Client::connect(&world.client, (RELAY, 8080)).and_then(|client| client.upload(300_000)).expect("upload");
    eventually("the rule's bytes are there", || {
        let counted = daemon.ctl.counter("web", "/ingress/bytes");
        let answer = prometheus.query("relay_rule_bytes_total{rule=\"web\",direction=\"ingress\"}");
        counted > 300_000 && answer["data"]["result"][0]["value"][1] == json!(counted.to_string())
    });
    let dashboard = daemon.ctl.json(&["export", "grafana"]);
    let panels = dashboard["panels"].as_array().expect("panels");
    for expression in panels.iter().flat_map(|panel| panel["targets"].as_array().expect("targets")) {
        let text = expression["expr"].as_str().expect("text");
        let asked = text.replace("$__rate_interval", "30s").replace("$instance", ".*").replace("$rule", ".*");
        // of round trips and refused packets there may be none; rates are of two scrapes
        let may_be_empty = text.contains("rtt") || text.contains("drops");
        eventually(text, || {
            let answer = prometheus.query(&asked);
            assert_eq!(answer["status"], "success", "{text}: {answer}");
            may_be_empty || answer["data"]["result"].as_array().is_some_and(|found| !found.is_empty())
        });
    }
    let groups = prometheus.get("/api/v1/rules");
    let rules = groups["data"]["groups"][0]["rules"].as_array().expect("rules").clone();
    let state = |name: &str| -> Vec<Value> {
        rules.iter().filter(|rule| rule["name"] == name).map(|rule| rule["state"].clone()).collect()
    };
    assert_eq!(state("RelayRuleMissing").len(), 2, "one for each rule");
    assert_eq!([state("RelayQuota"), state("RelayExpiry")], [[json!("inactive")], [json!("inactive")]]);
    eventually("the backend without an address is noticed", || {
        let answer = prometheus.query("ALERTS{alertname=\"RelayBackendDown\",rule=\"tokyo.1\"}");
        answer["data"]["result"][0]["metric"]["backend"] == "nosuch.invalid:80"
    });
    assert_eq!(state("RelayDown"), [json!("inactive")]);
}

#[test]
fn the_dashboard_needs_no_relayd() {
    let folder = harness::world::folder();
    let ctl = harness::Ctl::new(folder.path().join("none.sock"), folder.path());
    let dashboard = ctl.json(&["export", "grafana"]);
    assert_eq!((&dashboard["uid"], &dashboard["title"]), (&json!("relay"), &json!("Relay")));
    ctl.fails(3, &["export", "prometheus-rules"]);
}
