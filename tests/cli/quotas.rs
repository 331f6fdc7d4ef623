//! `relayctl quota`, and quotas, ends and groups in files and commands.

use std::fs;
use std::net::SocketAddr;

use harness::http::Http;
use harness::traffic::{Client, tcp_server, text};
use harness::world::RELAY;
use harness::{World, eventually};
use serde_json::json;

const RULES: &str = "[[group]]\nname = \"alice\"\nquota = { limit = \"1GB\", reset = \"monthly:31\", tz = \"Asia/Shanghai\" }\n\
                     rate = { egress = \"800Mbps\" }\n\
                     [[rule]]\nname = \"web\"\nlisten = \":8080\"\nto = \"203.0.113.2:80\"\ngroup = \"alice\"\n\
                     quota = \"100MB\"\nexpires = 2099-01-01T00:00:00+08:00\n";

#[test]
fn what_is_used_is_shown_and_reset() {
    let world = World::new();
    let daemon = world.start(RULES);
    let ctl = &daemon.ctl;
    let _server = tcp_server(&world.backend, 80);
    let client = Client::connect(&world.client, SocketAddr::from((RELAY, 8080))).and_then(Client::start_echo);
    client.expect("an echo").echo(&text(20_000)).expect("an echo");
    let used = |args: &[&str]| {
        ctl.json(&[&["quota"], args].concat())["quota"]["used_bytes"].as_u64().expect("bytes")
    };
    eventually("it is counted for both", || used(&["web"]) > 40_000 && used(&["alice", "--group"]) > 40_000);
    let table = ctl.ok(&["quota"]);
    assert!(table.contains("group  alice") && table.contains("rule   web"), "{table}");
    assert!(table.contains("2099-01-01T00:00:00+08:00") && table.contains("00:00 CST"), "{table}");
    let shown = ctl.ok(&["show", "web"]);
    assert!(shown.contains("of 95.4 MiB used (0 %), counts both, then block, never resets"), "{shown}");
    assert!(shown.contains("group") && shown.contains("alice"), "{shown}");
    let view = ctl.json(&["quota", "alice", "--group"]);
    assert_eq!((&view["rules"], &view["rate"]), (&json!(["web"]), &json!({ "egress": "800Mbps" })));
    assert!(ctl.ok(&["quota", "web", "--reset", "--dry-run"]).contains("dry run"));
    assert!(used(&["web"]) > 40_000);
    assert_eq!(ctl.ok(&["quota", "web", "--reset"]), "rule web quota reset\n");
    assert!(used(&["web"]) < 10_000 && used(&["alice", "--group"]) > 40_000);
    assert!(ctl.ok(&["quota", "web"]).contains("manual"));
    assert!(ctl.ok(&["quota", "alice", "--group", "--reset"]).contains("group alice quota reset"));
    let refused = ctl.fails(1, &["quota", "nobody", "--reset"]);
    assert!(refused.contains("there is no rule nobody"), "{refused}");
    let metrics = Http::unix(&ctl.socket).get("/metrics").body;
    assert!(metrics.contains("relay_quota_bytes{kind=\"group\",name=\"alice\"} 1000000000"), "{metrics}");
    assert!(
        metrics.contains("relay_expiry_timestamp_seconds{kind=\"rule\",name=\"web\"} 4070880000"),
        "{metrics}"
    );
}

#[test]
fn keys_are_changed_one_by_one_and_saved() {
    let world = World::new();
    let daemon = world.start(RULES);
    let ctl = &daemon.ctl;
    ctl.ok(&["set", "web", "quota.reset=monthly:15", "quota.over=throttle:1Mbps", "expires="]);
    let saved = || fs::read_to_string(&daemon.config).expect("the file");
    let text = saved();
    assert!(
        text.contains("limit = \"100MB\"") && text.contains("monthly:15") && !text.contains("expires"),
        "{text}"
    );
    ctl.ok(&["set", "web", "quota=5GiB", "group="]);
    assert!(saved().contains("quota = \"5GiB\"") && !saved().contains("group = \"alice\""), "{}", saved());
    assert_eq!(ctl.json(&["quota", "web"])["quota"]["limit_bytes"], 5_u64 << 30);
    ctl.ok(&[
        "add",
        "81",
        "203.0.113.2",
        "--quota",
        "1TB",
        "--set",
        "quota.reset=monthly",
        "--group",
        "alice",
    ]);
    assert_eq!(ctl.json(&["quota", "alice", "--group"])["rules"], json!(["81"]));
    assert_eq!(ctl.json(&["quota", "81"])["quota"]["reset"], "monthly:1");
    ctl.ok(&["set", "web", "quota="]);
    assert!(ctl.ok(&["quota", "web"]).contains("none"));
    // a group that rules need cannot go
    let file = &daemon.config;
    let without = saved().replacen("name = \"alice\"", "name = \"bob\"", 1);
    fs::write(file, &without).expect("write");
    let refused = ctl.fails(4, &["reload"]);
    assert!(refused.contains("rule \"81\": group: there is no group \"alice\""), "{refused}");
    fs::write(file, without.replace("group = \"alice\"", "group = \"bob\"")).expect("write");
    ctl.ok(&["reload"]);
    assert_eq!(ctl.json(&["quota", "bob", "--group"])["rules"], json!(["81"]));
    ctl.fails(1, &["quota", "alice", "--group"]);
}

/// What is typed, how relayctl ends, and what it says.
type Mistake = (&'static [&'static str], i32, &'static [&'static str]);

const MISTAKES: &[Mistake] = &[
    (
        &["add", "90", "203.0.113.2", "--quota", "5gb"],
        4,
        &["quota: limit: \"5gb\" is not a size", "\"500GB\""],
    ),
    (&["add", "90", "203.0.113.2", "--set", "quota=0B"], 4, &["\"0B\" is out of range", "leave it out"]),
    (&["add", "90", "203.0.113.2", "--set", "quota.count=in"], 4, &["quota", "it has no limit"]),
    (
        &["add", "90", "203.0.113.2", "--quota", "1GB", "--set", "quota.reset=weekly"],
        4,
        &["quota: reset: \"weekly\" is not a reset", "\"monthly:15\""],
    ),
    (
        &["add", "90", "203.0.113.2", "--quota", "1GB", "--set", "quota.tz=Beijing"],
        4,
        &["quota: tz: \"Beijing\" is not a time zone", "\"Asia/Shanghai\""],
    ),
    (
        &["add", "90", "203.0.113.2", "--quota", "1GB", "--set", "quota.over=throttle:1MB"],
        4,
        &["quota: over: \"throttle:1MB\" is not", "\"throttle:1Mbps\""],
    ),
    (
        &["add", "90", "203.0.113.2", "--expires", "2027-01-03"],
        4,
        &["expires: \"2027-01-03\" is not a moment", "offset or zone"],
    ),
    (&["add", "90", "203.0.113.2", "--group", "nobody"], 4, &["there is no group \"nobody\"", "[[group]]"]),
    (&["quota", "nobody"], 1, &["there is no rule \"nobody\""]),
    (&["quota", "nobody", "--group", "--reset"], 1, &["there is no group"]),
];

#[test]
fn mistakes_are_explained() {
    let world = World::new();
    let daemon = world.start("");
    for (args, code, parts) in MISTAKES {
        let said = daemon.ctl.fails(*code, args);
        for part in *parts {
            assert!(said.contains(part), "{args:?}: {said}");
        }
    }
    assert_eq!(daemon.ctl.json(&["list"]), json!([]));
}
