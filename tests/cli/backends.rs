//! A rule's backends one by one: what is said of them, and what somebody orders for them.

use std::fs;
use std::time::Duration;

use harness::http::Http;
use harness::traffic::{Client, tcp_server};
use harness::world::RELAY;
use harness::{Daemon, World, eventually, within};
use nix::mount::{MsFlags, mount, umount};
use serde_json::{Value, json};

/// Two programs of the backend host, asked often.
const WEB: &str = "[[rule]]\nname = \"web\"\nlisten = \":80\"\nprotocol = \"tcp\"\nplane = \"user\"\n\
                   to = [\"203.0.113.2:81\", \"203.0.113.2:82\"]\n\
                   check = { kind = \"tcp\", interval = \"100ms\", cooldown = \"100ms\" }\n";

fn states(daemon: &Daemon) -> Vec<Value> {
    let rule = daemon.ctl.rule("web");
    rule["to"].as_array().expect("list").iter().map(|to| to["state"].clone()).collect()
}

fn are(daemon: &Daemon, expected: [&str; 2]) {
    eventually(&format!("they are {expected:?}"), || states(daemon) == expected);
}

#[test]
fn weights_are_saved_beside_their_backends() {
    let world = World::new();
    let daemon = world.start(
        "[[rule]]\nname = \"web\"\nlisten = \":80\"\nto = [\n  \"203.0.113.2:80\", # tokyo\n  \"203.0.113.3\", # osaka\n]\n",
    );
    let (ctl, text) = (&daemon.ctl, || fs::read_to_string(&daemon.config).expect("config"));
    let before = text();
    let said = ctl.ok(&["backend", "web", "203.0.113.3", "--weight", "4", "--dry-run"]);
    assert!(said.contains("weight = 4") && said.contains("dry run"), "{said}");
    assert_eq!(text(), before);
    // by its text, without its port, with the port that it has anyway
    for (addr, weight) in [("203.0.113.3", "4"), ("203.0.113.3:80", "5"), ("203.0.113.2", "0")] {
        let said = ctl.ok(&["backend", "web", addr, "--weight", weight]);
        assert!(said.contains("saved in"), "{said}");
    }
    let after = before
        .replace("\"203.0.113.2:80\"", "{ addr = \"203.0.113.2:80\", weight = 0 }")
        .replace("\"203.0.113.3\"", "{ addr = \"203.0.113.3\", weight = 5 }");
    assert_eq!(text(), after);
    assert_eq!(ctl.ok(&["backend", "web", "203.0.113.3", "--weight", "5"]), "nothing to change\n");
    assert_eq!(ctl.ok(&["reload"]), "nothing to change\n", "the file and relayd agree");
}

#[test]
fn every_backend_is_shown_as_it_is() {
    let world = World::new();
    let daemon = world.start_with("", &("[metrics]\nlisten = \"127.0.0.1:9464\"\n".to_owned() + WEB));
    let ctl = &daemon.ctl;
    let (_stays, goes) = (tcp_server(&world.backend, 81), tcp_server(&world.backend, 82));
    are(&daemon, ["up", "up"]);
    for _ in 0..4 {
        Client::connect(&world.client, (RELAY, 80)).and_then(Client::seen_as).expect("connect");
    }
    eventually("its flows are over", || {
        ctl.rule("web")["to"][0]["flows"] == json!({ "active": 0, "total": 2 })
    });
    assert!(ctl.ok(&["list"]).contains(" 203.0.113.2:81 +1  "), "{}", ctl.ok(&["list"]));
    drop(goes);
    are(&daemon, ["up", "down"]);

    let to = ctl.rule("web")["to"].clone();
    assert_eq!((&to[0]["tcp"]["state"], &to[0].get("udp")), (&json!("up"), &None));
    assert!(to[0]["tcp"]["latency_ms"].as_f64().is_some_and(|latency| latency < 1000.0), "{to}");
    assert_eq!(to[1]["tcp"]["last_error"], "connection refused");
    assert!(to[1]["tcp"]["failures"].as_u64() >= Some(2) && to[1]["tcp"]["since_seconds"].is_u64(), "{to}");

    let shown = ctl.ok(&["show", "web"]);
    let line = |start: &str| shown.lines().find(|line| line.starts_with(start)).expect(start).to_owned();
    let up = line("to        203.0.113.2:81, weight 1, priority 0, up for ");
    assert!(up.contains(", probed in 0.") && up.ends_with(" ms, 0 flows now of 2 in all (50 %)"), "{up}");
    line("to        203.0.113.2:82, weight 1, priority 0, down for ");
    let error = line("error     203.0.113.2:82 for tcp, 0 s ago");
    assert!(error.ends_with(": connection refused"), "{error}");

    let list = ctl.ok(&["list"]);
    assert!(list.contains(" 203.0.113.2:81 +1, 1/2 up  "), "{list}");
    assert!(list.contains("\nweb: 203.0.113.2:82 is down for tcp: connection refused\n"), "{list}");
    let table = ctl.ok(&["backend", "web"]);
    let rows: Vec<&str> = table.lines().collect();
    assert!(rows[0].starts_with("BACKEND") && rows[0].ends_with("LAST ERROR"), "{table}");
    assert!(rows[2].contains("down for ") && rows[2].ends_with(": connection refused"), "{table}");
    let tsv = ctl.ok(&["backend", "web", "-o", "tsv"]);
    assert!(tsv.contains("203.0.113.2:82\t1\t0\tdown\t\tdown\t\t0\t2\t"), "{tsv}");
    assert_eq!(ctl.json(&["backend", "web"])[1]["state"], "down");

    // the judge's word is shown before it is acted upon
    let elsewhere = "at present new flows of tcp go to 203.0.113.2:81\n";
    eventually("they go elsewhere", || ctl.ok(&["explain", "web"]).contains(elsewhere));
    let explained = ctl.ok(&["explain", "web"]);
    for part in [
        "203.0.113.2:82 is down for tcp, for ",
        "TCP: every 100ms backends are asked whether they take a connection, within 3s (tcp)",
        "a backend is down after 2 failures in a row, and up after 2 answers in a row, 100ms after its last failure",
    ] {
        assert!(explained.contains(part), "{part}: {explained}");
    }

    let metrics = Http::unix(&ctl.socket).get("/metrics").body;
    for (series, value) in [
        ("relay_backend_up{rule=\"web\",backend=\"203.0.113.2:81\",protocol=\"tcp\"}", "1"),
        ("relay_backend_up{rule=\"web\",backend=\"203.0.113.2:82\",protocol=\"tcp\"}", "0"),
        ("relay_backend_flows_total{rule=\"web\",backend=\"203.0.113.2:82\"}", "2"),
        ("relay_backend_active_flows{rule=\"web\",backend=\"203.0.113.2:82\"}", "0"),
        ("relay_backend_probe_seconds{rule=\"web\",backend=\"203.0.113.2:81\",protocol=\"tcp\"}", "0."),
        ("relay_backend_failures_total{rule=\"web\",backend=\"203.0.113.2:81\",source=\"check\"}", ""),
        ("relay_backend_failures_total{rule=\"web\",backend=\"203.0.113.2:81\",source=\"session\"}", "0"),
    ] {
        let found = metrics.lines().find_map(|line| line.strip_prefix(series)).expect(series);
        assert!(found.trim().starts_with(value), "{series}{found}");
    }
}

#[test]
fn when_all_are_down_it_says_who_serves() {
    let world = World::new();
    let daemon = world.start(WEB);
    let ctl = &daemon.ctl;
    let explains = |part: &str| eventually(part, || ctl.ok(&["explain", "web"]).contains(part));
    // nobody listens, and nobody ever has
    explains("203.0.113.2:81 is unknown for tcp, for ");
    explains("go to 203.0.113.2:81, 203.0.113.2:82: nobody is up, and these never answered");
    let servers = (tcp_server(&world.backend, 81), tcp_server(&world.backend, 82));
    are(&daemon, ["up", "up"]);
    drop(servers);
    are(&daemon, ["down", "down"]);
    explains("go to 203.0.113.2:81, 203.0.113.2:82: all are down, so these are kept");
    for addr in ["203.0.113.2:81", "203.0.113.2:82"] {
        ctl.ok(&["backend", "web", addr, "--drain"]);
    }
    explains("at present new flows of tcp go to nobody: all have an order or no weight");
}

#[test]
fn orders_last_until_they_are_taken_back() {
    let world = World::new();
    let mut daemon = world.start(WEB);
    let _servers = (tcp_server(&world.backend, 81), tcp_server(&world.backend, 82));
    are(&daemon, ["up", "up"]);
    let file = fs::read_to_string(&daemon.config).expect("config");
    let said = daemon.ctl.ok(&["backend", "web", "203.0.113.2:81", "--drain", "--dry-run"]);
    assert!(said.contains("drains: no new flows, old ones go on") && said.contains("dry run"), "{said}");
    assert_eq!(states(&daemon), ["up", "up"]);
    let said = daemon.ctl.ok(&["backend", "web", "203.0.113.2:81", "--drain"]);
    assert_eq!(said, "rule web: backend 203.0.113.2:81 drains: no new flows, old ones go on\n");
    assert_eq!(daemon.ctl.ok(&["backend", "web", "203.0.113.2:81", "--drain"]), "nothing to change\n");
    let change = daemon.ctl.json(&["backend", "web", "203.0.113.2:82", "--down"])["changes"][0].clone();
    assert_eq!(change, json!({ "action": "down", "name": "web", "backend": "203.0.113.2:82" }));

    let holds = |daemon: &Daemon| {
        let to = daemon.ctl.rule("web")["to"].clone();
        let of = |index: usize| (to[index]["state"].clone(), to[index]["order"].clone());
        assert_eq!((of(0), of(1)), ((json!("draining"), json!("drain")), (json!("down"), json!("down"))));
        let shown = daemon.ctl.ok(&["show", "web"]);
        for part in [
            ":81, weight 1, priority 0, draining by order (up for ",
            ":82, weight 1, priority 0, down by order (up ",
        ] {
            assert!(shown.contains(part), "{part}: {shown}");
        }
        let explained = daemon.ctl.ok(&["explain", "web"]);
        let part = "203.0.113.2:82 is down by order; `relayctl backend web 203.0.113.2:82 --up` ends that";
        assert!(explained.contains(part), "{explained}");
    };
    holds(&daemon);
    assert_eq!(fs::read_to_string(&daemon.config).expect("config"), file, "orders are not configuration");
    daemon.stop();
    daemon.start_again(&world.relay);
    holds(&daemon);

    daemon.ctl.ok(&["backend", "web", "203.0.113.2:82", "--up"]);
    are(&daemon, ["draining", "up"]);
    assert_eq!(daemon.ctl.rule("web")["to"][1].get("order"), None);
    for _ in 0..4 {
        Client::connect(&world.client, (RELAY, 80)).and_then(Client::seen_as).expect("connect");
    }
    let to = daemon.ctl.rule("web")["to"].clone();
    assert_eq!((&to[0]["flows"]["total"], &to[1]["flows"]["total"]), (&json!(0), &json!(4)), "{to}");
    daemon.ctl.ok(&["backend", "web", "203.0.113.2:81", "--up"]);
    are(&daemon, ["up", "up"]);
}

#[test]
fn changes_are_told() {
    let world = World::new();
    let daemon = world.start(WEB);
    let mut events = Http::unix(&daemon.ctl.socket);
    events.send("GET", "/v1/events", b"");
    assert_eq!(events.head().status, 200);
    let mut next = |kind: &str| {
        while events.line() != format!("event: {kind}") {}
        let data: Value = serde_json::from_str(&events.line()["data: ".len()..]).expect("JSON");
        assert_eq!(data["rule"], "web");
        data["text"].as_str().expect("text").to_owned()
    };
    let servers = (tcp_server(&world.backend, 81), tcp_server(&world.backend, 82));
    let up = next("backend.up");
    assert!(
        up.starts_with("rule web: backend 203.0.113.2:8") && up.ends_with("is up for tcp: it answers"),
        "{up}"
    );
    are(&daemon, ["up", "up"]);
    drop(servers);
    assert!(next("backend.down").ends_with("is down for tcp: connection refused"));
    let text = next("rule.backends");
    assert_eq!(text, "rule web: all backends are down for tcp; new flows still go to the first ones");
    daemon.ctl.ok(&["backend", "web", "203.0.113.2:81", "--down"]);
    assert_eq!(next("backend.order"), "rule web: backend 203.0.113.2:81 is down by order");
}

#[test]
fn what_makes_no_sense_is_refused() {
    let world = World::new();
    let daemon = world.start(WEB);
    let ctl = &daemon.ctl;
    for (args, code, part) in [
        (&["nosuch", "203.0.113.2:81", "--up"][..], 1, "there is no rule \"nosuch\""),
        (
            &["web", "203.0.113.9", "--down"],
            1,
            "rule \"web\" has no backend \"203.0.113.9\"; it has 203.0.113.2:81, ",
        ),
        (&["web", "203.0.113.2", "--down"], 1, "rule \"web\" has several backends on \"203.0.113.2\""),
        (&["web", "203.0.113.2:81", "--down", "--up"], 2, "cannot be used with"),
        (&["web", "203.0.113.2:81", "--weight", "1", "--drain"], 2, "cannot be used with"),
        (&["web", "203.0.113.2:81", "--weight", "1001"], 2, "1001 is not in 0..=1000"),
        (&["web", "203.0.113.2:81"], 2, "required"),
        (&["web", "--up"], 2, "required"),
        (&["web", "--dry-run"], 2, "required"),
    ] {
        let args: Vec<&str> = ["backend"].iter().chain(args).copied().collect();
        let said = ctl.fails(code, &args);
        assert!(said.contains(part), "{args:?}: {said}");
    }
    assert_eq!(ctl.rule("web")["to"][0].get("order"), None, "and nothing has changed");
}

#[test]
fn flows_of_the_kernel_plane_are_told_apart_too() {
    let world = World::new();
    let daemon = world.start(&WEB.replace("plane = \"user\"\n", ""));
    let _servers = (tcp_server(&world.backend, 81), tcp_server(&world.backend, 82));
    are(&daemon, ["up", "up"]);
    for _ in 0..4 {
        Client::connect(&world.client, (RELAY, 80)).and_then(Client::seen_as).expect("connect");
    }
    let rule = daemon.ctl.rule("web");
    assert_eq!(rule["plane"]["ipv4"]["plane"], "kernel");
    for index in [0, 1] {
        assert_eq!(rule["to"][index]["flows"]["total"], 2, "{rule}");
    }
}

/// A file that something is mounted on cannot be replaced: the very last step of saving fails.
#[test]
fn a_rule_that_could_not_be_removed_has_its_orders() {
    let world = World::new();
    let daemon = world.start(WEB);
    daemon.ctl.ok(&["backend", "web", "203.0.113.2:82", "--drain"]);
    mount(Some(&daemon.config), &daemon.config, None::<&str>, MsFlags::MS_BIND, None::<&str>).expect("mount");
    let said = daemon.ctl.fails(1, &["rm", "web"]);
    assert!(said.contains("busy"), "{said}");
    assert_eq!(daemon.ctl.rule("web")["to"][1]["order"], "drain");
    umount(&daemon.config).expect("umount");
    daemon.ctl.ok(&["rm", "web"]);
    daemon.ctl.ok(&["add", "80", "203.0.113.2:81", "203.0.113.2:82", "--name", "web"]);
    assert_eq!(daemon.ctl.rule("web")["to"][1]["order"], Value::Null, "it begins anew");
}

#[test]
fn an_order_waits_for_room_on_the_disk() {
    let world = World::new();
    let state = world.folder().join("state");
    fs::create_dir_all(&state).expect("folder");
    mount(Some("small"), &state, Some("tmpfs"), MsFlags::empty(), Some("size=1m")).expect("a small disk");
    let mut daemon = world.start(WEB);
    let filler = state.join("filler");
    let mut size = 1 << 20;
    while size >= 4096 {
        let grown = fs::metadata(&filler).map_or(0, |file| file.len()) + size;
        if fs::write(&filler, vec![b'x'; usize::try_from(grown).expect("small")]).is_err() {
            size /= 2;
        }
    }
    daemon.ctl.ok(&["backend", "web", "203.0.113.2:82", "--drain"]);
    eventually("it is said", || daemon.log().contains("states of backends and orders are kept in memory"));
    fs::remove_file(&filler).expect("room");
    within(Duration::from_secs(30), "it is written", &mut || {
        fs::read_to_string(state.join("health.json")).is_ok_and(|text| text.contains("drain"))
    });
    eventually("that is said too", || daemon.log().contains("are written again"));
    // by a relayd that was killed
    daemon.kill();
    daemon.start_again(&world.relay);
    assert_eq!(daemon.ctl.rule("web")["to"][1]["order"], "drain");
    drop(daemon);
    umount(&state).expect("nobody uses it");
}
