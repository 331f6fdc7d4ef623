//! Source ports towards a backend: they rest for a minute after a connection that the client closes first, and must not
//! run out.

use std::net::{IpAddr, SocketAddr};

use harness::traffic::{Client, tcp_server, text};
use harness::world::{RELAY, RELAY_V6};
use harness::{Daemon, World, eventually};

const WEB: &str = "[[rule]]\nname = \"web\"\nlisten = \":8080\"\nto = \"203.0.113.2:80\"\nplane = \"user\"\nprotocol = \"tcp\"\n";
const REUSE: &str = "net/ipv4/tcp_tw_reuse";
const PORTS: usize = 100;

/// A relay that has few ports, and does not reuse those that rest.
fn world() -> World {
    let world = World::new();
    world.relay.sysctl("net/ipv4/ip_local_port_range", "40000 40099");
    world.relay.sysctl(REUSE, "0");
    world
}

/// Many more connections than there are ports, one after the other.
fn many_connections(world: &World, daemon: &Daemon) {
    for turn in 0..4 * PORTS {
        let to = [IpAddr::from(RELAY), RELAY_V6.into()][turn % 2];
        let mut client = Client::connect(&world.client, SocketAddr::new(to, 8080))
            .and_then(Client::start_echo)
            .unwrap_or_else(|error| panic!("{turn}: {error}"));
        client.echo(&text(100)).unwrap_or_else(|error| panic!("{turn}: {error}"));
    }
    assert_eq!(daemon.ctl.rule("web")["counters"]["drops"], serde_json::json!({}));
}

#[test]
fn ports_that_rest_are_used_again() {
    let world = world();
    let _server = tcp_server(&world.backend, 80);
    let daemon = world.start(WEB);
    assert_eq!(world.relay.read_sysctl(REUSE), "1");
    many_connections(&world, &daemon);
    let said = daemon.ctl.ok(&["down"]);
    assert_eq!(world.relay.read_sysctl(REUSE), "0", "{said}");
}

/// relayd is no program that a range would have to leave a port to.
#[test]
fn a_port_that_was_asked_for_by_name_stays_its_ranges() {
    let world = world();
    let _server = tcp_server(&world.backend, 80);
    let range =
        "[[rule]]\nname = \"range\"\nlisten = \":50000-65535\"\nto = \"203.0.113.2\"\nplane = \"user\"\n";
    let daemon = world.start(&format!("{WEB}\n{range}"));
    let there: Vec<Client> = (0..PORTS + 20)
        .map(|_| Client::connect(&world.client, (RELAY, 8080)).and_then(Client::start_echo).expect("connect"))
        .collect();
    eventually("they are there", || daemon.ctl.counter("web", "/flows/active") == there.len() as u64);
    for _ in 0..5 {
        let seen = Client::connect(&world.client, (RELAY, 8080)).and_then(Client::seen_as).expect("connect");
        assert!(seen.port() >= 50_000, "{seen} is the kernel's choice");
        let _server = tcp_server(&world.backend, seen.port());
        for to in [IpAddr::from(RELAY), RELAY_V6.into()] {
            let to = SocketAddr::new(to, seen.port());
            let upload = Client::connect(&world.client, to).and_then(|client| client.upload(1000));
            upload.unwrap_or_else(|error| panic!("{to}: {error}"));
        }
    }
}

#[test]
fn ports_that_rest_are_used_again_without_rights() {
    for source in ["", "connect = { source = \"203.0.113.9\" }\n"] {
        let world = world();
        world.relay.add_address("inside", [203, 0, 113, 9], 24);
        let _server = tcp_server(&world.backend, 80);
        let mut daemon = world.start_unprivileged(&format!("{WEB}{source}"));
        many_connections(&world, &daemon);
        assert_eq!(world.relay.read_sysctl(REUSE), "0");
        let log = daemon.log();
        assert_eq!(log.matches("net.ipv4.tcp_tw_reuse cannot be set to 1").count(), 1, "{log}");
    }
}
