//! Errors about clients' packets, which reach them in their own family and from whom they talk to.

use std::io::ErrorKind;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr};

use harness::netns::cable;
use harness::traffic::{Client, Datagrams, tcp_server, text, udp_server};
use harness::world::{BACKEND, BACKEND_V6};
use harness::{NetNs, World, eventually};

use super::{PAIRS, start};

const FAR: Ipv4Addr = Ipv4Addr::new(192, 0, 2, 2);
pub(super) const FAR_V6: Ipv6Addr = Ipv6Addr::new(0x2001, 0xdb8, 3, 0, 0, 0, 0, 2);
/// The router's address on that side.
const ROUTER: Ipv4Addr = Ipv4Addr::new(192, 0, 2, 1);
const ROUTER_V6: Ipv6Addr = Ipv6Addr::new(0x2001, 0xdb8, 3, 0, 0, 0, 0, 1);

/// A namespace behind the backend's, which is a router to it.
fn far_behind(world: &World) -> NetNs {
    let far = NetNs::new("far");
    cable((&far, "far"), (&world.backend, "beyond"));
    far.add_address("far", FAR, 24);
    far.add_address("far", FAR_V6, 64);
    world.backend.add_address("beyond", ROUTER, 24);
    world.backend.add_address("beyond", ROUTER_V6, 64);
    routes(world);
    far.default_route(ROUTER, "far");
    far.default_route_v6(ROUTER_V6, "far");
    far
}

/// The backend's namespace is the relay's router.
fn routes(world: &World) {
    world.backend.sysctl("net/ipv4/ip_forward", "1");
    world.backend.sysctl("net/ipv6/conf/all/forwarding", "1");
    // routers need not be thrifty with errors here
    world.backend.sysctl("net/ipv6/icmp/ratelimit", "0");
    world.backend.sysctl("net/ipv4/icmp_ratelimit", "0");
    world.relay.default_route(BACKEND, "inside");
    world.relay.default_route_v6(BACKEND_V6, "inside");
}

/// The far one of a backend's family.
const fn far_of(backend: IpAddr) -> IpAddr {
    if backend.is_ipv4() { IpAddr::V4(FAR) } else { IpAddr::V6(FAR_V6) }
}

#[test]
fn a_closed_port_refuses() {
    for (listener, backend, _) in PAIRS {
        let world = World::new();
        let daemon = start(&world, backend);
        let to = SocketAddr::new(listener, 8080);
        let refused = Client::connect(&world.client, to).expect_err("nobody listens");
        assert_eq!(refused.kind(), ErrorKind::ConnectionRefused, "{listener} to {backend}");
        let socket = Datagrams::new(&world.client, to);
        for round in 0..3 {
            let refused = socket.echo(&text(100)).expect_err("nobody listens");
            let what = format!("{listener} to {backend}, datagram {round}");
            assert_eq!(refused.kind(), ErrorKind::ConnectionRefused, "{what}");
        }
        // and what listens later is reached by the same flow
        let _server = udp_server(&world.backend, 80);
        socket.echo_patiently(&text(100)).expect("somebody listens");
        assert_eq!(daemon.ctl.rule("web")["counters"]["drops"], serde_json::json!({}), "{listener}");
    }
}

#[test]
fn clients_whose_answers_find_a_closed_port_are_not_asked_again() {
    for (listener, backend, _) in PAIRS {
        let world = World::new();
        let _daemon = start(&world, backend);
        let server = world.backend.run(|| std::net::UdpSocket::bind((backend, 80))).expect("bind");
        server.set_read_timeout(Some(harness::traffic::PATIENCE)).expect("timeout");
        let socket = Datagrams::new(&world.client, (listener, 8080));
        socket.0.send(b"hello").expect("send");
        let mut buffer = [0; 100];
        let (_, from) = server.recv_from(&mut buffer).expect("arrives");
        server.connect(from).expect("connect");
        drop(socket);
        eventually("the backend hears that nobody listens any more", || {
            drop(server.send(b"too late"));
            matches!(server.take_error(), Ok(Some(error)) if error.kind() == ErrorKind::ConnectionRefused)
        });
    }
}

/// Like traceroute: all hops answer as the listener, for which a router's own address would be a stranger's.
#[test]
fn datagrams_that_go_too_few_hops() {
    for (listener, backend, _) in PAIRS {
        let world = World::new();
        let far = far_behind(&world);
        let daemon = start(&world, far_of(backend));
        let _server = udp_server(&far, 80);
        let exceeded = if listener.is_ipv4() { 11 } else { 3 };
        for hops in [1, 2] {
            let socket = Datagrams::new(&world.client, (listener, 8080));
            socket.go_hops(hops);
            let mut complaint = None;
            eventually(&format!("{listener} to {backend}: an error at hop {hops}"), || {
                drop(socket.0.send(b"where are you?"));
                std::thread::sleep(std::time::Duration::from_millis(20));
                complaint = socket.complaint();
                complaint.is_some()
            });
            assert_eq!(complaint, Some((listener, exceeded, 0)), "{listener} to {backend}, hop {hops}");
        }
        let socket = Datagrams::new(&world.client, (listener, 8080));
        socket.go_hops(3);
        socket.echo_patiently(b"where are you?").expect("three hops");
        assert!(daemon.ctl.counter("web", "/drops/ttl_exceeded") > 0, "the first hop is the relay");
    }
}

/// The way back is as long, and the backend's probes are answered too.
#[test]
fn a_far_backend_is_reached_through_its_router() {
    for (listener, backend, _) in PAIRS {
        let world = World::new();
        let far = far_behind(&world);
        // less than the cable before it: the router says so, in the backend's family
        far.set_mtu("far", 1300);
        world.backend.set_mtu("beyond", 1300);
        let daemon = start(&world, far_of(backend));
        let (_tcp, _udp) = (tcp_server(&far, 80), udp_server(&far, 80));
        let connect = || Client::connect(&world.client, (listener, 8080)).expect("connect");
        let what = format!("{listener} to {backend}");
        connect().upload(4 << 20).unwrap_or_else(|error| panic!("{what}: {error}"));
        connect().download(4 << 20).unwrap_or_else(|error| panic!("{what}: {error}"));
        let socket = Datagrams::new(&world.client, (listener, 8080));
        for size in [1, 1252, 1253, 1300, 1400, 1452, 5000, 65_507] {
            socket.echo_patiently(&text(size)).unwrap_or_else(|error| panic!("{what}, {size}: {error}"));
        }
        assert_eq!(daemon.ctl.counter("web", "/drops/bad_header"), 0, "{what}");
    }
}

#[test]
fn connections_to_where_no_way_leads_say_so() {
    for (listener, backend, _) in PAIRS {
        let world = World::new();
        let far = far_behind(&world);
        // its router asks for it in vain
        far.delete_address("far", far_of(backend));
        let _daemon = start(&world, far_of(backend));
        let refused = Client::connect(&world.client, (listener, 8080)).expect_err("no way");
        let kind = refused.kind();
        let unreachable = matches!(kind, ErrorKind::HostUnreachable | ErrorKind::NetworkUnreachable);
        assert!(unreachable, "{listener} to {backend}: {refused}");
    }
}
