//! Checks of backends that open the tunnel: they see what is wrong with the other end before a client does.

use harness::traffic::tcp_server;
use harness::{Ctl, eventually, within};

use super::{BACKEND, HOST, LIMIT, TRANSPORTS, accept, connect, drops, is_clean, own, rule, start, world};

const CHECK: &str = "check = { kind = \"tcp\", interval = \"200ms\", timeout = \"1s\", fall = 2, rise = 1, \
                     cooldown = \"0s\" }\n";

fn judged(ctl: &Ctl, rule: &str) -> (String, String) {
    let view = ctl.rule(rule);
    let word = |key: &str| view["to"][0]["tcp"][key].as_str().unwrap_or_default().to_owned();
    (word("state"), word("last_error"))
}

#[test]
fn other_ends_that_take_us_in_are_up() {
    let (world, _authority) = world();
    let server = tcp_server(&world.backend, 80);
    let mut rules = String::new();
    for (port, transport) in (8000..).zip(TRANSPORTS) {
        let leg = [connect(transport, "proxy_protocol = 2").as_str(), CHECK].concat();
        rules += &rule(&format!("in-{transport}"), port, &own(port + 1000), &leg);
        let accept = accept(transport, "proxy_protocol = true, trusted = [\"198.51.100.1/32\"]");
        rules += &rule(&format!("out-{transport}"), port + 1000, BACKEND, &accept);
    }
    let daemon = start(&world, &rules);
    for transport in TRANSPORTS {
        let (entry, exit) = (format!("in-{transport}"), format!("out-{transport}"));
        within(LIMIT, "it is up", &mut || judged(&daemon.ctl, &entry).0 == "up");
        eventually("it is asked again", || daemon.ctl.counter(&exit, "/flows/total") >= 3);
        assert_eq!(daemon.ctl.counter(&entry, "/flows/total"), 0, "probes are no flows");
        is_clean(&daemon.ctl, &entry);
        is_clean(&daemon.ctl, &exit);
    }
    assert!(server.count() >= 9, "what a probe costs the other end");
}

#[test]
fn what_clients_would_meet_is_said() {
    let (world, authority) = world();
    let _server = tcp_server(&world.backend, 80);
    authority.issue_expired("expired", HOST);
    let cases = [
        ("expired", "tls", "server.", "expired.", "tls_certificate_expired"),
        ("path", "ws", "/tunnel", "/other", "ws_refused"),
        ("name", "wss", "relay.test", "example.org", "ws_refused"),
    ];
    let mut rules = String::new();
    for (port, (name, transport, from, to, _)) in (8000..).zip(cases) {
        let leg = [connect(transport, "").as_str(), CHECK].concat();
        rules += &rule(&format!("in-{name}"), port, &own(port + 1000), &leg);
        rules +=
            &rule(&format!("out-{name}"), port + 1000, BACKEND, &accept(transport, "").replace(from, to));
    }
    let daemon = start(&world, &rules);
    for (name, .., reason) in cases {
        let entry = format!("in-{name}");
        within(LIMIT, "it has failed", &mut || judged(&daemon.ctl, &entry).1.contains(reason));
        // that never answered
        assert_eq!(judged(&daemon.ctl, &entry).0, "unknown", "{name}");
        assert!(daemon.ctl.ok(&["show", &entry]).contains(reason), "{name}");
        is_clean(&daemon.ctl, &entry);
    }
    assert!(drops(&daemon.ctl, "out-path", "client_ws") >= 1, "the other end counts them as clients");
}

/// Sessions come back with a ticket, and are not shown the certificate; a probe is.
#[test]
fn a_certificate_that_expires_under_way_is_seen() {
    let (world, authority) = world();
    let _server = tcp_server(&world.backend, 80);
    let leg = [connect("tls", "").as_str(), CHECK].concat();
    let rules = [rule("in", 80, &own(443), &leg), rule("out", 443, BACKEND, &accept("tls", ""))];
    let daemon = start(&world, &rules.concat());
    within(LIMIT, "it is up", &mut || judged(&daemon.ctl, "in").0 == "up");
    authority.issue_expired("server", HOST);
    within(LIMIT, "it is down", &mut || judged(&daemon.ctl, "in").0 == "down");
    assert!(judged(&daemon.ctl, "in").1.contains("tls_certificate_expired"));
    authority.issue("server", HOST);
    within(LIMIT, "it is up again", &mut || judged(&daemon.ctl, "in").0 == "up");
}
