//! Who is let in: allow lists and limits, with real clients, on both planes, while rules change and relayd dies.

use std::net::{IpAddr, Ipv4Addr, SocketAddr};
use std::time::Duration;

use harness::netns::NetNs;
use harness::packet::{Packet, SYN, Segment};
use harness::raw::Wire;
use harness::traffic::{Client, Datagrams, tcp_server, text, udp_server};
use harness::world::{RELAY, RELAY_V6};
use harness::{Daemon, Load, World, eventually};

const RULE: &str = "[[rule]]\nname = \"web\"\nlisten = \":8080\"\nto = \"203.0.113.2:80\"\n";
const BOTH: &str = "accept = { allow = [\"198.51.100.0/24\", \"2001:db8:1::/64\"] }\n";

/// The rule's listeners by plane, which a test has to choose.
const LISTENERS: [(&str, IpAddr); 3] =
    [("kernel", IpAddr::V4(RELAY)), ("kernel", IpAddr::V6(RELAY_V6)), ("user", IpAddr::V6(RELAY_V6))];

/// How long somebody waits who is perhaps not let in: a SYN that is lost is sent again after a second.
const LIMIT: Duration = Duration::from_millis(1500);

/// An echoing connection; the backend answers only who is let in.
fn connect(ns: &NetNs, to: IpAddr) -> std::io::Result<Client> {
    let client = Client::connect_within(ns, SocketAddr::from((to, 8080)), LIMIT)?;
    client.0.set_read_timeout(Some(LIMIT))?;
    let mut client = client.start_echo()?;
    client.echo(b"hello")?;
    client.0.set_read_timeout(Some(Duration::from_secs(5)))?;
    Ok(client)
}

fn datagram(ns: &NetNs, to: IpAddr) -> std::io::Result<Datagrams> {
    let socket = Datagrams::new(ns, (to, 8080));
    socket.0.set_read_timeout(Some(LIMIT))?;
    socket.echo(b"hello")?;
    socket.echo(b"proof")?;
    Ok(socket)
}

fn drops(daemon: &Daemon, reason: &str) -> u64 {
    daemon.ctl.rule("web")["counters"]["drops"][reason].as_u64().unwrap_or(0)
}

#[test]
fn lists_hold_on_both_planes_and_change_live() {
    let world = World::new();
    let daemon = world.start(&format!("{RULE}{BOTH}"));
    let (_tcp, _udp) = (tcp_server(&world.backend, 80), udp_server(&world.backend, 80));
    for (plane, to) in LISTENERS {
        let plane = format!("plane={plane}");
        daemon.ctl.ok(&["set", "web", &plane, "accept.allow=198.51.100.0/24,2001:db8:1::/64"]);
        let mut tcp = connect(&world.client, to).unwrap_or_else(|error| panic!("{plane}: {error}"));
        let udp = datagram(&world.client, to).unwrap_or_else(|error| panic!("{plane}: {error}"));
        daemon.ctl.ok(&["set", "web", "accept.allow+=192.0.2.0/24"]);
        tcp.echo(&text(1000)).expect("the list has only grown");
        udp.echo(&text(1000)).expect("the list has only grown");
        let before = drops(&daemon, "not_allowed");
        daemon.ctl.ok(&["set", "web", "accept.allow=192.0.2.0/24"]);
        assert!(connect(&world.client, to).is_err(), "{plane}: a new connection");
        assert!(datagram(&world.client, to).is_err(), "{plane}: a new datagram");
        assert!(drops(&daemon, "not_allowed") >= before + 2, "{plane}");
        eventually("the old connection is reset", || tcp.echo(b"still?").is_err());
        udp.echo(b"still?").expect_err("the old UDP flow has ended");
        daemon.ctl.ok(&["set", "web", "accept.allow="]);
        connect(&world.client, to).unwrap_or_else(|error| panic!("{plane}: everybody: {error}"));
        udp.echo_patiently(b"again").unwrap_or_else(|error| panic!("{plane}: everybody: {error}"));
    }
    let explained = daemon.ctl.ok(&["set", "web", "accept.allow=192.0.2.0/24", "limit.connections=9"])
        + &daemon.ctl.ok(&["explain", "web"]);
    assert!(explained.contains("only clients of 192.0.2.0/24 are let in"), "{explained}");
    assert!(explained.contains("at most 9 connections at once"), "{explained}");
}

/// The kernel plane asks everybody, and counts, while nobody watches it.
#[test]
fn a_dead_relayd_lets_nobody_in_either() {
    let world = World::new();
    let second = Ipv4Addr::new(198, 51, 100, 77);
    world.client.add_address("client", second, 24);
    let limits = "limit = { connections = 2 }\naccept = { allow = \"198.51.100.2\" }\n";
    let mut daemon = world.start(&format!("{RULE}{limits}"));
    let _tcp = tcp_server(&world.backend, 80);
    let mut first = connect(&world.client, RELAY.into()).expect("one");
    daemon.kill();
    let mut other = connect(&world.client, RELAY.into()).expect("two");
    connect(&world.client, RELAY.into()).expect_err("three");
    assert!(is_ignored(&world, second), "not on the list");
    other.echo(b"hello").expect("echo");
    drop(other);
    eventually("a place is free", || connect(&world.client, RELAY.into()).is_ok());
    daemon.start_again(&world.relay);
    first.echo(b"hello").expect("echo");
    let mut last = connect(&world.client, RELAY.into()).expect("two again");
    connect(&world.client, RELAY.into()).expect_err("relayd knows who was there before");
    assert!(drops(&daemon, "limit_connections") >= 2, "both are counted");
    daemon.ctl.ok(&["set", "web", "limit.connections="]);
    assert!(is_ignored(&world, second), "not on the list");
    assert!(drops(&daemon, "not_allowed") >= 1);
    first.echo(b"hello").and_then(|()| last.echo(b"hello")).expect("nobody was disturbed");
}

/// Whether a client with this address gets no answer.
fn is_ignored(world: &World, source: Ipv4Addr) -> bool {
    let wire = Wire::new(&world.client, "client");
    let mut packet = Packet::tcp((source, 5555), (RELAY, 8080), &Segment::flags(SYN).at(77, 0));
    packet.destination_mac = world.relay.mac("uplink");
    wire.send(&packet.frame());
    let answers = |packet: &Packet| packet.destination == source && packet.source == RELAY;
    wire.next_within(Duration::from_millis(500), answers).is_none()
}

#[test]
fn one_limit_for_both_planes() {
    let world = World::new();
    let mut daemon = world.start(&format!("{RULE}limit = {{ connections = 3 }}\n"));
    let (_tcp, _udp) = (tcp_server(&world.backend, 80), udp_server(&world.backend, 80));
    // what the host sends to itself is relayd's
    let [kernel, kernel_v6, user] = [
        (&world.client, IpAddr::from(RELAY)),
        (&world.client, RELAY_V6.into()),
        (&world.relay, RELAY.into()),
    ];
    let mut stays = connect(kernel.0, kernel.1).expect("the kernel's");
    let session = connect(user.0, user.1).expect("relayd's");
    let socket = datagram(user.0, user.1).expect("relayd's");
    for (ns, to) in [kernel, kernel_v6, user] {
        connect(ns, to).expect_err("a fourth");
        datagram(ns, to).expect_err("a fourth");
    }
    assert!(drops(&daemon, "limit_connections") >= 6);
    socket.echo(b"hello").expect("who is in stays in");
    drop(session);
    let mut fourth = None;
    eventually("relayd's place is the kernel's now", || {
        fourth = connect(kernel_v6.0, kernel_v6.1).ok();
        fourth.is_some()
    });
    connect(user.0, user.1).expect_err("a fifth");
    // relayd's sessions die with it
    daemon.kill();
    daemon.start_again(&world.relay);
    let again = connect(user.0, user.1).expect("the dead session's place");
    connect(kernel.0, kernel.1).expect_err("three are there");
    drop((fourth, again));
    stays.echo(b"hello").expect("echo");
    eventually("places are free", || connect(user.0, user.1).is_ok());
}

#[test]
fn limits_of_an_address_and_of_the_pace() {
    let world = World::new();
    let limits = "limit = { connections_per_ip = 2 }\n";
    let daemon = world.start(&format!("{RULE}{limits}"));
    let (_tcp, _udp) = (tcp_server(&world.backend, 80), udp_server(&world.backend, 80));
    for (plane, to) in LISTENERS {
        daemon.ctl.ok(&["set", "web", &format!("plane={plane}")]);
        let held = [(); 2].map(|()| connect(&world.client, to).expect("two of each"));
        let before = drops(&daemon, "limit_connections_per_ip");
        connect(&world.client, to).expect_err(plane);
        assert!(drops(&daemon, "limit_connections_per_ip") > before, "{plane}");
        drop(held);
        eventually("places are free", || connect(&world.client, to).is_ok());
    }
    for (limit, reason) in
        [("limit.new_flows=5", "limit_new_flows"), ("limit.new_flows_per_ip=5", "limit_new_flows_per_ip")]
    {
        daemon.ctl.ok(&["set", "web", "limit="]);
        daemon.ctl.ok(&["set", "web", limit]);
        for (plane, to) in LISTENERS {
            daemon.ctl.ok(&["set", "web", &format!("plane={plane}")]);
            let before = drops(&daemon, reason);
            eventually(&format!("{plane}: a burst is too fast"), || {
                let sockets: Vec<Datagrams> =
                    (0..50).map(|_| Datagrams::new(&world.client, (to, 8080))).collect();
                sockets.iter().for_each(|socket| drop(socket.0.send(b"hello")));
                drops(&daemon, reason) > before
            });
            eventually(&format!("{plane}: slowly is fine"), || datagram(&world.client, to).is_ok());
        }
    }
}

#[test]
fn a_flood_of_strangers_harms_nobody_else() {
    let world = World::new();
    let guarded = "[[rule]]\nname = \"guarded\"\nlisten = \":9090\"\nto = \"203.0.113.2:90\"\n\
                   accept = { allow = \"192.0.2.0/24\" }\nlimit = { connections = 10, new_flows_per_ip = 5 }\n";
    let daemon = world.start(&format!("{RULE}{guarded}"));
    let (_tcp, _udp) = (tcp_server(&world.backend, 80), udp_server(&world.backend, 80));
    let load = Load::new()
        .with_connections(&world.client, (RELAY, 8080), 10)
        .with_newcomers(&world.client, (RELAY, 8080))
        .with_datagrams(&world.client, (RELAY, 8080));
    load.run_on(100);
    let syn = Segment::flags(SYN).at(77, 0);
    world.flood(40_000, |_, source| Packet::tcp(source, (RELAY, 9090), &syn));
    load.run_on(200);
    load.finish();
    assert!(daemon.ctl.counter("guarded", "/drops/not_allowed") > 20_000);
    assert_eq!(daemon.ctl.counter("guarded", "/flows/total"), 0);
    let other = daemon.ctl.rule("web");
    assert_eq!(other["counters"]["drops"], serde_json::json!({}), "{other}");
}
