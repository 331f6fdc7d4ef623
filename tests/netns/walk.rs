//! `relayctl test` along plain rules: what answers, what does not, and what cannot be tried.

use std::io::{Read as _, Write as _};
use std::net::TcpListener;
use std::thread;

use harness::traffic::{Client, tcp_server, udp_server};
use harness::{Ctl, NetNs, World};
use serde_json::{Value, json};

fn walk(ctl: &Ctl, rule: &str) -> Vec<Value> {
    let said = ctl.run(&["test", rule, "-o", "json"]);
    let view: Value = serde_json::from_str(&said.out).unwrap_or_else(|error| panic!("{error}: {}", said.err));
    assert_eq!(view["ok"], json!(said.code == 0), "{view}");
    view["steps"].as_array().expect("steps").clone()
}

/// Each step with its result, and the cause if there is one.
fn results(steps: &[Value]) -> Vec<String> {
    let result = |step: &Value| {
        let word = |key: &str| step[key].as_str().unwrap_or_default().to_owned();
        format!("{} {} {}", word("step"), word("result"), word("code")).trim_end().to_owned()
    };
    steps.iter().map(result).collect()
}

/// A server that does one thing with whoever comes.
fn serve(ns: &NetNs, port: u16, answer: fn(&mut std::net::TcpStream) -> std::io::Result<()>) {
    let listener = ns.run(|| TcpListener::bind(("203.0.113.2", port))).expect("bind");
    // ends with the test's process
    thread::spawn(move || listener.incoming().flatten().for_each(|mut stream| drop(answer(&mut stream))));
}

#[test]
fn what_answers_and_what_does_not() {
    let world = World::new();
    let server = tcp_server(&world.backend, 80);
    serve(&world.backend, 81, |stream| stream.write_all(b"SSH-2.0-test\r\n"));
    serve(&world.backend, 82, |stream| {
        let mut byte = [0];
        stream.read_exact(&mut byte)?;
        stream.write_all(&byte)
    });
    serve(&world.backend, 83, |_stream| Ok(()));
    let rule = |name: &str, port: u16, to: &str, more: &str| {
        format!("[[rule]]\nname = \"{name}\"\nlisten = \":{port}\"\nto = {to}\nprotocol = \"tcp\"\n{more}\n")
    };
    let daemon = world.start(
        &[
            rule("waits", 8000, "\"203.0.113.2:80\"", ""),
            rule("speaks", 8001, "\"203.0.113.2:81\"", "connect = { source = \"203.0.113.1\" }"),
            rule("echoes", 8002, "\"203.0.113.2:82\"", "enabled = false"),
            rule("closes", 8003, "\"203.0.113.2:83\"", ""),
            rule("several", 8004, "[\"203.0.113.2:9\", \"203.0.113.2:80\"]", "check = \"passive\""),
            rule("named", 8005, "\"nowhere.invalid:80\"", "enabled = false"),
            rule("first", 8006, "\"203.0.113.2:81\"", "connect = { proxy_protocol = 1 }"),
            "[[rule]]\nname = \"range\"\nlisten = \":9000-9010\"\nto = \"203.0.113.2:80\"\nprotocol = \"tcp\"\n".into(),
        ]
        .concat(),
    );
    let ctl = &daemon.ctl;
    let fine = ["listen ok", "connect ok", "payload ok"];
    let off = "listen skipped rule_disabled";
    let cases: [(&str, &[&str], &str); 8] = [
        ("waits", &fine, "waits for more"),
        ("speaks", &fine, "\"SSH-2.0-test\""),
        ("echoes", &[off, "connect ok", "payload ok"], "a byte comes back"),
        ("closes", &["listen ok", "connect ok", "payload failed closed_at_once"], "closed at once"),
        (
            "several",
            &["listen ok", "connect failed connect_refused", "connect ok", "payload ok"],
            "waits for more",
        ),
        ("named", &[off, "dns failed dns_failed"], "nowhere.invalid"),
        ("first", &["listen ok", "connect ok", "proxy ok", "payload ok"], "SSH"),
        ("range", &fine, "waits for more"),
    ];
    for (name, expected, said) in cases {
        let steps = walk(ctl, name);
        assert_eq!(results(&steps), expected, "{name}: {steps:?}");
        let text = steps.last().expect("a step")["text"].as_str().expect("text");
        assert!(text.contains(said), "{name}: {text}");
        let counters = &ctl.rule(name)["counters"];
        assert_eq!((&counters["flows"]["total"], &counters["drops"]), (&json!(0), &json!({})), "{name}");
    }
    assert_eq!(server.count(), 3);
    assert!(ctl.fails(1, &["test", "none"]).contains("there is no rule"));
    let row = ctl.run(&["test", "several", "-o", "tsv"]).out;
    assert!(row.contains("203.0.113.2:9\t203.0.113.2:9\tconnect\tfailed\tconnect_refused\t"), "{row}");
    // and clients are served as ever
    Client::connect(&world.client, ([198, 51, 100, 1], 9000))
        .and_then(|client| client.upload(1000))
        .expect("it");
}

#[test]
fn udp_needs_a_question() {
    let world = World::new();
    let _server = udp_server(&world.backend, 53);
    let rule = |name: &str, port: u16, to: u16, check: &str| {
        format!(
            "[[rule]]\nname = \"{name}\"\nlisten = \":{port}\"\nto = \"203.0.113.2:{to}\"\nprotocol = \"udp\"\n{check}\n"
        )
    };
    let check = |expect: &str| {
        format!(
            "check = {{ kind = \"udp\", send = \"ping\", timeout = \"500ms\", interval = \"60s\"{expect} }}"
        )
    };
    let daemon = world.start(
        &[
            rule("mute", 8000, 53, ""),
            rule("asked", 8001, 53, &check("")),
            rule("other", 8002, 53, &check(", expect = \"pong\"")),
            rule("gone", 8003, 9, &check("")),
        ]
        .concat(),
    );
    for (name, expected) in [
        ("mute", "udp skipped udp_needs_check"),
        ("asked", "udp ok"),
        ("other", "udp failed udp_answer"),
        ("gone", "udp failed udp_refused"),
    ] {
        let steps = walk(&daemon.ctl, name);
        assert_eq!(results(&steps), ["listen ok", expected], "{name}: {steps:?}");
    }
}
