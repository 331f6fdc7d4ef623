//! `/metrics` is OpenMetrics, by name and by grammar, and says the same as the JSON.

use std::collections::BTreeMap;
use std::net::SocketAddr;

use harness::http::Http;
use harness::traffic::{Client, Datagrams, tcp_server, text, udp_server};
use harness::world::RELAY;
use harness::{World, eventually};
use serde_json::Value;

const LISTEN: &str = "127.0.0.1:9464";
const RULES: &str = "[metrics]\nlisten = \"127.0.0.1:9464\"\n\
                     [[rule]]\nname = \"web\"\nlisten = \":8080\"\nto = \"203.0.113.2:80\"\n\
                     [[rule]]\nname = \"away\"\nlisten = \":8081\"\nto = \"nosuch.invalid:80\"\n";

fn address() -> SocketAddr {
    LISTEN.parse().expect("address")
}

/// Samples by name and labels as written.
struct Metrics(BTreeMap<String, f64>);

/// Kinds of this exposition, and what samples of one are called beyond the name.
const SUFFIXES: &[(&str, &[&str])] = &[
    ("counter", &["_total"]),
    ("gauge", &[""]),
    ("info", &["_info"]),
    ("histogram", &["_bucket", "_count", "_sum"]),
];

impl Metrics {
    /// Reads the text by the rules of OpenMetrics 1.0, as far as this exposition uses them.
    fn parse(text: &str) -> Self {
        let body = text.strip_suffix("# EOF\n").expect("it ends with # EOF");
        let (mut samples, mut families) = (BTreeMap::new(), Vec::new());
        let (mut family, mut kind) = (String::new(), String::new());
        for line in body.lines() {
            assert!(!line.is_empty() && line.trim() == line, "{line:?}");
            if let Some(rest) = line.strip_prefix("# ") {
                let mut words = rest.splitn(3, ' ');
                let (what, name, value) =
                    (words.next(), words.next().expect("name"), words.next().expect("value"));
                if name != family {
                    assert!(!families.contains(&name.to_owned()), "{name} comes twice");
                    (family, kind) = (name.to_owned(), String::new());
                    families.push(family.clone());
                }
                match what {
                    Some("TYPE") => kind = value.to_owned(),
                    Some("UNIT") => assert!(name.ends_with(&format!("_{value}")), "{line}"),
                    other => assert_eq!(other, Some("HELP"), "{line}"),
                }
                continue;
            }
            let (series, value) = line.rsplit_once(' ').expect("a value");
            let name = series.split('{').next().expect("name");
            let (_, suffixes) = SUFFIXES.iter().find(|(known, _)| *known == kind).expect("a known kind");
            let suffix =
                name.strip_prefix(&family).unwrap_or_else(|| panic!("it stands with its family: {line}"));
            assert!(suffixes.contains(&suffix), "of a {kind}: {line}");
            check_labels(series.get(name.len()..).expect("labels"), line);
            let value: f64 = value.parse().unwrap_or_else(|error| panic!("{line}: {error}"));
            assert!(samples.insert(series.to_owned(), value).is_none(), "{series} comes twice");
        }
        Self(samples)
    }

    fn value(&self, series: &str) -> u64 {
        *self.0.get(series).unwrap_or_else(|| panic!("{series} is not among {:?}", self.0.keys())) as u64
    }
}

/// `{name="value",...}` or nothing; quotes and backslashes inside values are escaped.
fn check_labels(labels: &str, line: &str) {
    let Some(inner) = labels.strip_prefix('{') else {
        assert_eq!(labels, "", "{line}");
        return;
    };
    let mut rest = inner.strip_suffix('}').expect("closed");
    while !rest.is_empty() {
        let (name, value) = rest.split_once("=\"").expect("a label");
        assert!(name.bytes().all(|byte| byte.is_ascii_lowercase() || byte == b'_'), "{line}");
        let end = value.find('"').expect("the value ends");
        assert!(!value[..end].contains('\\'), "{line}");
        rest = &value[end + 1..];
        rest = rest.strip_prefix(',').unwrap_or(rest);
    }
}

fn scrape(world: &World) -> Metrics {
    let answer = Http::tcp(&world.relay, address()).get("/metrics");
    let kind = "application/openmetrics-text; version=1.0.0; charset=utf-8";
    assert_eq!((answer.status, answer.header("content-type")), (200, Some(kind)));
    Metrics::parse(&answer.body)
}

#[test]
fn metrics_and_json_count_the_same() {
    let world = World::new();
    let daemon = world.start(RULES);
    let _servers = (tcp_server(&world.backend, 80), udp_server(&world.backend, 80));
    Client::connect(&world.client, (RELAY, 8080)).and_then(|client| client.upload(300_000)).expect("upload");
    let datagrams = Datagrams::new(&world.client, (RELAY, 8080));
    for size in [10, 100, 1000] {
        datagrams.echo(&text(size)).expect("datagram");
    }
    let mut last = Value::Null;
    eventually("the connection has ended and nothing moves", || {
        let now = daemon.ctl.rule("web")["counters"].clone();
        let rests = now == last && now["flows"]["total"] == 2;
        last = now;
        rests
    });
    let metrics = scrape(&world);
    let number = |pointer: &str| last.pointer(pointer).and_then(Value::as_u64).expect("number");
    for direction in ["ingress", "egress"] {
        for what in ["bytes", "packets"] {
            let series = format!("relay_rule_{what}_total{{rule=\"web\",direction=\"{direction}\"}}");
            assert_eq!(metrics.value(&series), number(&format!("/{direction}/{what}")), "{series}");
        }
    }
    assert!(number("/ingress/bytes") > 300_000 + 1110 && number("/ingress/packets") > 6, "{last}");
    assert_eq!(metrics.value("relay_rule_flows_total{rule=\"web\"}"), 2);
    assert_eq!(metrics.value("relay_rule_active_flows{rule=\"web\"}"), number("/flows/active"));
    for series in [
        "relay_rule_unit{rule=\"web\",unit=\"ip\"}",
        "relay_rule_plane{rule=\"web\",family=\"ipv4\",plane=\"kernel\"}",
        "relay_rule_plane{rule=\"web\",family=\"ipv6\",plane=\"kernel\"}",
        "relay_backend_up{rule=\"web\",backend=\"203.0.113.2:80\",protocol=\"tcp\"}",
        "relay_config_last_reload_success",
    ] {
        assert_eq!(metrics.value(series), 1, "{series}");
    }
    assert_eq!(
        metrics.value("relay_backend_up{rule=\"away\",backend=\"nosuch.invalid:80\",protocol=\"tcp\"}"),
        0
    );
    let build = metrics.0.keys().find(|series| series.starts_with("relay_build_info{version=\""));
    assert!(build.is_some());
    let unix = Http::unix(&daemon.ctl.socket).get("/metrics");
    let same = Metrics::parse(&unix.body);
    assert_eq!(same.0.keys().collect::<Vec<_>>(), metrics.0.keys().collect::<Vec<_>>());
}

#[test]
fn drops_are_counted_by_reason() {
    let world = World::new();
    let daemon = world.start(RULES);
    daemon.ctl.run(&["set", "web", "to=192.0.2.200:80"]);
    Client::connect_within(&world.client, (RELAY, 8080), std::time::Duration::from_millis(300))
        .expect_err("there is no route to the backend");
    let drops = daemon.ctl.rule("web")["counters"]["drops"].clone();
    let metrics = scrape(&world);
    assert!(drops["no_route"].as_u64() >= Some(1), "{drops}");
    for (reason, count) in drops.as_object().expect("object") {
        let series = format!("relay_rule_drops_total{{rule=\"web\",reason=\"{reason}\"}}");
        assert!(metrics.value(&series) >= count.as_u64().expect("number"), "{series}");
    }
}

#[test]
fn a_refused_reload_shows() {
    let world = World::new();
    let daemon = world.start(RULES);
    let good = std::fs::read_to_string(&daemon.config).expect("config");
    std::fs::write(&daemon.config, "[").expect("edit");
    daemon.ctl.fails(4, &["reload"]);
    assert_eq!(scrape(&world).value("relay_config_last_reload_success"), 0);
    std::fs::write(&daemon.config, good).expect("edit");
    daemon.ctl.run(&["reload"]);
    assert_eq!(scrape(&world).value("relay_config_last_reload_success"), 1);
}

#[test]
fn nothing_else_is_served_over_tcp() {
    let world = World::new();
    let daemon = world.start(RULES);
    let mut http = Http::tcp(&world.relay, address());
    assert_eq!(http.get("/healthz").json()["status"], "ok");
    for (method, path) in
        [("GET", "/v1/rules"), ("POST", "/v1/reload"), ("POST", "/v1/down"), ("DELETE", "/v1/rules/web")]
    {
        let answer = http.ask(method, path, "");
        assert_eq!(
            (answer.status, &answer.json()["code"]),
            (404, &Value::from("not_found")),
            "{method} {path}"
        );
    }
    assert_eq!(daemon.ctl.json(&["list"]).as_array().map(Vec::len), Some(2));
}

#[test]
fn an_address_in_use_keeps_relayd_from_starting_and_is_named() {
    let world = World::new();
    let _other = world.relay.run(|| std::net::TcpListener::bind(LISTEN)).expect("bind");
    let path = world.folder().join("relay.toml");
    std::fs::write(&path, harness::daemon::settings(world.folder(), "") + RULES).expect("config");
    let path = path.display().to_string();
    let said = harness::programs::relayd(&world.relay, world.folder(), &["--config", &path]);
    assert_eq!(said.code, 1, "{said:?}");
    assert!(said.err.contains("[metrics] listen: cannot listen on 127.0.0.1:9464: Address"), "{said:?}");
}
