//! Packets that come in without an Ethernet header, as far as a test run can have them: the slow path's. (The
//! namespace ring has a tun device for the rest.)

use std::net::Ipv4Addr;

use harness::packet::{MORE_FRAGMENTS, Packet, SYN, Segment};
use harness::plane::{Plane, Verdict};

use crate::conversation::Conversation;
use crate::{WEB, plane};

/// Starts like the EtherType of IPv4.
const CLIENT: Ipv4Addr = Ipv4Addr::new(8, 0, 0, 7);

const NO_OPERATIONS: [u8; 4] = [1; 4];

fn conversation(port: u16) -> Conversation {
    Conversation { client: (CLIENT, port), ..Conversation::usual(port) }
}

/// Checks that a packet is sent, behind an Ethernet header for the kernel to fill in.
#[track_caller]
fn sends(plane: &Plane, packet: &Packet, expected: &Packet, change: &str) {
    let (ran, changed) = plane.bare(&packet.ip_bytes());
    assert_eq!((ran.verdict, changed.to_string().as_str()), (Verdict::Redirect, change));
    assert_eq!(ran.frame[..14], [0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 8, 0]);
    assert_eq!(ran.frame[14..], expected.ip_bytes());
}

#[test]
fn packets_get_a_link_header() {
    let plane = plane(WEB);
    for (port, tcp) in [(49_000, false), (49_001, true)] {
        let mut talk = conversation(port);
        let first = if tcp { talk.client_tcp(&Segment::flags(SYN)) } else { talk.client_udp(b"hello") };
        let first = first.with_options(&NO_OPERATIONS);
        let (ran, _) = plane.bare(&first.ip_bytes());
        talk.source.1 = Packet::parse(&ran.frame).expect("a packet").ports().0;
        let bytes = first.ip_bytes().len();
        sends(&plane, &first, &talk.to_backend(&first), &format!("web: in 1/{bytes}"));
    }
}

#[test]
fn so_do_fragments() {
    let plane = plane(WEB);
    let mut talk = conversation(49_002);
    let whole = talk.client_udp(&[3; 40]).with_options(&NO_OPERATIONS);
    let part = |whole: &Packet, from: usize, to: usize, fragment| Packet {
        body: whole.body[from..to].to_vec(),
        fragment,
        ..whole.clone()
    };
    let (ran, _) = plane.bare(&part(&whole, 0, 24, MORE_FRAGMENTS).ip_bytes());
    talk.source.1 = Packet::parse(&ran.frame).expect("a packet").ports().0;
    let sent = talk.to_backend(&whole);
    sends(&plane, &part(&whole, 24, 48, 3), &part(&sent, 24, 48, 3), "web: in 1/48");
}

#[test]
fn and_errors() {
    let plane = plane(WEB);
    let mut talk = conversation(49_003);
    let first = talk.client_udp(b"hello").with_options(&NO_OPERATIONS);
    let (ran, _) = plane.bare(&first.ip_bytes());
    talk.source.1 = Packet::parse(&ran.frame).expect("a packet").ports().0;
    let answer = talk.backend_udp(b"yes?");
    let error = Packet::icmp_error(CLIENT, 3, 3, 0, &talk.to_client(&answer), 8);
    let sent = Packet::icmp_error(talk.source.0, 3, 3, 0, &answer.clone().with_ttl(63), 8);
    let sent = sent.with_options(&NO_OPERATIONS).with_ttl(63);
    sends(&plane, &error.with_options(&NO_OPERATIONS), &sent, "web: in 1/60");
}

/// Nothing has been put in front of what goes on to the host's stack.
#[test]
fn what_passes_stays_bare() {
    let plane = plane(WEB);
    let elsewhere = Conversation { listener: (harness::world::RELAY, 8081), ..conversation(49_004) };
    let packet = elsewhere.client_udp(b"hello").with_options(&NO_OPERATIONS).ip_bytes();
    let (ran, change) = plane.bare(&packet);
    assert_eq!((ran.verdict, change.to_string().as_str()), (Verdict::Pass, ""));
    assert_eq!(ran.frame, packet);
}
