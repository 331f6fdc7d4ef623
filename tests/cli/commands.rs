//! Commands that change rules: add, set, rm, enable, disable, drain, down.

use std::io::ErrorKind;

use harness::traffic::{Client, tcp_server};
use harness::world::RELAY;
use harness::{World, eventually};
use serde_json::{Value, json};

fn through(world: &World, port: u16) -> Result<(), ErrorKind> {
    let seen = Client::connect(&world.client, (RELAY, port)).and_then(Client::seen_as);
    seen.map(|_| ()).map_err(|error| error.kind())
}

#[test]
fn add_takes_every_key_and_forwards_at_once() {
    let world = World::new();
    let daemon = world.start("");
    let _server = tcp_server(&world.backend, 80);
    let ctl = &daemon.ctl;
    assert!(ctl.ok(&["list"]).contains("relayctl add"), "an empty list says how to begin");
    let text = ctl.ok(&["add", "8080", "203.0.113.2:80"]);
    assert_eq!(text, format!("rule 8080 added\nsaved in {}\n", daemon.config.display()));
    through(&world, 8080).expect("the rule carries at once");
    ctl.ok(&[
        "add",
        "198.51.100.1:8081,:9000-9010",
        "203.0.113.2",
        "--name=web",
        "--protocol=tcp",
        "--note=香港 → 东京",
        "--set=timeout.tcp_idle=2h",
        "--set=timeout.half_close=30s",
        "--balance=roundrobin",
        "--plane=kernel",
        "--disabled",
        "--force",
    ]);
    let explained = ctl.json(&["explain", "web"]);
    assert_eq!(
        explained["config"],
        json!({
            "name": "web", "note": "香港 → 东京", "enabled": false, "listen": ["198.51.100.1:8081", ":9000-9010"],
            "protocol": "tcp", "to": "203.0.113.2", "plane": "kernel", "force": true,
            "timeout": { "tcp_idle": "2h", "half_close": "30s" },
        })
    );
    assert_eq!(explained["rule"]["state"], "disabled");
}

#[test]
fn a_rule_without_a_name_is_called_by_its_port() {
    let world = World::new();
    let daemon = world.start("");
    let added = daemon.ctl.json(&["add", "198.51.100.1:80", "203.0.113.2"]);
    assert_eq!(added["changes"][0]["name"], "80");
    let added = daemon.ctl.json(&["add", "203.0.113.1:80", "203.0.113.2"]);
    assert_eq!(added["changes"][0]["name"], "80-2");
    let added = daemon.ctl.json(&["add", "10000-19000", "203.0.113.2:20000"]);
    assert_eq!(added["changes"][0]["name"], "10000-19000");
    let refused = daemon.ctl.fails(1, &["add", "81", "203.0.113.2", "--name", "80"]);
    assert!(refused.contains("there is a rule \"80\" already"), "{refused}");
}

#[test]
fn set_changes_clears_and_grows() {
    let world = World::new();
    let daemon =
        world.start("[[rule]]\nname = \"web\"\nlisten = [\":80\", \":81\"]\nto = \"203.0.113.2:80\"\n");
    let (ctl, config) = (&daemon.ctl, || daemon.ctl.json(&["explain", "web"])["config"].clone());
    let said = ctl.ok(&["set", "web", "note=two words = three", "timeout.udp=30s", "protocol=udp"]);
    for line in
        ["+ note = \"two words = three\"", "+ timeout = { udp = \"30s\" }", "- protocol = \"tcp+udp\""]
    {
        assert!(said.contains(line), "{line} is not in {said}");
    }
    assert_eq!(config()["timeout"], json!({ "udp": "30s" }));
    ctl.ok(&["set", "web", "listen+=:82,:83", "timeout.udp=", "note=", "protocol="]);
    assert_eq!(
        config(),
        json!({ "name": "web", "listen": [":80", ":81", ":82", ":83"], "protocol": "tcp+udp",
            "to": "203.0.113.2:80" })
    );
    ctl.ok(&["set", "web", "listen-=80,:83"]);
    assert_eq!(config()["listen"], json!([":81", ":82"]));
    ctl.ok(&["set", "web", "to=203.0.113.2:90", "enabled=false"]);
    assert_eq!((&config()["to"], &config()["enabled"]), (&json!("203.0.113.2:90"), &json!(false)));
    assert_eq!(ctl.ok(&["set", "web", "enabled=false"]), "nothing to change\n");

    assert!(ctl.fails(4, &["set", "web", "listen-=:99"]).contains("\":99\" is not in the list"));
    assert!(ctl.fails(4, &["set", "web", "name=other"]).contains("a rule keeps its name"));
    assert!(ctl.fails(4, &["set", "web", "to="]).contains("the rule has no backend"));
    assert!(ctl.fails(4, &["set", "web", "tymeout.udp=3s"]).contains("did you mean `timeout`?"));
    assert!(ctl.fails(2, &["set", "web", "note"]).contains("is not KEY=VALUE"));
    assert!(ctl.fails(2, &["set", "web", "note=a", "note=b"]).contains("sets again"));
    assert!(ctl.fails(1, &["set", "nosuch", "note=a"]).contains("there is no rule \"nosuch\""));
    assert_eq!(config()["to"], "203.0.113.2:90", "what was refused has changed nothing");
}

#[test]
fn several_backends_are_added_weighed_and_taken_away() {
    let world = World::new();
    let daemon = world.start("");
    let (ctl, config) = (&daemon.ctl, || daemon.ctl.json(&["explain", "80"])["config"].clone());
    ctl.ok(&["add", "80", "203.0.113.2", "203.0.113.3:8080", "--balance", "leastconn", "--protocol", "tcp"]);
    assert_eq!(
        config(),
        json!({ "name": "80", "listen": ":80", "protocol": "tcp", "to": ["203.0.113.2", "203.0.113.3:8080"],
            "balance": "leastconn" })
    );
    let said = ctl.ok(&["set", "80", "to+=203.0.113.4,203.0.113.5", "balance=iphash"]);
    assert!(said.contains("+ balance = \"iphash\""), "{said}");
    assert_eq!(config()["to"].as_array().map(Vec::len), Some(4));
    ctl.ok(&["set", "80", "to-=203.0.113.3:8080", "to+=203.0.113.6"]);
    assert_eq!(config()["to"], json!(["203.0.113.2", "203.0.113.4", "203.0.113.5", "203.0.113.6"]));
    ctl.ok(&["set", "80", "to-=203.0.113.5,203.0.113.6"]);
    ctl.ok(&["set", "80", "balance=roundrobin: 4, 1"]);
    let weighed = json!([{ "addr": "203.0.113.2", "weight": 4 }, "203.0.113.4"]);
    assert_eq!((&config()["to"], config().get("balance")), (&weighed, None));
    ctl.ok(&["set", "80", "to-=203.0.113.4"]);
    assert_eq!(config()["to"], json!({ "addr": "203.0.113.2", "weight": 4 }));
    ctl.ok(&["set", "80", "check.kind=http", "check.path=/health", "check.fall=3"]);
    assert_eq!(config()["check"], json!({ "kind": "http", "fall": 3, "path": "/health" }));
    ctl.ok(&["set", "80", "check.kind=tcp", "check.path=", "check.port=81"]);
    assert_eq!(config()["check"], json!({ "kind": "tcp", "fall": 3, "port": 81 }));
    ctl.ok(&["set", "80", "check="]);
    assert_eq!(config().get("check"), None);
    assert_eq!(ctl.ok(&["reload"]), "nothing to change\n", "the file and relayd agree");
}

#[test]
fn rules_are_switched_drained_and_removed() {
    let world = World::new();
    let daemon = world.start("[[rule]]\nname = \"web\"\nlisten = \":80\"\nto = \"203.0.113.2:80\"\n");
    let (_server, ctl) = (tcp_server(&world.backend, 80), &daemon.ctl);
    let state = || ctl.rule("web")["state"].clone();
    let mut old = Client::connect(&world.client, (RELAY, 80)).and_then(Client::start_echo).expect("connect");

    assert_eq!(ctl.ok(&["drain", "web"]), "rule web drains: no new flows, old ones go on\n");
    assert_eq!((state(), ctl.ok(&["drain", "web"])), (json!("draining"), "nothing to change\n".into()));
    old.echo(b"a drained rule keeps its flows").expect("old flow");
    through(&world, 80).expect_err("no new flow");
    assert_eq!(ctl.ok(&["enable", "web"]), "rule web takes new flows again\n");
    through(&world, 80).expect("new flows again");

    ctl.ok(&["disable", "web"]);
    assert_eq!(state(), "disabled");
    through(&world, 80).expect_err("nobody listens");
    eventually("its flows end", || old.echo(b"still there?").is_err());
    ctl.ok(&["enable", "web"]);
    assert_eq!(state(), "active");
    through(&world, 80).expect("on again");

    ctl.ok(&["rm", "web"]);
    assert_eq!(ctl.json(&["list"]), json!([]));
    through(&world, 80).expect_err("removed");
}

#[test]
fn several_rules_at_once_and_one_that_is_not_there() {
    let world = World::new();
    let daemon = world.start(
        "[[rule]]\nname = \"a\"\nlisten = \":80\"\nto = \"203.0.113.2\"\n\
         [[rule]]\nname = \"b\"\nlisten = \":81\"\nto = \"203.0.113.2\"\n",
    );
    let ctl = &daemon.ctl;
    let said = ctl.run(&["disable", "a", "nosuch", "b"]);
    assert_eq!(said.code, 1, "{said:?}");
    assert!(said.err.contains("there is no rule \"nosuch\""), "{said:?}");
    let states: Vec<Value> = ["a", "b"].map(|name| ctl.rule(name)["state"].clone()).into();
    assert_eq!(states, ["disabled", "disabled"], "the others are done all the same");
    ctl.ok(&["del", "a", "b"]);
    assert_eq!(ctl.json(&["ls"]), json!([]));
}

/// What a dry run must leave alone: the rules, the file, the flows, the counters.
#[test]
fn dry_runs_touch_nothing() {
    let world = World::new();
    let daemon = world.start("[[rule]]\nname = \"web\"\nlisten = \":80\"\nto = \"203.0.113.2:80\"\n");
    let (_server, ctl) = (tcp_server(&world.backend, 80), &daemon.ctl);
    let file = std::fs::read_to_string(&daemon.config).expect("config");
    let other = world.folder().join("other.toml");
    std::fs::write(&other, "[[rule]]\nname = \"z\"\nlisten = \":9\"\nto = \"203.0.113.2\"\n").expect("file");
    let other = other.display().to_string();
    let mut flow = Client::connect(&world.client, (RELAY, 80)).and_then(Client::start_echo).expect("connect");
    let hooks = world.tc_programs("uplink");
    for (args, says) in [
        (&["add", "81", "203.0.113.2", "--dry-run"][..], "rule 81 added"),
        (&["set", "web", "to=203.0.113.2:81", "--dry-run"], "+ to = \"203.0.113.2:81\""),
        (&["set", "web", "listen=:82", "--dry-run"], "+ listen = \":82\""),
        (&["rm", "web", "--dry-run"], "rule web removed"),
        (&["disable", "web", "--dry-run"], "+ enabled = false"),
        (&["drain", "web", "--dry-run"], "rule web drains"),
        (&["enable", "web", "--dry-run"], "nothing to change"),
        (&["apply", &other, "--dry-run"], "rule web removed"),
        (&["diff", &other], "rule z added"),
        (&["reload", "--dry-run"], "nothing to change"),
        (&["down", "--dry-run"], "hooks and"),
    ] {
        let said = ctl.ok(args);
        assert!(said.contains(says), "{args:?}: {said}");
        assert_eq!(said.contains("(dry run: nothing was changed)"), !said.contains("nothing to"), "{said}");
        flow.echo(b"still there").unwrap_or_else(|error| panic!("{args:?}: {error}"));
        through(&world, 80).unwrap_or_else(|error| panic!("{args:?}: {error}"));
        assert_eq!(std::fs::read_to_string(&daemon.config).expect("config"), file, "{args:?}");
        assert_eq!(ctl.json(&["list"]).as_array().map(Vec::len), Some(1), "{args:?}");
        assert_eq!((ctl.rule("web")["state"].clone(), world.tc_programs("uplink")), (json!("active"), hooks));
    }
    assert_eq!(ctl.json(&["down", "--dry-run"])["dry_run"], true);
    assert_eq!(ctl.counter("web", "/flows/total"), 12);
    // refusals are the same as without
    ctl.fails(1, &["add", "80", "203.0.113.2", "--dry-run"]);
    ctl.fails(4, &["add", "81", "203.0.113.2", "--protocol", "sctp", "--dry-run"]);
    let said = ctl.run(&["add", "81", "192.0.2.200", "--dry-run"]);
    assert_eq!(said.code, 5, "{said:?}");
}

#[test]
fn down_detaches_with_relayd_and_without_it() {
    let world = World::new();
    let mut daemon = world.start("[[rule]]\nname = \"web\"\nlisten = \":80\"\nto = \"203.0.113.2:80\"\n");
    let _server = tcp_server(&world.backend, 80);
    let folder = world.folder().display().to_string();
    through(&world, 80).expect("attached");
    let removed = daemon.ctl.json(&["down"]);
    assert!(removed["hooks"].as_u64() >= Some(2), "{removed}");
    through(&world, 80).expect_err("detached");
    assert_eq!(world.tc_programs("uplink"), 0);
    assert_eq!(daemon.ctl.ok(&["down"]), "nothing is attached\n");
    assert_eq!(daemon.ctl.rule("web")["state"], "degraded");
    let status = daemon.ctl.json(&["status"]);
    assert!(
        status["kernel"]["reason"].as_str().is_some_and(|text| text.contains("relayctl down")),
        "{status}"
    );
    daemon.ctl.ok(&["reload"]);
    through(&world, 80).expect("attached again");

    daemon.stop();
    through(&world, 80).expect("the kernel goes on without relayd");
    let places = ["--bpf-dir", &format!("{folder}/bpf"), "--state-dir", &format!("{folder}/state")];
    let mut args = vec!["down", "--dry-run"];
    args.extend(places);
    let said = world.relay.run(|| daemon.ctl.ok(&args));
    assert!(said.contains("would be removed"), "{said}");
    through(&world, 80).expect("a dry run");
    args.remove(1);
    world.relay.run(|| daemon.ctl.ok(&args));
    through(&world, 80).expect_err("detached");
    assert_eq!(world.tc_programs("uplink"), 0);
}
