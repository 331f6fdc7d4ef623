//! The user plane: everything that the kernel plane does not carry, in the same rules.

use std::net::{IpAddr, Ipv6Addr, SocketAddr, SocketAddrV6};

use harness::daemon::settings;
use harness::netns::{NetNs, cable};
use harness::traffic::{Client, Datagrams, tcp_server, text, udp_server};
use harness::world::{RELAY, RELAY_INSIDE, RELAY_INSIDE_V6, RELAY_V6};
use harness::{World, eventually};

const WEB: &str = "[[rule]]\nname = \"web\"\nlisten = \":8080\"\nto = \"203.0.113.2:80\"\n";
const BY_USER: &str =
    "[[rule]]\nname = \"web\"\nlisten = \":8080\"\nto = \"203.0.113.2:80\"\nplane = \"user\"\n";

#[test]
fn one_rule_serves_both_families() {
    let world = World::new();
    let daemon = world.start(BY_USER);
    let rule = daemon.ctl.rule("web");
    assert_eq!(rule["plane"]["ipv4"]["plane"], "user", "{rule}");
    assert_eq!(rule["plane"]["ipv6"]["plane"], "user", "{rule}");
    assert_eq!(rule["state"], "active", "{rule}");
    let (_tcp, _udp) = (tcp_server(&world.backend, 80), udp_server(&world.backend, 80));
    for to in [SocketAddr::from((RELAY, 8080)), SocketAddr::from((RELAY_V6, 8080))] {
        let connect = || Client::connect(&world.client, to).expect("connect");
        assert_eq!(connect().seen_as().expect("seen").ip(), RELAY_INSIDE, "{to}");
        connect().upload(4 << 20).expect("upload");
        connect().download(4 << 20).expect("download");
        let socket = Datagrams::new(&world.client, to);
        for size in [0, 1, 512, 1400, 9000, 60_000] {
            socket.echo(&text(size)).unwrap_or_else(|error| panic!("{to}: {size} bytes: {error}"));
        }
    }
    let rule = daemon.ctl.rule("web");
    assert_eq!(rule["counters"]["flows"]["total"], 8, "{rule}");
    assert_eq!(rule["counters"]["drops"], serde_json::json!({}), "{rule}");
}

#[test]
fn every_pair_of_families() {
    let world = World::new();
    let (_tcp, _udp) = (tcp_server(&world.backend, 80), udp_server(&world.backend, 80));
    for (to, seen) in [
        ("203.0.113.2:80", IpAddr::from(RELAY_INSIDE)),
        ("[2001:db8:2::2]:80", IpAddr::from(RELAY_INSIDE_V6)),
    ] {
        let daemon = world.start(&format!(
            "[[rule]]\nname = \"web\"\nlisten = \":8080\"\nto = \"{to}\"\nplane = \"user\"\n"
        ));
        for listener in [SocketAddr::from((RELAY, 8080)), SocketAddr::from((RELAY_V6, 8080))] {
            let connect = || Client::connect(&world.client, listener).expect("connect");
            assert_eq!(connect().seen_as().expect("seen").ip(), seen, "{listener}");
            connect().upload(1 << 20).expect("upload");
            Datagrams::new(&world.client, listener).echo(&text(1000)).expect("echo");
        }
        drop(daemon);
    }
}

#[test]
fn a_backend_on_the_relay_itself_and_clients_there() {
    let world = World::new();
    let _server = tcp_server(&world.relay, 81);
    let _daemon = world.start(
        "[[rule]]\nname = \"own\"\nlisten = \":8080\"\nto = \"127.0.0.1:81\"\n\
         [[rule]]\nname = \"local\"\nlisten = \"127.0.0.1:8081\"\nto = \"203.0.113.2:80\"\n",
    );
    let _backend = tcp_server(&world.backend, 80);
    Client::connect(&world.client, (RELAY, 8080))
        .and_then(|client| client.upload(1 << 20))
        .expect("from outside");
    let local = ([127, 0, 0, 1], 8081);
    Client::connect(&world.relay, local).and_then(|client| client.upload(1 << 20)).expect("from the relay");
    // the kernel plane's rule, too, is there for the relay's own connections
    Client::connect(&world.relay, (RELAY, 8080))
        .and_then(|client| client.upload(1 << 20))
        .expect("from itself");
}

#[test]
fn a_range_on_both_families() {
    let world = World::new();
    let _daemon =
        world.start("[[rule]]\nname = \"range\"\nlisten = \":9000-9009\"\nto = \"203.0.113.2:7000\"\n");
    let _server = tcp_server(&world.backend, 7004);
    for to in [SocketAddr::from((RELAY, 9004)), SocketAddr::from((RELAY_V6, 9004))] {
        Client::connect(&world.client, to).and_then(|client| client.upload(1 << 20)).expect("upload");
    }
}

#[test]
fn a_rule_that_ends_takes_its_sessions_along_and_others_stay() {
    let world = World::new();
    let daemon = world.start(&[BY_USER, &BY_USER.replace("web", "other").replace("8080", "8081")].concat());
    let _server = tcp_server(&world.backend, 80);
    let begin = |port| {
        let client = Client::connect(&world.client, (RELAY_V6, port)).expect("connect");
        client.start_echo().expect("echo")
    };
    let (mut mine, mut other) = (begin(8080), begin(8081));
    mine.echo(b"hello").expect("echo");
    other.echo(b"hello").expect("echo");
    daemon.ctl.ok(&["set", "web", "to=203.0.113.2:90"]);
    mine.echo(b"still").expect("a session keeps its backend");
    daemon.ctl.ok(&["disable", "web"]);
    assert!(Client::connect(&world.client, (RELAY_V6, 8080)).is_err(), "nothing listens");
    mine.echo(b"still").expect("a session outlives the listener");
    daemon.ctl.ok(&["rm", "web"]);
    assert!(mine.echo(b"gone").is_err());
    other.echo(b"hello").expect("another rule's session");
}

#[test]
fn a_drain_keeps_datagrams_going_and_may_be_called_off() {
    let world = World::new();
    let daemon = world.start(BY_USER);
    let _server = udp_server(&world.backend, 80);
    let known: Vec<Datagrams> = (0..8).map(|_| Datagrams::new(&world.client, (RELAY_V6, 8080))).collect();
    let all_echo = || known.iter().for_each(|client| client.echo(&text(100)).expect("a known client"));
    all_echo();
    daemon.ctl.ok(&["drain", "web"]);
    all_echo();
    Datagrams::new(&world.client, (RELAY_V6, 8080)).echo(b"new").expect_err("nobody new");
    all_echo();
    daemon.ctl.ok(&["enable", "web"]);
    all_echo();
    for _ in 0..8 {
        Datagrams::new(&world.client, (RELAY_V6, 8080)).echo(b"new").expect("everybody again");
    }
    assert!(daemon.ctl.counter("web", "/drops/draining") >= 1);
    daemon.ctl.ok(&["disable", "web"]);
    daemon.ctl.ok(&["enable", "web"]);
    for _ in 0..16 {
        Datagrams::new(&world.client, (RELAY_V6, 8080)).echo(b"new").expect("everybody once more");
    }
}

#[test]
fn an_address_that_comes_later_is_listened_on() {
    let world = World::new();
    let late = Ipv6Addr::new(0x2001, 0xdb8, 1, 0, 0, 0, 0, 9);
    let daemon = world.start(
        "[[rule]]\nname = \"late\"\nlisten = [\"[2001:db8:1::9]:8080\", \"%later:8080\"]\nto = \"203.0.113.2:80\"\n",
    );
    let _server = tcp_server(&world.backend, 80);
    assert_eq!(daemon.ctl.rule("late")["state"], "error");
    world.relay.add_address("uplink", late, 64);
    eventually("it works", || Client::connect(&world.client, (late, 8080)).is_ok());
    // the interface comes, goes, and comes again
    for _ in 0..2 {
        let other = NetNs::new("other");
        cable((&other, "end"), (&world.relay, "later"));
        other.add_address("end", Ipv6Addr::new(0x2001, 0xdb8, 7, 0, 0, 0, 0, 2), 64);
        let relay = Ipv6Addr::new(0x2001, 0xdb8, 7, 0, 0, 0, 0, 1);
        world.relay.add_address("later", relay, 64);
        eventually("the interface is listened on", || Client::connect(&other, (relay, 8080)).is_ok());
        world.relay.delete_link("later");
    }
}

#[test]
fn a_port_moves_from_one_rule_to_another() {
    let world = World::new();
    let daemon = world.start(BY_USER);
    let (_old, _new) = (udp_server(&world.backend, 80), udp_server(&world.backend, 81));
    let (_old_tcp, _new_tcp) = (tcp_server(&world.backend, 80), tcp_server(&world.backend, 81));
    Datagrams::new(&world.client, (RELAY_V6, 8080)).echo(b"before").expect("echo");
    let moved = BY_USER.replace("\"web\"", "\"other\"").replace(":80\"\n", ":81\"\n");
    std::fs::write(&daemon.config, settings(world.folder(), "") + &moved).expect("config");
    daemon.ctl.ok(&["reload"]);
    for _ in 0..16 {
        Datagrams::new(&world.client, (RELAY_V6, 8080)).echo(b"after").expect("echo");
        let client = Client::connect(&world.client, (RELAY_V6, 8080)).expect("connect");
        client.upload(1000).expect("upload");
    }
    assert_eq!(daemon.ctl.counter("other", "/flows/total"), 32);
}

#[test]
fn what_is_sent_to_everybody_is_no_clients() {
    let world = World::new();
    let _daemon = world.start(WEB);
    let server = udp_server(&world.backend, 80);
    let client = Datagrams::new(&world.client, (RELAY, 8080));
    let socket = world.client.run(|| std::net::UdpSocket::bind("0.0.0.0:0")).expect("bind");
    socket.set_broadcast(true).expect("broadcast");
    socket.send_to(b"anybody?", "198.51.100.255:8080").expect("send");
    client.echo(b"hello").expect("echo");
    eventually("the echo is counted", || server.count() > 0);
    assert_eq!(server.count(), 1);
}

#[test]
fn an_interface_listener_takes_ipv6_too_link_local_included() {
    let world = World::new();
    let other = NetNs::new("other");
    cable((&other, "other"), (&world.relay, "second"));
    let global = |last| Ipv6Addr::new(0x2001, 0xdb8, 7, 0, 0, 0, 0, last);
    let local = |last| Ipv6Addr::new(0xfe80, 0, 0, 0, 0, 0, 0, last);
    for (last, ns, interface) in [(1, &world.relay, "second"), (2, &other, "other")] {
        ns.add_address(interface, global(last), 64);
        ns.add_address(interface, local(last), 64);
    }
    let daemon =
        world.start("[[rule]]\nname = \"here\"\nlisten = \"%second:8080\"\nto = \"203.0.113.2:80\"\n");
    let (_tcp, _udp) = (tcp_server(&world.backend, 80), udp_server(&world.backend, 80));
    let near = SocketAddrV6::new(local(1), 8080, 0, other.index("other"));
    for to in [SocketAddr::from((global(1), 8080)), near.into()] {
        Client::connect(&other, to).and_then(|client| client.upload(1 << 20)).expect("upload");
        Datagrams::new(&other, to).echo(&text(1000)).expect("echo");
    }
    assert!(Client::connect(&world.client, (RELAY_V6, 8080)).is_err(), "comes in elsewhere");
    assert_eq!(daemon.ctl.counter("here", "/flows/total"), 4);
}
