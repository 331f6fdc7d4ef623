//! What lies beside the relay: interfaces without link headers, networks behind routers, senders without checksums.

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr};

use harness::netns::cable;
use harness::traffic::{Client, Datagrams, tcp_server, text, udp_server};
use harness::tun::Tunnel;
use harness::world::{BACKEND, BACKEND_V6, CLIENT_V6, RELAY, RELAY_V6};
use harness::{Daemon, NetNs, World, eventually};

use super::{PAIRS, start};

const TUN: [Ipv4Addr; 2] = [Ipv4Addr::new(10, 9, 0, 1), Ipv4Addr::new(10, 9, 0, 2)];
const TUN_V6: [Ipv6Addr; 2] =
    [Ipv6Addr::new(0x2001, 0xdb8, 9, 0, 0, 0, 0, 1), Ipv6Addr::new(0x2001, 0xdb8, 9, 0, 0, 0, 0, 2)];

/// A tunnel between the relay and another: its ends are `tun`, with the first addresses at the relay.
fn tunnel(world: &World, other: &NetNs) -> Tunnel {
    let tunnel = Tunnel::new(&world.relay, other, "tun");
    for (ns, at) in [(&world.relay, 0), (other, 1)] {
        ns.add_address("tun", TUN[at], 24);
        ns.add_address("tun", TUN_V6[at], 64);
    }
    tunnel
}

/// TCP both ways and datagrams of all kinds.
fn exercise(world: &World, to: SocketAddr, what: &str) {
    let connect = || Client::connect(&world.client, to).unwrap_or_else(|error| panic!("{what}: {error}"));
    connect().upload(2 << 20).unwrap_or_else(|error| panic!("{what}: {error}"));
    connect().download(2 << 20).unwrap_or_else(|error| panic!("{what}: {error}"));
    let socket = Datagrams::new(&world.client, to);
    for size in [0, 1, 1200, 1452, 1472, 3000, 20_000] {
        socket.echo_patiently(&text(size)).unwrap_or_else(|error| panic!("{what}, {size}: {error}"));
    }
}

/// Who sends datagrams learns of a smaller link by one that it does not take.
fn nothing_but_sizes(daemon: &Daemon) {
    let mut drops = daemon.ctl.rule("web")["counters"]["drops"].clone();
    drops.as_object_mut().expect("reasons").remove("too_big");
    assert_eq!(drops, serde_json::json!({}));
}

#[test]
fn clients_on_an_interface_without_a_link_header() {
    for (listener, backend, _) in PAIRS {
        let world = World::new();
        let _tunnel = tunnel(&world, &world.client);
        let daemon = start(&world, backend);
        let _servers = (tcp_server(&world.backend, 80), udp_server(&world.backend, 80));
        let own = if listener.is_ipv4() { IpAddr::V4(TUN[0]) } else { IpAddr::V6(TUN_V6[0]) };
        exercise(&world, SocketAddr::new(own, 8080), &format!("{own} to {backend}"));
        let refused = Client::connect(&world.client, (own, 8081)).expect_err("no rule's");
        assert_eq!(refused.kind(), std::io::ErrorKind::ConnectionRefused);
        nothing_but_sizes(&daemon);
    }
}

#[test]
fn backends_on_an_interface_without_a_link_header() {
    for (listener, backend, _) in PAIRS {
        let world = World::new();
        let _tunnel = tunnel(&world, &world.backend);
        let there = if backend.is_ipv4() { IpAddr::V4(TUN[1]) } else { IpAddr::V6(TUN_V6[1]) };
        let daemon = start(&world, there);
        let to = SocketAddr::new(listener, 8080);
        let refused = Datagrams::new(&world.client, to).echo(b"anybody?").expect_err("nobody listens");
        assert_eq!(refused.kind(), std::io::ErrorKind::ConnectionRefused, "{listener} to {there}");
        let _servers = (tcp_server(&world.backend, 80), udp_server(&world.backend, 80));
        exercise(&world, to, &format!("{listener} to {there}"));
        nothing_but_sizes(&daemon);
    }
}

/// Addresses of one network beyond the client's, which is the router to it: no two clients are confused.
#[test]
fn many_clients_of_a_network_behind_a_router() {
    let subnet = |host| Ipv6Addr::new(0x2001, 0xdb8, 77, 0, 0, 0, 0, host);
    for backend in [IpAddr::from(BACKEND), BACKEND_V6.into()] {
        let world = World::new();
        let far = NetNs::new("far");
        cable((&far, "far"), (&world.client, "beyond"));
        world.client.add_address("beyond", subnet(1), 64);
        (2..22).for_each(|host| far.add_address("far", subnet(host), 64));
        far.default_route_v6(subnet(1), "far");
        world.client.sysctl("net/ipv6/conf/all/forwarding", "1");
        world.relay.route_v6((subnet(0), 64), CLIENT_V6, "uplink");
        let daemon = start(&world, backend);
        let _servers = (tcp_server(&world.backend, 80), udp_server(&world.backend, 80));
        let to = SocketAddr::from((RELAY_V6, 8080));
        // all from one port: they differ by their addresses alone
        let mut clients: Vec<(Client, Datagrams)> = (2..22)
            .map(|host| {
                let stream = Client::connect_from_v6(&far, (subnet(host), 50_000), to).expect("connect");
                let datagrams = Datagrams::bound(&far, (subnet(host), 50_000), to);
                (stream.start_echo().expect("order"), datagrams)
            })
            .collect();
        for round in 0..3 {
            for (index, (stream, datagrams)) in clients.iter_mut().enumerate() {
                stream.echo(&text(1000 + index + round)).expect("its own");
                datagrams.echo_patiently(&text(3000 + index)).expect("its own");
            }
        }
        assert_eq!(daemon.ctl.counter("web", "/flows/total"), 40);
        eventually("all are counted", || daemon.ctl.counter("web", "/flows/active") == 40);
    }
}

/// IPv6 wants a checksum, so the relay makes one. The backend's stack would refuse a wrong one.
#[test]
fn datagrams_without_a_checksum() {
    let world = World::new();
    let daemon = start(&world, BACKEND_V6.into());
    let _server = udp_server(&world.backend, 80);
    let socket = Datagrams::new(&world.client, (RELAY, 8080));
    socket.leave_unsummed();
    for size in [0, 1, 2, 3, 100, 1199, 1200, 1431] {
        socket.echo_patiently(&text(size)).unwrap_or_else(|error| panic!("{size} bytes: {error}"));
    }
    assert_eq!(daemon.ctl.rule("web")["counters"]["drops"], serde_json::json!({}));
}
