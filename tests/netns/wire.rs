//! Packets that are out of the ordinary, on a real wire.

use std::io::ErrorKind;
use std::net::Ipv4Addr;
use std::time::{Duration, Instant};

use harness::netns::cable;
use harness::packet::{MORE_FRAGMENTS, Packet, UDP};
use harness::raw::Wire;
use harness::traffic::{Client, Datagrams, PATIENCE, tcp_server, text, udp_server};
use harness::world::{BACKEND, CLIENT, RELAY, RELAY_INSIDE};
use harness::{NetNs, World};

const RULE: &str = "[[rule]]\nname = \"web\"\nlisten = \":8080\"\nto = \"203.0.113.2:80\"\n";

#[test]
fn datagrams_larger_than_a_packet() {
    let world = World::new();
    let daemon = world.start(RULE);
    let _server = udp_server(&world.backend, 80);
    let socket = Datagrams::new(&world.client, (RELAY, 8080));
    for size in [1473, 2000, 2960, 5000, 30_000, 65_000] {
        socket.echo(&text(size)).unwrap_or_else(|error| panic!("{size} bytes: {error}"));
    }
    assert_eq!(daemon.ctl.rule("web")["counters"]["drops"], serde_json::json!({}));
    let ingress = daemon.ctl.counter("web", "/ingress/packets");
    assert_eq!(ingress, daemon.ctl.counter("web", "/egress/packets"));
    assert!(ingress > 70, "every fragment counts: {ingress}");
}

#[test]
fn traceroute_shows_the_relay_and_what_lies_behind() {
    let world = World::new();
    let far = NetNs::new("far");
    let far_address = Ipv4Addr::new(192, 0, 2, 2);
    cable((&far, "far"), (&world.backend, "beyond"));
    far.add_address("far", far_address, 24);
    world.backend.add_address("beyond", Ipv4Addr::new(192, 0, 2, 1), 24);
    world.backend.sysctl("net/ipv4/ip_forward", "1");
    far.default_route(Ipv4Addr::new(192, 0, 2, 1), "far");
    world.relay.default_route(BACKEND, "inside");
    let daemon = world.start("[[rule]]\nname = \"web\"\nlisten = \":8080\"\nto = \"192.0.2.2:80\"\n");
    let _server = udp_server(&far, 80);
    let wire = Wire::new(&world.client, "client");
    let mac = world.relay.mac("uplink");
    let probe = |ttl| {
        let mut packet = Packet::udp((CLIENT, 33_434), (RELAY, 8080), b"where are you?").with_ttl(ttl);
        packet.destination_mac = mac;
        packet.source_mac = world.client.mac("client");
        wire.send(&packet.frame());
        wire.next(|answer| answer.destination == CLIENT && answer.ports() != packet.ports())
            .expect("an answer")
    };
    for hop in [1, 2] {
        let answer = probe(hop);
        assert_eq!(
            (answer.protocol, answer.body[0], answer.body[1]),
            (1, 11, 0),
            "time exceeded at hop {hop}"
        );
        assert!(answer.header_ok && answer.transport_ok(), "hop {hop}");
        assert_eq!(answer.source, RELAY);
        let quoted = answer.quoted().expect("quote");
        assert_eq!((quoted.source, quoted.destination, quoted.ports()), (CLIENT, RELAY, (33_434, 8080)));
        assert!(quoted.header_ok, "hop {hop}");
    }
    let answer = probe(3);
    assert_eq!((answer.protocol, answer.payload()), (UDP, b"where are you?".as_slice()));
    assert_eq!(daemon.ctl.counter("web", "/drops/ttl_exceeded"), 1);
}

#[test]
fn a_datagram_without_a_checksum_stays_without() {
    let world = World::new();
    let _daemon = world.start(RULE);
    let (client, backend) = (Wire::new(&world.client, "client"), Wire::new(&world.backend, "backend"));
    let mut packet = Packet::udp((CLIENT, 5000), (RELAY, 8080), b"unsummed");
    packet.body[6..8].fill(0);
    packet.destination_mac = world.relay.mac("uplink");
    client.send(&packet.frame());
    let arrived =
        backend.next(|packet| packet.protocol == UDP && packet.destination == BACKEND).expect("arrives");
    assert_eq!(arrived.body[6..8], [0, 0]);
    assert_eq!((arrived.source, arrived.ttl), (RELAY_INSIDE, 63));
    assert!(arrived.header_ok);
}

#[test]
fn header_options_are_carried_along() {
    let world = World::new();
    let _daemon = world.start(RULE);
    let (client, backend) = (Wire::new(&world.client, "client"), Wire::new(&world.backend, "backend"));
    // router alert (RFC 2113), then padding
    let mut packet =
        Packet::udp((CLIENT, 5000), (RELAY, 8080), b"with options").with_options(&[148, 4, 0, 0, 0, 0, 0, 0]);
    packet.destination_mac = world.relay.mac("uplink");
    client.send(&packet.frame());
    let arrived =
        backend.next(|packet| packet.protocol == UDP && packet.destination == BACKEND).expect("arrives");
    assert_eq!(arrived.options, packet.options);
    assert!(arrived.header_ok && arrived.transport_ok());
}

#[test]
fn fragments_by_hand_in_either_order() {
    let world = World::new();
    let daemon = world.start(RULE);
    let (client, backend) = (Wire::new(&world.client, "client"), Wire::new(&world.backend, "backend"));
    let whole = Packet::udp((CLIENT, 5000), (RELAY, 8080), &text(1992));
    let part = |from: usize, to: usize| {
        let mut packet = whole.clone();
        packet.body = whole.body[from..to].to_vec();
        packet.fragment = (from / 8) as u16 | if to < whole.body.len() { MORE_FRAGMENTS } else { 0 };
        packet.destination_mac = world.relay.mac("uplink");
        packet.frame()
    };
    client.send(&part(0, 1000));
    client.send(&part(1000, 2000));
    let mut body = Vec::new();
    while body.len() < 2000 {
        let arrived = backend.next(|packet| packet.destination == BACKEND).expect("arrives");
        assert_eq!((arrived.source, arrived.identification), (RELAY_INSIDE, whole.identification));
        assert!(arrived.header_ok);
        body.extend(arrived.body);
    }
    let mut joined = Packet::new(UDP, RELAY_INSIDE, BACKEND, body);
    assert!(joined.transport_ok(), "the whole is right");
    joined.fragment = 0;
    assert_eq!(daemon.ctl.counter("web", "/ingress/packets"), 2);
}

#[test]
fn a_port_is_used_again_and_again() {
    let world = World::new();
    let _daemon = world.start(RULE);
    let _server = tcp_server(&world.backend, 80);
    let mut ports = Vec::new();
    for _ in 0..30 {
        // the server closes first, so the client may come back from the same port at once
        let client = connect_again(&world, 45_000);
        ports.push(client.seen_as().expect("who").port());
    }
    ports.dedup();
    assert_eq!(ports.len(), 1, "the backend sees the same tuple as it would without a relay");
}

/// As soon as the connection before is over here: its last packet has come, and no process that another test
/// is just starting has a copy of its socket.
fn connect_again(world: &World, port: u16) -> Client {
    let start = Instant::now();
    loop {
        match Client::connect_from(&world.client, port, (RELAY, 8080)) {
            Err(error) if error.kind() == ErrorKind::AddrNotAvailable && start.elapsed() < PATIENCE => {
                std::thread::sleep(Duration::from_millis(1));
            }
            client => return client.expect("connect"),
        }
    }
}

#[test]
fn a_connection_begun_anew_while_the_old_one_closes() {
    let world = World::new();
    let _daemon = world.start(RULE);
    let _server = tcp_server(&world.backend, 80);
    world.client.sysctl("net/ipv4/tcp_tw_reuse", "1");
    for _ in 0..10 {
        let mut client = connect_again(&world, 45_001).start_echo().expect("connect");
        client.echo(&text(100)).expect("echo");
        // a reset in place of an orderly end: the next connection starts on top of what is left of this one
        client.reset();
    }
}
