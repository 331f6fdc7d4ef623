//! What a rule counts is what its clients' interface counts, whichever plane carries it.

use std::io::Write as _;
use std::net::{IpAddr, Shutdown, SocketAddr, TcpListener};
use std::time::Duration;

use harness::lab::{enable_gro, set_offloads, set_tx_checksum};
use harness::traffic::{Client, Datagrams, Server, tcp_server, text, udp_server};
use harness::world::{BACKEND, CLIENT, CLIENT_V6, RELAY, RELAY_V6};
use harness::{Daemon, NetNs, World, eventually, hooks};

const WEB: &str = "[[rule]]\nname = \"web\"\nlisten = \":8080\"\nto = \"203.0.113.2:80\"\n";

/// The same rule, carried by the user plane alone.
fn user() -> String {
    format!("{WEB}plane = \"user\"\n")
}

/// Packets and IP bytes, in and out.
type Figures = [u64; 4];

/// What the clients' interface has counted; of its bytes each packet's Ethernet header is left out.
fn on_interface(world: &World) -> Figures {
    let traffic = world.relay.traffic("uplink");
    let (rx, tx) = (traffic.rx_packets, traffic.tx_packets);
    // a veth that polls, as for XDP, counts packets of the stack without the header
    let header = if hooks::has_xdp(&world.relay, "uplink") { 0 } else { 14 };
    [rx, traffic.rx_bytes - header * rx, tx, traffic.tx_bytes - header * tx]
}

fn of_rule(daemon: &Daemon) -> Figures {
    let rule = daemon.ctl.rule("web");
    assert_eq!(rule["counters"]["unit"], "ip", "{rule}");
    let at = |pointer: &str| {
        rule["counters"].pointer(pointer).and_then(serde_json::Value::as_u64).expect("a number")
    };
    [at("/ingress/packets"), at("/ingress/bytes"), at("/egress/packets"), at("/egress/bytes")]
}

fn grown(before: Figures, after: Figures) -> Figures {
    std::array::from_fn(|at| after[at] - before[at])
}

/// What neighbours tell each other while a test runs, which the interface counts and no rule: packets, and bytes of each.
const NEIGHBOURS: [u64; 2] = [12, 80];

/// Whether all figures agree within a thousandth, and what neighbours tell each other.
fn agree(of_rule: Figures, on_interface: Figures) -> bool {
    let [packets, each] = NEIGHBOURS;
    let chatter = [packets, packets * each, packets, packets * each];
    let mut pairs = of_rule.into_iter().zip(on_interface).zip(chatter);
    pairs.all(|((rule, interface), chatter)| rule.abs_diff(interface) <= interface / 1000 + chatter)
}

fn servers(world: &World) -> (Server, Server) {
    (tcp_server(&world.backend, 80), udp_server(&world.backend, 80))
}

fn without_offloads(world: &World) {
    for (ns, interface) in [
        (&world.client, "client"),
        (&world.relay, "uplink"),
        (&world.relay, "inside"),
        (&world.backend, "backend"),
    ] {
        set_offloads(ns, interface, false);
    }
}

const LENGTH: u64 = 16 << 20;

fn streams(world: &World, relay: IpAddr) {
    let connect = || Client::connect(&world.client, (relay, 8080)).expect("connect");
    connect().upload(LENGTH).expect("upload");
    connect().download(LENGTH).expect("download");
}

/// Datagrams that fit a packet, and ones that go in fragments.
fn datagrams(world: &World, relay: IpAddr) {
    let socket = Datagrams::new(&world.client, SocketAddr::from((relay, 8080)));
    for _ in 0..40 {
        for size in [0, 1, 512, 1400, 1472, 1473, 9000, 60_000] {
            socket
                .echo_patiently(&text(size))
                .unwrap_or_else(|error| panic!("{relay}: {size} bytes: {error}"));
        }
    }
}

/// Runs traffic, and holds the rule's figures against the interface's.
#[track_caller]
fn compare(world: &World, daemon: &Daemon, what: &str, traffic: impl FnOnce()) {
    let before = (of_rule(daemon), on_interface(world));
    traffic();
    let mut figures = ([0; 4], [0; 4]);
    // the last segments of a connection come after its data
    for _ in 0..20 {
        figures = (grown(before.0, of_rule(daemon)), grown(before.1, on_interface(world)));
        if agree(figures.0, figures.1) {
            return;
        }
        std::thread::sleep(Duration::from_millis(100));
    }
    panic!("{what}: the rule counts {:?}, the interface {:?}", figures.0, figures.1);
}

const FAMILIES: [IpAddr; 2] = [IpAddr::V4(RELAY), IpAddr::V6(RELAY_V6)];

#[test]
fn a_rule_counts_what_its_clients_interface_counts() {
    for rules in [user(), WEB.to_owned()] {
        let world = World::new();
        without_offloads(&world);
        let daemon = world.start(&rules);
        let _servers = servers(&world);
        for relay in FAMILIES {
            compare(&world, &daemon, &format!("TCP to {relay}"), || streams(&world, relay));
            compare(&world, &daemon, &format!("UDP to {relay}"), || datagrams(&world, relay));
        }
        assert_eq!(daemon.ctl.counter("web", "/flows/total"), 6, "of both planes");
        // the backend's first datagram that an IPv6 client's link does not take
        let mut drops = daemon.ctl.rule("web")["counters"]["drops"].clone();
        drops.as_object_mut().expect("reasons").remove("too_big");
        assert_eq!(drops, serde_json::json!({}));
    }
}

/// TCP of such a rule is the user plane's and UDP the kernel's.
/// A billion bytes each way on each plane: how far a rule's figures are from the interface's.
#[test]
#[ignore = "takes a minute; run it for the figures"]
#[expect(clippy::print_stdout, reason = "they are what it is for")]
fn figures_over_a_billion_bytes() {
    for (plane, rules) in [("kernel", WEB.to_owned()), ("user", user())] {
        let world = World::new();
        without_offloads(&world);
        let _servers = servers(&world);
        let daemon = world.start(&rules);
        for relay in FAMILIES {
            let before = (of_rule(&daemon), on_interface(&world));
            for _ in 0..2 {
                let connect = || Client::connect(&world.client, (relay, 8080)).expect("connect");
                connect().upload(500_000_000).expect("upload");
                connect().download(500_000_000).expect("download");
            }
            // the last segments of a connection come after its data
            std::thread::sleep(Duration::from_secs(1));
            let (rule, interface) =
                (grown(before.0, of_rule(&daemon)), grown(before.1, on_interface(&world)));
            println!("{plane} {relay}: rule {rule:?}, interface {interface:?}");
            let near = |(rule, interface): (u64, u64)| rule.abs_diff(interface) <= interface / 1000;
            assert!(rule.into_iter().zip(interface).all(near));
        }
    }
}

#[test]
fn of_a_rule_that_both_planes_carry_everything_is_counted_once() {
    for needs in ["connect = { proxy_protocol = 2 }", "accept = { mptcp = true }"] {
        let world = World::new();
        without_offloads(&world);
        let daemon = world.start(&format!("{WEB}{needs}\n"));
        let _udp = udp_server(&world.backend, 80);
        let address = SocketAddr::from((BACKEND, 80));
        let listener = world.backend.run(|| TcpListener::bind(address).expect("bind"));
        let sink = std::thread::spawn(move || {
            for stream in listener.incoming().take(FAMILIES.len()) {
                let mut stream = stream.expect("accept");
                std::io::copy(&mut stream, &mut std::io::sink()).expect("read");
                stream.write_all(&text(LENGTH as usize)).expect("write");
            }
        });
        for relay in FAMILIES {
            compare(&world, &daemon, &format!("TCP to {relay}, {needs}"), || {
                let mut client = Client::connect(&world.client, (relay, 8080)).expect("connect");
                client.0.write_all(&text(LENGTH as usize)).expect("upload");
                client.0.shutdown(Shutdown::Write).expect("shutdown");
                std::io::copy(&mut client.0, &mut std::io::sink()).expect("download");
            });
            compare(&world, &daemon, &format!("UDP to {relay}, {needs}"), || datagrams(&world, relay));
        }
        sink.join().expect("all came");
    }
}

#[test]
fn xdp_leaves_the_counting_of_the_user_plane_to_tc() {
    let world = World::new();
    without_offloads(&world);
    for (ns, interface) in [(&world.client, "client"), (&world.backend, "backend")] {
        set_tx_checksum(ns, interface, false);
        enable_gro(ns, interface);
    }
    let daemon = world.start_with("hook = \"xdp\"\n", &user());
    assert!(hooks::has_xdp(&world.relay, "uplink"));
    let _servers = servers(&world);
    for relay in FAMILIES {
        compare(&world, &daemon, &format!("TCP to {relay}"), || streams(&world, relay));
    }
}

/// Packets and bytes of one upload, and of one download, without what was sent again: losses differ from run to run.
fn both_ways(world: &World, daemon: &Daemon, relay: IpAddr) -> [[u64; 2]; 2] {
    let sent_again = |ns: &NetNs| ns.snmp("Tcp", "RetransSegs");
    let [packets, bytes] = [[0, 2], [1, 3]];
    [(&world.client, 0), (&world.relay, 1)].map(|(sender, way)| {
        let before = (of_rule(daemon), sent_again(sender));
        let client = Client::connect(&world.client, (relay, 8080)).expect("connect");
        if way == 0 { client.upload(LENGTH) } else { client.download(LENGTH) }.expect("transfer");
        let figures = grown(before.0, of_rule(daemon));
        let again = sent_again(sender) - before.1;
        [figures[packets[way]] - again, figures[bytes[way]] - again * 1500]
    })
}

/// With segmentation left to the devices the interface counts super-packets, and the rule still the wire's.
#[test]
fn a_stream_counts_the_same_with_offloads() {
    let world = World::new();
    let daemon = world.start(&user());
    let _servers = servers(&world);
    for relay in FAMILIES {
        let before = on_interface(&world);
        let with = both_ways(&world, &daemon, relay);
        let interface = grown(before, on_interface(&world));
        assert!(
            interface[0] + interface[2] < (with[0][0] + with[1][0]) / 2,
            "there are super-packets: {interface:?}"
        );
        without_offloads(&world);
        let without = both_ways(&world, &daemon, relay);
        for (on, off) in with.into_iter().zip(without) {
            assert!(on[1].abs_diff(off[1]) * 100 <= off[1], "{relay}: {on:?} with, {off:?} without");
        }
        for (ns, interface) in [(&world.client, "client"), (&world.relay, "uplink")] {
            set_offloads(ns, interface, true);
        }
    }
}

#[test]
fn totals_outlive_relayd() {
    for rules in [user(), RANGE.to_owned()] {
        let world = World::new();
        let mut daemon = world.start(&rules);
        let _servers = servers(&world);
        FAMILIES.into_iter().for_each(|relay| streams(&world, relay));
        let before = of_rule(&daemon);
        assert!(before[1] > 2 * LENGTH && before[3] > 2 * LENGTH, "{before:?}");
        daemon.kill();
        daemon.start_again(&world.relay);
        let after = of_rule(&daemon);
        assert!((0..4).all(|at| after[at] >= before[at]), "{before:?} {after:?}");
        FAMILIES.into_iter().for_each(|relay| streams(&world, relay));
        let more = grown(after, of_rule(&daemon));
        assert!(more[1] > 2 * LENGTH && more[1] < 3 * LENGTH, "once each: {more:?}");
    }
}

/// The range holds the ports that relayd's own connections to backends go out from.
const RANGE: &str =
    "[[rule]]\nname = \"web\"\nlisten = \":8080-60000\"\nto = \"203.0.113.2:80\"\nplane = \"user\"\n";

#[test]
fn a_range_of_shared_sockets_counts_what_its_clients_interface_counts() {
    let world = World::new();
    without_offloads(&world);
    let daemon = world.start(RANGE);
    let _servers = servers(&world);
    for relay in FAMILIES {
        compare(&world, &daemon, &format!("TCP to {relay}"), || streams(&world, relay));
        compare(&world, &daemon, &format!("UDP to {relay}"), || datagrams(&world, relay));
        compare(&world, &daemon, &format!("short connections to {relay}"), || {
            for _ in 0..400 {
                let client = Client::connect(&world.client, (relay, 8080)).expect("connect");
                client.seen_as().expect("an answer");
            }
        });
    }
    // who ends a connection first keeps it in TIME_WAIT, where the client's next one finds it
    compare(&world, &daemon, "connections from the same port", || {
        for _ in 0..50 {
            let client = Client::connect_from(&world.client, 4000, (RELAY, 8080)).expect("connect");
            client.seen_as().expect("an answer");
        }
    });
}

/// What comes to a port of the range that a program of the host has, or goes out from one, is the program's.
#[test]
fn on_ports_of_shared_sockets_only_the_rules_own_packets_are_counted() {
    let world = World::new();
    let daemon = world.start(RANGE);
    let _servers = servers(&world);
    for relay in FAMILIES {
        Client::connect(&world.client, (relay, 8080))
            .and_then(|client| client.upload(1 << 20))
            .expect("upload");
    }
    let before = of_rule(&daemon);
    assert!(before[1] > 2 << 20, "{before:?}");
    let _program = tcp_server(&world.relay, 9000);
    let _other = udp_server(&world.relay, 9001);
    let _clients = tcp_server(&world.client, 9000);
    for (relay, client) in FAMILIES.into_iter().zip([IpAddr::V4(CLIENT), IpAddr::V6(CLIENT_V6)]) {
        let inwards = Client::connect(&world.client, (relay, 9000)).expect("connect");
        let outwards = Client::connect(&world.relay, (client, 9000)).expect("connect");
        let from = outwards.0.local_addr().expect("address").port();
        assert!((8080..=60_000).contains(&from), "{from} is outside the range");
        inwards.upload(1 << 20).expect("upload");
        outwards.upload(1 << 20).expect("upload");
        let socket = Datagrams::new(&world.client, SocketAddr::from((relay, 9001)));
        (0..20).for_each(|_| socket.echo_patiently(&text(1000)).expect("echo"));
    }
    let more = grown(before, of_rule(&daemon));
    // where a connection has been closed, its last packets may find the range's own listener
    assert!(more[1] + more[3] < 2000, "{more:?}");
}

/// What has been counted stays counted, and what comes is counted once.
#[test]
fn figures_stay_when_a_rule_moves_to_shared_sockets_and_back() {
    let world = World::new();
    let daemon = world.start(&user());
    let _servers = servers(&world);
    let bytes = || of_rule(&daemon)[1];
    let grows_by_one_upload = |listen: &str| {
        let before = bytes();
        for relay in FAMILIES {
            let client = Client::connect(&world.client, (relay, 8080)).expect("connect");
            client.upload(LENGTH / 2).expect("upload");
        }
        let more = bytes() - before;
        assert!((LENGTH..LENGTH / 10 * 11).contains(&more), "{listen}: {more}");
    };
    grows_by_one_upload(":8080");
    for listen in [":8080-9999", ":8080", ":8080-9999"] {
        let before = bytes();
        daemon.ctl.ok(&["set", "web", &format!("listen={listen}")]);
        assert_eq!(bytes() - before, 0, "{listen}");
        grows_by_one_upload(listen);
    }
}

/// What the host sends to itself passes no interface.
#[test]
fn the_hosts_own_connections_are_flows_without_bytes() {
    let world = World::new();
    let daemon = world.start(WEB);
    let _servers = servers(&world);
    for relay in FAMILIES {
        let client = Client::connect(&world.relay, (relay, 8080)).expect("connect");
        client.upload(1 << 20).expect("upload");
    }
    assert_eq!(daemon.ctl.counter("web", "/flows/total"), 2);
    assert_eq!(of_rule(&daemon), [0; 4]);
}

#[test]
fn counting_goes_on_when_somebody_has_taken_the_program_off() {
    let world = World::new();
    let daemon = world.start(&user());
    let Some(programs) = hooks::tcx_at_egress(&world.relay, "uplink") else {
        return harness::skip("TCX is missing: it needs Linux 6.6");
    };
    assert_eq!(programs, 1);
    let pin = world.folder().join(format!("bpf/abi1/tcx_egress_{}", world.relay.index("uplink")));
    relay::kernel::links::detach(&pin).expect("detach");
    eventually("the program is back", || hooks::tcx_at_egress(&world.relay, "uplink") == Some(1));
    daemon.ctl.ok(&["down"]);
    assert_eq!(hooks::tcx_at_egress(&world.relay, "uplink"), Some(0));
}
