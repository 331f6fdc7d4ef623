//! Several backends behind tunnels, some of them dead in one way or another; limits; and who is let in.

use std::io::Read as _;

use harness::farm::{Farm, Visit, address};
use harness::kaminari::Kaminari;
use harness::traffic::{Client, tcp_server};
use harness::within;
use harness::world::RELAY;

use super::{
    BACKEND, LIMIT, TRANSPORTS, accept, connect, dial, drops, entries, exits, is_clean, own, ports, rule,
    start, world,
};

/// Whatever is wrong with the first backend, sessions get the second: nobody listens, it is closed at once, it speaks
/// something else, it is silent, its certificate is wrong.
#[test]
fn another_backend_when_a_tunnel_fails() {
    let (world, authority) = world();
    let _server = tcp_server(&world.backend, 80);
    authority.issue("named", "example.org");
    // hangs up on an order that it does not know
    let _other = tcp_server(&world.backend, 81);
    super::serve(&world.backend, 82, |Client(mut stream)| stream.read_to_end(&mut Vec::new()).map(drop));
    let mut rules = exits("", "");
    let dead = ["203.0.113.2:9", "203.0.113.2:81", "203.0.113.2:82", "198.51.100.1:WRONG"];
    let tunnels = TRANSPORTS.into_iter().flat_map(|transport| dead.map(|dead| (transport, dead)));
    for (port, (transport, dead)) in (8000..).zip(tunnels.clone()) {
        let to = format!(
            "[\"{}\", {}]",
            dead.replace("WRONG", &(port + 1000).to_string()),
            own(ports(transport).1)
        );
        let more = [connect(transport, "").as_str(), "balance = \"first\"\ncheck = \"passive\"\n"].concat();
        rules += &rule(&format!("in-{port}"), port, &to, &more);
        let wrong = accept(transport, "").replace("server.", "named.").replace("/tunnel", "/other");
        rules += &rule(&format!("wrong-{port}"), port + 1000, BACKEND, &wrong);
    }
    let daemon = start(&world, &rules);
    for (port, (transport, dead)) in (8000..).zip(tunnels) {
        for _ in 0..3 {
            let failed = |error| panic!("{transport}, {dead}: {error}");
            dial(&world, port).upload(10_000).unwrap_or_else(failed);
        }
        assert_eq!(
            daemon.ctl.counter(&format!("out-{transport}"), "/drops/client_tls"),
            0,
            "{transport}, {dead}"
        );
    }
}

/// A tunnel's end whose own backend is not there breaks the tunnel off behind its handshake: who has not said anything
/// until then goes to another one.
#[test]
fn another_backend_when_a_tunnel_breaks_off() {
    let (world, _authority) = world();
    let _server = tcp_server(&world.backend, 80);
    let mut rules = exits("", "");
    for (port, transport) in (8000..).zip(TRANSPORTS) {
        let to = format!("[{}, {}]", own(port + 1000), own(ports(transport).1));
        for (name, more) in [("", ""), ("pool-", "pool = 2")] {
            let leg =
                [connect(transport, more).as_str(), "balance = \"first\"\ncheck = \"passive\"\n"].concat();
            let port = if more.is_empty() { port } else { port + 100 };
            rules += &rule(&format!("in-{name}{transport}"), port, &to, &leg);
        }
        let dead = accept(transport, "");
        rules += &rule(&format!("dead-{transport}"), port + 1000, "\"203.0.113.2:9\"", &dead);
    }
    let daemon = start(&world, &rules);
    for (port, transport) in (8000..).zip(TRANSPORTS) {
        for (port, name) in [(port, ""), (port + 100, "pool-")] {
            for _ in 0..3 {
                let client = dial(&world, port);
                std::thread::sleep(std::time::Duration::from_millis(200));
                client.upload(10_000).unwrap_or_else(|error| panic!("{name}{transport}: {error}"));
            }
            is_clean(&daemon.ctl, &format!("in-{name}{transport}"));
            assert_eq!(daemon.ctl.counter(&format!("in-{name}{transport}"), "/flows/total"), 3);
        }
    }
}

/// By TLS 1.3 a server turns a client's certificate away, or misses it, when that believes to be in.
#[test]
fn another_backend_when_a_certificate_is_missed() {
    let (world, _authority) = world();
    let _server = tcp_server(&world.backend, 80);
    let mut rules = exits("", "");
    for (port, transport) in [(8000, "tls"), (8001, "wss")] {
        let to = format!("[{}, {}]", own(port + 1000), own(ports(transport).1));
        for (name, port, more) in [("", port, ""), ("pool-", port + 100, "pool = 2")] {
            let leg = connect(transport, more) + "balance = \"first\"\ncheck = \"passive\"\n";
            rules += &rule(&format!("in-{name}{transport}"), port, &to, &leg);
        }
        let strict = accept(transport, "client_ca = \"ca.pem\"");
        rules += &rule(&format!("strict-{transport}"), port + 1000, BACKEND, &strict);
    }
    let daemon = start(&world, &rules);
    for (port, transport) in [(8000, "tls"), (8001, "wss")] {
        for (name, port) in [("", port), ("pool-", port + 100)] {
            for _ in 0..3 {
                let client = dial(&world, port);
                client.upload(10_000).unwrap_or_else(|error| panic!("{name}{transport}: {error}"));
            }
            let failures = daemon.ctl.rule(&format!("in-{name}{transport}"))["to"][0]["tcp"].clone();
            assert_ne!(failures["state"], "up", "{name}{transport}: {failures}");
        }
    }
}

/// Choice and health look through tunnels: both ends of two of them.
#[test]
fn balanced_between_two_exits() {
    let (world, _authority) = world();
    let mut farm = Farm::new(&world.backend, 2);
    let to = "[\"198.51.100.1:4430\", \"198.51.100.1:4431\"]";
    let check = "check = { kind = \"tcp\", interval = \"200ms\", timeout = \"1s\", fall = 2, rise = 2 }\n";
    let mut rules = rule("in", 80, to, &[connect("wss", "").as_str(), check].concat());
    for index in 0..2 {
        let to = format!("\"{}:80\"", address(index));
        rules += &rule(&format!("out-{index}"), 4430 + index as u16, &to, &accept("wss", ""));
    }
    let daemon = start(&world, &rules);
    within(LIMIT, "both exits are up", &mut || {
        let shown = daemon.ctl.rule("in");
        (0..2).all(|index| shown["to"][index]["tcp"]["state"] == "up")
    });
    let visit = || Visit::pay(&world.client, None, super::ways_in(80)[0]).expect("a visit");
    let mut hosts: Vec<usize> = (0..8).map(|_| visit().host).collect();
    hosts.sort_unstable();
    assert_eq!(hosts, [0, 0, 0, 0, 1, 1, 1, 1]);
    is_clean(&daemon.ctl, "in");
    daemon.ctl.ok(&["disable", "out-0"]);
    within(LIMIT, "one exit is down", &mut || daemon.ctl.rule("in")["to"][0]["tcp"]["state"] == "down");
    assert!((0..4).all(|_| visit().host == 1));
    farm.refuse(1);
}

/// Limits count clients of tunnels as any others.
#[test]
fn limits_hold() {
    let (world, _authority) = world();
    let _server = tcp_server(&world.backend, 80);
    let daemon =
        start(&world, &[entries("", ""), exits("", "limit = { connections_per_ip = 2 }\n")].concat());
    for transport in TRANSPORTS {
        let rule = format!("out-{transport}");
        // who is refused may be reset before connect(2) is over
        let open =
            || Client::connect(&world.client, (RELAY, ports(transport).0)).and_then(Client::start_echo);
        let (mut one, two) = (open().expect("the first"), open().expect("the second"));
        open().expect_err("one too many");
        let is_counted = || drops(&daemon.ctl, &rule, "limit_connections_per_ip") == 1;
        within(LIMIT, "it is counted", &mut { is_counted });
        one.echo(b"still here").expect("those who are in");
        drop(two);
        within(LIMIT, "a place is free", &mut || daemon.ctl.counter(&rule, "/flows/active") == 1);
        open().expect("another");
    }
}

/// Sessions and bytes are counted on the client's leg, as they are on the wire.
#[test]
fn sessions_and_bytes_are_counted() {
    let (world, _authority) = world();
    let _server = tcp_server(&world.backend, 80);
    let daemon = world.start(&exits("", ""));
    let options = "ws;host=relay.test;path=/tunnel;tls;sni=relay.test;insecure";
    let _kaminari = Kaminari::client(&world.client, 8080, super::ways_in(ports("wss").1)[0], options);
    let local = || Client::connect(&world.client, ([127, 0, 0, 1], 8080)).expect("connect");
    local().upload(1 << 20).expect("upload");
    local().download(1 << 20).expect("download");
    within(LIMIT, "all is counted", &mut || {
        let of = |pointer: &str| daemon.ctl.counter("out-wss", pointer);
        let is_right = |bytes: u64| ((1 << 20)..(1 << 20) + (256 << 10)).contains(&bytes);
        let (ingress, egress) = (of("/ingress/bytes"), of("/egress/bytes"));
        of("/flows/total") == 2 && of("/flows/active") == 0 && is_right(ingress) && is_right(egress)
    });
}
