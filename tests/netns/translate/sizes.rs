//! Links that take less than others, on either side of the relay: segments are clamped in time, and datagrams come through
//! in fragments once their senders know the way.

use std::net::{IpAddr, SocketAddr};

use harness::traffic::{Client, Datagrams, tcp_server, text, udp_server, udp_server_on};
use harness::world::{BACKEND_V6, RELAY, RELAY_V6};
use harness::{NetNs, World, eventually};
use nix::libc;

use super::errors::FAR_V6;
use super::{BOTH, PAIRS, start, way};

/// One of the relay's two cables.
#[derive(Clone, Copy, Debug)]
enum Leg {
    Client,
    Backend,
}

fn shrink(world: &World, leg: Leg, mtu: u32) {
    let ends: [(&NetNs, &str); 2] = match leg {
        Leg::Client => [(&world.client, "client"), (&world.relay, "uplink")],
        Leg::Backend => [(&world.backend, "backend"), (&world.relay, "inside")],
    };
    ends.into_iter().for_each(|(ns, interface)| ns.set_mtu(interface, mtu));
}

/// IPv6 links take 1,280 bytes at least.
const SHRUNK: [(Leg, u32); 4] =
    [(Leg::Client, 1280), (Leg::Client, 1400), (Leg::Backend, 1280), (Leg::Backend, 1400)];

#[test]
fn streams_fit_the_narrower_leg() {
    for (leg, mtu) in SHRUNK {
        let world = World::new();
        shrink(&world, leg, mtu);
        let daemon = world.start(BOTH);
        let _server = tcp_server(&world.backend, 80);
        for (_, to) in PAIRS.map(way) {
            let what = format!("{to}, {mtu} bytes on the {leg:?}'s leg");
            let connect = || Client::connect(&world.client, to).expect("connect");
            connect().upload(4 << 20).unwrap_or_else(|error| panic!("{what}: {error}"));
            connect().download(4 << 20).unwrap_or_else(|error| panic!("{what}: {error}"));
        }
        for rule in ["four", "six"] {
            let dropped = daemon.ctl.counter(rule, "/drops/too_big");
            assert_eq!(dropped, 0, "{rule}, {mtu} bytes on the {leg:?}'s leg: clamped in time");
        }
    }
}

#[test]
fn datagrams_of_all_sizes_pass_the_narrower_leg() {
    for (leg, mtu) in SHRUNK {
        let world = World::new();
        shrink(&world, leg, mtu);
        let _daemon = world.start(BOTH);
        let _server = udp_server(&world.backend, 80);
        for (_, to) in PAIRS.map(way) {
            let socket = Datagrams::new(&world.client, to);
            let around = mtu as usize;
            let edges = [around - 100, around - 48, around - 47, around - 28, around - 27, around];
            for size in [1, 512, 1200].into_iter().chain(edges).chain([1452, 1500, 5000, 30_000, 65_507]) {
                socket.echo_patiently(&text(size)).unwrap_or_else(|error| {
                    panic!("{to}, {mtu} bytes on the {leg:?}'s leg, {size}: {error}")
                });
            }
        }
    }
}

/// What the relay says about sizes is what fits, to the byte.
#[test]
fn a_sender_that_may_not_fragment_learns_the_size() {
    for (listener, backend, _) in PAIRS {
        let world = World::new();
        shrink(&world, Leg::Backend, 1400);
        let daemon = start(&world, backend);
        let _server = udp_server(&world.backend, 80);
        let socket = Datagrams::new(&world.client, (listener, 8080));
        socket.never_fragment();
        socket.0.send(&text(1450)).expect("the first leg takes it");
        eventually("the sender learns what the way takes", || {
            socket.0.send(&text(1450)).is_err_and(|error| error.raw_os_error() == Some(libc::EMSGSIZE))
        });
        assert!(daemon.ctl.counter("web", "/drops/too_big") > 0);
        let _error = socket.0.take_error().expect("socket");
        // an IPv4 client of an IPv6 backend is told less by 8: its fragments would have another header
        let headers = match (listener, backend) {
            (IpAddr::V6(_), IpAddr::V4(_)) => 28,
            (IpAddr::V4(_), _) => 48 + 8,
            _ => 48,
        };
        let largest = 1400 - headers;
        socket.echo_patiently(&text(largest)).unwrap_or_else(|error| panic!("{listener}: {error}"));
        let error = socket.0.send(&text(largest + 1)).expect_err("one byte more");
        assert_eq!(error.raw_os_error(), Some(libc::EMSGSIZE), "{listener} to {backend}");
    }
}

/// A router may have told the host that IPv6 takes less than the link does, of all that it does itself or of the routes that it
/// offers, which expire. IPv4 is not held to that.
#[test]
fn ipv6_has_an_mtu_of_its_own() {
    let world = World::new();
    world.relay.sysctl("net/ipv6/conf/inside/mtu", "1400");
    world.backend.add_address("lo", FAR_V6, 128);
    world.relay.offered_route_v6((FAR_V6, 64), BACKEND_V6, "inside", 1350);
    let far = format!("[[rule]]\nname = \"far\"\nlisten = \":8082\"\nto = \"[{FAR_V6}]:81\"\n");
    let daemon = world.start(&(BOTH.to_owned() + &far));
    let _servers = (udp_server(&world.backend, 80), udp_server_on(&world.backend, (FAR_V6, 81)));
    let learns = |port: u16, mtu: usize| {
        let socket = Datagrams::new(&world.client, (RELAY_V6, port));
        socket.never_fragment();
        let largest = mtu - 48;
        eventually("the sender learns what the way takes", || {
            socket.0.send(&text(largest + 1)).is_err_and(|error| error.raw_os_error() == Some(libc::EMSGSIZE))
        });
        socket.echo_patiently(&text(largest)).unwrap_or_else(|error| panic!("{port}, {mtu}: {error}"));
    };
    learns(8081, 1400);
    learns(8082, 1350);
    for listener in [IpAddr::from(RELAY), RELAY_V6.into()] {
        let socket = Datagrams::new(&world.client, (listener, 8080));
        socket.echo(&text(1452)).unwrap_or_else(|error| panic!("{listener}: {error}"));
    }
    assert_eq!(daemon.ctl.counter("four", "/drops/too_big"), 0, "IPv4 takes what the link does");
    // nothing is told of this
    world.relay.sysctl("net/ipv6/conf/inside/mtu", "1300");
    eventually("it is noticed", || daemon.ctl.ok(&["explain", "six"]).contains("MTU 1300"));
    learns(8081, 1300);
}

/// A link that shrinks under a running connection: whole super-packets of too large segments are answered in the program,
/// and cut anew by their sender.
#[test]
fn links_that_shrink_under_running_connections() {
    for (listener, backend, _) in PAIRS {
        for leg in [Leg::Client, Leg::Backend] {
            let world = World::new();
            let daemon = start(&world, backend);
            let _server = tcp_server(&world.backend, 80);
            let connected = Client::connect(&world.client, SocketAddr::new(listener, 8080));
            let mut client = connected.and_then(Client::start_echo).expect("connect");
            client.echo(&text(20_000)).expect("echo");
            // the relay's end alone: the sender at the other one still sends what it did
            let interface = if matches!(leg, Leg::Client) { "uplink" } else { "inside" };
            world.relay.set_mtu(interface, 1300);
            eventually("what is too big is answered", || {
                client.echo(&text(100_000)).unwrap_or_else(|error| panic!("{listener}, {leg:?}: {error}"));
                daemon.ctl.counter("web", "/drops/too_big") > 0
            });
            client.echo(&text(1_000_000)).unwrap_or_else(|error| panic!("{listener}, {leg:?}: {error}"));
        }
    }
}
