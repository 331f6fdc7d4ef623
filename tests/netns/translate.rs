//! Clients and backends of every pair of address families, carried by the kernel.

mod errors;
mod links;
mod restarts;
mod sizes;
mod trains;
mod ways;

use std::net::{IpAddr, SocketAddr};

use harness::traffic::{Client, Datagrams, tcp_server, text, udp_server};
use harness::world::{BACKEND, BACKEND_V6, RELAY, RELAY_INSIDE, RELAY_INSIDE_V6, RELAY_V6};
use harness::{Daemon, World, eventually};
use serde_json::json;

/// What clients connect to, the backend, and the address that it sees. IPv4 alone is told elsewhere.
const PAIRS: [(IpAddr, IpAddr, IpAddr); 3] = [
    (IpAddr::V6(RELAY_V6), IpAddr::V4(BACKEND), IpAddr::V4(RELAY_INSIDE)),
    (IpAddr::V4(RELAY), IpAddr::V6(BACKEND_V6), IpAddr::V6(RELAY_INSIDE_V6)),
    (IpAddr::V6(RELAY_V6), IpAddr::V6(BACKEND_V6), IpAddr::V6(RELAY_INSIDE_V6)),
];

/// With a rule from port 8080 to port 80 of the backend, that the kernel carries whole.
fn start(world: &World, backend: IpAddr) -> Daemon {
    let to = SocketAddr::new(backend, 80);
    let daemon = world.start(&format!("[[rule]]\nname = \"web\"\nlisten = \":8080\"\nto = \"{to}\"\n"));
    let rule = daemon.ctl.rule("web");
    for family in ["ipv4", "ipv6"] {
        assert_eq!(rule["plane"][family], json!({"plane": "kernel", "hook": "tc"}), "{rule}");
    }
    daemon
}

/// A rule to a backend of each family: all pairs in one world, since each takes its time to be made.
const BOTH: &str = "[[rule]]\nname = \"four\"\nlisten = \":8080\"\nto = \"203.0.113.2:80\"\n\
                    [[rule]]\nname = \"six\"\nlisten = \":8081\"\nto = \"[2001:db8:2::2]:80\"\n";

/// The rule of a pair, and what its clients connect to.
const fn way((listener, backend, _): (IpAddr, IpAddr, IpAddr)) -> (&'static str, SocketAddr) {
    match backend {
        IpAddr::V4(_) => ("four", SocketAddr::new(listener, 8080)),
        IpAddr::V6(_) => ("six", SocketAddr::new(listener, 8081)),
    }
}

#[test]
fn tcp_both_ways_with_content_checked() {
    const SIZE: u64 = 16 << 20;
    let world = World::new();
    let daemon = world.start(BOTH);
    let _server = tcp_server(&world.backend, 80);
    for pair in PAIRS {
        let (rule, to) = way(pair);
        let count = |what: &str| daemon.ctl.counter(rule, what);
        let counts = || ["/ingress/bytes", "/egress/bytes", "/flows/total"].map(count);
        let before = counts();
        let connect =
            || Client::connect(&world.client, to).unwrap_or_else(|error| panic!("{to} to {rule}: {error}"));
        connect().upload(SIZE).expect("upload");
        connect().download(SIZE).expect("download");
        let seen = connect().seen_as().expect("who");
        assert_eq!(seen.ip(), pair.2, "the backend sees the relay");
        assert!((1024..32768).contains(&seen.port()), "{seen}");
        let after = counts();
        assert!(after[0] - before[0] > SIZE, "{to} to {rule}: {before:?} {after:?}");
        assert!(after[1] - before[1] > SIZE, "{to} to {rule}: {before:?} {after:?}");
        assert_eq!(after[2] - before[2], 3, "{to} to {rule}");
        assert_eq!(daemon.ctl.rule(rule)["counters"]["drops"], json!({}));
    }
}

#[test]
fn udp_of_many_sizes() {
    let world = World::new();
    let daemon = world.start(BOTH);
    let _server = udp_server(&world.backend, 80);
    for (flows, pair) in (1..).zip(PAIRS) {
        let (rule, to) = way(pair);
        let count = |what: &str| daemon.ctl.counter(rule, what);
        let counts = || ["/ingress/packets", "/egress/packets", "/ingress/bytes", "/egress/bytes"].map(count);
        let before = counts();
        let socket = Datagrams::new(&world.client, to);
        let sizes = [0, 1, 2, 17, 512, 1200, 1231, 1233, 1451, 1452];
        for size in sizes {
            socket.echo(&text(size)).unwrap_or_else(|error| panic!("{to} to {rule}, {size} bytes: {error}"));
        }
        let headers = if to.is_ipv4() { 28 } else { 48 };
        let packets = sizes.len() as u64;
        let bytes: u64 = sizes.iter().map(|&size| size as u64 + headers).sum();
        let after = counts();
        let counted: Vec<u64> = before.iter().zip(after).map(|(before, after)| after - before).collect();
        assert_eq!(counted, [packets, packets, bytes, bytes], "{to} to {rule}");
        eventually("the flow is counted", || {
            let active = ["four", "six"].map(|rule| daemon.ctl.counter(rule, "/flows/active"));
            active.iter().sum::<u64>() == flows
        });
    }
}

#[test]
fn datagrams_larger_than_a_packet() {
    let world = World::new();
    let daemon = world.start(BOTH);
    let _server = udp_server(&world.backend, 80);
    for pair in PAIRS {
        let (rule, to) = way(pair);
        let before = daemon.ctl.counter(rule, "/ingress/packets");
        let socket = Datagrams::new(&world.client, to);
        let sizes = [1453, 1472, 1473, 2000, 9000, 30_000, 65_000, 65_507];
        for size in sizes {
            socket
                .echo_patiently(&text(size))
                .unwrap_or_else(|error| panic!("{to} to {rule}, {size} bytes: {error}"));
        }
        let packets = daemon.ctl.counter(rule, "/ingress/packets") - before;
        assert!(packets > sizes.len() as u64, "{to} to {rule}: {packets} packets");
    }
}

/// What clients of both families do with one rule adds up.
#[test]
fn both_families_at_once_on_one_rule() {
    const CLIENTS: [IpAddr; 2] = [IpAddr::V4(RELAY), IpAddr::V6(RELAY_V6)];
    let world = World::new();
    let daemon = world.start(BOTH);
    let _servers = (tcp_server(&world.backend, 80), udp_server(&world.backend, 80));
    let client = &world.client;
    for (rule, port) in [("four", 8080), ("six", 8081)] {
        std::thread::scope(|scope| {
            for to in CLIENTS.map(|listener| SocketAddr::new(listener, port)) {
                for _ in 0..2 {
                    scope.spawn(move || {
                        Client::connect(client, to).and_then(|it| it.upload(8 << 20)).expect("upload")
                    });
                }
                scope.spawn(move || {
                    Client::connect(client, to).and_then(|it| it.download(8 << 20)).expect("download")
                });
            }
        });
        let datagrams = CLIENTS.map(|listener| {
            let socket = Datagrams::new(client, SocketAddr::new(listener, port));
            (0..10).for_each(|_| socket.echo(&text(100)).expect("echo"));
            socket
        });
        assert_eq!(daemon.ctl.counter(rule, "/flows/total"), 8, "{rule}");
        eventually("the datagrams' flows stay", || daemon.ctl.counter(rule, "/flows/active") == 2);
        for (direction, least) in [("ingress", 32 << 20), ("egress", 16 << 20)] {
            let bytes = daemon.ctl.counter(rule, &format!("/{direction}/bytes"));
            assert!((least..least * 5 / 4).contains(&bytes), "{rule}, {direction}: {bytes} bytes");
        }
        drop(datagrams);
    }
}
