//! The main job: traffic through a rule arrives, both ways, unchanged and counted.

use harness::World;
use harness::traffic::{Client, Datagrams, tcp_server, text, udp_server};
use harness::world::{RELAY, RELAY_INSIDE};

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
    assert_eq!(*seen.ip(), RELAY_INSIDE, "the backend sees the relay");
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
    assert_eq!(daemon.ctl.counter("web", "/flows/active"), 1);
}
