//! Packets that are too old or too large, and the errors made about them; segments of super-packets; MSS.

use harness::packet::{ACK, Packet, SYN, Segment};
use harness::plane::{BACKEND_NARROW, NARROW_MTU, Plane, RELAY_NARROW, Side, Verdict};
use harness::world::{RELAY, RELAY_INSIDE};
use std::net::Ipv4Addr;

use crate::conversation::{BACKEND_ISN, CLIENT_ISN, Conversation};
use crate::table::Gives::{Drop, Sends, SendsFast};
use crate::table::{frame, row};
use crate::{WEB, plane};

const NARROW: &str = "[[rule]]\nname = \"web\"\nlisten = \":8080\"\nto = \"192.0.2.2:80\"\nforce = true\n";

fn narrow(client_port: u16) -> Conversation {
    Conversation {
        source: (RELAY_NARROW, 0),
        backend: (BACKEND_NARROW, 80),
        ..Conversation::usual(client_port)
    }
}

/// The error that the relay makes about a packet: 20 bytes quoted of TCP, 8 of UDP.
fn answer(from: Ipv4Addr, kind: u8, code: u8, mtu: u32, about: &Packet) -> Packet {
    let quoted = if about.protocol == harness::packet::TCP { 20 } else { 8 };
    Packet { identification: 0, ..Packet::icmp_error(from, kind, code, mtu, about, quoted) }
}

/// Checks that a packet is answered. A plain row cannot: the answer's link header is a new one.
#[track_caller]
fn answered(plane: &Plane, what: &str, side: Side, packet: &Packet, expected: &Packet, change: &str) {
    row(plane, what, side, packet, Sends(expected), change);
    let (ran, _) = plane.tc(side, &frame(side, packet));
    assert_eq!(ran.frame.len(), expected.frame().len(), "{what}: nothing behind the quote");
}

#[test]
fn an_old_packet_is_answered() {
    let plane = plane(WEB);
    let change = "web: ttl_exceeded 1";
    let talk = Conversation::usual(43_000);
    for ttl in [0, 1] {
        let first = talk.client_udp(b"first").with_ttl(ttl);
        let sent = answer(RELAY, 11, 0, 0, &first);
        answered(&plane, "a first datagram", plane.client, &first, &sent, change);
        let syn = talk.client_tcp(&Segment::flags(SYN).with_mss(1460, 0)).with_ttl(ttl);
        let sent = answer(RELAY, 11, 0, 0, &syn);
        answered(&plane, "a SYN", plane.client, &syn, &sent, change);
    }
    let mut talk = Conversation::usual(43_001);
    talk.prove(&plane, plane.client, plane.backend);
    let packet = talk.client_udp(&[9; 1000]).with_ttl(1);
    answered(&plane, "of a flow", plane.client, &packet, &answer(RELAY, 11, 0, 0, &packet), change);
    let packet = talk.backend_udp(&[9; 1000]).with_ttl(1);
    answered(&plane, "back", plane.backend, &packet, &answer(RELAY_INSIDE, 11, 0, 0, &packet), change);
    let packet = talk.client_udp(b"the last hop but one").with_ttl(2);
    row(&plane, "TTL 2", plane.client, &packet, SendsFast(&talk.to_backend(&packet)), "web: in 1/48");
    let mut talk = Conversation::usual(43_002);
    talk.establish(&plane, plane.client, plane.backend);
    let packet = talk.client_tcp(&Segment::flags(ACK).at(1001, 1).carrying(&[1; 1460])).with_ttl(1);
    answered(&plane, "a segment", plane.client, &packet, &answer(RELAY, 11, 0, 0, &packet), change);
}

#[test]
fn an_old_packet_with_options_is_not_quoted() {
    let plane = plane(WEB);
    let packet = Conversation::usual(43_003).client_udp(b"x").with_options(&[1; 8]).with_ttl(1);
    row(&plane, "options", plane.client, &packet, Drop, "web: ttl_exceeded 1, bad_header 1");
}

#[test]
fn what_does_not_fit_is_answered_with_what_does() {
    let plane = plane(NARROW);
    let fits = NARROW_MTU as usize - 28;
    let change = "web: too_big 1";
    let talk = narrow(43_010);
    let first = talk.client_udp(&vec![5; fits + 1]);
    let sent = answer(RELAY, 3, 4, NARROW_MTU, &first);
    answered(&plane, "a first datagram", plane.client, &first, &sent, change);
    let mut talk = narrow(43_011);
    talk.prove(&plane, plane.client, plane.narrow);
    let packet = talk.client_udp(&vec![5; fits]);
    row(&plane, "just fits", plane.client, &packet, SendsFast(&talk.to_backend(&packet)), "web: in 1/1400");
    let mut packet = talk.client_udp(&vec![5; fits + 1]);
    let sent = answer(RELAY, 3, 4, NARROW_MTU, &packet);
    answered(&plane, "one byte more", plane.client, &packet, &sent, change);
    packet.fragment = 0;
    // nobody fragments on the way any more: the sender is told, as IPv6 would
    let sent = answer(RELAY, 3, 4, NARROW_MTU, &packet);
    answered(&plane, "may be fragmented", plane.client, &packet, &sent, change);
    let mut talk = narrow(43_012);
    talk.establish(&plane, plane.client, plane.narrow);
    let packet = talk.client_tcp(&Segment::flags(ACK).at(1001, 1).carrying(&[1; 1460]));
    answered(&plane, "a segment", plane.client, &packet, &answer(RELAY, 3, 4, NARROW_MTU, &packet), change);
    let packet = talk.backend_tcp(&Segment::flags(ACK).at(1, 1001).carrying(&[1; 1461]));
    answered(&plane, "back", plane.narrow, &packet, &answer(RELAY_NARROW, 3, 4, 1500, &packet), change);
}

/// A super-packet is judged by its segments, and counts as what it becomes on the wire.
#[test]
fn segments_are_what_counts() {
    let plane = plane(NARROW);
    let mut talk = narrow(43_020);
    talk.establish(&plane, plane.client, plane.narrow);
    let packet = talk.client_tcp(&Segment::flags(ACK).at(1001, 1).carrying(&[3; 3000]));
    let bytes = frame(plane.client, &packet);
    let run = |segment| {
        let before = plane.counts();
        let ran = plane.programs.tc(plane.client, &bytes, segment).expect("TEST_RUN");
        (ran, before.change(&plane.counts()).to_string())
    };
    // three segments of 1040, 1040 and 1040 bytes; 1360, 1360 and 360 with headers of 40
    for (segment, change) in [(1000, "web: in 3/3120"), (1360, "web: in 3/3120"), (1500, "")] {
        let (ran, counted) = run(segment);
        if change.is_empty() {
            assert_eq!(counted, "web: too_big 1", "segments of {segment}");
            assert_eq!(ran.verdict, Verdict::Redirect, "answered");
            continue;
        }
        assert_eq!((ran.verdict, counted.as_str()), (Verdict::Redirect, change), "segments of {segment}");
        assert_eq!(ran.frame[14..], talk.to_backend(&packet).frame()[14..], "segments of {segment}");
    }
}

/// Neither end may ask for segments that the smaller of both legs cannot take.
#[test]
fn the_segment_size_is_clamped() {
    let fits = (NARROW_MTU - 40) as u16;
    for (port, padding, mss) in [(43_030, 0, 1460), (43_031, 1, 8960), (43_032, 2, 1361), (43_033, 3, 65_535)]
    {
        let plane = plane(NARROW);
        let mut talk = narrow(port);
        let syn = |mss| talk.client_tcp(&Segment::flags(SYN).at(CLIENT_ISN, 0).with_mss(mss, padding));
        let (asked, granted) = (syn(mss), syn(fits));
        let (ran, _) = plane.tc(plane.client, &frame(plane.client, &asked));
        let sent = Packet::parse(&ran.frame).expect("a packet");
        talk.source.1 = sent.ports().0;
        assert_eq!(sent.frame()[14..], talk.to_backend(&granted).frame()[14..], "{mss} after {padding}");
        let syn_ack = |mss| {
            let segment = Segment::flags(SYN | ACK).at(BACKEND_ISN, CLIENT_ISN + 1).with_mss(mss, padding);
            talk.backend_tcp(&segment)
        };
        let change = format!("web: out 1/{}", 40 + (4 + padding).next_multiple_of(4));
        let sent = talk.to_client(&syn_ack(fits));
        row(&plane, "SYN-ACK", plane.narrow, &syn_ack(mss), Sends(&sent), &change);
        let sent = talk.to_client(&syn_ack(1360));
        row(&plane, "small enough", plane.narrow, &syn_ack(1360), Sends(&sent), &change);
    }
}

#[test]
fn strange_options_are_left_alone() {
    let plane = plane(NARROW);
    let options: [&[u8]; 7] = [
        &[2, 3, 0xff, 0xff],           // an MSS of the wrong length
        &[1, 1, 2, 4],                 // one that is cut off by the end of the header
        &[3, 0, 2, 4, 0xff, 0xff],     // an option of length 0
        &[3, 1, 2, 4, 0xff, 0xff],     // of length 1
        &[0, 2, 4, 0xff, 0xff],        // behind the end
        &[253, 255, 2, 4, 0xff, 0xff], // longer than the header
        &[1; 40],                      // nothing but no-operations
    ];
    for (port, options) in (43_040..).zip(options) {
        let mut talk = narrow(port);
        let syn = talk.client_tcp(&Segment { options: options.to_vec(), ..Segment::flags(SYN) });
        talk.open(&plane, plane.client, &syn);
    }
}

/// A reflector of errors would be a weapon: each CPU makes so many a tick and no more.
#[test]
fn errors_are_rationed() {
    let plane = plane(WEB);
    let packet = Conversation::usual(43_050).client_udp(b"old").with_ttl(1);
    let bytes = frame(plane.client, &packet);
    let before = plane.counts();
    let mut verdicts = [0; 2];
    for _ in 0..1000 {
        let ran = plane.programs.tc(plane.client, &bytes, 0).expect("TEST_RUN");
        verdicts[usize::from(ran.verdict == Verdict::Redirect)] += 1;
    }
    let [dropped, answered] = verdicts;
    // the runs may fall into two ticks, on a slow machine into many
    assert!(dropped > 0 || answered > 400, "{answered} answered, {dropped} not");
    let change = before.change(&plane.counts());
    let limited = if dropped > 0 { format!("icmp_limited {dropped}") } else { String::new() };
    let shown = change.to_string();
    assert!(shown.contains("ttl_exceeded 1000") && shown.contains(&limited), "{shown}");
    harness::eventually("the next tick answers again", || {
        let ran = plane.programs.tc(plane.client, &bytes, 0).expect("TEST_RUN");
        ran.verdict == Verdict::Redirect
    });
}
