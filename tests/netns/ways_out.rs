//! Which address and interface backends are reached by: `connect.source`, `connect.interface`.

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr, UdpSocket};

use harness::netns::cable;
use harness::traffic::{Client, tcp_server};
use harness::world::{BACKEND_V6, RELAY, RELAY_INSIDE, RELAY_INSIDE_V6, RELAY_V6};
use harness::{Daemon, World, eventually};

const SECOND: Ipv4Addr = Ipv4Addr::new(203, 0, 113, 9);
const SECOND_V6: Ipv6Addr = Ipv6Addr::new(0x2001, 0xdb8, 2, 0, 0, 0, 0, 9);
/// The relay's end of another cable to the backend.
const ASIDE: Ipv4Addr = Ipv4Addr::new(203, 0, 114, 1);
const ASIDE_V6: Ipv6Addr = Ipv6Addr::new(0x2001, 0xdb8, 3, 0, 0, 0, 0, 1);
/// An address of the backend that both cables lead to.
const FAR: Ipv4Addr = Ipv4Addr::new(192, 0, 2, 77);
const FAR_V6: Ipv6Addr = Ipv6Addr::new(0x2001, 0xdb8, 77, 0, 0, 0, 0, 7);
const MAIN: u32 = 254;

fn second_cable(world: &World) {
    cable((&world.backend, "backend2"), (&world.relay, "inside2"));
    world.relay.add_address("inside2", ASIDE, 24);
    world.backend.add_address("backend2", Ipv4Addr::new(203, 0, 114, 2), 24);
    world.relay.add_address("inside2", ASIDE_V6, 64);
    world.backend.add_address("backend2", Ipv6Addr::new(0x2001, 0xdb8, 3, 0, 0, 0, 0, 2), 64);
}

fn rule(to: &str, plane: &str, connect: &str) -> String {
    format!(
        "[[rule]]\nname = \"web\"\nlisten = \":8080\"\nto = \"{to}\"\nplane = \"{plane}\"\nconnect = {{ {connect} }}\n"
    )
}

/// Says who sends each datagram, as the TCP server does when asked.
struct Witness(UdpSocket);

impl Witness {
    fn new(world: &World, port: u16) -> Self {
        let socket = world.backend.run(|| UdpSocket::bind((Ipv6Addr::UNSPECIFIED, port))).expect("bind");
        socket.set_read_timeout(Some(std::time::Duration::from_secs(10))).expect("timeout");
        Self(socket)
    }

    /// Whom the next datagram that a client sends comes from.
    fn sees(&self, world: &World, to: SocketAddr) -> IpAddr {
        let any: IpAddr =
            if to.is_ipv4() { Ipv4Addr::UNSPECIFIED.into() } else { Ipv6Addr::UNSPECIFIED.into() };
        let client = world.client.run(|| UdpSocket::bind((any, 0))).expect("bind");
        client.send_to(b"who am I?", to).expect("send");
        let mut buffer = [0; 64];
        self.0.recv_from(&mut buffer).expect("a datagram").1.ip().to_canonical()
    }
}

fn seen(world: &World, to: SocketAddr) -> IpAddr {
    Client::connect(&world.client, to)
        .and_then(Client::seen_as)
        .unwrap_or_else(|error| panic!("{to}: {error}"))
        .ip()
}

#[test]
fn the_backend_sees_the_source_on_both_planes() {
    let world = World::new();
    world.relay.add_address("inside", SECOND, 24);
    world.relay.add_address("inside", SECOND_V6, 64);
    let (_tcp, udp) = (tcp_server(&world.backend, 80), Witness::new(&world, 80));
    let clients = [SocketAddr::from((RELAY, 8080)), SocketAddr::from((RELAY_V6, 8080))];
    for (to, source, plane) in [
        ("203.0.113.2:80", IpAddr::from(SECOND), "auto"),
        ("203.0.113.2:80", IpAddr::from(SECOND), "user"),
        ("[2001:db8:2::2]:80", IpAddr::from(SECOND_V6), "auto"),
        ("[2001:db8:2::2]:80", IpAddr::from(SECOND_V6), "user"),
    ] {
        let daemon = world.start(&rule(to, plane, &format!("source = \"{source}\"")));
        for client in clients {
            assert_eq!(seen(&world, client), source, "{to} {plane} {client}");
            assert_eq!(udp.sees(&world, client), source, "{to} {plane} {client}");
        }
        let planes = &daemon.ctl.rule("web")["plane"];
        let expected = if plane == "auto" { "kernel" } else { "user" };
        for family in ["ipv4", "ipv6"] {
            assert_eq!(planes[family]["plane"], expected, "{planes}");
        }
        let explained = daemon.ctl.ok(&["explain", "web"]);
        assert!(
            explained.contains(&format!("the user plane reaches the backend from {source}")),
            "{explained}"
        );
        drop(daemon);
        let _old_maps = std::fs::remove_dir_all(world.folder().join("state"));
    }
}

#[test]
fn packets_leave_by_the_interface_on_both_planes() {
    let world = World::new();
    second_cable(&world);
    world.backend.add_address("lo", FAR, 32);
    world.relay.route((FAR, 32), Some(Ipv4Addr::new(203, 0, 113, 2)), "inside", MAIN);
    // only who asks for this interface comes by this table's way, as with policy routing of several uplinks
    world.relay.route((FAR, 32), Some(Ipv4Addr::new(203, 0, 114, 2)), "inside2", 100);
    world.relay.rule_from(ASIDE, 100);
    let (_tcp, udp) = (tcp_server(&world.backend, 80), Witness::new(&world, 80));
    let clients = [SocketAddr::from((RELAY, 8080)), SocketAddr::from((RELAY_V6, 8080))];
    for plane in ["auto", "user"] {
        let daemon = world.start(&rule("192.0.2.77:80", plane, ""));
        for client in clients {
            assert_eq!(seen(&world, client), RELAY_INSIDE, "{plane}");
        }
        let source = format!("connect.source={ASIDE}");
        daemon.ctl.ok(&["set", "web", &source, "connect.interface=inside2"]);
        for client in clients {
            let before = world.relay.traffic("inside2").tx_packets;
            assert_eq!(seen(&world, client), ASIDE, "{plane} {client}");
            assert_eq!(udp.sees(&world, client), ASIDE, "{plane} {client}");
            assert!(world.relay.traffic("inside2").tx_packets >= before + 4, "{plane} {client}");
        }
        daemon.ctl.ok(&["set", "web", "connect.source=", "udp_nat=fullcone"]);
        for client in clients {
            assert_eq!(seen(&world, client), ASIDE, "{plane} {client}: the interface alone decides");
            assert_eq!(udp.sees(&world, client), ASIDE, "{plane} {client}");
        }
        let explained = daemon.ctl.ok(&["explain", "web"]);
        assert!(explained.contains("on inside2"), "{explained}");
        daemon.ctl.ok(&["set", "web", "connect.interface="]);
        assert_eq!(seen(&world, clients[0]), RELAY_INSIDE, "{plane}");
    }
}

/// The same of an IPv6 backend, which the cable that is asked for reaches by another router.
#[test]
fn packets_to_an_ipv6_backend_leave_by_the_interface_on_both_planes() {
    let world = World::new();
    second_cable(&world);
    let backend = Ipv6Addr::new(0x2001, 0xdb8, 3, 0, 0, 0, 0, 2);
    world.backend.add_address("lo", FAR_V6, 128);
    world.relay.route_v6((FAR_V6, 128), BACKEND_V6, "inside");
    // only who asks for this interface takes the network's route, which is less specific
    world.relay.route_v6((FAR_V6, 64), backend, "inside2");
    let (_tcp, udp) = (tcp_server(&world.backend, 80), Witness::new(&world, 80));
    let clients = [SocketAddr::from((RELAY, 8080)), SocketAddr::from((RELAY_V6, 8080))];
    for plane in ["auto", "user"] {
        let daemon = world.start(&rule(&format!("[{FAR_V6}]:80"), plane, ""));
        for client in clients {
            assert_eq!(seen(&world, client), RELAY_INSIDE_V6, "{plane}");
        }
        daemon.ctl.ok(&["set", "web", "connect.interface=inside2"]);
        for client in clients {
            let before = world.relay.traffic("inside2").tx_packets;
            assert_eq!(seen(&world, client), ASIDE_V6, "{plane} {client}");
            assert_eq!(udp.sees(&world, client), ASIDE_V6, "{plane} {client}");
            assert!(world.relay.traffic("inside2").tx_packets >= before + 4, "{plane} {client}");
        }
        let explained = daemon.ctl.ok(&["explain", "web"]);
        assert!(plane == "user" || explained.contains("by 2001:db8:3::2 on inside2, from"), "{explained}");
        daemon.ctl.ok(&["set", "web", "connect.interface="]);
        assert_eq!(seen(&world, clients[1]), RELAY_INSIDE_V6, "{plane}");
    }
}

fn fault(daemon: &Daemon) -> String {
    daemon.ctl.rule("web")["faults"][0].as_str().unwrap_or_default().to_owned()
}

#[test]
fn what_the_host_has_not_is_a_fault_until_it_has() {
    let world = World::new();
    let _tcp = tcp_server(&world.backend, 80);
    for plane in ["auto", "user"] {
        let source = format!("source = \"{SECOND}\", interface = \"later\"");
        let daemon = world.start(&rule("203.0.113.2:80", plane, &source));
        assert_eq!(daemon.ctl.rule("web")["state"], "error");
        assert!(fault(&daemon).contains("connect.source: 203.0.113.9 is not an address of this host"));
        let explained = daemon.ctl.ok(&["explain", "web"]);
        assert!(explained.contains("connect.interface: there is no interface later"), "{explained}");
        assert!(Client::connect(&world.client, (RELAY, 8080)).is_err(), "nobody is taken in");
        // both come, in the clothes of a third cable
        cable((&world.backend, "third"), (&world.relay, "later"));
        world.relay.add_address("later", SECOND, 32);
        world.relay.route(([203, 0, 113, 2].into(), 32), None, "later", 100);
        world.relay.rule_from(SECOND, 100);
        world.backend.add_address("third", [203, 0, 113, 2], 32);
        world.backend.route((SECOND, 32), None, "third", MAIN);
        eventually("it works", || daemon.ctl.rule("web")["state"] == "active");
        assert_eq!(seen(&world, SocketAddr::from((RELAY, 8080))), SECOND);
        world.relay.delete_link("later");
        eventually("it is at fault again", || daemon.ctl.rule("web")["state"] == "error");
    }
}

#[test]
fn a_source_of_the_other_family_reaches_nothing() {
    let world = World::new();
    world.relay.add_address("inside", SECOND_V6, 64);
    let daemon = world.start(&rule("203.0.113.2:80", "auto", &format!("source = \"{SECOND_V6}\"")));
    assert_eq!(daemon.ctl.rule("web")["state"], "error");
    let said = fault(&daemon);
    assert!(
        said.contains("2001:db8:2::9 cannot reach 203.0.113.2, which has no address of its family"),
        "{said}"
    );
    let refused = daemon.ctl.fails(1, &["add", "90", "203.0.113.2", "--set", "connect.source=2001:db8:2::9"]);
    assert!(refused.contains("cannot reach 203.0.113.2"), "{refused}");
}
