//! The API with HTTP/1.1 written out by hand.

use std::fs;
use std::os::unix::fs::PermissionsExt as _;
use std::os::unix::net::UnixStream;
use std::os::unix::process::CommandExt as _;
use std::process::Command;

use harness::World;
use harness::daemon::{Said, binary};
use harness::http::Http;
use serde_json::{Value, json};

const WEB: &str = "[[rule]]\nname = \"web\"\nlisten = \":80\"\nto = \"203.0.113.2:80\"\n";

#[test]
fn rules_are_made_read_changed_and_removed_on_one_connection() {
    let world = World::new();
    let daemon = world.start("");
    let mut http = Http::unix(&daemon.ctl.socket);
    assert_eq!(http.get("/v1/rules").json(), json!([]));
    let rule = json!({ "name": "web", "listen": ":80", "to": ["203.0.113.2:80"], "note": "香港" });
    let answer = http.ask("POST", "/v1/rules", &rule.to_string());
    assert_eq!((answer.status, &answer.json()["changes"][0]["action"]), (201, &json!("added")));
    assert_eq!(answer.json()["saved"], json!(daemon.config));
    let answer = http.get("/v1/rules/web");
    assert_eq!((answer.status, answer.header("content-type")), (200, Some("application/json")));
    assert_eq!((&answer.json()["note"], &answer.json()["state"]), (&json!("香港"), &json!("active")));
    assert_eq!(http.get("/v1/rules/web/explain").json()["config"]["to"], "203.0.113.2:80");
    let answer =
        http.ask("PATCH", "/v1/rules/web", r#"{ "note": null, "listen+": 81, "timeout": { "udp": "9s" } }"#);
    assert_eq!((answer.status, &answer.json()["changes"][0]["action"]), (200, &json!("changed")));
    let answer = http.get("/v1/rules/web").json();
    assert_eq!((&answer["listen"], answer.get("note")), (&json!([":80", ":81"]), None));
    let to = r#"{ "to": [{ "addr": "203.0.113.2", "weight": 3 }, "203.0.113.3"], "balance": "first" }"#;
    assert_eq!(http.ask("PATCH", "/v1/rules/web", to).status, 200);
    let answer = http.get("/v1/rules/web").json();
    assert_eq!((&answer["to"][0]["weight"], &answer["balance"]), (&json!(3), &json!("first")));
    let one = r#"{ "to": { "addr": "203.0.113.2:80", "priority": 1 }, "balance": null }"#;
    assert_eq!(http.ask("PATCH", "/v1/rules/web", one).status, 200);
    let config = http.get("/v1/rules/web/explain").json()["config"].clone();
    assert_eq!(config["to"], json!({ "addr": "203.0.113.2:80", "priority": 1 }));
    for (action, state) in
        [("disable", "disabled"), ("enable", "active"), ("drain", "draining"), ("enable", "active")]
    {
        assert_eq!(http.ask("POST", &format!("/v1/rules/web/{action}"), "").status, 200);
        assert_eq!(http.get("/v1/rules/web").json()["state"], state);
    }
    assert_eq!(http.ask("DELETE", "/v1/rules/web?dry_run=true", "").status, 200);
    assert_eq!(http.ask("DELETE", "/v1/rules/web", "").json()["changes"][0]["action"], "removed");
    assert_eq!(http.get("/v1/rules/web").status, 404);
    assert_eq!(http.ask("POST", "/v1/reload", "").status, 200);
    assert_eq!(http.get("/v1/status").json()["config"], json!(daemon.config));
    assert_eq!(http.get("/healthz").json(), json!({ "status": "ok" }));
}

/// Method, path, body; then status and code.
type Refusal = (&'static str, &'static str, &'static [u8], u16, &'static str);

const REFUSALS: &[Refusal] = &[
    ("GET", "/", b"", 404, "not_found"),
    ("GET", "/v2/rules", b"", 404, "not_found"),
    ("POST", "/v1/rules/web/explode", b"", 404, "not_found"),
    ("GET", "/v1/rules/nosuch", b"", 404, "rule_not_found"),
    ("DELETE", "/v1/rules/nosuch", b"", 404, "rule_not_found"),
    ("PATCH", "/v1/rules/nosuch", b"{}", 404, "rule_not_found"),
    ("PUT", "/v1/rules/web", b"{}", 405, "method_not_allowed"),
    ("DELETE", "/v1/status", b"", 405, "method_not_allowed"),
    ("POST", "/metrics", b"", 405, "method_not_allowed"),
    ("POST", "/v1/rules", b"", 400, "invalid"),
    ("POST", "/v1/rules", b"{", 400, "invalid"),
    ("POST", "/v1/rules", b"[]", 400, "invalid"),
    ("POST", "/v1/rules", b"\xff\xfe", 400, "invalid"),
    ("POST", "/v1/rules", br#"{"listen":":80"}"#, 400, "invalid"),
    ("POST", "/v1/rules", br#"{"listen":":81","to":"203.0.113.2","quota":{"limit":"5gb"}}"#, 400, "invalid"),
    ("POST", "/v1/rules?dry_run=maybe", b"{}", 400, "invalid"),
    ("PATCH", "/v1/rules/web", br#"{"listen":99999999999999999999}"#, 400, "invalid"),
    ("PATCH", "/v1/rules/web", b"1", 400, "invalid"),
    ("GET", "/v1/rules/web/backend", b"", 405, "method_not_allowed"),
    ("POST", "/v1/rules/web/backend", b"", 400, "invalid"),
    ("POST", "/v1/rules/web/backend", br#"{"addr":"203.0.113.2:80"}"#, 400, "invalid"),
    ("POST", "/v1/rules/web/backend", br#"{"addr":"203.0.113.2:80","order":"sleep"}"#, 400, "invalid"),
    (
        "POST",
        "/v1/rules/web/backend",
        br#"{"addr":"203.0.113.2:80","order":"up","weight":1}"#,
        400,
        "invalid",
    ),
    ("POST", "/v1/rules/web/backend", br#"{"addr":"203.0.113.9:80","order":"up"}"#, 404, "backend_not_found"),
    ("POST", "/v1/rules/nosuch/backend", br#"{"addr":"203.0.113.2:80","order":"up"}"#, 404, "rule_not_found"),
    ("POST", "/v1/alerts/nosuch/test", b"", 404, "alert_not_found"),
    ("POST", "/v1/alerts", b"", 405, "method_not_allowed"),
    ("GET", "/v1/rules/a%20b", b"", 400, "invalid"),
    ("GET", "/v1/rules/%ff", b"", 400, "invalid"),
    ("GET", "/v1/observe?rule=nosuch", b"", 404, "rule_not_found"),
    ("GET", "/v1/observe?kind=gone", b"", 400, "invalid"),
    ("GET", "/v1/observe?client=somebody", b"", 400, "invalid"),
    ("GET", "/v1/observe?limit=1", b"", 400, "invalid"),
    ("POST", "/v1/observe", b"", 405, "method_not_allowed"),
    ("POST", "/v1/apply?confirm=soon", b"", 400, "invalid"),
    ("POST", "/v1/apply", b"[[rule]]", 400, "invalid"),
    ("POST", "/v1/rules", br#"{"name":"web","listen":":81","to":"203.0.113.2"}"#, 409, "rule_exists"),
    ("POST", "/v1/rules", br#"{"listen":":80","to":"203.0.113.2"}"#, 409, "not_possible"),
    ("POST", "/v1/rules", br#"{"listen":"192.0.2.1:81","to":"203.0.113.2"}"#, 409, "not_possible"),
    ("POST", "/v1/confirm", b"", 409, "nothing_pending"),
];

#[test]
fn refusals_are_problems_with_stable_codes() {
    let world = World::new();
    let daemon = world.start(WEB);
    let mut http = Http::unix(&daemon.ctl.socket);
    let before = http.get("/v1/rules").json();
    for &(method, path, body, status, code) in REFUSALS {
        http.send(method, path, body);
        let head = http.head();
        let length: usize =
            head.header("content-length").and_then(|length| length.parse().ok()).expect("length");
        let problem: Value = serde_json::from_str(&http.body(length)).expect("JSON");
        let shown = format!("{method} {path} {}: {problem}", String::from_utf8_lossy(body));
        assert_eq!(
            (head.status, head.header("content-type")),
            (status, Some("application/problem+json")),
            "{shown}"
        );
        assert_eq!((&problem["status"], &problem["code"]), (&json!(status), &json!(code)), "{shown}");
        assert!(problem["detail"].as_str().is_some_and(|text| text.len() > 10), "{shown}");
    }
    assert_eq!(http.get("/v1/rules").json(), before, "and nothing has changed");
}

#[test]
fn events_are_sent_as_they_happen() {
    let world = World::new();
    let daemon = world.start(WEB);
    let mut events = Http::unix(&daemon.ctl.socket);
    events.send("GET", "/v1/events", b"");
    let head = events.head();
    assert_eq!((head.status, head.header("content-type")), (200, Some("text/event-stream")));
    let ctl = &daemon.ctl;
    ctl.ok(&["add", "81", "203.0.113.2"]);
    ctl.ok(&["drain", "web"]);
    ctl.ok(&["reload"]);
    ctl.ok(&["rm", "81"]);
    world.relay.delete_link("inside");
    let mut seen = Vec::new();
    while !seen.iter().any(|(kind, rule)| kind == "rule.state" && rule == "web") {
        let line = events.line();
        let Some(kind) = line.strip_prefix("event: ") else { continue };
        let data = events.line();
        let data: Value = serde_json::from_str(data.strip_prefix("data: ").expect("data")).expect("JSON");
        assert_eq!(data["kind"], kind);
        assert!(data["time"].as_u64() > Some(1_600_000_000) && data["text"].is_string(), "{data}");
        seen.push((kind.to_owned(), data["rule"].as_str().unwrap_or("").to_owned()));
    }
    let expected = [("rule.added", "81"), ("rule.draining", "web"), ("reload", ""), ("rule.removed", "81")];
    let seen: Vec<(&str, &str)> = seen.iter().map(|(kind, rule)| (kind.as_str(), rule.as_str())).collect();
    assert_eq!(seen[..4], expected);
}

#[test]
fn the_socket_is_for_root_and_its_group_and_only_root_writes() {
    let world = World::new();
    let daemon = world.start(WEB);
    let socket = &daemon.ctl.socket;
    assert_eq!(fs::metadata(socket).expect("socket").permissions().mode() & 0o777, 0o660);
    // opened for everyone, so that somebody without rights gets as far as being refused
    fs::set_permissions(socket, fs::Permissions::from_mode(0o666)).expect("mode");
    fs::set_permissions(world.folder(), fs::Permissions::from_mode(0o755)).expect("mode");
    let program = world.folder().join("relayctl");
    fs::copy(binary("relayctl"), &program).expect("copy");
    let as_nobody = |args: &[&str]| {
        let mut command = Command::new(&program);
        command.arg("--socket").arg(socket).args(args).uid(65534).gid(65534);
        Said::from(command.output().expect("relayctl"))
    };
    assert_eq!(as_nobody(&["list"]).code, 0, "anyone who gets through to the socket may look");
    for args in [
        &["rm", "web"][..],
        &["add", "81", "203.0.113.2"],
        &["reload"],
        &["down"],
        &["confirm"],
        &["backend", "web", "203.0.113.2:80", "--up"],
        &["alert", "test", "phone"],
    ] {
        let said = as_nobody(args);
        assert_eq!(said.code, 1, "{args:?}: {said:?}");
        assert!(
            said.err.contains("only root and the user that relayd runs as may change anything"),
            "{said:?}"
        );
    }
    fs::set_permissions(socket, fs::Permissions::from_mode(0o660)).expect("mode");
    let said = as_nobody(&["list"]);
    assert_eq!(said.code, 3, "{said:?}");
    assert!(said.err.contains("Permission denied") && said.err.contains("as root"), "{said:?}");
}

#[test]
fn a_socket_left_behind_is_replaced_and_one_in_use_is_not() {
    let world = World::new();
    let mut daemon = world.start(WEB);
    let config = daemon.config.display().to_string();
    let second = harness::programs::relayd(&world.relay, world.folder(), &["--config", &config]);
    assert_eq!(second.code, 1, "{second:?}");
    assert!(second.err.contains("another relayd is running"), "{second:?}");
    daemon.ctl.ok(&["list"]);
    daemon.kill();
    assert!(UnixStream::connect(&daemon.ctl.socket).is_err());
    let said = daemon.ctl.fails(3, &["list"]);
    assert!(said.contains("Connection refused") && said.contains("start it again"), "{said}");
    daemon.start_again(&world.relay);
    daemon.ctl.ok(&["list"]);
    daemon.stop();
    assert!(!daemon.ctl.socket.exists(), "a relayd that ends takes its socket with it");
}
