//! `relayctl flows` at both ends of a tunnel: sessions in it, datagrams in it, and the tunnel of these.

use std::net::SocketAddr;

use harness::datagrams::Datagrams;
use harness::traffic::{Client, tcp_server, text, udp_server};
use harness::world::RELAY;
use serde_json::{Value, json};

use super::datagrams::{THROUGH, with_udp};
use super::{entries, exits, ports, start, world};

const TRANSPORT: &str = "wss";

/// What a flow has, in the order of the fields that are asked for.
fn fields(flow: &Value) -> Value {
    json!(["client", "backend", "state", "ingress_bytes", "egress_bytes"].map(|key| &flow[key]))
}

#[test]
fn flows_in_tunnels_are_shown_at_both_ends() {
    let (world, _authority) = world();
    let _servers = (tcp_server(&world.backend, 80), udp_server(&world.backend, 80));
    let daemon = start(&world, &with_udp(&[entries(THROUGH, ""), exits(THROUGH, "")].concat()));
    let (port, exit) = ports(TRANSPORT);
    let mut stream =
        Client::connect(&world.client, (RELAY, port)).and_then(Client::start_echo).expect("echo");
    stream.echo(&text(5000)).expect("echo");
    let datagrams = Datagrams::new(&world.client, (RELAY, port));
    for _ in 0..2 {
        datagrams.echo(&text(300)).expect("datagram");
    }
    let flows = |end: &str, protocol: &str| {
        let rule = format!("{end}-{TRANSPORT}");
        let answer = daemon.ctl.json(&["flows", &rule, "--protocol", protocol]);
        answer["flows"].as_array().expect("flows").iter().map(fields).collect::<Vec<_>>()
    };
    let [tcp, udp] = [stream.0.local_addr(), datagrams.0.local_addr()].map(|own| own.expect("address"));
    let (inner, last) = (SocketAddr::from((RELAY, exit)), "203.0.113.2:80");
    // what the echo takes beyond its text: an order of 9 bytes and one byte
    assert_eq!(flows("in", "tcp"), [json!([tcp, inner, "open", 5010, 5001])]);
    assert_eq!(flows("in", "udp"), [json!([udp, inner, "open", 600, 600])]);
    assert_eq!(flows("out", "udp"), [json!([udp, last, "open", 600, 600])]);
    // by the bytes: the session, then the tunnel, whose flows have them
    let out: Vec<Value> =
        flows("out", "tcp").iter().map(|flow| json!(flow.as_array().map(|all| &all[1..]))).collect();
    assert_eq!(out, [json!([last, "open", 5010, 5001]), json!([null, "open", 0, 0])]);
    drop(datagrams);
    drop(stream);
    harness::eventually("sessions that have ended are gone", || flows("in", "tcp").is_empty());
}
