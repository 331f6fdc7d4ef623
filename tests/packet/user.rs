//! The user plane's packets: they pass as they came, and are counted on both ways, in both families.

use std::net::Ipv6Addr;

use harness::packet::{ACK, Extension, MORE_FRAGMENTS, Packet, PacketV6, SYN, Segment};
use harness::plane::{Plane, RELAY_BARE_V6, Side, Verdict};
use harness::world::{CLIENT, CLIENT_V6, RELAY, RELAY_V6};

use crate::conversation::Conversation;
use crate::table::frame;
use crate::{WEB, plane};

/// The same rule, carried by the user plane alone.
fn user() -> String {
    format!("{WEB}plane = \"user\"\n")
}

/// Checks that a frame passes untouched at ingress, where `coming` is counted, and with XDP in front all the same; and
/// at egress, where `leaving` is.
#[track_caller]
fn passes(plane: &Plane, what: &str, frame: &[u8], coming: &str, leaving: &str) {
    let (ran, change) = plane.xdp(plane.client, frame);
    assert_eq!((ran.verdict, change.to_string().as_str()), (Verdict::Pass, ""), "{what}: XDP");
    let (ran, change) = plane.tc(plane.client, frame);
    assert_eq!((ran.verdict, change.to_string().as_str()), (Verdict::Pass, coming), "{what}: ingress");
    assert_eq!(ran.frame, frame, "{what}: ingress");
    let (ran, change) = plane.egress(plane.client, frame);
    assert_eq!((ran.verdict, change.to_string().as_str()), (Verdict::Pass, leaving), "{what}: egress");
    assert_eq!(ran.frame, frame, "{what}: egress");
}

/// A question to the listener, and its answer.
fn udp(payload: &[u8]) -> (Packet, Packet) {
    let (client, listener) = ((CLIENT, 46_000), (RELAY, 8080));
    (Packet::udp(client, listener, payload), Packet::udp(listener, client, payload))
}

fn tcp(segment: &Segment) -> (Packet, Packet) {
    let (client, listener) = ((CLIENT, 46_000), (RELAY, 8080));
    (Packet::tcp(client, listener, segment), Packet::tcp(listener, client, segment))
}

/// What is in an IPv4 packet as an IPv6 packet between these addresses, without a link header.
fn ipv6(inner: &Packet, between: (Ipv6Addr, Ipv6Addr), extensions: &[Extension]) -> Vec<u8> {
    PacketV6::around(inner, between).with_extensions(extensions).ip_bytes()
}

/// The same as a frame for the client's side.
fn frame_v6(side: Side, bytes: &[u8]) -> Vec<u8> {
    [&side.mac[..], &[2, 0, 0, 0, 0, 9], &[0x86, 0xdd], bytes].concat()
}

const COMING: (Ipv6Addr, Ipv6Addr) = (CLIENT_V6, RELAY_V6);
const LEAVING: (Ipv6Addr, Ipv6Addr) = (RELAY_V6, CLIENT_V6);

#[test]
fn ipv4_of_a_rule_of_the_user_plane() {
    let plane = plane(&user());
    let hello = Segment::flags(ACK).at(1, 1).carrying(b"hello");
    for (what, (question, answer), bytes) in [
        ("a datagram", udp(b"hello"), 33),
        ("an empty one", udp(b""), 28),
        ("a SYN", tcp(&Segment::flags(SYN)), 40),
        ("a segment", tcp(&hello), 45),
    ] {
        let (coming, leaving) = (frame(plane.client, &question), frame(plane.client, &answer));
        passes(&plane, what, &coming, &format!("web: in 1/{bytes}"), "");
        passes(&plane, what, &leaving, "", &format!("web: out 1/{bytes}"));
    }
    // Ethernet pads what is short; options are part of the header
    let (question, answer) = udp(b"");
    let padded = [frame(plane.client, &question), vec![0; 18]].concat();
    passes(&plane, "padded", &padded, "web: in 1/28", "");
    let options = frame(plane.client, &answer.with_options(&[1; 8]));
    passes(&plane, "options", &options, "", "web: out 1/36");
}

#[test]
fn ipv6_of_a_rule_of_the_user_plane() {
    let plane = plane(&user());
    let hello = Segment::flags(ACK).at(1, 1).carrying(b"hello");
    for (what, (question, answer), bytes) in [
        ("a datagram", udp(b"hello"), 53),
        ("a SYN", tcp(&Segment::flags(SYN)), 60),
        ("a segment", tcp(&hello), 65),
    ] {
        let (coming, leaving) = (ipv6(&question, COMING, &[]), ipv6(&answer, LEAVING, &[]));
        passes(&plane, what, &frame_v6(plane.client, &coming), &format!("web: in 1/{bytes}"), "");
        passes(&plane, what, &frame_v6(plane.client, &leaving), "", &format!("web: out 1/{bytes}"));
    }
}

#[test]
fn what_no_flow_of_the_kernel_carries() {
    let mut plane = plane(WEB);
    let (coming, leaving) = tcp(&Segment::flags(ACK).at(1, 1));
    passes(&plane, "a stray segment", &frame(plane.client, &coming), "web: in 1/40", "");
    passes(&plane, "its reset", &frame(plane.client, &leaving), "", "web: out 1/40");
    let (coming, leaving) = (ipv6(&coming, COMING, &[]), ipv6(&leaving, LEAVING, &[]));
    passes(&plane, "of IPv6", &frame_v6(plane.client, &coming), "web: in 1/60", "");
    passes(&plane, "its reset", &frame_v6(plane.client, &leaving), "", "web: out 1/60");
    let mut talk = Conversation::usual(46_100);
    talk.prove(&plane, plane.client, plane.backend);
    let (_, change) = plane.tc(plane.client, &frame(plane.client, &talk.client_udp(b"hello")));
    assert_eq!(change.to_string(), "web: in 1/33", "once");
    plane.apply(WEB, &["web"]);
    let (syn, _) = tcp(&Segment::flags(SYN));
    passes(&plane, "a SYN while it drains", &frame(plane.client, &syn), "web: in 1/40", "");
}

/// TCP that relayd has to speak for, of a rule whose UDP stays in the kernel.
#[test]
fn tcp_that_needs_relayd_is_counted_and_never_a_flow() {
    for needs in ["connect = { proxy_protocol = 2 }", "accept = { mptcp = true }"] {
        let mut plane = plane(WEB);
        plane.apply(&format!("{WEB}{needs}\n"), &[]);
        let hello = Segment::flags(ACK).at(1, 1).carrying(b"hello");
        for (what, (question, answer), bytes) in
            [("a SYN", tcp(&Segment::flags(SYN)), 40), ("a segment", tcp(&hello), 45)]
        {
            let (coming, leaving) = (frame(plane.client, &question), frame(plane.client, &answer));
            passes(&plane, what, &coming, &format!("web: in 1/{bytes}"), "");
            passes(&plane, what, &leaving, "", &format!("web: out 1/{bytes}"));
        }
        let mut talk = Conversation::usual(46_110);
        talk.prove(&plane, plane.client, plane.backend);
        plane.apply(&format!("{WEB}{needs}\n"), &["web"]);
        let (syn, _) = tcp(&Segment::flags(SYN));
        passes(&plane, "a SYN while it drains", &frame(plane.client, &syn), "web: in 1/40", "");
    }
}

/// What the kernel plane sends passes egress too.
#[test]
fn what_was_received_has_been_counted() {
    let plane = plane(WEB);
    let (_, answer) = udp(b"hello");
    let frame = frame(plane.client, &answer);
    let before = plane.counts();
    match plane.programs.egress(plane.client, &frame, 0, plane.backend.interface) {
        Ok(ran) => assert_eq!(ran.verdict, Verdict::Pass),
        // Linux 5.10 does not let a test say where a packet came in
        Err(error) => assert_eq!(error.kind(), std::io::ErrorKind::InvalidInput, "{error}"),
    }
    assert!(before.change(&plane.counts()).is_empty());
}

#[test]
fn what_no_rule_listens_for_is_not_counted() {
    let plane = plane(&user());
    let at = |address, port| Packet::udp((CLIENT, 46_000), (address, port), b"x");
    let from = |address, port| Packet::udp((address, port), (CLIENT, 46_000), b"x");
    for (what, packet) in [
        ("another port", at(RELAY, 8081)),
        ("a foreign address", at(CLIENT, 8080)),
        ("another port leaves", from(RELAY, 8081)),
        ("a foreign address leaves", from(CLIENT, 8080)),
    ] {
        passes(&plane, what, &frame(plane.client, &packet), "", "");
        let between = match (packet.source, packet.destination) {
            (CLIENT, CLIENT) => (CLIENT_V6, CLIENT_V6),
            (CLIENT, _) => COMING,
            _ => LEAVING,
        };
        passes(&plane, what, &frame_v6(plane.client, &ipv6(&packet, between, &[])), "", "");
    }
    // a listener's packets of another protocol, and ones that end early
    let (question, _) = udp(b"hello");
    for protocol in [0, 1, 43, 44, 50, 58, 59, 60, 132] {
        let other = Packet { protocol, ..question.clone() };
        passes(&plane, "IPv4", &frame(plane.client, &other), "", "");
        passes(&plane, "IPv6", &frame_v6(plane.client, &ipv6(&other, COMING, &[])), "", "");
    }
    let whole = frame_v6(plane.client, &ipv6(&question, COMING, &[]));
    for length in [54, 56, 58, 62, 66] {
        passes(&plane, &format!("{length} bytes"), &whole[..length], "", "");
    }
}

#[test]
fn addresses_and_interfaces() {
    let plane = plane(
        "[[rule]]\nname = \"one\"\nlisten = \"[2001:db8:1::1]:7000\"\nto = \"203.0.113.2:71\"\nplane = \"user\"\n\
         [[rule]]\nname = \"device\"\nlisten = \"%uplink:7001-7009\"\nto = \"203.0.113.2:73\"\nplane = \"user\"\n",
    );
    let at = |side: Side, port| {
        let packet = Packet::udp((CLIENT, 46_000), (RELAY, port), b"x");
        frame_v6(side, &ipv6(&packet, COMING, &[]))
    };
    for (port, rule) in [(7000, "one"), (7001, "device"), (7009, "device")] {
        let (_, change) = plane.tc(plane.uplink, &at(plane.uplink, port));
        assert_eq!(change.to_string(), format!("{rule}: in 1/49"), "{port}");
    }
    let (_, change) = plane.tc(plane.backend, &at(plane.backend, 7001));
    assert!(change.is_empty(), "{change}: another interface");
}

#[test]
fn super_packets_count_as_what_they_become() {
    let plane = plane(&user());
    let payload = vec![7; 3000];
    let options = [1; 12];
    let mut segment = Segment::flags(ACK).at(1, 1).carrying(&payload);
    segment.options = options.to_vec();
    for ((question, answer), headers) in [(udp(&payload), 8), (tcp(&segment), 32)] {
        let count = |ip: usize| (3, 3 * (ip + headers) + 3000);
        let v6 = (ipv6(&question, COMING, &[]), ipv6(&answer, LEAVING, &[]));
        for (family, coming, leaving, ip) in [
            ("IPv4", frame(plane.client, &question), frame(plane.client, &answer), 20),
            ("IPv6", frame_v6(plane.client, &v6.0), frame_v6(plane.client, &v6.1), 40),
        ] {
            let (packets, bytes) = count(ip);
            let before = plane.counts();
            plane.programs.tc(plane.client, &coming, 1000).expect("TEST_RUN");
            let change = before.change(&plane.counts()).to_string();
            assert_eq!(change, format!("web: in {packets}/{bytes}"), "{family}, {headers}");
            let before = plane.counts();
            plane.programs.egress(plane.client, &leaving, 1000, 0).expect("TEST_RUN");
            let change = before.change(&plane.counts()).to_string();
            assert_eq!(change, format!("web: out {packets}/{bytes}"), "{family}, {headers}");
        }
    }
}

#[test]
fn all_fragments_of_ipv4_are_counted() {
    let plane = plane(&user());
    let (question, answer) = udp(&[5; 2000]);
    for (whole, way, leaves) in [(question, "in", false), (answer, "out", true)] {
        let part = |from: usize, to: usize| {
            let more = if to < whole.body.len() { MORE_FRAGMENTS } else { 0 };
            let body = whole.body[from..to].to_vec();
            frame(plane.client, &Packet { body, fragment: (from / 8) as u16 | more, ..whole.clone() })
        };
        let check = |what: &str, frame: &[u8], change: &str| {
            let changes = if leaves { ("", change) } else { (change, "") };
            passes(&plane, &format!("{way}: {what}"), frame, changes.0, changes.1);
        };
        check("before the first", &part(1480, 2008), "");
        check("the first", &part(0, 1480), &format!("web: {way} 1/1500; fragments +1"));
        check("the last", &part(1480, 2008), &format!("web: {way} 1/548"));
    }
}

#[test]
fn all_fragments_of_ipv6_are_counted() {
    let plane = plane(&user());
    let (question, answer) = udp(&[5; 2000]);
    for (whole, between, way, leaves) in [(question, COMING, "in", false), (answer, LEAVING, "out", true)] {
        let part = |from: usize, to: usize, identification| {
            let (offset, more) = (from as u16, to < whole.body.len());
            let inner = Packet { body: whole.body[from..to].to_vec(), ..whole.clone() };
            let header = Extension::Fragment { offset, more, identification };
            frame_v6(plane.client, &ipv6(&inner, between, &[header]))
        };
        let check = |what: &str, frame: &[u8], change: &str| {
            let changes = if leaves { ("", change) } else { (change, "") };
            passes(&plane, &format!("{way}: {what}"), frame, changes.0, changes.1);
        };
        check("before the first", &part(1448, 2008, 7), "");
        check("the first", &part(0, 1448, 7), &format!("web: {way} 1/1496; fragments of IPv6 +1"));
        check("the last", &part(1448, 2008, 7), &format!("web: {way} 1/608"));
        check("of another", &part(1448, 2008, 8), "");
        check("not in parts", &part(0, 2008, 9), &format!("web: {way} 1/2056"));
    }
}

#[test]
fn extension_headers_are_looked_past() {
    let plane = plane(WEB);
    let (question, _) = udp(b"hello");
    for (headers, counted) in [
        (vec![Extension::Padding(0, 8)], true),
        (vec![Extension::Padding(0, 8), Extension::Padding(60, 24), Extension::Padding(43, 40)], true),
        (vec![Extension::Padding(60, 2048)], true),
        (vec![Extension::Padding(0, 8); 4], true),
        (vec![Extension::Padding(0, 8); 5], false),
        (vec![Extension::Padding(51, 8)], false),
    ] {
        let bytes = ipv6(&question, COMING, &headers);
        let change = if counted { format!("web: in 1/{}", bytes.len()) } else { String::new() };
        passes(&plane, "extensions", &frame_v6(plane.client, &bytes), &change, "");
    }
}

#[test]
fn without_a_link_header() {
    let plane = plane(&user());
    let (question, answer) = udp(b"hello without Ethernet");
    let client = Ipv6Addr::new(0x2001, 0xdb8, 0x86dd, 0, 0, 0, 0, 2);
    let coming = ipv6(&question, (client, RELAY_BARE_V6), &[]);
    let leaving = ipv6(&answer, (RELAY_BARE_V6, client), &[]);
    let (ran, change) = plane.bare(&coming);
    assert_eq!((ran.verdict, change.to_string().as_str()), (Verdict::Pass, "web: in 1/70"));
    let (ran, change) = plane.bare_egress(&leaving);
    assert_eq!((ran.verdict, change.to_string().as_str()), (Verdict::Pass, "web: out 1/70"));
    let coming = Packet { source: std::net::Ipv4Addr::new(8, 0, 0, 7), ..question };
    let (ran, change) = plane.bare(&coming.with_options(&[1; 4]).ip_bytes());
    assert_eq!((ran.verdict, change.to_string().as_str()), (Verdict::Pass, "web: in 1/54"));
}
