//! Watches: ports of the relay host's own programs are counted to the byte, and nothing else happens to them.

use std::fs;
use std::net::SocketAddr;
use std::time::Duration;

use harness::lab::set_offloads;
use harness::traffic::{Client, Datagrams, tcp_server, text, udp_server};
use harness::world::{RELAY, RELAY_V6};
use harness::{Daemon, World, eventually};
use serde_json::json;

const WATCH: &str = "[[watch]]\nname = \"own\"\nnote = \"the proxy\"\nlisten = [\":7000\", \":7100-7200\"]\n";
const RULE: &str = "[[rule]]\nname = \"web\"\nlisten = \":8080\"\nto = \"203.0.113.2:80\"\n";

/// Packets and bytes, in and out.
fn counted(daemon: &Daemon) -> [u64; 4] {
    ["/ingress/packets", "/ingress/bytes", "/egress/packets", "/egress/bytes"]
        .map(|pointer| daemon.ctl.counter("own", pointer))
}

#[test]
fn the_hosts_own_programs_are_counted_and_left_alone() {
    let world = World::new();
    set_offloads(&world.client, "client", false);
    set_offloads(&world.relay, "uplink", false);
    // before relayd, as a server that was there
    let _servers = (tcp_server(&world.relay, 7000), udp_server(&world.relay, 7150));
    let mut daemon = world.start(&[WATCH, RULE].concat());
    for relay in [RELAY.into(), RELAY_V6.into()] {
        let before = counted(&daemon);
        let socket = Datagrams::new(&world.client, SocketAddr::new(relay, 7150));
        (0..20).for_each(|_| socket.echo(&text(452)).expect("an echo"));
        let header = if relay.is_ipv4() { 28 } else { 48 };
        let bytes = 20 * (452 + header);
        let after = counted(&daemon);
        assert_eq!(std::array::from_fn(|at| after[at] - before[at]), [20, bytes, 20, bytes], "{relay}");
    }
    // all that there was but for what neighbours ask each other
    let (before, on_link) = (counted(&daemon), world.relay.traffic("uplink"));
    let client = Client::connect(&world.client, SocketAddr::from((RELAY, 7000))).and_then(Client::start_echo);
    let mut client = client.expect("an echo");
    (0..20).for_each(|_| client.echo(&text(60_000)).expect("an echo"));
    std::thread::sleep(Duration::from_millis(200));
    let (after, sent) = (counted(&daemon), world.relay.traffic("uplink"));
    let out = after[3] - before[3];
    let on_wire = sent.tx_bytes - on_link.tx_bytes - 14 * (sent.tx_packets - on_link.tx_packets);
    assert!(out > 1_200_000 && out.abs_diff(on_wire) < 500, "{out} bytes of {on_wire} on the wire");
    // with relayd dead, too, and when it is back
    daemon.kill();
    client.echo(&text(60_000)).expect("it has nothing to do with relayd");
    daemon.start_again(&world.relay);
    assert!(counted(&daemon)[3] > after[3] + 60_000);
    client.echo(&text(100)).expect("an echo");
}

#[test]
fn a_watch_is_shown_and_takes_no_port() {
    let world = World::new();
    let daemon = world.start(&[WATCH, RULE].concat());
    let ctl = &daemon.ctl;
    let view = ctl.json(&["show", "own"]);
    assert_eq!(
        (&view["state"], &view["to"], &view["note"]),
        (&json!("watching"), &json!([]), &json!("the proxy"))
    );
    assert_eq!(
        (&view["plane"]["ipv4"]["plane"], &view["plane"]["ipv6"]["plane"]),
        (&json!("watch"), &json!("watch"))
    );
    let list = ctl.ok(&["list"]);
    assert!(list.contains("own   :7000,:7100-7200  tcp+udp  -"), "{list}");
    assert!(ctl.ok(&["explain", "own"]).contains("the host's own programs"));
    assert!(ctl.ok(&["test", "own"]).contains("carries none"));
    // whoever comes later has the port
    let _server = tcp_server(&world.relay, 7000);
    let client = Client::connect(&world.client, SocketAddr::from((RELAY, 7000))).and_then(Client::start_echo);
    client.expect("an echo").echo(&text(5000)).expect("an echo");
    assert!(ctl.counter("own", "/lifetime/egress/bytes") > 5000);
    eventually("it has a past", || ctl.ok(&["history"]).contains("own"));
    for args in [&["set", "own", "note=x"][..], &["rm", "own"], &["disable", "own"], &["drain", "own"]] {
        let said = ctl.fails(1, args);
        assert!(said.contains("own is a watch") && said.contains("reload"), "{said}");
    }
    let said = ctl.fails(1, &["add", "7000", "203.0.113.2"]);
    assert!(said.contains("overlaps") && said.contains("own"), "{said}");
    // it goes, and comes back under another range
    let text = fs::read_to_string(&daemon.config).expect("the file");
    fs::write(&daemon.config, text.replace(WATCH, "")).expect("write");
    assert!(ctl.ok(&["reload"]).contains("own removed"));
    ctl.ok(&["add", "7000", "203.0.113.2", "--disabled"]);
    let text = fs::read_to_string(&daemon.config).expect("the file");
    fs::write(&daemon.config, text + "[[watch]]\nname = \"own\"\nlisten = \":7300\"\nprotocol = \"udp\"\n")
        .expect("write");
    ctl.ok(&["reload"]);
    let _server = udp_server(&world.relay, 7300);
    let socket = Datagrams::new(&world.client, SocketAddr::from((RELAY, 7300)));
    eventually("it answers", || socket.echo(b"hello").is_ok());
    assert!(ctl.counter("own", "/ingress/packets") >= 1);
}

#[test]
fn a_watch_without_programs_says_why_it_cannot_count() {
    let world = World::new();
    let daemon = world.start_with("hook = \"off\"\n", WATCH);
    let view = daemon.ctl.json(&["show", "own"]);
    assert_eq!(view["state"], "error");
    assert!(view["faults"][0].as_str().is_some_and(|fault| fault.contains("nothing counts it")), "{view}");
}
