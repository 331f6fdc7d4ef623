//! UDP through tunnels between two Relays, and beside them.

use std::net::UdpSocket;
use std::time::Instant;

use harness::datagrams::Datagrams;
use harness::kaminari::Kaminari;
use harness::traffic::{Client, Server, tcp_server, text, udp_server};
use harness::world::{RELAY, folder};
use harness::{Ctl, Daemon, World, within};

use super::{
    BACKEND, LIMIT, TRANSPORTS, accept, connect, drops, entries, exits, is_clean, own, ports, rule, start,
    ways_in, world,
};

pub(super) const THROUGH: &str = "udp_over = \"tunnel\"";

/// The same rules for UDP, too.
pub(super) fn with_udp(rules: &str) -> String {
    rules.replace("protocol = \"tcp\"", "protocol = \"tcp+udp\"")
}

/// Both ends of a tunnel by each transport, for both protocols.
fn both_ends(lines: &str) -> String {
    with_udp(&[entries(THROUGH, lines), exits(THROUGH, lines)].concat())
}

fn active(ctl: &Ctl, rule: &str) -> u64 {
    ctl.counter(rule, "/flows/active")
}

fn enter(world: &World, transport: &str) -> Datagrams {
    Datagrams::new(&world.client, (RELAY, ports(transport).0))
}

#[test]
fn every_length_there_and_back() {
    let (world, _authority) = world();
    let (_tcp, _udp) = (tcp_server(&world.backend, 80), udp_server(&world.backend, 80));
    let daemon = start(&world, &both_ends(""));
    for transport in TRANSPORTS {
        let (port, exit) = ports(transport);
        for to in ways_in(port) {
            // answers come from there, or the client would not hear them
            let client = Datagrams::new(&world.client, to);
            for length in [0, 1, 2, 125, 126, 1200, 1472, 8192, 16_384, 16_385, 65_000, 65_507] {
                let echo = client.echo(&text(length));
                echo.unwrap_or_else(|error| panic!("{transport}, {length} bytes: {error}"));
            }
            Client::connect(&world.client, to).expect("connect").upload(100_000).expect("TCP as before");
        }
        for rule in ["in", "out"].map(|end| format!("{end}-{transport}")) {
            let shown = daemon.ctl.rule(&rule);
            assert_eq!(shown["plane"]["ipv4"]["plane"], "user", "{shown}");
            is_clean(&daemon.ctl, &rule);
        }
        let bytes = ["ingress", "egress"]
            .map(|way| daemon.ctl.counter(&format!("in-{transport}"), &format!("/{way}/bytes")));
        assert!(bytes.iter().all(|bytes| *bytes > 2 * 150_000), "{bytes:?}");
        world.relay.run(|| UdpSocket::bind((RELAY, exit))).expect("nobody has the exit's UDP port");
    }
}

/// As a resolver's: many, each with one question.
#[test]
fn a_thousand_clients() {
    let (world, _authority) = world();
    let _server = udp_server(&world.backend, 80);
    let daemon = start(&world, &both_ends(""));
    for transport in TRANSPORTS {
        let clients: Vec<Datagrams> = (0..1000).map(|_| enter(&world, transport)).collect();
        for hundred in clients.chunks(100) {
            for (number, client) in hundred.iter().enumerate() {
                client.0.send(&text(20 + number)).expect("send");
            }
            for (number, client) in hundred.iter().enumerate() {
                let mut answer = [0; 1000];
                let length =
                    client.0.recv(&mut answer).unwrap_or_else(|error| panic!("{transport}: {error}"));
                assert!(answer[..length] == text(20 + number), "{transport}: another's answer");
            }
        }
        for end in ["in", "out"] {
            let rule = format!("{end}-{transport}");
            assert!(active(&daemon.ctl, &rule) >= 1000, "{rule}");
            is_clean(&daemon.ctl, &rule);
        }
    }
}

/// What comes no faster than it can leave is not lost, and stays in order.
#[test]
fn bulk_both_ways() {
    const WINDOW: u32 = 64;
    const ALL: u32 = 20_000;
    let (world, _authority) = world();
    let _server = udp_server(&world.backend, 80);
    let daemon = start(&world, &both_ends(""));
    for transport in TRANSPORTS {
        let client = enter(&world, transport);
        let mut datagram = text(1200);
        let mut answer = [0; 1500];
        let mut sent = 0;
        for got in 0..ALL {
            while sent < ALL.min(got + WINDOW) {
                datagram[..4].copy_from_slice(&sent.to_be_bytes());
                client.0.send(&datagram).expect("send");
                sent += 1;
            }
            let length =
                client.0.recv(&mut answer).unwrap_or_else(|error| panic!("{transport}, {got}: {error}"));
            datagram[..4].copy_from_slice(&got.to_be_bytes());
            assert!(answer[..length] == datagram, "{transport}: number {got} is another one");
        }
        is_clean(&daemon.ctl, &format!("in-{transport}"));
        is_clean(&daemon.ctl, &format!("out-{transport}"));
    }
}

/// A hop between two others: in by one tunnel, out by another.
#[test]
fn a_hop_in_the_middle() {
    let (world, _authority) = world();
    let _server = udp_server(&world.backend, 80);
    let legs = [accept("tls", THROUGH), connect("ws", THROUGH)].concat();
    let rules = [
        rule("in", 81, &own(4431), &connect("tls", THROUGH)),
        rule("middle", 4431, &own(4432), &legs),
        rule("out", 4432, BACKEND, &accept("ws", THROUGH)),
    ];
    let daemon = start(&world, &with_udp(&rules.concat()));
    let clients: Vec<Datagrams> = (0..20).map(|_| Datagrams::new(&world.client, (RELAY, 81))).collect();
    for length in [0, 1, 1200, 9000, 65_507] {
        for client in &clients {
            client.echo(&text(length)).unwrap_or_else(|error| panic!("{length}: {error}"));
        }
    }
    ["in", "middle", "out"].iter().for_each(|rule| is_clean(&daemon.ctl, rule));
}

/// Each port of a range leads to its own.
#[test]
fn a_range_of_ports() {
    let (world, _authority) = world();
    let _servers = [40_000, 40_005].map(|port| udp_server(&world.backend, port));
    let entry = rule("in", 1, "\"198.51.100.1:30000\"", &connect("ws", THROUGH));
    let exit = rule("out", 2, "\"203.0.113.2:40000\"", &accept("ws", THROUGH));
    let ranges = [entry.replace("\":1\"", "\":20000-20009\""), exit.replace("\":2\"", "\":30000-30009\"")];
    let daemon = start(&world, &with_udp(&ranges.concat()));
    for port in [20_000, 20_005] {
        Datagrams::new(&world.client, (RELAY, port)).echo(b"question").expect("an echo");
    }
    ["in", "out"].iter().for_each(|rule| is_clean(&daemon.ctl, rule));
}

/// A flow that nobody uses ends at both ends, and begins anew when it is used again.
#[test]
fn silent_flows_end_at_both_ends() {
    let (world, _authority) = world();
    let _server = udp_server(&world.backend, 80);
    let timeout = "timeout = { udp = \"1s\" }\n";
    let daemon = start(&world, &both_ends(timeout));
    for transport in TRANSPORTS {
        let client = enter(&world, transport);
        for turn in 0..2 {
            client.echo(b"question").unwrap_or_else(|error| panic!("{transport}, {turn}: {error}"));
            within(LIMIT, "no flow is left", &mut || {
                // at the exit the tunnel itself is one
                active(&daemon.ctl, &format!("in-{transport}")) == 0
                    && active(&daemon.ctl, &format!("out-{transport}")) <= 1
            });
        }
    }
}

/// A relayd on the backend's host, the end of the tunnels of one on the relay.
struct Exit<'a> {
    world: &'a World,
    folder: tempfile::TempDir,
    daemon: Option<Daemon>,
}

impl<'a> Exit<'a> {
    fn new(world: &'a World) -> Self {
        let folder = folder();
        for file in ["server.pem", "server.key"] {
            std::fs::copy(world.folder().join(file), folder.path().join(file)).expect("copy");
        }
        let mut exit = Self { world, folder, daemon: None };
        exit.start();
        exit
    }

    fn start(&mut self) {
        let rules = with_udp(&exits(THROUGH, ""));
        self.daemon = None;
        self.daemon =
            Some(Daemon::start(&self.world.backend, self.folder.path(), "hook = \"off\"\n", &rules));
    }
}

/// Flows go on when the other end is back, whichever it was.
#[test]
fn either_end_restarts() {
    let (world, _authority) = world();
    let _server = udp_server(&world.backend, 80);
    let mut exit = Exit::new(&world);
    let rules = with_udp(&entries(THROUGH, "").replace("198.51.100.1", "203.0.113.2"));
    let mut daemon = start(&world, &rules);
    let clients = TRANSPORTS.map(|transport| enter(&world, transport));
    let echo = |what: &str| {
        for (client, transport) in clients.iter().zip(TRANSPORTS) {
            client
                .echo_patiently(what.as_bytes())
                .unwrap_or_else(|error| panic!("{what}, {transport}: {error}"));
        }
    };
    echo("before");
    exit.start();
    echo("after the exit's restart");
    exit.daemon.as_mut().expect("an exit").kill();
    exit.start();
    echo("after the exit's death");
    daemon.stop();
    let _daemon = start(&world, &rules);
    echo("after the entry's restart");
}

/// What an exit that is down leaves is carried by the other one.
#[test]
fn another_exit_when_one_is_down() {
    let (world, _authority) = world();
    let _server = udp_server(&world.backend, 80);
    let exit = Exit::new(&world);
    let to = "[\"203.0.113.2:4433\", \"198.51.100.1:4430\"]";
    let more = connect("wss", THROUGH) + "balance = \"first\"\ncheck = { kind = \"passive\", fall = 2 }\n";
    let here = rule("out", 4430, BACKEND, &accept("wss", THROUGH));
    let daemon = start(&world, &with_udp(&[rule("in", 80, to, &more), here].concat()));
    let old = Datagrams::new(&world.client, (RELAY, 80));
    old.echo(b"by the first").expect("an echo");
    assert_eq!(active(&daemon.ctl, "out"), 0, "it goes by the other one");
    drop(exit);
    // a client that comes meanwhile, and one that was there before
    let new = Datagrams::new(&world.client, (RELAY, 80));
    new.echo_patiently(b"by the second").expect("an echo");
    let since = Instant::now();
    while old.echo(b"by the second, too").is_err() {
        assert!(since.elapsed() < LIMIT, "an old client's flow does not move: {}", daemon.ctl.rule("in"));
    }
    assert!(active(&daemon.ctl, "out") >= 3);
}

/// Peers that are no Relays, or are not told to: named at once, and counted.
#[test]
fn who_does_not_take_datagrams() {
    let (world, _authority) = world();
    let file = |name| world.folder().join(name).display().to_string();
    let tls = format!("tls;cert={};key={}", file("server.pem"), file("server.key"));
    let ws = "ws;host=relay.test;path=/tunnel";
    let _kaminaris = [(4431, tls.clone()), (4432, ws.to_owned()), (4433, format!("{ws};{tls}"))]
        .map(|(port, options)| Kaminari::server(&world.backend, port, ([127, 0, 0, 1], 80).into(), &options));
    let _server = tcp_server(&world.backend, 80);
    let rules = with_udp(&entries(THROUGH, "").replace("198.51.100.1", "203.0.113.2"));
    let mut daemon = start(&world, &rules);
    for transport in TRANSPORTS {
        let rule = format!("in-{transport}");
        let client = enter(&world, transport);
        client.0.send(b"question").expect("send");
        within(LIMIT, "it is counted", &mut || {
            drops(&daemon.ctl, &rule, "backend_ws") + drops(&daemon.ctl, &rule, "backend_tls") > 0
        });
        within(LIMIT, "it is said", &mut || {
            let log = daemon.log();
            log.lines().any(|line| line.contains(&rule) && line.contains("udp_over"))
        });
        assert!(drops(&daemon.ctl, &rule, "tunnel_down") > 0, "{}", daemon.ctl.rule(&rule));
        // TCP needs no agreement
        Client::connect(&world.client, (RELAY, ports(transport).0))
            .expect("connect")
            .upload(1000)
            .expect("TCP");
    }
}

/// In clear beside a tunnel to who takes no datagrams in it, where the rule says so.
#[test]
fn in_clear_beside_a_tunnel() {
    let (world, _authority) = world();
    let options = "ws;host=relay.test;path=/tunnel";
    let _kaminari = Kaminari::server(&world.backend, 4432, ([127, 0, 0, 1], 80).into(), options);
    let (_tcp, server): (Server, Server) = (tcp_server(&world.backend, 80), udp_server(&world.backend, 4432));
    let plain = "udp_over = \"plain\"";
    let rules = [
        rule("in", 82, "\"203.0.113.2:4432\"", &connect("ws", plain)),
        rule("out", 4431, "\"203.0.113.2:4432\"", &accept("tls", plain)),
    ];
    let daemon = start(&world, &with_udp(&rules.concat()));
    Client::connect(&world.client, (RELAY, 82)).expect("connect").upload(10_000).expect("TCP");
    for port in [82, 4431] {
        Datagrams::new(&world.client, (RELAY, port)).echo(&text(1200)).expect("UDP");
    }
    assert_eq!(server.count(), 2);
    ["in", "out"].iter().for_each(|rule| is_clean(&daemon.ctl, rule));
}
