//! `relayctl test` along tunnels: what it says where all is well, and which key does not match where something is not.

use harness::certificates::Authority;
use harness::openssl::fingerprint;
use harness::traffic::tcp_server;
use harness::{Ctl, World};
use serde_json::{Value, json};

use super::datagrams::{THROUGH, with_udp};
use super::{
    BACKEND, HOST, TRANSPORTS, accept, both_ends, connect, drops, is_clean, own, ports, rule, start, world,
};

/// The steps of a walk, and how relayctl ends.
fn walk(ctl: &Ctl, rule: &str) -> (Vec<Value>, i32) {
    let said = ctl.run(&["test", rule, "-o", "json"]);
    let view: Value = serde_json::from_str(&said.out).unwrap_or_else(|error| panic!("{error}: {}", said.err));
    assert_eq!(view["ok"], json!(said.code == 0), "{view}");
    (view["steps"].as_array().expect("steps").clone(), said.code)
}

fn names(steps: &[Value]) -> Vec<&str> {
    steps.iter().map(|step| step["step"].as_str().expect("a step")).collect()
}

/// The step that failed, which has to be the last.
fn failure(ctl: &Ctl, rule: &str) -> Value {
    let (steps, code) = walk(ctl, rule);
    assert_eq!(code, 1, "{rule}: {steps:?}");
    let (last, others) = steps.split_last().expect("steps");
    assert!(others.iter().all(|step| step["result"] == "ok"), "{rule}: {steps:?}");
    assert_eq!(last["result"], "failed", "{rule}: {steps:?}");
    last.clone()
}

#[test]
fn tunnels_that_are_right() {
    let (world, _authority) = world();
    let server = tcp_server(&world.backend, 80);
    let daemon = start(&world, &both_ends());
    for transport in TRANSPORTS {
        let (steps, code) = walk(&daemon.ctl, &format!("in-{transport}"));
        assert_eq!(code, 0, "{steps:?}");
        let expected: &[&str] = match transport {
            "tls" => &["listen", "connect", "tls", "payload"],
            "ws" => &["listen", "connect", "websocket", "payload"],
            _ => &["listen", "connect", "tls", "websocket", "payload"],
        };
        assert_eq!(names(&steps), expected);
        let connected = &steps[1];
        assert_eq!(connected["backend"], format!("198.51.100.1:{}", ports(transport).1));
        assert!(connected["ms"].as_f64().is_some_and(|ms| ms > 0.0), "{connected}");
        if transport != "ws" {
            let text = steps[2]["text"].as_str().expect("text");
            for part in ["TLS 1.3", "verify ca", "CN=server", "valid until", "sha256/"] {
                assert!(text.contains(part), "{part}: {text}");
            }
        }
        let (steps, code) = walk(&daemon.ctl, &format!("out-{transport}"));
        assert_eq!(code, 0, "{steps:?}");
        if transport != "ws" {
            assert_eq!((&steps[1]["step"], &steps[1]["result"]), (&json!("certificate"), &json!("ok")));
        }
        assert_eq!(daemon.ctl.counter(&format!("in-{transport}"), "/flows/total"), 0, "it is no flow");
        is_clean(&daemon.ctl, &format!("in-{transport}"));
        // the other end cannot tell it from a client, which has ended in peace
        is_clean(&daemon.ctl, &format!("out-{transport}"));
    }
    assert_eq!(server.count(), 6, "each walk has reached the server");
    let said = daemon.ctl.ok(&["test", "in-wss"]);
    for part in
        ["rule in-wss\n", "\n198.51.100.1:4433\n  ok      connect", "  ok      websocket", "all is well\n"]
    {
        assert!(said.contains(part), "{said}");
    }
}

/// A rule, what is wrong with it, and what has to be said of that: step, code, the first key to look at.
struct Wrong<'a> {
    name: &'a str,
    accept: String,
    connect: String,
    step: &'a str,
    code: &'a str,
    option: &'a str,
}

fn wrong_certificates(world: &World, authority: &Authority) -> Vec<Wrong<'static>> {
    authority.issue_expired("expired", HOST);
    authority.issue("named", "example.org");
    Authority::new(world.folder(), "stranger").issue("foreign", HOST);
    let foreign = std::fs::read_to_string(world.folder().join("foreign.pem")).expect("a file");
    let pin = format!("verify = \"pin:sha256/{}\"", fingerprint(&world.client, &foreign));
    let of = |name, file: &str, verify: &str, code, option| Wrong {
        name,
        accept: accept("wss", "").replace("server.", &format!("{file}.")),
        connect: connect("wss", "").replace("ca = \"ca.pem\"", verify),
        step: "tls",
        code,
        option,
    };
    vec![
        of("expired", "expired", "ca = \"ca.pem\"", "tls_certificate_expired", "connect.verify"),
        of("named", "named", "ca = \"ca.pem\"", "tls_wrong_name", "connect.sni"),
        of("foreign", "foreign", "ca = \"ca.pem\"", "tls_unknown_ca", "connect.ca"),
        of("pinned", "server", &pin, "tls_wrong_pin", "connect.verify"),
    ]
}

fn wrong_handshakes() -> Vec<Wrong<'static>> {
    let of = |name, accept: String, connect: String, step, code, option| Wrong {
        name,
        accept,
        connect,
        step,
        code,
        option,
    };
    let path = |leg: String| leg.replace("/tunnel", "/other");
    let token = "token = \"secret\"";
    vec![
        of("path", accept("ws", ""), path(connect("ws", "")), "websocket", "ws_refused", "connect.path"),
        of("token", accept("wss", token), connect("wss", ""), "websocket", "ws_refused", "connect.path"),
        of("ws-to-tls", accept("tls", ""), connect("ws", ""), "websocket", "ws_tls", "connect.transport"),
        of("tls-to-ws", accept("ws", ""), connect("tls", ""), "tls", "tunnel_silent", "connect.transport"),
        of("wss-to-tls", accept("tls", ""), connect("wss", ""), "websocket", "ws_closed", "connect.host"),
        of(
            "no-certificate",
            accept("wss", "client_ca = \"ca.pem\""),
            connect("wss", ""),
            "websocket",
            "tls_no_client_certificate",
            "connect.cert",
        ),
    ]
}

#[test]
fn tunnels_that_do_not_match() {
    let (world, authority) = world();
    let _server = tcp_server(&world.backend, 80);
    let mut wrongs = wrong_certificates(&world, &authority);
    wrongs.extend(wrong_handshakes());
    let mut rules = String::new();
    for (port, wrong) in (8000..).zip(&wrongs) {
        rules += &rule(&format!("in-{}", wrong.name), port, &own(port + 1000), &wrong.connect);
        rules += &rule(&format!("out-{}", wrong.name), port + 1000, BACKEND, &wrong.accept);
    }
    let daemon = start(&world, &rules);
    for wrong in &wrongs {
        let name = format!("in-{}", wrong.name);
        let step = failure(&daemon.ctl, &name);
        assert_eq!(
            (&step["step"], &step["code"]),
            (&wrong.step.into(), &wrong.code.into()),
            "{name}: {step}"
        );
        assert_eq!(step["options"][0], wrong.option, "{name}: {step}");
        if wrong.name == "wss-to-tls" {
            assert_eq!(step["options"][2], "connect.transport", "{step}");
        }
        is_clean(&daemon.ctl, &name);
    }
    let served = std::fs::read_to_string(world.folder().join("server.pem")).expect("a file");
    let pin = format!("pin:sha256/{}", fingerprint(&world.client, &served));
    let said = daemon.ctl.run(&["test", "in-pinned"]);
    assert!(said.code == 1 && said.out.contains(&pin), "it says which pin would be right: {}", said.out);
    let said = daemon.ctl.run(&["test", "out-expired"]);
    assert!(
        said.code == 1 && said.out.contains("accept.cert"),
        "the server's side says so, too: {}",
        said.out
    );
}

/// Datagrams that go through a tunnel need an end that takes them.
#[test]
fn datagrams_through_tunnels() {
    let (world, _authority) = world();
    let _server = tcp_server(&world.backend, 80);
    let mut rules = String::new();
    for (port, transport) in (8000..).step_by(10).zip(TRANSPORTS) {
        let leg = connect(transport, THROUGH);
        let both = |rules: String| with_udp(&rules);
        rules += &both(rule(&format!("both-{transport}"), port, &own(port + 1000), &leg));
        rules +=
            &both(rule(&format!("taken-{transport}"), port + 1000, BACKEND, &accept(transport, THROUGH)));
        let udp = rule(&format!("udp-{transport}"), port + 1, &own(port + 1001), &leg);
        rules += &udp.replace("\"tcp\"", "\"udp\"");
        rules += &rule(&format!("strict-{transport}"), port + 1001, BACKEND, &accept(transport, ""));
    }
    let daemon = start(&world, &rules);
    for transport in TRANSPORTS {
        let (steps, code) = walk(&daemon.ctl, &format!("both-{transport}"));
        assert_eq!((code, names(&steps).last()), (0, Some(&"udp")), "{steps:?}");
        let failed = failure(&daemon.ctl, &format!("udp-{transport}"));
        assert_eq!(
            (&failed["step"], &failed["code"]),
            (&json!("udp"), &json!("tunnel_unwilling")),
            "{failed}"
        );
        assert_eq!(failed["options"][0], "connect.udp_over", "{failed}");
    }
}

/// What is no tunnel's fault: nobody there, nobody who answers, nobody behind the other end.
#[test]
fn what_lies_around_tunnels() {
    let (world, _authority) = world();
    let plain = tcp_server(&world.backend, 81);
    let quick = "timeout = { connect = \"300ms\", handshake = \"500ms\" }\n";
    let silent = world.backend.run(|| std::net::TcpListener::bind("203.0.113.2:82")).expect("bind");
    let leg = [connect("wss", "").as_str(), quick].concat();
    let rules = [
        rule("refused", 8001, "\"203.0.113.2:9\"", &leg),
        rule("nobody", 8002, "\"203.0.113.77:9\"", &leg),
        rule("plain", 8003, "\"203.0.113.2:81\"", &leg),
        rule("silent", 8004, "\"203.0.113.2:82\"", &leg),
        rule("behind", 8005, &own(443), &leg),
        // nobody listens there
        rule("out", 443, BACKEND, &accept("wss", "")),
    ];
    let daemon = start(&world, &rules.concat());
    for (name, step, code, option) in [
        ("refused", "connect", "connect_refused", "to"),
        ("nobody", "connect", "connect_timeout", "to"),
        // that has not read what it got
        ("plain", "tls", "tunnel_ended", "connect.transport"),
        ("silent", "tls", "tunnel_late", "connect.transport"),
        ("behind", "payload", "reset_at_once", "connect.proxy_protocol"),
    ] {
        let failed = failure(&daemon.ctl, name);
        assert_eq!((&failed["step"], &failed["code"]), (&step.into(), &code.into()), "{name}: {failed}");
        assert_eq!(failed["options"][0], option, "{name}: {failed}");
        assert_eq!(drops(&daemon.ctl, name, "backend_timeout"), 0, "nothing is counted");
    }
    assert_eq!(plain.count(), 1);
    drop(silent);
}
