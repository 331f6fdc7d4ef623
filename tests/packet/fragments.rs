//! Fragments: the first one has the ports, the others follow it.

use harness::packet::{DONT_FRAGMENT, MORE_FRAGMENTS, Packet, UDP};
use harness::plane::{BACKEND_NARROW, Plane, RELAY_NARROW};

use crate::conversation::Conversation;
use crate::table::Gives::{Drop, Pass, Sends};
use crate::table::row;
use crate::{WEB, plane};

/// Bytes `from..to` of a packet's body as a fragment.
fn part(whole: &Packet, from: usize, to: usize) -> Packet {
    let more = if to < whole.body.len() { MORE_FRAGMENTS } else { 0 };
    Packet { body: whole.body[from..to].to_vec(), fragment: (from / 8) as u16 | more, ..whole.clone() }
}

/// A datagram of 2,008 bytes without its IP header.
fn datagram(talk: &Conversation, identification: u16) -> Packet {
    let payload: Vec<u8> = (0..2000u32).map(|at| (at * 13) as u8).collect();
    Packet { identification, ..talk.client_udp(&payload) }
}

#[test]
fn parts_go_the_way_of_the_first() {
    let plane = plane(WEB);
    let mut talk = Conversation::usual(44_000);
    talk.prove(&plane, plane.client, plane.backend);
    let whole = datagram(&talk, 7);
    let sent = talk.to_backend(&whole);
    let mut joined = Vec::new();
    for (from, to, change) in
        [(0, 800, "web: in 1/820; fragments +1"), (800, 1600, "web: in 1/820"), (1600, 2008, "web: in 1/428")]
    {
        let (packet, expected) = (part(&whole, from, to), part(&sent, from, to));
        row(&plane, &format!("{from}..{to}"), plane.client, &packet, Sends(&expected), change);
        joined.extend(&expected.body);
    }
    assert!(Packet { body: joined, ..sent.clone() }.transport_ok(), "the whole is right");
    let last = part(&whole, 1600, 2008);
    row(&plane, "once more", plane.client, &last, Sends(&part(&sent, 1600, 2008)), "web: in 1/428");
    let middle = part(&whole, 808, 1608);
    row(&plane, "overlapping", plane.client, &middle, Sends(&part(&sent, 808, 1608)), "web: in 1/820");
}

#[test]
fn and_back() {
    let plane = plane(WEB);
    let mut talk = Conversation::usual(44_001);
    talk.prove(&plane, plane.client, plane.backend);
    let whole = Packet { identification: 9, ..talk.backend_udp(&[0x5a; 2000]) };
    let sent = talk.to_client(&whole);
    let change = "web: out 1/1500; fragments +1";
    row(&plane, "first", plane.backend, &part(&whole, 0, 1480), Sends(&part(&sent, 0, 1480)), change);
    let last = (part(&whole, 1480, 2008), part(&sent, 1480, 2008));
    row(&plane, "last", plane.backend, &last.0, Sends(&last.1), "web: out 1/548");
}

#[test]
fn a_first_part_may_open_a_flow() {
    let plane = plane(WEB);
    let mut talk = Conversation::usual(44_002);
    let whole = datagram(&talk, 11);
    let (ran, change) = plane.tc(plane.client, &crate::table::frame(plane.client, &part(&whole, 0, 800)));
    assert_eq!(change.to_string(), "web: in 1/820, flows 1; unproven +2; fragments +1");
    talk.source.1 = Packet::parse(&ran.frame).expect("a packet").ports().0;
    let sent = talk.to_backend(&whole);
    assert_eq!(ran.frame[14..], part(&sent, 0, 800).frame()[14..]);
    let last = part(&whole, 800, 2008);
    row(&plane, "the rest", plane.client, &last, Sends(&part(&sent, 800, 2008)), "web: in 1/1228");
}

#[test]
fn a_part_before_the_first_passes() {
    let plane = plane(WEB);
    let mut talk = Conversation::usual(44_003);
    talk.prove(&plane, plane.client, plane.backend);
    let whole = datagram(&talk, 13);
    row(&plane, "too early", plane.client, &part(&whole, 800, 2008), Pass, "");
    let (first, expected) = (part(&whole, 0, 800), part(&talk.to_backend(&whole), 0, 800));
    row(&plane, "first", plane.client, &first, Sends(&expected), "web: in 1/820; fragments +1");
    for (what, stranger) in [
        ("another datagram", Packet { identification: 14, ..part(&whole, 800, 2008) }),
        ("another protocol", Packet { protocol: 6, ..part(&whole, 800, 2008) }),
        ("another client", Packet { source: RELAY_NARROW, ..part(&whole, 800, 2008) }),
    ] {
        row(&plane, what, plane.client, &stranger, Pass, "");
    }
}

/// A later fragment's bytes may look like ports: they are none.
#[test]
fn payload_is_not_taken_for_ports() {
    let plane = plane(WEB);
    let talk = Conversation::usual(44_004);
    let disguised = Packet { fragment: 100, ..talk.client_udp(b"hello") };
    row(&plane, "looks like a datagram", plane.client, &disguised, Pass, "");
    let disguised = Packet { fragment: 1 | MORE_FRAGMENTS | DONT_FRAGMENT, ..talk.client_udp(b"hello") };
    row(&plane, "with every flag", plane.client, &disguised, Pass, "");
}

/// Two first fragments of one datagram (RFC 5722 calls it an attack): the later one counts.
#[test]
fn a_second_first_part_takes_over() {
    let plane = plane(WEB);
    let (mut one, mut other) = (Conversation::usual(44_005), Conversation::usual(44_006));
    one.prove(&plane, plane.client, plane.backend);
    other.prove(&plane, plane.client, plane.backend);
    for (talk, change) in [(one, "web: in 1/820; fragments +1"), (other, "web: in 1/820")] {
        let (whole, sent) = (datagram(&talk, 15), talk.to_backend(&datagram(&talk, 15)));
        row(&plane, "first", plane.client, &part(&whole, 0, 800), Sends(&part(&sent, 0, 800)), change);
        let last = (part(&whole, 800, 2008), part(&sent, 800, 2008));
        row(&plane, "last", plane.client, &last.0, Sends(&last.1), "web: in 1/1228");
    }
}

#[test]
fn parts_that_cannot_go_on() {
    let plane = plane("[[rule]]\nname = \"web\"\nlisten = \":8080\"\nto = \"192.0.2.2:80\"\nforce = true\n");
    let mut talk = Conversation {
        source: (RELAY_NARROW, 0),
        backend: (BACKEND_NARROW, 80),
        ..Conversation::usual(44_007)
    };
    talk.prove(&plane, plane.client, plane.narrow);
    let whole = Packet::new(UDP, talk.client.0, talk.listener.0, datagram(&talk, 17).body);
    let sent = talk.to_backend(&whole);
    let first = (part(&whole, 0, 400), part(&sent, 0, 400));
    row(&plane, "first", plane.client, &first.0, Sends(&first.1), "web: in 1/420; fragments +1");
    let large = part(&whole, 400, 1904);
    row(&plane, "too big", plane.client, &large, Drop, "web: too_big 1");
    let old = part(&whole, 400, 800).with_ttl(1);
    row(&plane, "too old", plane.client, &old, Drop, "web: ttl_exceeded 1");
    large_first(&plane, &talk, &whole);
}

/// Of a datagram in fragments only the first is answered.
fn large_first(plane: &Plane, talk: &Conversation, whole: &Packet) {
    let first = part(whole, 0, 1400);
    let error = Packet::icmp_error(talk.listener.0, 3, 4, harness::plane::NARROW_MTU, &first, 8);
    let error = Packet { identification: 0, ..error };
    row(plane, "first too big", plane.client, &first, Sends(&error), "web: too_big 1");
}
