//! IPv6 routes, addresses and interfaces that change under running flows.

use std::net::{IpAddr, Ipv6Addr, SocketAddr};

use harness::netns::cable;
use harness::traffic::{Client, Datagrams, tcp_server, text, udp_server, udp_server_on};
use harness::world::{BACKEND, BACKEND_V6, CLIENT_V6, RELAY, RELAY_INSIDE_V6, RELAY_V6};
use harness::{Load, World, eventually};

use super::start;

const SECOND: Ipv6Addr = Ipv6Addr::new(0x2001, 0xdb8, 2, 0, 0, 0, 0, 9);
/// A backend that is reached through a router.
const FAR: Ipv6Addr = Ipv6Addr::new(0x2001, 0xdb8, 55, 0, 0, 0, 0, 2);
const ASIDE: [Ipv6Addr; 2] =
    [Ipv6Addr::new(0x2001, 0xdb8, 3, 0, 0, 0, 0, 1), Ipv6Addr::new(0x2001, 0xdb8, 3, 0, 0, 0, 0, 2)];

/// A second cable between relay and backend.
fn second_cable(world: &World) {
    cable((&world.backend, "backend2"), (&world.relay, "inside2"));
    world.relay.add_address("inside2", ASIDE[0], 64);
    world.backend.add_address("backend2", ASIDE[1], 64);
}

const LISTENERS: [IpAddr; 2] = [IpAddr::V4(RELAY), IpAddr::V6(RELAY_V6)];

/// Who the backend thinks that new clients of either family are.
fn seen(world: &World) -> Option<[IpAddr; 2]> {
    let all = LISTENERS.map(|listener| {
        let to = SocketAddr::new(listener, 8080);
        let limit = std::time::Duration::from_millis(500);
        Client::connect_within(&world.client, to, limit).and_then(Client::seen_as).ok()
    });
    Some([all[0]?.ip(), all[1]?.ip()])
}

#[test]
fn the_address_towards_the_backend_is_followed() {
    let world = World::new();
    let daemon = start(&world, BACKEND_V6.into());
    let _server = tcp_server(&world.backend, 80);
    assert_eq!(seen(&world), Some([IpAddr::V6(RELAY_INSIDE_V6); 2]));
    world.relay.delete_address("inside", RELAY_INSIDE_V6);
    eventually("there is no way without an address", || daemon.ctl.rule("web")["state"] == "degraded");
    world.relay.add_address("inside", SECOND, 64);
    eventually("the new address", || seen(&world) == Some([IpAddr::V6(SECOND); 2]));
    let mut clients = LISTENERS.map(|listener| {
        Client::connect(&world.client, (listener, 8080)).and_then(Client::start_echo).expect("connect")
    });
    world.relay.add_address("inside", RELAY_INSIDE_V6, 64);
    for client in &mut clients {
        client.echo(&text(5000)).expect("another address harms nobody");
    }
    world.relay.delete_address("inside", SECOND);
    eventually("the old address again", || seen(&world) == Some([IpAddr::V6(RELAY_INSIDE_V6); 2]));
    assert_eq!(daemon.ctl.rule("web")["state"], "active");
}

#[test]
fn a_route_that_is_replaced_takes_running_flows_along() {
    let world = World::new();
    second_cable(&world);
    world.backend.add_address("lo", FAR, 128);
    world.relay.route_v6((FAR, 128), BACKEND_V6, "inside");
    let daemon = start(&world, FAR.into());
    let _servers = (tcp_server(&world.backend, 80), udp_server_on(&world.backend, (FAR, 80)));
    let load = LISTENERS.into_iter().fold(Load::new(), |load, listener| {
        load.with_connections(&world.client, (listener, 8080), 3)
            .with_datagrams(&world.client, (listener, 8080))
    });
    load.run_on(100);
    let before = world.relay.traffic("inside2").tx_packets;
    world.relay.route_v6((FAR, 128), ASIDE[1], "inside2");
    eventually("traffic takes the other cable", || world.relay.traffic("inside2").tx_packets > before + 50);
    let old = world.relay.traffic("inside").tx_packets;
    load.run_on(200);
    assert!(world.relay.traffic("inside").tx_packets < old + 10, "nothing goes the old way");
    load.finish();
    let hop = daemon.ctl.json(&["explain", "web"]).to_string();
    assert!(hop.contains("inside2"), "{hop}");
}

#[test]
fn interfaces_that_are_deleted_and_made_again() {
    for backend in [IpAddr::from(BACKEND), BACKEND_V6.into()] {
        let world = World::new();
        let daemon = start(&world, backend);
        let _servers = (tcp_server(&world.backend, 80), udp_server(&world.backend, 80));
        let to = (RELAY_V6, 8080);
        let mut client = Client::connect(&world.client, to).and_then(Client::start_echo).expect("connect");
        client.echo(&text(100)).expect("echo");
        world.relay.delete_link("uplink");
        cable((&world.client, "client"), (&world.relay, "uplink"));
        world.relay.add_address("uplink", RELAY_V6, 64);
        world.client.add_address("client", CLIENT_V6, 64);
        eventually("the programs are on the new interface", || world.tc_programs("uplink") == 1);
        client.echo(&text(1000)).expect("the connection goes on");
        if backend.is_ipv6() {
            world.relay.delete_link("inside");
            eventually("the rule is degraded", || daemon.ctl.rule("web")["state"] == "degraded");
            cable((&world.backend, "backend"), (&world.relay, "inside"));
            world.relay.add_address("inside", RELAY_INSIDE_V6, 64);
            world.backend.add_address("backend", BACKEND_V6, 64);
            world.backend.default_route_v6(RELAY_INSIDE_V6, "backend");
            eventually("the rule works again", || daemon.ctl.rule("web")["state"] == "active");
            client.echo(&text(1000)).expect("the connection goes on");
        }
        Datagrams::new(&world.client, to).echo_patiently(&text(100)).expect("new flows");
        Client::connect(&world.client, to).and_then(Client::seen_as).expect("new flows");
    }
}

/// Whose address moves to another of the relay's interfaces takes flows along, as IPv4 clients do.
#[test]
fn a_client_that_comes_by_another_interface() {
    for backend in [IpAddr::from(BACKEND), BACKEND_V6.into()] {
        let world = World::new();
        let home = Ipv6Addr::new(0x2001, 0xdb8, 88, 0, 0, 0, 0, 1);
        cable((&world.client, "client2"), (&world.relay, "uplink2"));
        world.relay.add_address("uplink2", ASIDE[0], 64);
        world.client.add_address("client2", ASIDE[1], 64);
        world.client.add_address("lo", home, 128);
        world.relay.route_v6((home, 128), CLIENT_V6, "uplink");
        let _daemon = start(&world, backend);
        let _server = tcp_server(&world.backend, 80);
        let connected = Client::connect_from_v6(&world.client, (home, 0), (RELAY_V6, 8080).into());
        let mut client = connected.and_then(Client::start_echo).expect("connect");
        client.echo(&text(100)).expect("echo");
        // the other way round on both sides
        world.client.route_v6((RELAY_V6, 128), ASIDE[0], "client2");
        world.relay.route_v6((home, 128), ASIDE[1], "uplink2");
        let before = world.relay.traffic("uplink2");
        client.echo(&text(200_000)).expect("the connection goes on");
        eventually("traffic takes the other cable", || {
            client.echo(&text(20_000)).expect("echo");
            let now = world.relay.traffic("uplink2");
            now.rx_bytes > before.rx_bytes + 200_000 && now.tx_bytes > before.tx_bytes + 200_000
        });
    }
}
