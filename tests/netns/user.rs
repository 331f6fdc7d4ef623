//! The user plane: everything that the kernel plane does not carry, in the same rules.

use std::net::{IpAddr, SocketAddr};

use harness::World;
use harness::traffic::{Client, Datagrams, tcp_server, text, udp_server};
use harness::world::{RELAY, RELAY_INSIDE, RELAY_INSIDE_V6, RELAY_V6};

const WEB: &str = "[[rule]]\nname = \"web\"\nlisten = \":8080\"\nto = \"203.0.113.2:80\"\n";

#[test]
fn one_rule_serves_both_families() {
    let world = World::new();
    let daemon = world.start(WEB);
    let rule = daemon.ctl.rule("web");
    assert_eq!(rule["plane"]["ipv4"]["plane"], "kernel", "{rule}");
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
    let daemon = world
        .start(&format!("{WEB}[[rule]]\nname = \"other\"\nlisten = \":8081\"\nto = \"203.0.113.2:80\"\n"));
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
