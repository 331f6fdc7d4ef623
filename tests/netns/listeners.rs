//! Where rules listen: addresses, interfaces, ranges, and what they leave to others.

use std::io::ErrorKind;
use std::net::{Ipv4Addr, TcpListener, UdpSocket};

use harness::World;
use harness::netns::cable;
use harness::traffic::{Client, Datagrams, PATIENCE, tcp_server, text, udp_server};
use harness::world::{BACKEND, CLIENT, RELAY, RELAY_INSIDE};
use harness::{NetNs, eventually};

const SECOND: Ipv4Addr = Ipv4Addr::new(198, 51, 100, 11);

#[test]
fn ranges_shift_by_a_constant_from_edge_to_edge() {
    let world = World::new();
    let daemon = world.start(
        "[[rule]]\nname = \"range\"\nlisten = \":10000-19000\"\nto = \"203.0.113.2:20000\"\n\
         [[rule]]\nname = \"same\"\nlisten = \":30000-30100\"\nto = \"203.0.113.2\"\n",
    );
    let _servers: Vec<_> = [20000, 23456, 29000, 30000, 30100]
        .into_iter()
        .map(|port| (tcp_server(&world.backend, port), udp_server(&world.backend, port)))
        .collect();
    for port in [10000, 13456, 19000, 30000, 30100] {
        Client::connect(&world.client, (RELAY, port)).and_then(Client::seen_as).expect("through the range");
        Datagrams::new(&world.client, (RELAY, port)).echo(&text(50)).expect("through the range");
    }
    for port in [9999, 19001, 29999, 30101] {
        let refused = Client::connect(&world.client, (RELAY, port)).expect_err("outside");
        assert_eq!(refused.kind(), ErrorKind::ConnectionRefused, "port {port}");
    }
    assert_eq!(daemon.ctl.counter("range", "/flows/total"), 6);
    assert_eq!(daemon.ctl.counter("same", "/flows/total"), 4);
}

#[test]
fn a_range_leaves_its_ports_to_programs_that_come_later() {
    let world = World::new();
    let _daemon =
        world.start("[[rule]]\nname = \"range\"\nlisten = \":10000-19000\"\nto = \"203.0.113.2\"\n");
    let _backend = tcp_server(&world.backend, 15000);
    let _local = tcp_server(&world.relay, 15001);
    let through = Client::connect(&world.client, (RELAY, 15000)).and_then(Client::seen_as).expect("range");
    assert_eq!(through.ip(), RELAY_INSIDE);
    let direct = Client::connect(&world.client, (RELAY, 15001)).and_then(Client::seen_as).expect("local");
    assert_eq!(direct.ip(), CLIENT, "a program of the relay itself answers");
}

/// A client's UDP socket, whose port the kernel has chosen, is no reason to refuse a range, and gets its answers; what
/// listens there on purpose is one.
#[test]
fn a_range_is_not_refused_for_a_clients_socket() {
    let world = World::new();
    world.relay.sysctl("net/ipv4/ip_local_port_range", "41000 42000");
    let on = |port| world.relay.run(move || UdpSocket::bind((Ipv4Addr::UNSPECIFIED, port))).expect("bind");
    let (resolver, server) = (on(41234), on(40999));
    let listener = world.relay.run(|| TcpListener::bind(("0.0.0.0", 41500))).expect("bind");
    let daemon = world.start("");
    let add = |listen: &str, protocol| {
        daemon.ctl.run(&["add", listen, "203.0.113.2", "--protocol", protocol, "--name", "range"])
    };
    for (listen, protocol, port) in [
        ("41234", "udp", "41234/udp"),
        ("40000-42000", "udp", "40999/udp"),
        ("41000-42000", "tcp+udp", "41500/tcp"),
    ] {
        let said = add(listen, protocol);
        assert!(
            said.code == 1 && said.err.contains(&format!("port {port} is in use by")),
            "{listen}: {said:?}"
        );
    }
    drop((server, listener));
    assert_eq!(add("40000-42000", "udp").code, 0);
    let _backend = udp_server(&world.backend, 41235);
    Datagrams::new(&world.client, (RELAY, 41235)).echo(&text(10)).expect("the range is carried");
    let answers = || {
        let client = Datagrams::new(&world.client, (RELAY, 41234));
        client.0.send(b"an answer").expect("send");
        resolver.set_read_timeout(Some(PATIENCE)).expect("timeout");
        let mut buffer = [0; 16];
        assert_eq!(resolver.recv(&mut buffer).expect("the socket gets what is for it"), 9);
    };
    answers();
    daemon.ctl.ok(&["drain", "range"]);
    answers();
    assert_eq!(daemon.ctl.rule("range")["counters"]["drops"], serde_json::json!({}));
}

#[test]
fn several_listeners_on_addresses_interfaces_and_everywhere() {
    let world = World::new();
    world.relay.add_address("uplink", SECOND, 24);
    let daemon = world.start(
        "[[rule]]\nname = \"first\"\nlisten = \"198.51.100.1:80\"\nto = \"203.0.113.2:8001\"\n\
         [[rule]]\nname = \"second\"\nlisten = \"198.51.100.11:80\"\nto = \"203.0.113.2:8002\"\n\
         [[rule]]\nname = \"inside\"\nlisten = \"%inside:81\"\nto = \"203.0.113.2:8003\"\n\
         [[rule]]\nname = \"list\"\nlisten = [\":90\", \"198.51.100.1:91\", \"92-93\"]\nto = \"203.0.113.2:8004\"\n",
    );
    let _servers: Vec<_> = (8001..=8005).map(|port| tcp_server(&world.backend, port)).collect();
    let total = |rule: &str| daemon.ctl.counter(rule, "/flows/total");
    let try_one = |to, port| Client::connect(&world.client, (to, port)).and_then(Client::seen_as);
    try_one(RELAY, 80).expect("first address");
    assert_eq!((total("first"), total("second")), (1, 0));
    try_one(SECOND, 80).expect("second address");
    assert_eq!((total("first"), total("second")), (1, 1));
    assert_eq!(try_one(RELAY, 81).expect_err("other interface").kind(), ErrorKind::ConnectionRefused);
    for (to, port) in [(RELAY, 90), (SECOND, 90), (RELAY, 91), (SECOND, 92), (RELAY, 93)] {
        if port == 93 {
            continue;
        }
        try_one(to, port).unwrap_or_else(|error| panic!("{to}:{port}: {error}"));
    }
    try_one(RELAY, 93).expect("the end of the list's range");
    assert_eq!(try_one(SECOND, 91).expect_err("not this address").kind(), ErrorKind::ConnectionRefused);
    assert_eq!(total("list"), 5);
}

#[test]
fn an_interface_listener_takes_what_comes_in_there() {
    let world = World::new();
    let other = NetNs::new("other");
    cable((&other, "other"), (&world.relay, "second"));
    world.relay.add_address("second", Ipv4Addr::new(192, 0, 2, 1), 24);
    other.add_address("other", Ipv4Addr::new(192, 0, 2, 2), 24);
    let daemon =
        world.start("[[rule]]\nname = \"here\"\nlisten = \"%second:80\"\nto = \"203.0.113.2:8003\"\n");
    let _server = tcp_server(&world.backend, 8003);
    Client::connect(&other, (Ipv4Addr::new(192, 0, 2, 1), 80))
        .and_then(Client::seen_as)
        .expect("comes in there");
    let refused = Client::connect(&world.client, (RELAY, 80)).expect_err("comes in elsewhere");
    assert_eq!(refused.kind(), ErrorKind::ConnectionRefused);
    assert_eq!(daemon.ctl.counter("here", "/flows/total"), 1);
}

#[test]
fn transit_to_another_hosts_same_port_is_left_alone() {
    let world = World::new();
    world.relay.sysctl("net/ipv4/ip_forward", "1");
    let daemon = world.start("[[rule]]\nname = \"web\"\nlisten = \":80\"\nto = \"203.0.113.2:8080\"\n");
    let _server = tcp_server(&world.backend, 80);
    let _datagrams = udp_server(&world.backend, 80);
    let seen = Client::connect(&world.client, (BACKEND, 80)).and_then(Client::seen_as).expect("routed");
    assert_eq!(seen.ip(), CLIENT, "nothing is translated on the way");
    Datagrams::new(&world.client, (BACKEND, 80)).echo(&text(10)).expect("routed");
    assert_eq!(daemon.ctl.counter("web", "/ingress/packets"), 0);
}

#[test]
fn addresses_come_and_go() {
    let world = World::new();
    let daemon = world.start("[[rule]]\nname = \"web\"\nlisten = \":80\"\nto = \"203.0.113.2:8080\"\n");
    let _server = tcp_server(&world.backend, 8080);
    world.relay.add_address("uplink", SECOND, 24);
    eventually("the new address listens", || {
        Client::connect(&world.client, (SECOND, 80)).and_then(Client::seen_as).is_ok()
    });
    world.relay.delete_address("uplink", SECOND);
    eventually("the deleted address is left alone", || {
        let before = daemon.ctl.counter("web", "/flows/total");
        let limit = std::time::Duration::from_millis(200);
        let _nobody = Client::connect_within(&world.client, (SECOND, 80), limit);
        daemon.ctl.counter("web", "/flows/total") == before
    });
    // a rule on an address that comes later waits for it
    let text = "[[rule]]\nname = \"late\"\nlisten = \"198.51.100.12:81\"\nto = \"203.0.113.2:8080\"\n";
    let mut config = std::fs::read_to_string(&daemon.config).expect("config");
    config.push_str(text);
    std::fs::write(&daemon.config, config).expect("config");
    daemon.ctl.fails(5, &["reload"]);
    assert_eq!(daemon.ctl.rule("late")["state"], "error");
    let late = Ipv4Addr::new(198, 51, 100, 12);
    world.relay.add_address("uplink", late, 24);
    eventually("the late address listens", || {
        Client::connect(&world.client, (late, 81)).and_then(Client::seen_as).is_ok()
    });
    eventually("and the rule is whole", || daemon.ctl.rule("late")["state"] == "active");
}

#[test]
fn drain_disable_and_enable() {
    let world = World::new();
    let daemon = world.start("[[rule]]\nname = \"web\"\nlisten = \":80\"\nto = \"203.0.113.2:8080\"\n");
    let (_tcp, _udp) = (tcp_server(&world.backend, 8080), udp_server(&world.backend, 8080));
    let connect = || Client::connect(&world.client, (RELAY, 80));
    let mut old = connect().and_then(Client::start_echo).expect("connect");
    let datagrams = Datagrams::new(&world.client, (RELAY, 80));
    old.echo(&text(10)).expect("echo");
    datagrams.echo(&text(10)).expect("echo");
    daemon.ctl.ok(&["drain", "web"]);
    assert_eq!(daemon.ctl.rule("web")["state"], "draining");
    assert_eq!(connect().expect_err("draining").kind(), ErrorKind::ConnectionRefused);
    assert!(Datagrams::new(&world.client, (RELAY, 80)).echo(&text(5)).is_err(), "draining");
    old.echo(&text(1000)).expect("old flows go on");
    datagrams.echo(&text(10)).expect("old flows go on");
    daemon.ctl.ok(&["enable", "web"]);
    connect().and_then(Client::seen_as).expect("taken up again");
    old.echo(&text(1000)).expect("old flows go on");
    daemon.ctl.ok(&["disable", "web"]);
    assert_eq!(connect().expect_err("disabled").kind(), ErrorKind::ConnectionRefused);
    // by a sweep, which the change has asked for
    eventually("its flows have ended", || old.echo(&text(1000)).is_err());
    eventually("no flow is left", || daemon.ctl.counter("web", "/flows/active") == 0);
    // a disabled rule does not hold its port
    world.relay.run(|| TcpListener::bind((RELAY, 80))).expect("the port is free");
    daemon.ctl.ok(&["enable", "web"]);
    connect().and_then(Client::seen_as).expect("enabled");
}
