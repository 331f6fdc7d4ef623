//! What rules may say of tunnels, and what is said to those who get it wrong.

use crate::config::problem::Source;
use crate::config::{Config, Problems, encode};
use crate::rule::{Identity, Protocols, Rule, Transport, Verify};

const HEAD: &str = "[[rule]]\nname = \"r\"\nlisten = \":443\"\nto = \"203.0.113.2\"\n";

fn read(text: &str) -> Result<Rule, Problems> {
    let sources = vec![Source { path: "x.toml".into(), text: format!("{HEAD}{text}") }];
    let config = Config::parse(Problems { sources, list: Vec::new() })?;
    Ok(config.rules.first().map(|(rule, _)| (**rule).clone()).expect("a rule"))
}

fn rule(text: &str) -> Rule {
    read(text).unwrap_or_else(|problems| panic!("{problems}"))
}

#[test]
fn little_needs_to_be_said() {
    let plain = rule("accept = { transport = \"plain\" }");
    assert_eq!((plain.accept.tunnel.clone(), plain.protocols), (None, Protocols::Both));

    let front = rule("accept.transport = \"wss\"");
    let tunnel = front.accept.tunnel.clone().expect("a tunnel");
    assert_eq!((tunnel.transport(), front.protocols), (Transport::Wss, Protocols::Tcp));
    let (tls, ws) = (tunnel.tls.clone().expect("TLS"), tunnel.ws.clone().expect("WebSocket"));
    assert_eq!(tls.identity, Identity::SelfSigned { name: "relay".into() });
    assert_eq!((tls.client_ca, ws.host, &*ws.path, ws.token), (None, None, "/", None));

    let back = rule("connect.transport = \"wss\"").connect.tunnel.clone().expect("a tunnel");
    let (tls, ws) = (back.tls.clone().expect("TLS"), back.ws.clone().expect("WebSocket"));
    assert_eq!((tls.sni, tls.verify, ws.host, &*ws.path), (None, Verify::Ca, None, "/"));
}

#[test]
fn a_self_signed_certificate_is_its_hosts() {
    for (text, name) in [
        ("accept = { transport = \"tls\", host = \"www.example.com\" }", "www.example.com"),
        ("accept = { transport = \"wss\", host = \"www.example.com:8443\" }", "www.example.com"),
        ("accept = { transport = \"wss\", host = \"[2001:db8::1]:8443\" }", "2001:db8::1"),
        ("accept = { transport = \"tls\" }", "relay"),
    ] {
        let tls = rule(text).accept.tunnel.clone().and_then(|tunnel| tunnel.tls.clone()).expect("TLS");
        assert_eq!(tls.identity, Identity::SelfSigned { name: name.into() }, "{text}");
    }
}

/// What is written, and what is said to it.
const MISTAKES: &[(&str, &[&str])] = &[
    (
        "accept.transport = \"wsss\"",
        &["x.toml:5:20", "\"wsss\" is not known here", "\"plain\", \"tls\", \"ws\" or \"wss\""],
    ),
    (
        "protocol = \"tcp+udp\"\nconnect.transport = \"ws\"",
        &["x.toml:6:21", "does not say whether that goes through the tunnel, too", "or protocol = \"tcp\""],
    ),
    (
        "protocol = \"udp\"\naccept.transport = \"tls\"",
        &["does not say whether that goes through the tunnel, too"],
    ),
    (
        "connect.path = \"/ws\"",
        &[
            "x.toml:5:16",
            "transport = \"plain\" has no `path`; leave it out, or say transport = \"ws\" or \"wss\"",
        ],
    ),
    ("accept.host = \"h\"", &["transport = \"plain\" has no `host`"]),
    ("accept = { transport = \"tls\", path = \"/\" }", &["transport = \"tls\" has no `path`"]),
    ("accept = { transport = \"tls\", token = \"t\" }", &["transport = \"tls\" has no `token`"]),
    (
        "accept = { transport = \"ws\", cert = \"c\", key = \"k\" }",
        &["has no `cert`; leave it out, or say transport = \"tls\" or \"wss\"", "has no `key`"],
    ),
    ("connect = { transport = \"ws\", verify = \"ca\" }", &["transport = \"ws\" has no `verify`"]),
    ("connect = { transport = \"ws\", sni = \"h\" }", &["transport = \"ws\" has no `sni`"]),
    ("connect = { transport = \"tls\", mask = \"zero\" }", &["transport = \"tls\" has no `mask`"]),
    (
        "accept = { transport = \"wss\", cert = \"c.pem\" }",
        &["accept: cert: `key` is missing: the file with the certificate's key; name both files"],
    ),
    ("connect = { transport = \"tls\", key = \"k.pem\" }", &["connect: key: `cert` is missing"]),
    (
        "accept = { transport = \"tls\", cert = \"\", key = \"k\" }",
        &["cert: \"\" is not a file", "the configuration file"],
    ),
    (
        "accept = { transport = \"tls\", host = \"h\", cert = \"c\", key = \"k\" }",
        &["host: with TLS alone it is the name in a self-signed certificate"],
    ),
    (
        "accept = { transport = \"ws\", host = \"two words\" }",
        &["\"two words\" is not the name of a host", "Host header"],
    ),
    (
        "connect = { transport = \"tls\", sni = \"h:443\" }",
        &["\"h:443\" is not the name of a host", "without a port"],
    ),
    (
        "connect = { transport = \"ws\", path = \"ws\" }",
        &["\"ws\" is not the path of a WebSocket", "begins with a slash"],
    ),
    ("connect = { transport = \"ws\", path = \"/a b\" }", &["\"/a b\" is not the path of a WebSocket"]),
    ("connect = { transport = \"ws\", path = \"/a#b\" }", &["\"/a#b\" is not the path of a WebSocket"]),
    (
        "connect = { transport = \"ws\", mask = \"xor\" }",
        &["\"xor\" is not known here", "\"auto\", \"zero\" or \"random\""],
    ),
    (
        "connect = { transport = \"tls\", verify = \"pin:sha256/AAEC\" }",
        &["\"pin:sha256/AAEC\" is not known here; it is one of \"ca\", \"insecure\" or \"pin:sha256/...\""],
    ),
    (
        "connect = { transport = \"tls\", verify = \"insecure\", ca = \"ca.pem\" }",
        &["ca: it says who may sign the certificate, and `verify` does not ask for that"],
    ),
    (
        "connect = { transport = \"tls\", alpn = [\"h2\", \"\"] }",
        &["alpn: \"\" is not the name of a protocol", "\"http/1.1\""],
    ),
    ("connect = { transport = \"ws\", headers = \"a: b\" }", &["headers: this is not a table"]),
    (
        "connect = { transport = \"ws\", headers = { Host = \"h\" } }",
        &["headers: Host: the handshake writes it itself; `host` says"],
    ),
    (
        "accept = { transport = \"ws\", headers = { Sec-WebSocket-Accept = \"h\" } }",
        &["the handshake writes it itself; leave it out"],
    ),
    (
        "accept = { transport = \"ws\", headers = { \"a b\" = \"h\" } }",
        &["headers: a b: this is not the name of a header"],
    ),
    (
        "accept = { transport = \"ws\", headers = { a = \"1\", A = \"2\" } }",
        &["headers: A: it is there already"],
    ),
    (
        "accept = { transport = \"ws\", headers = { a = 1 } }",
        &["headers: a: what it says is not a text; put it in quotes"],
    ),
    (
        "connect = { transport = \"ws\", headers = { a = \"b\\r\\nc: d\" } }",
        &["headers: a: what it says cannot stand in a header", "without line breaks"],
    ),
    (
        "connect = { transport = \"ws\", token = \"t\", headers = { Authorization = \"Basic eA==\" } }",
        &["headers: Authorization: the token stands in it; keep one of `token` and this header"],
    ),
    (
        "connect = { transport = \"wss\", alpn = [\"h2\"] }",
        &["connect: alpn: a WebSocket begins in HTTP/1.1", "say alpn = \"http/1.1\""],
    ),
    ("accept = { transport = \"wss\", alpn = \"h2\" }", &["accept: alpn: a WebSocket begins in HTTP/1.1"]),
    ("connect = { transport = \"wss\", pool = 65 }", &["connect: pool: 65", "from 0 to 64"]),
    ("connect = { pool = 2 }", &["transport = \"plain\" has no `pool`"]),
    (
        "connect = { transport = \"wss\", pool = 2, proxy_protocol = 2 }",
        &["connect: pool: a header that names the client", "leave out one of `pool` and `proxy_protocol`"],
    ),
    (
        "connect = { transport = \"wss\", mux = true, proxy_protocol = 2 }",
        &["connect: mux: many clients share a connection, and `proxy_protocol` names one ahead of it; \
           leave out `mux`, or `proxy_protocol`"],
    ),
    (
        "protocol = \"tcp+udp\"\nconnect = { transport = \"wss\", udp_over = \"tunnel\" }\n\
         check = { kind = \"udp\", send = \"a\" }",
        &["check: kind: a check of kind \"udp\" asks backends in clear", "kind = \"passive\""],
    ),
    (
        "connect = { transport = \"wss\", udp_over = \"tunnel\" }",
        &["connect: udp_over: the rule carries no UDP", "protocol = \"tcp+udp\""],
    ),
    (
        "connect = { udp_over = \"plain\" }",
        &["transport = \"plain\" has no `udp_over`", "transport = \"tls\", \"ws\" or \"wss\""],
    ),
    (
        "protocol = \"tcp+udp\"\naccept = { transport = \"ws\" }",
        &["accept: transport: the rule carries UDP, and does not say whether that goes through the tunnel"],
    ),
    (
        "protocol = \"udp\"\naccept = { transport = \"ws\", udp_over = \"plain\" }",
        &["accept: transport: a tunnel comes in over TCP, and the rule has none", "protocol = \"tcp+udp\""],
    ),
    ("connect = { transport = \"wss\", snii = \"h\" }", &["did you mean `sni`?"]),
];

#[test]
fn mistakes_are_placed_and_explained() {
    for (text, parts) in MISTAKES {
        let problems = read(text).expect_err(text).to_string();
        for part in *parts {
            assert!(problems.contains(part), "{text}: {part:?} is not in {problems}");
        }
    }
}

#[test]
fn a_wrong_transport_is_one_mistake() {
    let problems = read("connect = { transport = \"quic\", path = \"/ws\", sni = \"h\" }").expect_err("quic");
    assert_eq!(problems.list.len(), 1, "{problems}");
}

#[test]
fn a_head_stays_within_bounds() {
    let long = |length| "x".repeat(length);
    for (what, length, part) in [
        ("path = \"/", 1024, "it has 1025 bytes, and may have 1024"),
        ("token = \"", 513, "it has 1 to 512 characters"),
        ("headers.a = \"", 4096, "there may be 20, of 4096 bytes together"),
    ] {
        let text = format!("connect.transport = \"ws\"\nconnect.{what}{}\"", long(length));
        let problems = read(&text).expect_err(what).to_string();
        assert!(problems.contains(part), "{what}: {problems}");
    }
}

#[test]
fn secrets_are_read_and_never_shown() {
    let text = |token: &str, header: &str| {
        format!(
            "connect = {{ transport = \"ws\", token = \"{token}\", headers = {{ x-key = \"{header}\" }} }}"
        )
    };
    for (token, header) in [("open sesame", "h"), ("t", " sesame"), ("sésame", "h")] {
        let problems = read(&text(token, header)).expect_err("a bad one").to_string();
        assert!(!problems.contains("same"), "{problems}");
    }
    let (first, second) = (rule(&text("first", "same")), rule(&text("second", "same")));
    let shown =
        |rule: &Rule, before| serde_json::Value::Object(encode::shown(rule, before))["connect"].clone();
    let alone = shown(&first, None);
    assert_eq!((&alone["token"], &alone["headers"]["x-key"]), (&"(hidden)".into(), &"(hidden)".into()));
    let after = shown(&second, Some(&first));
    assert_eq!(
        (&after["token"], &after["headers"]["x-key"]),
        (&"(hidden, another one)".into(), &"(hidden)".into())
    );
}
