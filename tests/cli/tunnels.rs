//! Rules with tunnels: what is written, shown, and kept back. Nothing is sent through them.

use std::fs;

use harness::world::World;
use serde_json::json;

const RULES: &str = r#"[[rule]]
name = "out"
listen = ":1080"
to = "203.0.113.2:443"
enabled = false
connect = { transport = "wss", path = "/ws", token = "sesame-1", headers = { x-key = "sesame-2" } }
"#;

#[test]
fn transports_are_shown_and_secrets_are_not() {
    let world = World::new();
    let daemon = world.start(RULES);
    let ctl = &daemon.ctl;
    let rule = ctl.rule("out");
    assert_eq!((&rule["protocol"], &rule["accept"]), (&json!("tcp"), &json!({ "transport": "plain" })));
    assert_eq!(rule["connect"], json!({ "transport": "wss", "path": "/ws", "verify": "ca" }));
    assert!(ctl.ok(&["list"]).contains("plain > wss"));
    assert!(ctl.ok(&["show", "out"]).contains("connect   wss, path /ws, verify ca\n"));
    let config = &ctl.json(&["explain", "out"])["config"];
    assert_eq!(config["connect"]["headers"]["x-key"], json!("(hidden)"));

    let mut said = ctl.ok(&["set", "out", "connect.token=sesame-3"]);
    assert!(said.contains("+ connect") && said.contains("(hidden, another one)"), "{said}");
    for args in [
        &["show", "out", "-o", "json"][..],
        &["explain", "out"],
        &["explain", "out", "-o", "json"],
        &["set", "out", "connect.headers.x-key=sesame-4", "-o", "json"],
        &["set", "out", "accept.transport=ws", "accept.token=sesame-5"],
        &["diff"],
        &["rm", "out", "--dry-run", "-o", "json"],
    ] {
        said += &ctl.ok(args);
    }
    said += &ctl.fails(4, &["set", "out", "connect.token=sesame 6"]);
    assert!(!said.contains("sesame"), "{said}");
    let file = fs::read_to_string(&daemon.config).expect("config");
    for secret in ["sesame-3", "sesame-4", "sesame-5"] {
        assert!(file.contains(secret), "{file}");
    }
}

#[test]
fn a_rule_without_its_tunnel_goes_on_with_tcp() {
    let world = World::new();
    let daemon = world.start(RULES);
    let ctl = &daemon.ctl;
    ctl.ok(&["set", "out", "connect="]);
    assert_eq!(ctl.rule("out")["protocol"], json!("tcp"));
    assert_eq!(ctl.ok(&["diff"]), "nothing to change\n");
}
