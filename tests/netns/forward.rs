//! The main job: traffic through a rule arrives, both ways, unchanged and counted.

use std::collections::HashSet;
use std::io::{Read as _, Write as _};
use std::net::Shutdown;

use harness::traffic::{Client, Datagrams, tcp_server, text, udp_server};
use harness::world::{RELAY, RELAY_INSIDE};
use harness::{World, eventually};

const RULE: &str = "[[rule]]\nname = \"web\"\nlisten = \":8080\"\nto = \"203.0.113.2:80\"\n";

#[test]
fn tcp_both_ways_with_content_checked() {
    let world = World::new();
    let daemon = world.start(RULE);
    let _server = tcp_server(&world.backend, 80);
    let connect = || Client::connect(&world.client, (RELAY, 8080)).expect("connect");
    connect().upload(64 << 20).expect("upload");
    connect().download(64 << 20).expect("download");
    let seen = connect().seen_as().expect("who");
    assert_eq!(seen.ip(), RELAY_INSIDE, "the backend sees the relay");
    assert!((1024..32768).contains(&seen.port()), "{seen}");
    let rule = daemon.ctl.rule("web");
    assert!(daemon.ctl.counter("web", "/ingress/bytes") > 64 << 20, "{rule}");
    assert!(daemon.ctl.counter("web", "/egress/bytes") > 64 << 20, "{rule}");
    assert_eq!(daemon.ctl.counter("web", "/flows/total"), 3, "{rule}");
}

#[test]
fn udp_of_many_sizes() {
    let world = World::new();
    let daemon = world.start(RULE);
    let _server = udp_server(&world.backend, 80);
    let socket = Datagrams::new(&world.client, (RELAY, 8080));
    for size in [0, 1, 2, 17, 512, 1200, 1471, 1472] {
        socket.echo(&text(size)).unwrap_or_else(|error| panic!("{size} bytes: {error}"));
    }
    assert_eq!(daemon.ctl.counter("web", "/ingress/packets"), 8);
    assert_eq!(daemon.ctl.counter("web", "/egress/packets"), 8);
    let bytes: u64 = [0u64, 1, 2, 17, 512, 1200, 1471, 1472].iter().map(|size| size + 28).sum();
    assert_eq!(daemon.ctl.counter("web", "/ingress/bytes"), bytes);
    eventually("the flow is counted", || daemon.ctl.counter("web", "/flows/active") == 1);
}

#[test]
fn many_flows_at_once_each_with_a_port_of_its_own() {
    let world = World::new();
    let daemon = world.start(RULE);
    let (_tcp, _udp) = (tcp_server(&world.backend, 80), udp_server(&world.backend, 80));
    let mut connections: Vec<Client> = (0..150)
        .map(|_| Client::connect(&world.client, (RELAY, 8080)).and_then(Client::start_echo).expect("connect"))
        .collect();
    let sockets: Vec<Datagrams> = (0..150).map(|_| Datagrams::new(&world.client, (RELAY, 8080))).collect();
    for round in 1..4 {
        for (index, connection) in connections.iter_mut().enumerate() {
            connection.echo(&text(100 * round + index)).expect("echo");
        }
        for (index, socket) in sockets.iter().enumerate() {
            socket.echo(&text(100 * round + index)).expect("echo");
        }
    }
    eventually("all are counted", || daemon.ctl.counter("web", "/flows/active") == 300);
    assert_eq!(daemon.ctl.counter("web", "/flows/total"), 300);
    let seen: HashSet<_> = (0..100)
        .map(|_| Client::connect(&world.client, (RELAY, 8080)).and_then(Client::seen_as).expect("who").port())
        .collect();
    assert_eq!(seen.len(), 100, "every flow has a source port of its own");
}

#[test]
fn an_end_may_finish_sending_before_the_other() {
    let world = World::new();
    let _daemon = world.start(RULE);
    let _server = tcp_server(&world.backend, 80);
    let mut client =
        Client::connect(&world.client, (RELAY, 8080)).and_then(Client::start_echo).expect("connect");
    let payload = text(3 << 20);
    std::thread::scope(|scope| {
        let mut writer = client.0.try_clone().expect("clone");
        scope.spawn({
            let payload = &payload;
            move || {
                writer.write_all(payload).expect("write");
                writer.shutdown(Shutdown::Write).expect("shutdown");
            }
        });
        let mut back = Vec::new();
        client.0.read_to_end(&mut back).expect("read");
        assert!(back == payload, "{} of {} bytes came back", back.len(), payload.len());
    });
}

#[test]
fn refusals_of_the_backend_reach_the_client() {
    let world = World::new();
    let daemon = world.start(RULE);
    let refused = Client::connect(&world.client, (RELAY, 8080)).expect_err("nobody listens");
    assert_eq!(refused.kind(), std::io::ErrorKind::ConnectionRefused);
    // port unreachable, translated both outside and in its quote, or the socket would not believe it
    let socket = Datagrams::new(&world.client, (RELAY, 8080));
    let refused = socket.echo(&text(10)).expect_err("nobody listens");
    assert_eq!(refused.kind(), std::io::ErrorKind::ConnectionRefused);
    assert_eq!(daemon.ctl.counter("web", "/egress/packets"), 2);
}

#[test]
fn a_name_is_resolved_when_the_rule_is_loaded() {
    let world = World::new();
    let daemon = world.start("[[rule]]\nname = \"named\"\nlisten = \":8081\"\nto = \"localhost:80\"\n");
    // localhost is the relay itself, which the kernel plane cannot carry
    let rule = daemon.ctl.rule("named");
    assert_eq!(rule["to"][0]["resolved"], "127.0.0.1", "{rule}");
    assert_eq!(rule["plane"]["ipv4"]["plane"], "user", "{rule}");
    assert!(rule["plane"]["ipv4"]["reason"].is_string(), "{rule}");
    let _server = tcp_server(&world.relay, 80);
    Client::connect(&world.client, (RELAY, 8081)).and_then(|client| client.upload(1 << 20)).expect("upload");
}
