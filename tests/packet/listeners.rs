//! Who listens where: wildcards, single addresses, interfaces, ranges; rules that drain, are off, or yield.

use std::net::{Ipv4Addr, UdpSocket};

use harness::packet::{ACK, Packet, SYN, Segment};
use harness::plane::{Plane, RELAY_NARROW, RELAY_SECOND, Side, Verdict};
use harness::world::{BACKEND, CLIENT, RELAY, RELAY_INSIDE};

use crate::conversation::Conversation;
use crate::table::Gives::{Drop, Pass, SendsFast};
use crate::table::{frame, row};
use crate::{WEB, plane};

/// Opens a UDP flow from this side and port to this listener; panics if it goes anywhere but to that backend port.
#[track_caller]
fn goes_to(plane: &Plane, side: Side, client_port: u16, listener: (Ipv4Addr, u16), backend_port: u16) {
    let mut talk =
        Conversation { listener, backend: (BACKEND, backend_port), ..Conversation::usual(client_port) };
    talk.open(plane, side, &talk.client_udp(b"hello"));
}

#[track_caller]
fn passes(plane: &Plane, side: Side, listener: (Ipv4Addr, u16)) {
    let talk = Conversation { listener, ..Conversation::usual(45_999) };
    let what = format!("{listener:?}");
    row(plane, &what, side, &talk.client_udp(b"hello"), Pass, "");
    row(plane, &what, side, &talk.client_tcp(&Segment::flags(SYN)), Pass, "");
}

/// The same, and it is counted for the rule.
#[track_caller]
fn is_left(plane: &Plane, side: Side, listener: (Ipv4Addr, u16)) {
    let talk = Conversation { listener, ..Conversation::usual(45_998) };
    row(plane, "UDP", side, &talk.client_udp(b"hello"), Pass, "web: in 1/33");
    row(plane, "TCP", side, &talk.client_tcp(&Segment::flags(SYN)), Pass, "web: in 1/40");
}

#[test]
fn a_wildcard_is_every_address_of_the_host_and_no_other() {
    let plane = plane(WEB);
    for (port, own) in (45_000..).zip([RELAY, RELAY_SECOND, RELAY_INSIDE, RELAY_NARROW]) {
        goes_to(&plane, plane.client, port, (own, 8080), 80);
    }
    for foreign in [BACKEND, CLIENT, Ipv4Addr::new(8, 8, 8, 8), Ipv4Addr::new(198, 51, 100, 255)] {
        passes(&plane, plane.client, (foreign, 8080));
    }
    for special in
        [Ipv4Addr::BROADCAST, Ipv4Addr::new(224, 0, 0, 1), Ipv4Addr::UNSPECIFIED, Ipv4Addr::LOCALHOST]
    {
        passes(&plane, plane.client, (special, 8080));
    }
    for port in [0, 1, 80, 8079, 8081, 65_535] {
        passes(&plane, plane.client, (RELAY, port));
    }
}

#[test]
fn what_the_user_plane_carries_opens_no_flow() {
    let mut plane = plane(WEB);
    let talk = Conversation::usual(45_050);
    let mut kernel = talk;
    kernel.prove(&plane, plane.client, plane.backend);
    plane.apply(&format!("{WEB}plane = \"user\"\n"), &[]);
    is_left(&plane, plane.client, (RELAY, 8080));
    // what the kernel carried before goes on
    let hello = kernel.client_udp(b"hello");
    row(&plane, "old", plane.client, &hello, SendsFast(&kernel.to_backend(&hello)), "web: in 1/33");
    plane.apply(WEB, &[]);
    goes_to(&plane, plane.client, 45_051, (RELAY, 8080), 80);
}

#[test]
fn addresses_and_interfaces_share_a_port() {
    let plane = plane(
        "[[rule]]\nname = \"one\"\nlisten = \"198.51.100.1:7000\"\nto = \"203.0.113.2:71\"\nforce = true\n\
         [[rule]]\nname = \"two\"\nlisten = \"198.51.100.9:7000\"\nto = \"203.0.113.2:72\"\nforce = true\n\
         [[rule]]\nname = \"device\"\nlisten = \"%uplink:7001\"\nto = \"203.0.113.2:73\"\nforce = true\n",
    );
    goes_to(&plane, plane.uplink, 45_100, (RELAY, 7000), 71);
    goes_to(&plane, plane.uplink, 45_101, (RELAY_SECOND, 7000), 72);
    passes(&plane, plane.uplink, (RELAY_INSIDE, 7000));
    goes_to(&plane, plane.uplink, 45_102, (RELAY, 7001), 73);
    goes_to(&plane, plane.uplink, 45_103, (RELAY_INSIDE, 7001), 73);
    passes(&plane, plane.narrow, (RELAY, 7001));
    passes(&plane, plane.uplink, (BACKEND, 7001));
}

#[test]
fn a_range_is_shifted_by_a_constant() {
    let plane = plane(
        "[[rule]]\nname = \"range\"\nlisten = \":10000-19000\"\nto = \"203.0.113.2:20000\"\nforce = true\n\
         [[rule]]\nname = \"same\"\nlisten = \":30000-65535\"\nto = \"203.0.113.2\"\nforce = true\n",
    );
    for (client, listen, to) in [
        (45_200, 10_000, 20_000),
        (45_201, 10_001, 20_001),
        (45_202, 18_999, 28_999),
        (45_203, 19_000, 29_000),
        (45_204, 30_000, 30_000),
        (45_205, 65_535, 65_535),
    ] {
        goes_to(&plane, plane.client, client, (RELAY, listen), to);
    }
    for port in [9_999, 19_001, 29_999] {
        passes(&plane, plane.client, (RELAY, port));
    }
}

#[test]
fn one_protocol_is_not_the_other() {
    let plane = plane(
        "[[rule]]\nname = \"tcp\"\nlisten = \":7100\"\nprotocol = \"tcp\"\nto = \"203.0.113.2:71\"\nforce = true\n\
         [[rule]]\nname = \"udp\"\nlisten = \":7200\"\nprotocol = \"udp\"\nto = \"203.0.113.2:72\"\nforce = true\n",
    );
    goes_to(&plane, plane.client, 45_300, (RELAY, 7200), 72);
    let at = |port| Conversation { listener: (RELAY, port), ..Conversation::usual(45_301) };
    row(&plane, "UDP to a TCP rule", plane.client, &at(7100).client_udp(b"x"), Pass, "");
    let syn = at(7200).client_tcp(&Segment::flags(SYN));
    row(&plane, "TCP to a UDP rule", plane.client, &syn, Pass, "");
}

#[test]
fn a_draining_rule_finishes_what_it_has() {
    let mut plane = plane(WEB);
    let (mut udp, mut tcp) = (Conversation::usual(45_400), Conversation::usual(45_401));
    udp.prove(&plane, plane.client, plane.backend);
    tcp.establish(&plane, plane.client, plane.backend);
    plane.apply(WEB, &["web"]);
    let packet = udp.client_udp(b"still here");
    row(&plane, "old UDP", plane.client, &packet, SendsFast(&udp.to_backend(&packet)), "web: in 1/38");
    let packet = tcp.client_tcp(&Segment::flags(ACK).at(1001, 1));
    row(&plane, "old TCP", plane.client, &packet, SendsFast(&tcp.to_backend(&packet)), "web: in 1/40");
    let newcomer = Conversation::usual(45_402);
    let packet = newcomer.client_udp(b"hello");
    row(&plane, "new UDP", plane.client, &packet, Drop, "web: draining 1");
    // the stack answers with a RST: nobody listens
    let syn = newcomer.client_tcp(&Segment::flags(SYN));
    row(&plane, "new TCP", plane.client, &syn, Pass, "web: in 1/40");
    plane.apply(WEB, &[]);
    goes_to(&plane, plane.client, 45_403, (RELAY, 8080), 80);
}

#[test]
fn a_disabled_rule_carries_nothing() {
    let mut plane = plane(WEB);
    let mut talk = Conversation::usual(45_500);
    talk.prove(&plane, plane.client, plane.backend);
    plane.apply(&format!("{WEB}enabled = false\n"), &[]);
    passes(&plane, plane.client, (RELAY, 8080));
    plane.apply(WEB, &[]);
    goes_to(&plane, plane.client, 45_501, (RELAY, 8080), 80);
}

/// A program that listens on a port keeps it, unless the rule says otherwise.
#[test]
fn a_listening_program_keeps_its_port() {
    let mut plane = plane(&WEB.replace("force = true", "force = false"));
    let socket = UdpSocket::bind((RELAY, 8080)).expect("bind");
    let packet = Conversation::usual(45_600).client_udp(b"hello");
    row(&plane, "taken", plane.client, &packet, Pass, "");
    goes_to(&plane, plane.client, 45_601, (RELAY_SECOND, 8080), 80);
    plane.apply(WEB, &[]);
    let mut talk = Conversation::usual(45_600);
    talk.open(&plane, plane.client, &packet);
    drop(socket);
}

/// Without a way to the backend or back to the client there is no flow, and it is said why.
#[test]
fn no_way_out() {
    let plane = plane("[[rule]]\nname = \"web\"\nlisten = \":8080\"\nto = \"127.1.1.1:80\"\nforce = true\n");
    // a backend on the host itself is the user plane's
    is_left(&plane, plane.client, (RELAY, 8080));
}

#[test]
fn nobody_sends_from_these() {
    let plane = plane(WEB);
    for source in [
        Ipv4Addr::UNSPECIFIED,
        Ipv4Addr::new(0, 1, 2, 3),
        Ipv4Addr::LOCALHOST,
        Ipv4Addr::new(224, 0, 0, 1),
        Ipv4Addr::new(240, 0, 0, 1),
        Ipv4Addr::BROADCAST,
        RELAY,
        RELAY_INSIDE,
    ] {
        let talk = Conversation { client: (source, 5000), ..Conversation::usual(0) };
        let what = format!("from {source}");
        row(&plane, &what, plane.client, &talk.client_udp(b"hello"), Drop, "web: bad_source 1");
        row(&plane, &what, plane.client, &talk.client_tcp(&Segment::flags(SYN)), Drop, "web: bad_source 1");
        let segment = talk.client_tcp(&Segment::flags(ACK));
        row(&plane, &what, plane.client, &segment, Pass, "web: in 1/40");
    }
}

/// The source port is the same for the same client, so that a reconnect looks to the backend as it would without us.
#[test]
fn a_client_keeps_its_port() {
    let mut plane = plane(WEB);
    let packet = Conversation::usual(45_700).client_udp(b"hello");
    let port = |plane: &Plane| {
        let (ran, _) = plane.tc(plane.client, &frame(plane.client, &packet));
        assert_eq!(ran.verdict, Verdict::Redirect);
        Packet::parse(&ran.frame).expect("a packet").ports().0
    };
    let first = port(&plane);
    plane.carry(WEB);
    assert_eq!(port(&plane), first);
}
