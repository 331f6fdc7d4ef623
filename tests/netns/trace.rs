//! `relayd --trace-packets`: what becomes of each packet of a rule, and why. On both hooks: the programs must load with
//! their logging code, too.

use std::fs;
use std::process::Command;

use harness::daemon::{binary, settings};
use harness::lab::{enable_gro, set_tx_checksum};
use harness::packet::{ACK, Packet, Segment};
use harness::raw::Wire;
use harness::traffic::{Datagrams, text, udp_server};
use harness::world::{CLIENT, RELAY, RELAY_V6};
use harness::{Daemon, World, eventually, hooks};

const RULES: &str = "[[rule]]\nname = \"web\"\nlisten = \":8080\"\nto = \"203.0.113.2:80\"\n\
                     [[rule]]\nname = \"other\"\nlisten = \":9090\"\nto = \"203.0.113.2:80\"\n";

fn traced(world: &World, rule: &str) -> Daemon {
    for (ns, interface) in [(&world.client, "client"), (&world.backend, "backend")] {
        set_tx_checksum(ns, interface, false);
        enable_gro(ns, interface);
    }
    let config = world.folder().join("relay.toml");
    fs::write(&config, settings(world.folder(), "hook = \"xdp\"\n") + RULES).expect("config");
    let mut command = Command::new(binary("relayd"));
    command.arg("--config").arg(config).args(["--trace-packets", rule]);
    Daemon::spawn(&world.relay, world.folder(), command)
}

/// Waits until a line is logged.
fn logs(daemon: &mut Daemon, line: &str) {
    eventually(line, || daemon.log().contains(line));
}

#[test]
fn what_becomes_of_packets_is_logged_with_the_reason() {
    let world = World::new();
    let mut daemon = traced(&world, "web");
    assert!(hooks::has_xdp(&world.relay, "uplink"), "{}", daemon.log());
    let _server = udp_server(&world.backend, 80);
    let socket = Datagrams::new(&world.client, (RELAY, 8080));
    for _ in 0..4 {
        socket.echo(&text(555)).expect("echo");
    }
    // Ethernet, IP and UDP headers are 42 bytes
    let from = socket.0.local_addr().expect("address");
    let there = format!("udp {from} > {RELAY}:8080, 597 bytes on uplink: ");
    for way in [", a new flow", " on the slow path", " on the hot path"] {
        logs(&mut daemon, &format!("{there}forwarded{way}"));
    }
    logs(&mut daemon, "597 bytes on inside: forwarded on the hot path");
    ipv6_is_logged_too(&world, &mut daemon);
    let wire = Wire::new(&world.client, "client");
    let send = |packet: Packet| {
        let packet = Packet {
            destination_mac: world.relay.mac("uplink"),
            source_mac: world.client.mac("client"),
            ..packet
        };
        wire.send(&packet.frame());
    };
    let (client, listener) = ((CLIENT, 4000), (RELAY, 8080));
    let heading = |protocol| format!("{protocol} {CLIENT}:4000 > {RELAY}:8080, ");
    send(Packet::udp(client, listener, b"how far?").with_ttl(1));
    let answered = "50 bytes on uplink: refused and answered with an ICMP error (ttl_exceeded)";
    logs(&mut daemon, &(heading("udp") + answered));
    send(Packet::tcp(client, listener, &Segment::flags(ACK)));
    logs(
        &mut daemon,
        &(heading("tcp") + "54 bytes on uplink: passed to the host: it is of no flow and no SYN"),
    );
    daemon.ctl.ok(&["drain", "web"]);
    send(Packet::udp(client, listener, b"too late"));
    logs(&mut daemon, &(heading("udp") + "50 bytes on uplink: refused (draining)"));
    let other = Datagrams::new(&world.client, (RELAY, 9090));
    other.echo(&text(777)).expect("the other rule");
    other.echo(&text(777)).expect("the other rule");
    send(Packet::udp((CLIENT, 4001), listener, b"the last"));
    logs(&mut daemon, "4001 > ");
    assert!(!daemon.log().contains("819 bytes"), "the other rule is not traced: {}", daemon.log());
}

fn ipv6_is_logged_too(world: &World, daemon: &mut Daemon) {
    let socket = Datagrams::new(&world.client, (RELAY_V6, 8080));
    for _ in 0..4 {
        socket.echo(&text(555)).expect("echo");
    }
    let from = socket.0.local_addr().expect("address");
    let there = format!("udp {from} > [{RELAY_V6}]:8080, 617 bytes on uplink: ");
    for way in [", a new flow", " on the slow path", " on the hot path"] {
        logs(daemon, &format!("{there}forwarded{way}"));
    }
}
