//! Routes, neighbours and interfaces that change under running flows.

use std::net::Ipv4Addr;

use harness::netns::cable;
use harness::packet::{ACK, Packet, SYN, Segment, TCP, UDP};
use harness::raw::Wire;
use harness::traffic::{Client, Datagrams, tcp_server, text, udp_server, udp_server_on};
use harness::tun::Tun;
use harness::world::{BACKEND, CLIENT, RELAY, RELAY_INSIDE};
use harness::{Load, NetNs, World, eventually};

const RULE: &str = "[[rule]]\nname = \"web\"\nlisten = \":8080\"\nto = \"203.0.113.2:80\"\n";
/// A backend that is reached through a router.
const FAR: Ipv4Addr = Ipv4Addr::new(192, 0, 2, 50);
const FAR_RULE: &str = "[[rule]]\nname = \"web\"\nlisten = \":8080\"\nto = \"192.0.2.50:80\"\n";
const MAIN: u32 = 254;

/// A second cable between relay and backend.
fn second_cable(world: &World) {
    cable((&world.backend, "backend2"), (&world.relay, "inside2"));
    world.relay.add_address("inside2", Ipv4Addr::new(203, 0, 114, 1), 24);
    world.backend.add_address("backend2", Ipv4Addr::new(203, 0, 114, 2), 24);
}

#[test]
fn an_interface_that_is_deleted_and_made_again() {
    let world = World::new();
    let daemon = world.start(RULE);
    let (_tcp, _udp) = (tcp_server(&world.backend, 80), udp_server(&world.backend, 80));
    let mut client =
        Client::connect(&world.client, (RELAY, 8080)).and_then(Client::start_echo).expect("connect");
    client.echo(&text(100)).expect("echo");
    world.relay.delete_link("inside");
    eventually("the rule is degraded", || daemon.ctl.rule("web")["state"] == "degraded");
    cable((&world.backend, "backend"), (&world.relay, "inside"));
    world.relay.add_address("inside", RELAY_INSIDE, 24);
    world.backend.add_address("backend", BACKEND, 24);
    world.backend.default_route(RELAY_INSIDE, "backend");
    eventually("the rule works again", || daemon.ctl.rule("web")["state"] == "active");
    client.echo(&text(1000)).expect("the connection goes on");
    // and the client's side
    world.relay.delete_link("uplink");
    cable((&world.client, "client"), (&world.relay, "uplink"));
    world.relay.add_address("uplink", RELAY, 24);
    world.client.add_address("client", CLIENT, 24);
    world.client.default_route(RELAY, "client");
    eventually("the programs are on the new interface", || world.tc_programs("uplink") == 1);
    client.echo(&text(1000)).expect("the connection goes on");
    Datagrams::new(&world.client, (RELAY, 8080)).echo_patiently(&text(100)).expect("new flows");
    Client::connect(&world.client, (RELAY, 8080)).and_then(Client::seen_as).expect("new flows");
}

#[test]
fn an_interface_that_goes_down_and_comes_back() {
    let world = World::new();
    let here = "[[rule]]\nname = \"here\"\nlisten = \"198.51.100.1:9090\"\nto = \"203.0.113.2:90\"\n";
    let daemon = world.start(&format!("{RULE}{here}"));
    let _server = tcp_server(&world.backend, 80);
    let mut client =
        Client::connect(&world.client, (RELAY, 8080)).and_then(Client::start_echo).expect("connect");
    client.echo(&text(100)).expect("echo");
    world.relay.down("uplink");
    world.relay.delete_address("uplink", RELAY);
    // a rule of its own address shows that relayd has noticed
    eventually("relayd has noticed", || daemon.ctl.rule("here")["state"] == "error");
    assert_eq!(world.tc_programs("uplink"), 1);
    world.relay.add_address("uplink", RELAY, 24);
    world.relay.up("uplink");
    // at once: the programs were there all along
    client.echo(&text(1000)).expect("the connection goes on");
}

#[test]
fn a_route_that_is_replaced_takes_running_flows_along() {
    let world = World::new();
    second_cable(&world);
    world.backend.add_address("lo", FAR, 32);
    world.relay.route((FAR, 32), Some(BACKEND), "inside", MAIN);
    let daemon = world.start(FAR_RULE);
    let (_tcp, _udp) = (tcp_server(&world.backend, 80), udp_server_on(&world.backend, (FAR, 80)));
    let load = Load::new()
        .with_connections(&world.client, (RELAY, 8080), 5)
        .with_datagrams(&world.client, (RELAY, 8080));
    load.run_on(100);
    let before = world.relay.traffic("inside2").tx_packets;
    world.relay.route((FAR, 32), Some(Ipv4Addr::new(203, 0, 114, 2)), "inside2", MAIN);
    eventually("traffic takes the other cable", || world.relay.traffic("inside2").tx_packets > before + 50);
    let old = world.relay.traffic("inside").tx_packets;
    load.run_on(100);
    assert!(world.relay.traffic("inside").tx_packets < old + 5, "nothing goes the old way");
    load.finish();
    let hop = daemon.ctl.json(&["explain", "web"]).to_string();
    assert!(hop.contains("inside2"), "{hop}");
}

#[test]
fn the_default_route_moves() {
    let world = World::new();
    second_cable(&world);
    world.backend.add_address("lo", FAR, 32);
    world.relay.default_route(BACKEND, "inside");
    let _daemon = world.start(FAR_RULE);
    let _server = tcp_server(&world.backend, 80);
    let load = Load::new().with_connections(&world.client, (RELAY, 8080), 3);
    load.run_on(30);
    world.relay.default_route(Ipv4Addr::new(203, 0, 114, 2), "inside2");
    eventually("traffic takes the other cable", || world.relay.traffic("inside2").tx_packets > 20);
    load.run_on(30);
    load.finish();
}

#[test]
fn answers_leave_by_the_uplink_that_the_client_used() {
    let world = World::new();
    let stranger = Ipv4Addr::new(192, 0, 2, 77);
    let second = Ipv4Addr::new(100, 64, 0, 1);
    cable((&world.client, "client2"), (&world.relay, "uplink2"));
    world.relay.add_address("uplink2", second, 24);
    world.client.add_address("client2", Ipv4Addr::new(100, 64, 0, 2), 24);
    world.client.add_address("lo", stranger, 32);
    world.client.sysctl("net/ipv4/conf/all/rp_filter", "0");
    // the relay's default way out is the first uplink; what it sends from the second's address takes the second
    world.relay.default_route(CLIENT, "uplink");
    world.relay.route((Ipv4Addr::UNSPECIFIED, 0), Some(Ipv4Addr::new(100, 64, 0, 2)), "uplink2", 100);
    world.relay.rule_from(second, 100);
    let _daemon = world.start(RULE);
    let (_tcp, _udp) = (tcp_server(&world.backend, 80), udp_server(&world.backend, 80));
    for (to, own, other) in [(second, "uplink2", "uplink"), (RELAY, "uplink", "uplink2")] {
        let (own_before, other_before) = (world.relay.traffic(own), world.relay.traffic(other));
        let connection = Client::connect_as(&world.client, stranger, (to, 8080)).expect("connect");
        connection.download(200_000).expect("download");
        let sent = world.relay.traffic(own).tx_bytes - own_before.tx_bytes;
        assert!(sent > 200_000, "{sent} bytes by {own}");
        let astray = world.relay.traffic(other).tx_bytes - other_before.tx_bytes;
        assert!(astray < 2_000, "{astray} bytes by {other}");
    }
}

#[test]
fn a_backend_behind_a_bridge() {
    let world = World::new();
    world.relay.delete_address("inside", RELAY_INSIDE);
    world.relay.add_bridge("bridge");
    world.relay.enslave("inside", "bridge");
    world.relay.add_address("bridge", RELAY_INSIDE, 24);
    let _daemon = world.start(RULE);
    let (_tcp, _udp) = (tcp_server(&world.backend, 80), udp_server(&world.backend, 80));
    Client::connect(&world.client, (RELAY, 8080)).and_then(|client| client.upload(4 << 20)).expect("upload");
    Client::connect(&world.client, (RELAY, 8080))
        .and_then(|client| client.download(4 << 20))
        .expect("download");
    Datagrams::new(&world.client, (RELAY, 8080)).echo(&text(1000)).expect("echo");
}

#[test]
fn backends_on_the_clients_own_side() {
    let world = World::new();
    let neighbour = Ipv4Addr::new(198, 51, 100, 3);
    world.client.add_address("client", neighbour, 24);
    let _daemon = world.start("[[rule]]\nname = \"hairpin\"\nlisten = \":8080\"\nto = \"198.51.100.3:80\"\n");
    let _server = tcp_server(&world.client, 80);
    let seen =
        Client::connect_as(&world.client, CLIENT, (RELAY, 8080)).and_then(Client::seen_as).expect("hairpin");
    assert_eq!(seen.ip(), RELAY, "out of the interface that it came in on");
}

#[test]
fn a_client_on_a_tun_device() {
    let world = World::new();
    let tun_client = Ipv4Addr::new(10, 9, 0, 2);
    let mut tun = Tun::new(&world.relay, "tun0");
    world.relay.add_address("tun0", Ipv4Addr::new(10, 9, 0, 1), 24);
    let daemon = world.start(RULE);
    let (_tcp, _udp) = (tcp_server(&world.backend, 80), udp_server(&world.backend, 80));
    for to in [Ipv4Addr::new(10, 9, 0, 1), RELAY] {
        let packet = Packet::udp((tun_client, 4000), (to, 8080), b"hello from tun");
        let reply = eventually_udp(&mut tun, &packet);
        assert_eq!((reply.source, reply.ports()), (to, (8080, 4000)));
        assert_eq!(reply.payload(), b"hello from tun");
        assert!(reply.header_ok && reply.transport_ok());
        let syn = Segment::flags(SYN).at(1000, 0).with_mss(1460, 0);
        tun.send(&Packet::tcp((tun_client, 4001), (to, 8080), &syn).ip_bytes());
        let answer = tun.receive(|bytes| bytes[9] == TCP).expect("SYN-ACK");
        let answer = Packet::parse_ip(&answer).expect("packet");
        assert_eq!((answer.tcp_flags(), answer.acknowledgment()), (SYN | ACK, 1001));
        assert!(answer.header_ok && answer.transport_ok());
    }
    assert_eq!(daemon.ctl.counter("web", "/flows/total"), 4);
    // the kernel's own answer to a SYN-ACK without a connection would be another packet
    assert_eq!(daemon.ctl.rule("web")["counters"]["drops"], serde_json::json!({}));
}

fn eventually_udp(tun: &mut Tun, packet: &Packet) -> Packet {
    tun.send(&packet.ip_bytes());
    let reply = tun.receive(|bytes| bytes[9] == UDP).expect("a reply on the tun device");
    Packet::parse_ip(&reply).expect("packet")
}

#[test]
fn a_backend_on_a_tun_device() {
    let world = World::new();
    let mut tun = Tun::new(&world.relay, "tun0");
    world.relay.add_address("tun0", Ipv4Addr::new(10, 9, 0, 1), 24);
    let _daemon = world.start("[[rule]]\nname = \"vpn\"\nlisten = \":8080\"\nto = \"10.9.0.2:80\"\n");
    let socket = Datagrams::new(&world.client, (RELAY, 8080));
    socket.0.send(b"over the tunnel").expect("send");
    let arrived = tun.receive(|bytes| bytes[9] == UDP).expect("arrives");
    let arrived = Packet::parse_ip(&arrived).expect("packet");
    assert_eq!(
        (arrived.source, arrived.destination),
        (Ipv4Addr::new(10, 9, 0, 1), Ipv4Addr::new(10, 9, 0, 2))
    );
    assert_eq!(arrived.payload(), b"over the tunnel");
    let back = Packet::udp((arrived.destination, 80), (arrived.source, arrived.ports().0), b"and back");
    tun.send(&back.ip_bytes());
    let mut buffer = [0; 100];
    let length = socket.0.recv(&mut buffer).expect("reply");
    assert_eq!(&buffer[..length], b"and back");
}

#[test]
fn a_tun_device_that_comes_later() {
    let world = World::new();
    let _daemon = world.start(RULE);
    let _server = udp_server(&world.backend, 80);
    let mut tun = Tun::new(&world.relay, "tun0");
    world.relay.add_address("tun0", Ipv4Addr::new(10, 9, 0, 1), 24);
    let packet = Packet::udp((Ipv4Addr::new(10, 9, 0, 2), 4000), (Ipv4Addr::new(10, 9, 0, 1), 8080), b"late");
    eventually("packets from the new device are forwarded", || {
        tun.send(&packet.ip_bytes());
        tun.receive_within(std::time::Duration::from_millis(100), |bytes| bytes[9] == UDP).is_some()
    });
}

#[test]
fn a_smaller_mtu_behind_the_relay() {
    let world = World::new();
    world.relay.set_mtu("inside", 1400);
    world.backend.set_mtu("backend", 1400);
    let daemon = world.start(RULE);
    let (_tcp, _udp) = (tcp_server(&world.backend, 80), udp_server(&world.backend, 80));
    let wire = Wire::new(&world.backend, "backend");
    let connect = || Client::connect(&world.client, (RELAY, 8080)).expect("connect");
    connect().upload(4 << 20).expect("upload");
    let syn = wire.next(|packet| packet.protocol == TCP && packet.tcp_flags() == SYN).expect("SYN");
    assert_eq!(syn.body[20..24], [2, 4, 0x05, 0x50], "MSS 1360");
    connect().download(4 << 20).expect("download");
    assert_eq!(daemon.ctl.counter("web", "/drops/too_big"), 0, "clamped in time");
    // a datagram that may not be cut: the sender learns the size at once
    let socket = Datagrams::new(&world.client, (RELAY, 8080));
    socket.never_fragment();
    socket.0.send(&text(1472)).expect("the first leg takes it");
    eventually("the sender learns what the way takes", || {
        socket.0.send(&text(1472)).is_err_and(|error| error.raw_os_error() == Some(nix::libc::EMSGSIZE))
    });
    assert!(daemon.ctl.counter("web", "/drops/too_big") > 0);
    // the answer to the other one may be waiting too
    let _error = socket.0.take_error().expect("socket");
    socket.echo(&text(1372)).expect("1400 bytes pass");
}

#[test]
fn an_mtu_that_shrinks_under_a_running_connection() {
    let world = World::new();
    let daemon = world.start(RULE);
    let _server = tcp_server(&world.backend, 80);
    let mut client =
        Client::connect(&world.client, (RELAY, 8080)).and_then(Client::start_echo).expect("connect");
    client.echo(&text(20_000)).expect("echo");
    world.relay.set_mtu("inside", 1400);
    world.backend.set_mtu("backend", 1400);
    eventually("relayd has seen it", || daemon.ctl.json(&["explain", "web"]).to_string().contains("1400"));
    // whole super-packets of too large segments, answered in the program, cut anew by the client
    for _ in 0..20 {
        client.echo(&text(200_000)).expect("echo");
    }
    assert!(daemon.ctl.counter("web", "/drops/too_big") > 0);
}

#[test]
fn a_neighbour_that_has_to_be_found_first() {
    let world = World::new();
    let _daemon = world.start(RULE);
    let (_tcp, _udp) = (tcp_server(&world.backend, 80), udp_server(&world.backend, 80));
    // the very first datagram waits in the kernel until the neighbour has answered
    Datagrams::new(&world.client, (RELAY, 8080)).echo(&text(10)).expect("nothing is lost");
    let other = NetNs::new("other");
    let address = Ipv4Addr::new(198, 51, 100, 9);
    world.relay.add_bridge("bridge");
    cable((&other, "other"), (&world.relay, "more"));
    world.relay.enslave("more", "bridge");
    world.relay.delete_address("uplink", RELAY);
    world.relay.enslave("uplink", "bridge");
    world.relay.add_address("bridge", RELAY, 24);
    other.add_address("other", address, 24);
    eventually("the rule listens on the bridge", || {
        Client::connect(&other, (RELAY, 8080)).and_then(Client::seen_as).is_ok()
    });
    Client::connect(&world.client, (RELAY, 8080)).and_then(Client::seen_as).expect("the old client too");
}
