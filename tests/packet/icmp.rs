//! ICMP errors about flows, translated both ways; and all other ICMP, which is the host's.

use std::net::Ipv4Addr;

use harness::packet::{ACK, ICMP, Packet, Segment};
use harness::plane::{Plane, Verdict};
use harness::world::{BACKEND, CLIENT, RELAY, RELAY_INSIDE};

use crate::conversation::Conversation;
use crate::table::Gives::{Drop, Pass, Sends};
use crate::table::{frame, row};
use crate::{WEB, plane};

/// A router on the way, whose own address no client should see.
const ROUTER: Ipv4Addr = Ipv4Addr::new(192, 88, 99, 7);

/// Types, codes and the second word: port and host unreachable, fragmentation needed, time exceeded, bad header.
const ERRORS: [(u8, u8, u32); 5] = [(3, 3, 0), (3, 1, 0), (3, 4, 1280), (11, 0, 0), (12, 0, 0x0800_0000)];

/// The error that must reach the sender of `original`: it comes from whoever the sender talked to.
fn expected(error: &Packet, from: Ipv4Addr, original: &Packet, quoted: usize) -> Packet {
    let rest = u32::from_be_bytes([error.body[4], error.body[5], error.body[6], error.body[7]]);
    Packet::icmp_error(from, error.body[0], error.body[1], rest, original, quoted).with_ttl(error.ttl - 1)
}

#[test]
fn errors_about_datagrams_reach_who_sent_them() {
    let plane = plane(WEB);
    let mut talk = Conversation::usual(42_000);
    talk.open(&plane, plane.client, &talk.client_udp(b"question"));
    both_ways(&plane, &talk, &talk.client_udp(b"a question"), &talk.backend_udp(b"an answer"));
    let mut talk = Conversation::usual(42_001);
    talk.prove(&plane, plane.client, plane.backend);
    both_ways(&plane, &talk, &talk.client_udp(b"a question"), &talk.backend_udp(b"an answer"));
    let unsummed = |mut packet: Packet| {
        packet.body[6..8].fill(0);
        packet
    };
    both_ways(&plane, &talk, &unsummed(talk.client_udp(b"?")), &unsummed(talk.backend_udp(b"!")));
}

/// Anybody can send one, from anywhere: the client's answers go on leaving where the client is.
#[test]
fn errors_move_no_flow() {
    let plane = plane(WEB);
    let mut talk = Conversation::usual(42_002);
    talk.prove(&plane, plane.client, plane.backend);
    let halves = || {
        let mut all: Vec<_> = plane.flows().map(|(_, key, half)| (key.to_bytes(), half)).collect();
        all.sort_by_key(|(key, _)| *key);
        format!("{all:?}")
    };
    let before = halves();
    let error = Packet::icmp_error(ROUTER, 3, 3, 0, &talk.to_client(&talk.backend_udp(b"answer")), 8);
    let (ran, _) = plane.tc(plane.narrow, &frame(plane.narrow, &error));
    assert_eq!(ran.verdict, Verdict::Redirect);
    assert_eq!(halves(), before);
}

#[test]
fn errors_about_segments_reach_who_sent_them() {
    let plane = plane(WEB);
    let mut talk = Conversation::usual(42_002);
    talk.establish(&plane, plane.client, plane.backend);
    let segment = Segment::flags(ACK).at(1001, 2002).carrying(b"more than an error quotes, by far");
    both_ways(&plane, &talk, &talk.client_tcp(&segment), &talk.backend_tcp(&segment));
}

/// Errors about a packet of the client, as its translation was seen behind the relay, and the other way round.
#[track_caller]
fn both_ways(plane: &Plane, talk: &Conversation, there: &Packet, back: &Packet) {
    let whole = there.body.len().min(back.body.len());
    for quoted in [8, 20, 24, whole].into_iter().filter(|&quoted| quoted <= whole) {
        for (kind, code, rest) in ERRORS {
            let what = format!("{kind}/{code} with {quoted} bytes of {}", there.protocol);
            // routers quote the packet as it was when they gave up on it: its TTL may be anything
            let seen = talk.to_backend(there).with_ttl(1);
            let error = Packet::icmp_error(ROUTER, kind, code, rest, &seen, quoted);
            let sent = expected(&error, RELAY, &there.clone().with_ttl(1), quoted);
            let change = format!("web: out 1/{}", 20 + error.body.len());
            row(plane, &what, plane.backend, &error, Sends(&sent), &change);
            let seen = talk.to_client(back).with_ttl(1);
            let error = Packet::icmp_error(CLIENT, kind, code, rest, &seen, quoted);
            let sent = expected(&error, RELAY_INSIDE, &back.clone().with_ttl(1), quoted);
            let change = format!("web: in 1/{}", 20 + error.body.len());
            row(plane, &what, plane.client, &error, Sends(&sent), &change);
        }
    }
}

#[test]
fn what_is_not_about_a_flow_passes() {
    let plane = plane(WEB);
    let mut talk = Conversation::usual(42_003);
    talk.open(&plane, plane.client, &talk.client_udp(b"question"));
    let seen = talk.to_backend(&talk.client_udp(b"question"));
    let error = Packet::icmp_error(ROUTER, 3, 3, 0, &seen, 8);
    let pass = |what: &str, packet: &Packet| row(&plane, what, plane.backend, packet, Pass, "");
    let mut echo = Packet::new(ICMP, CLIENT, RELAY, vec![8, 0, 0, 0, 1, 2, 3, 4]);
    echo.fix_transport();
    pass("an echo request", &echo);
    echo.body[0] = 0;
    pass("an echo reply", &echo);
    for kind in [4, 5, 9, 10, 13, 17, 255] {
        pass("not an error", &Packet::icmp_error(ROUTER, kind, 0, 0, &seen, 8));
    }
    let stranger = Packet::udp((RELAY_INSIDE, 999), (BACKEND, 80), b"not of a flow");
    pass("about something else", &Packet::icmp_error(ROUTER, 3, 3, 0, &stranger, 8));
    let foreign = Packet { protocol: 132, ..seen.clone() };
    pass("about another protocol", &Packet::icmp_error(ROUTER, 3, 3, 0, &foreign, 8));
    pass(
        "about a later fragment",
        &Packet::icmp_error(ROUTER, 3, 3, 0, &Packet { fragment: 1, ..seen.clone() }, 8),
    );
    pass("not to who sent it", &Packet { destination: RELAY, ..error.clone() });
    let mut first = error.clone();
    first.fragment = harness::packet::MORE_FRAGMENTS;
    pass("in fragments", &first);
    for kept in 1..error.body.len() {
        let mut short = Packet { body: error.body[..kept].to_vec(), ..error.clone() };
        short.fix_transport();
        pass(&format!("cut to {kept} bytes"), &short);
    }
}

/// What follows the IP packet in a frame is padding: no part of the quote, whatever its bytes look like.
#[test]
fn padding_is_not_quoted() {
    let plane = plane(WEB);
    let mut talk = Conversation::usual(42_004);
    talk.establish(&plane, plane.client, plane.backend);
    let segment = Segment::flags(ACK).at(1001, 2002).carrying(b"data");
    let seen = talk.to_backend(&talk.client_tcp(&segment));
    let error = Packet::icmp_error(ROUTER, 3, 4, 1280, &seen, 8);
    let sent = expected(&error, RELAY, &talk.client_tcp(&segment).with_ttl(63), 8);
    for padding in [1, 9, 10, 11, 40] {
        let mut padded = frame(plane.backend, &error);
        padded.resize(padded.len() + padding, 0xa5);
        let (ran, _) = plane.tc(plane.backend, &padded);
        let mut wanted = sent.frame();
        wanted.resize(padded.len(), 0xa5);
        assert_eq!(ran.frame[12..], wanted[12..], "{padding} bytes of padding");
    }
    for kept in 8..error.body.len() {
        let mut short = Packet { body: error.body[..kept].to_vec(), ..error.clone() };
        short.fix_transport();
        let mut padded = frame(plane.backend, &short);
        padded.extend(&error.body[kept..]);
        crate::table::row_of_bytes(&plane, "a quote that ends in padding", plane.backend, &padded, Pass, "");
    }
}

#[test]
fn an_error_that_cannot_go_on_makes_no_other() {
    let plane = plane("[[rule]]\nname = \"web\"\nlisten = \":8080\"\nto = \"192.0.2.2:80\"\nforce = true\n");
    let mut talk = Conversation {
        source: (harness::plane::RELAY_NARROW, 0),
        backend: (harness::plane::BACKEND_NARROW, 80),
        ..Conversation::usual(42_005)
    };
    talk.open(&plane, plane.client, &talk.client_udp(b"question"));
    let answer = talk.backend_udp(&[7; 1372]);
    let error = Packet::icmp_error(ROUTER, 11, 0, 0, &talk.to_client(&answer), 8).with_ttl(1);
    row(&plane, "TTL 1", plane.client, &error, Drop, "web: ttl_exceeded 1");
    let mut large = Packet::icmp_error(ROUTER, 3, 3, 0, &talk.to_client(&answer), answer.body.len());
    row(&plane, "too big", plane.client, &large, Drop, "web: too_big 1");
    large.fragment = 0;
    row(&plane, "too big, may be fragmented", plane.client, &large, Drop, "web: too_big 1");
}
