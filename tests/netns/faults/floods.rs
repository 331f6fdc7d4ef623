//! Floods: from addresses that nobody has, and from clients that come and go as fast as they can.

use std::thread;
use std::time::Duration;

use harness::packet::{Packet, SYN, Segment};
use harness::traffic::{Client, Datagrams, tcp_server, udp_server};
use harness::world::{RELAY, RELAY_V6};
use harness::{World, eventually};

use super::{Beside, RULES, active};

/// As many as leave some to TCP when UDP has its share.
const DESCRIPTORS: u64 = 1024;

/// Rests now and then: each of the flood's clients is work, and who shares the worker is to get answers in time.
fn pace(index: u32) {
    if index.is_multiple_of(100) {
        thread::sleep(Duration::from_millis(10));
    }
}

#[test]
fn datagrams_of_forged_clients_take_nobodys_place() {
    let world = World::new();
    let daemon = world.start_limited(DESCRIPTORS, RULES);
    let _server = udp_server(&world.backend, 80);
    let beside = Beside::start(&world);
    let known = Datagrams::new(&world.client, (RELAY, 8080));
    known.echo(b"before").and_then(|()| known.echo(b"before")).expect("echo");
    // answers to nobody would keep them
    daemon.ctl.ok(&["set", "web", "to=203.0.113.2:9"]);
    world.flood(6000, |index, source| {
        pace(index);
        Packet::udp(source, (RELAY, 8080), b"forged")
    });
    known.echo(b"after").expect("who is known goes on");
    daemon.ctl.ok(&["set", "web", "to=203.0.113.2:80"]);
    for to in [(RELAY.into(), 8080), (RELAY_V6.into(), 8080)] {
        let to: (std::net::IpAddr, u16) = to;
        Datagrams::new(&world.client, to).echo_patiently(b"hello").expect("somebody new");
    }
    assert!(daemon.ctl.counter("web", "/flows/total") > 3000, "the flood got through to the rule");
    beside.finish(&daemon);
}

/// Each of a range's ports with clients has a socket for its answers, which needs a descriptor as well.
#[test]
fn datagrams_of_forged_clients_leave_ports_to_others() {
    let world = World::new();
    let daemon = world.start_limited(DESCRIPTORS, &RULES.replace(":8080", ":2000-7999"));
    let beside = Beside::start(&world);
    // two to a port, so that who goes does not always take the port's socket along
    world.flood(6000, |index, source| {
        pace(index);
        Packet::udp(source, (RELAY, 2000 + (index / 2) as u16), b"forged")
    });
    for port in 7000..7010 {
        let _server = udp_server(&world.backend, port - 1920);
        for to in [(RELAY.into(), port), (RELAY_V6.into(), port)] {
            let to: (std::net::IpAddr, u16) = to;
            let client = Datagrams::new(&world.client, to);
            client.echo_patiently(b"hello").unwrap_or_else(|error| panic!("{to:?}: {error}"));
        }
    }
    assert!(daemon.ctl.counter("web", "/flows/total") > 3000, "the flood got through to the rule");
    beside.finish(&daemon);
}

#[test]
fn connections_that_are_never_meant() {
    let world = World::new();
    let daemon = world.start(RULES);
    let _server = tcp_server(&world.backend, 80);
    let beside = Beside::start(&world);
    let syn = Segment::flags(SYN);
    world.flood(20_000, |_, source| Packet::tcp(source, (RELAY, 8080), &syn));
    Client::connect(&world.client, (RELAY, 8080)).and_then(|client| client.upload(1000)).expect("a client");
    thread::scope(|scope| {
        for _ in 0..4 {
            let inside = world.client.another();
            scope.spawn(move || {
                for _ in 0..500 {
                    Client::connect(&inside, (RELAY_V6, 8080)).expect("connect").reset();
                }
            });
        }
    });
    Client::connect(&world.client, (RELAY, 8080)).and_then(|client| client.upload(1000)).expect("a client");
    eventually("they are over", || active(&daemon) == 0);
    beside.finish(&daemon);
}
