//! Who comes to a tunnel's port and is no tunnel of ours: refused, counted, and named in the log with what would help.

use std::io::Write as _;
use std::net::Shutdown;

use harness::eventually;
use harness::traffic::tcp_server;

use super::{BACKEND, accept, dial, drops, exchange, is_clean, is_counted, rule, start, world};

/// A request for a WebSocket, as realm has it.
const REQUEST: &str = "GET /tunnel HTTP/1.1\r\nhost: relay.test\r\nupgrade: websocket\r\nconnection: upgrade\r\n\
                       sec-websocket-key: dGhlIHNhbXBsZSBub25jZQ==\r\nsec-websocket-version: 13\r\n\r\n";
const BROWSER: &str =
    "GET /tunnel HTTP/1.1\r\nhost: relay.test\r\nuser-agent: curl/8.5.0\r\naccept: */*\r\n\r\n";
/// How a TLS client's hello begins, and how far.
const HELLO: &[u8] = b"\x16\x03\x01\x02\x00\x01\x00\x01\xfc\x03\x03";
/// The version of TLS that its alerts are sent with, and what they are.
const ALERT: &[u8] = b"\x15\x03";

/// A stranger: its name, what it sends, what it is counted under, what the log has to say.
type Stranger<'a> = (&'a str, Vec<u8>, &'a str, &'a [&'a str]);

/// A rule for each: its name begins with the transport.
fn rules(strangers: &[Stranger<'_>], begin: u16, transport: &str) -> String {
    let token = if transport == "ws" { "token = \"secret\"" } else { "" };
    let rule_of = |(port, (name, ..)): (u16, &Stranger<'_>)| {
        rule(&format!("{transport}-{name}"), port, BACKEND, &accept(transport, token))
    };
    (begin..).zip(strangers).map(rule_of).collect()
}

#[test]
fn on_a_tls_port() {
    let (world, _authority) = world();
    let server = tcp_server(&world.backend, 80);
    let strangers: [Stranger<'_>; 4] = [
        ("http", BROWSER.into(), "client_tls", &["tls_not_tls", "accept.transport"]),
        ("websocket", REQUEST.into(), "client_tls", &["tls_not_tls", "accept.transport"]),
        ("garbage", vec![0x80; 4000], "client_tls", &["tls_not_tls"]),
        ("zeros", vec![0; 64], "client_tls", &["tls_not_tls"]),
    ];
    let mut daemon =
        start(&world, &[rules(&strangers, 8000, "tls"), rules(&strangers, 9000, "wss")].concat());
    for (begin, transport) in [(8000, "tls"), (9000, "wss")] {
        for (port, (name, bytes, reason, said)) in (begin..).zip(&strangers) {
            let answer = exchange(&world, port, bytes);
            assert!(answer.starts_with(ALERT), "{name}: {answer:02x?}");
            is_counted(&mut daemon, &format!("{transport}-{name}"), reason, said);
        }
    }
    assert_eq!(server.count(), 0, "no backend has heard of them");
}

#[test]
fn on_a_websocket_port() {
    let (world, _authority) = world();
    let server = tcp_server(&world.backend, 80);
    let with_token = |token: &str| {
        let header = format!("authorization: Bearer {token}\r\n\r\n");
        REQUEST.replace("\r\n\r\n", &format!("\r\n{header}")).into_bytes()
    };
    let changed =
        |from: &str, to: &str| String::from_utf8(with_token("secret")).expect("text").replace(from, to);
    let long = changed("\r\n\r\n", &format!("\r\nx: {}\r\n\r\n", "y".repeat(8192)));
    let many = changed("\r\n\r\n", &format!("\r\n{}\r\n", "x: y\r\n".repeat(64)));
    let strangers: [Stranger<'_>; 11] = [
        ("browser", BROWSER.into(), "client_ws", &["ws_not_websocket", "upgrade"]),
        (
            "path",
            changed("/tunnel", "/other").into(),
            "client_ws",
            &["ws_wrong_path", "connect.path", "/other"],
        ),
        ("query", changed("/tunnel", "/tunnel?x").into(), "client_ws", &["ws_wrong_path", "connect.path"]),
        (
            "host",
            changed("relay.test", "example.org").into(),
            "client_ws",
            &["ws_wrong_host", "connect.host"],
        ),
        ("no-token", REQUEST.into(), "client_ws", &["ws_wrong_token", "connect.token"]),
        ("token", with_token("secreT"), "client_ws", &["ws_wrong_token", "connect.token"]),
        ("version", changed(": 13", ": 8").into(), "client_ws", &["ws_not_websocket"]),
        ("long", long.into(), "client_ws", &["ws_head_too_long", "8 KiB"]),
        ("many", many.into(), "client_ws", &["ws_head_too_long", "64 headers"]),
        ("tls", HELLO.into(), "client_ws", &["ws_tls", "transport"]),
        ("garbage", b"\x00\x01\x02\x03\r\n\r\n".into(), "client_ws", &["ws_not_http", "transport"]),
    ];
    let mut daemon = start(&world, &rules(&strangers, 8000, "ws"));
    for (port, (name, bytes, reason, said)) in (8000..).zip(&strangers) {
        let answer = String::from_utf8(exchange(&world, port, bytes)).expect("text");
        if matches!(*name, "tls" | "garbage") {
            assert_eq!(answer, "", "{name}");
        } else {
            // a page as of any web server that has nothing there, and the same for all of them
            assert!(answer.starts_with("HTTP/1.1 404 Not Found\r\n"), "{name}: {answer}");
            assert!(
                answer.contains("connection: close\r\n") && answer.ends_with("</html>\r\n"),
                "{name}: {answer}"
            );
            assert!(!answer.to_lowercase().contains("relay"), "{name}: {answer}");
        }
        is_counted(&mut daemon, &format!("ws-{name}"), reason, said);
    }
    assert_eq!(server.count(), 0, "no backend has heard of them");
    assert!(!daemon.log().contains("secret"), "a token is nobody's business");
}

/// Whoever only looks whether somebody listens has done nothing wrong; who stops in the middle has.
#[test]
fn who_goes_early() {
    let (world, _authority) = world();
    let server = tcp_server(&world.backend, 80);
    let rules: String = (8000..)
        .zip(["tls", "ws", "wss"])
        .map(|(port, name)| rule(name, port, BACKEND, &accept(name, "")))
        .collect();
    let mut daemon = start(&world, &rules);
    for (port, transport) in (8000..).zip(["tls", "ws", "wss"]) {
        drop(dial(&world, port));
        let looked = dial(&world, port);
        looked.0.shutdown(Shutdown::Write).expect("shutdown");
        eventually("it is seen", || daemon.ctl.counter(transport, "/flows/total") == 2);
        eventually("it is over", || daemon.ctl.counter(transport, "/flows/active") == 0);
        is_clean(&daemon.ctl, transport);
        let mut stream = dial(&world, port).0;
        let beginning = if transport == "ws" { &REQUEST.as_bytes()[..40] } else { HELLO };
        stream.write_all(beginning).expect("send");
        stream.shutdown(Shutdown::Write).expect("shutdown");
        is_counted(&mut daemon, transport, "handshake_broken", &["handshake"]);
    }
    assert_eq!(server.count(), 0, "no backend has heard of them");
}

/// What is right works in any form that HTTP allows: a browser's, in pieces, with a frame right behind it.
#[test]
fn requests_of_other_clients() {
    let (world, _authority) = world();
    let server = tcp_server(&world.backend, 80);
    let daemon = start(&world, &rule("out", 443, BACKEND, &accept("ws", "")));
    // an order to tell who is there, masked with zeros
    let frame = b"\x82\x89\0\0\0\0W\0\0\0\0\0\0\0\0";
    let lists =
        REQUEST.replace("connection: upgrade", "Connection: keep-alive, Upgrade").replace("host:", "HOST:");
    let port = REQUEST.replace("relay.test", "Relay.test:443");
    for (name, request) in [("realm's", REQUEST), ("a browser's", &lists), ("with a port", &port)] {
        for piece in [1, 7, usize::MAX] {
            let mut stream = dial(&world, 443).0;
            for bytes in [request.as_bytes(), frame].concat().chunks(piece) {
                stream.write_all(bytes).expect("send");
            }
            let mut answer = Vec::new();
            std::io::Read::read_to_end(&mut stream, &mut answer).expect("an answer");
            let text = String::from_utf8_lossy(&answer);
            assert!(text.starts_with("HTTP/1.1 101 Switching Protocols\r\n"), "{name}, {piece}: {text}");
            assert!(
                text.contains("sec-websocket-accept: s3pPLMBiTxaQ9kYGzzhZRbK+xOo=\r\n"),
                "{name}: {text}"
            );
            assert!(text.contains("203.0.113.1:"), "{name}, {piece}: {text}");
            // an empty close frame is the last that comes
            assert!(
                answer.ends_with(b"\x88\0") || answer.ends_with(b"\x88\x02\x03\xe8"),
                "{name}: {answer:02x?}"
            );
        }
    }
    assert_eq!(server.count(), 9);
    assert_eq!(drops(&daemon.ctl, "out", "client_ws"), 0);
}
