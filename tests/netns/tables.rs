//! Tables that fill up, floods, and flows that end.

use std::net::Ipv4Addr;
use std::time::Duration;

use harness::packet::{Packet, SYN, Segment};
use harness::traffic::{Client, Datagrams, tcp_server, text, udp_server};
use harness::world::RELAY;
use harness::{Load, World, eventually};

const RULE: &str = "[[rule]]\nname = \"web\"\nlisten = \":8080\"\nto = \"203.0.113.2:80\"\n";

#[test]
fn a_full_table_refuses_new_flows_and_keeps_the_old() {
    let world = World::new();
    let daemon = world.start_with("max_flows = 64\n", RULE);
    let (_tcp, _udp) = (tcp_server(&world.backend, 80), udp_server(&world.backend, 80));
    let mut held = Vec::new();
    for _ in 0..120 {
        let limit = Duration::from_secs(2);
        let Ok(client) = Client::connect_within(&world.client, (RELAY, 8080), limit) else { break };
        client.0.set_read_timeout(Some(limit)).expect("timeout");
        let Ok(mut client) = client.start_echo() else { break };
        if client.echo(&text(10)).is_err() {
            break;
        }
        held.push(client);
    }
    assert!((60..=80).contains(&held.len()), "{} connections", held.len());
    assert!(daemon.ctl.counter("web", "/drops/table_full") > 0);
    for client in &mut held {
        client.0.set_read_timeout(Some(Duration::from_secs(5))).expect("timeout");
        client.echo(&text(1000)).expect("old connections go on");
    }
    // UDP has a table of its own
    Datagrams::new(&world.client, (RELAY, 8080)).echo(&text(10)).expect("UDP goes on");
    held.truncate(30);
    eventually("there is room again", || {
        Client::connect_within(&world.client, (RELAY, 8080), Duration::from_millis(500))
            .and_then(Client::seen_as)
            .is_ok()
    });
    for client in &mut held {
        client.echo(&text(1000)).expect("old connections go on");
    }
}

#[test]
fn a_flood_of_forged_clients_leaves_live_flows_alone() {
    let world = World::new();
    let sink = "[[rule]]\nname = \"sink\"\nlisten = \":9090\"\nto = \"203.0.113.9:80\"\n";
    let daemon = world.start_with("max_flows = 1024\n", &format!("{RULE}{sink}"));
    // the flooded backend takes everything and says nothing
    world.relay.neighbour("inside", Ipv4Addr::new(203, 0, 113, 9), [2, 0, 0, 0, 0, 9]);
    let (_tcp, _udp) = (tcp_server(&world.backend, 80), udp_server(&world.backend, 80));
    let load = Load::new()
        .with_connections(&world.client, (RELAY, 8080), 10)
        .with_datagrams(&world.client, (RELAY, 8080));
    load.run_on(100);
    let syn = Segment::flags(SYN).at(77, 0);
    world.flood(40_000, |index, source| match index % 2 {
        0 => Packet::tcp(source, (RELAY, 9090), &syn),
        _ => Packet::udp(source, (RELAY, 9090), b"forged"),
    });
    load.run_on(200);
    load.finish();
    assert!(daemon.ctl.counter("sink", "/flows/total") > 5_000, "the flood got through to the rule");
    Client::connect(&world.client, (RELAY, 8080)).and_then(Client::seen_as).expect("new clients get in");
    Datagrams::new(&world.client, (RELAY, 8080)).echo_patiently(&text(10)).expect("new clients get in");
}

#[test]
fn flows_end_when_they_are_done_or_idle() {
    let world = World::new();
    let daemon = world.start(
        "[[rule]]\nname = \"web\"\nlisten = \":8080\"\nto = \"203.0.113.2:80\"\n\
         timeout = { tcp_idle = \"3s\", half_close = \"2s\", udp = \"2s\" }\n",
    );
    let (_tcp, _udp) = (tcp_server(&world.backend, 80), udp_server(&world.backend, 80));
    let active = || daemon.ctl.counter("web", "/flows/active");
    Client::connect(&world.client, (RELAY, 8080)).and_then(Client::seen_as).expect("connect");
    eventually("a closed connection is gone at once", || active() == 0);
    let mut idle =
        Client::connect(&world.client, (RELAY, 8080)).and_then(Client::start_echo).expect("connect");
    idle.echo(&text(10)).expect("echo");
    let socket = Datagrams::new(&world.client, (RELAY, 8080));
    socket.echo(&text(10)).expect("echo");
    socket.echo(&text(10)).expect("echo");
    eventually("both are counted", || active() == 2);
    let load = Load::new().with_datagrams(&world.client, (RELAY, 8080));
    eventually("idle flows go, busy ones stay", || active() == 1);
    load.finish();
    eventually("and that one too in the end", || active() == 0);
    // UDP that went idle opens a flow again; a TCP segment without a flow is reset
    socket.echo(&text(10)).expect("a new flow");
    idle.echo(&text(10)).expect_err("the connection is gone");
}

#[test]
fn live_flows_are_never_swept() {
    let world = World::new();
    let daemon = world.start(
        "[[rule]]\nname = \"web\"\nlisten = \":8080\"\nto = \"203.0.113.2:80\"\ntimeout = { tcp_idle = \"3s\", udp = \"3s\" }\n",
    );
    let (_tcp, _udp) = (tcp_server(&world.backend, 80), udp_server(&world.backend, 80));
    let mut slow =
        Client::connect(&world.client, (RELAY, 8080)).and_then(Client::start_echo).expect("connect");
    let datagrams = Datagrams::new(&world.client, (RELAY, 8080));
    for _ in 0..10 {
        slow.echo(&text(10)).expect("a word now and then keeps it");
        datagrams.echo(&text(10)).expect("a word now and then keeps it");
        std::thread::sleep(Duration::from_millis(500));
    }
    assert_eq!(daemon.ctl.counter("web", "/flows/total"), 2);
}
