//! The same work at the driver, with tc behind it for what XDP does not finish.

use std::net::IpAddr;
use std::time::Duration;

use harness::lab::{enable_gro, set_tx_checksum};
use harness::traffic::{Client, Datagrams, tcp_server, text, udp_server};
use harness::world::{BACKEND, RELAY, RELAY_V6};
use harness::{Daemon, Load, World, hooks};
use netlink_packet_route::neighbour::NeighbourState;

const RULE: &str = "[[rule]]\nname = \"web\"\nlisten = \":8080\"\nto = \"203.0.113.2:80\"\n";

/// A world whose ends compute their checksums themselves: a frame from a veth with offload carries half of one.
fn world() -> (World, Daemon) {
    let world = World::new();
    for (ns, interface) in [(&world.client, "client"), (&world.backend, "backend")] {
        set_tx_checksum(ns, interface, false);
        enable_gro(ns, interface);
    }
    let daemon = world.start_with("hook = \"xdp\"\n", RULE);
    (world, daemon)
}

#[test]
fn both_hooks_share_the_work() {
    let (world, daemon) = world();
    assert!(hooks::has_xdp(&world.relay, "uplink") && hooks::has_xdp(&world.relay, "inside"));
    assert_eq!(hooks::tc_programs(&world.relay, "uplink"), 1, "tc is behind it");
    let (_tcp, _udp) = (tcp_server(&world.backend, 80), udp_server(&world.backend, 80));
    let connect = || Client::connect(&world.client, (RELAY, 8080)).expect("connect");
    connect().upload(8 << 20).expect("upload");
    connect().download(8 << 20).expect("download");
    let socket = Datagrams::new(&world.client, (RELAY, 8080));
    for size in [0, 1, 2, 17, 512, 1200, 1471, 1472, 1473, 5000, 60_000] {
        socket.echo(&text(size)).unwrap_or_else(|error| panic!("{size} bytes: {error}"));
    }
    let rule = daemon.ctl.rule("web");
    assert_eq!(rule["plane"]["ipv4"]["hook"], "xdp", "{rule}");
    assert_eq!(daemon.ctl.counter("web", "/flows/total"), 3, "{rule}");
    assert_eq!(rule["counters"]["drops"], serde_json::json!({}), "{rule}");
    assert!(daemon.ctl.counter("web", "/ingress/bytes") > 8 << 20);
}

/// IPv6 is tc's, on the same rule and the same interfaces.
#[test]
fn ipv6_clients_beside_it() {
    let (world, daemon) = world();
    let (_tcp, _udp) = (tcp_server(&world.backend, 80), udp_server(&world.backend, 80));
    daemon.ctl.ok(&["add", "8081", "[2001:db8:2::2]:80", "--name", "six"]);
    let ways =
        [(IpAddr::from(RELAY), 8080), (RELAY_V6.into(), 8080), (RELAY.into(), 8081), (RELAY_V6.into(), 8081)];
    let load = ways.into_iter().fold(Load::new(), |load, to| {
        load.with_connections(&world.client, to, 2)
            .with_newcomers(&world.client, to)
            .with_datagrams(&world.client, to)
    });
    for to in ways {
        let connect = || Client::connect(&world.client, to).expect("connect");
        connect().upload(4 << 20).unwrap_or_else(|error| panic!("{to:?}: {error}"));
        connect().download(4 << 20).unwrap_or_else(|error| panic!("{to:?}: {error}"));
        let socket = Datagrams::new(&world.client, to);
        for size in [0, 1, 1200, 1452, 5000, 60_000] {
            socket.echo_patiently(&text(size)).unwrap_or_else(|error| panic!("{to:?}, {size}: {error}"));
        }
    }
    load.run_on(200);
    load.finish();
    for (rule, hooks) in [("web", ["xdp", "tc"]), ("six", ["tc", "tc"])] {
        let rule = daemon.ctl.rule(rule);
        for (family, hook) in ["ipv4", "ipv6"].into_iter().zip(hooks) {
            assert_eq!(rule["plane"][family], serde_json::json!({"plane": "kernel", "hook": hook}), "{rule}");
        }
        // who sends datagrams learns of what IPv6 takes less by one that it does not take
        let mut drops = rule["counters"]["drops"].clone();
        drops.as_object_mut().expect("reasons").remove("too_big");
        assert_eq!(drops, serde_json::json!({}), "{rule}");
    }
}

#[test]
fn established_flows_are_carried_at_the_driver() {
    let (world, daemon) = world();
    let _server = udp_server(&world.backend, 80);
    let socket = Datagrams::new(&world.client, (RELAY, 8080));
    for _ in 0..3 {
        socket.echo(&text(100)).expect("echo");
    }
    let before = daemon.ctl.counter("web", "/ingress/packets");
    // without tc there are no first packets any more, but a live flow goes on
    hooks::take_off(&world.relay, "uplink", &world.folder().join("bpf"));
    hooks::take_off(&world.relay, "inside", &world.folder().join("bpf"));
    for _ in 0..20 {
        socket.echo(&text(100)).expect("echo");
    }
    assert_eq!(daemon.ctl.counter("web", "/ingress/packets"), before + 20);
}

#[test]
fn killed_and_started_again_under_load() {
    let (world, mut daemon) = world();
    let (_tcp, _udp) = (tcp_server(&world.backend, 80), udp_server(&world.backend, 80));
    let load = Load::new()
        .with_connections(&world.client, (RELAY, 8080), 6)
        .with_newcomers(&world.client, (RELAY, 8080))
        .with_datagrams(&world.client, (RELAY, 8080));
    load.run_on(100);
    daemon.kill();
    load.run_on(200);
    daemon.start_again(&world.relay);
    load.run_on(200);
    load.finish();
}

#[test]
fn a_smaller_mtu_is_left_to_tc() {
    let (world, daemon) = world();
    world.relay.set_mtu("inside", 1400);
    world.backend.set_mtu("backend", 1400);
    let _server = tcp_server(&world.backend, 80);
    harness::eventually("relayd has seen it", || {
        daemon.ctl.json(&["explain", "web"]).to_string().contains("1400")
    });
    Client::connect(&world.client, (RELAY, 8080)).and_then(|client| client.upload(2 << 20)).expect("upload");
}

#[test]
fn a_neighbour_takes_another_link_address() {
    let (world, _daemon) = world();
    let _server = udp_server(&world.backend, 80);
    let socket = Datagrams::new(&world.client, (RELAY, 8080));
    for _ in 0..3 {
        socket.echo(&text(100)).expect("echo");
    }
    let mac = [2, 0, 0, 0, 7, 7];
    world.backend.set_mac("backend", mac);
    world.relay.neighbour("inside", BACKEND, mac);
    harness::eventually("packets go to the new address", || socket.echo(&text(100)).is_ok());
    for _ in 0..3 {
        socket.echo(&text(100)).expect("and stay there");
    }
}

/// The kernel does not see what XDP sends, and would believe in a neighbour for ever.
#[test]
fn the_kernel_looks_after_neighbours() {
    let (world, _daemon) = world();
    let _server = udp_server(&world.backend, 80);
    let socket = Datagrams::new(&world.client, (RELAY, 8080));
    for _ in 0..3 {
        socket.echo(&text(100)).expect("echo");
    }
    world.relay.doubt_neighbour("inside", BACKEND, world.backend.mac("backend"));
    assert_eq!(world.relay.neighbour_state("inside", BACKEND), Some(NeighbourState::Stale));
    harness::within(Duration::from_secs(30), "the kernel asks for the backend", &mut || {
        socket.echo(&text(100)).expect("echo");
        world.relay.neighbour_state("inside", BACKEND) != Some(NeighbourState::Stale)
    });
}

#[test]
fn a_device_without_native_xdp_falls_back_to_tc() {
    let world = World::new();
    world.relay.add_bridge("bridge");
    world.relay.add_address("bridge", std::net::Ipv4Addr::new(10, 1, 1, 1), 24);
    let daemon = world.start_with("hook = \"xdp\"\n", RULE);
    let status = daemon.ctl.json(&["status"]);
    let interfaces = status["interfaces"].as_array().expect("interfaces");
    let bridge = interfaces.iter().find(|interface| interface["name"] == "bridge").expect("bridge");
    assert_ne!(bridge["xdp"], "native", "{bridge}");
    assert!(bridge["tc"] == "tcx" || bridge["tc"] == "clsact", "{bridge}");
}
