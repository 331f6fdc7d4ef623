//! Every translation with IPv6 on a leg or both: TCP from SYN to FIN, UDP, what headers carry over.

mod answers;
mod declined;
mod errors;
mod fragments;
mod lives;
mod segments;
pub(crate) mod talk;

use harness::packet::{ACK, FIN, Packet, PacketV6, RST, SYN, Segment, Wire};
use harness::plane::NARROW_MTU;

use self::talk::{Pair, Talk, drops, sends};
use crate::conversation::{BACKEND_ISN, CLIENT_ISN};
use crate::plane;

const FIRST: u32 = CLIENT_ISN + 1;
const ANSWER: u32 = BACKEND_ISN.wrapping_add(1);

/// A segment of the client and what it becomes, or one of the backend.
fn segment(talk: &Talk, up: bool, (flags, sequence, ack): (u8, u32, u32), payload: &[u8]) -> (Wire, Wire) {
    let segment = Segment::flags(flags).at(sequence, ack).carrying(payload);
    if up {
        let packet = talk.client_tcp(&segment);
        let sent = talk.to_backend(&packet);
        return (packet, sent);
    }
    let packet = talk.backend_tcp(&segment);
    let sent = talk.to_client(&packet);
    (packet, sent)
}

#[test]
fn a_connection_from_beginning_to_end() {
    for pair in Pair::ALL {
        let plane = plane(&pair.rules());
        let mut talk = pair.talk(50_000);
        let before = plane.counts();
        let syn = talk.client_tcp(&Segment::flags(SYN).at(CLIENT_ISN, 0).with_mss(1440, 0));
        talk.open(&plane, plane.client, &syn);
        let bytes = pair.head() + 24;
        let change = format!("web: in 1/{bytes}, flows 1; unproven +2");
        assert_eq!(before.change(&plane.counts()).to_string(), change, "{pair:?}");
        let change = format!("web: in 1/{bytes}");
        sends(&plane, "the SYN once more", plane.client, &syn, &talk.to_backend(&syn), &change);
        for (what, up, what_it_is, payload, tables) in [
            ("SYN-ACK", false, (SYN | ACK, BACKEND_ISN, FIRST), "", ""),
            ("the proof", true, (ACK, FIRST, ANSWER), "", "; tcp +2; unproven -2"),
            ("data", true, (ACK, FIRST, ANSWER), "GET /", ""),
            ("data back", false, (ACK, ANSWER, FIRST + 5), "200 OK!", ""),
            ("FIN with data", true, (FIN | ACK, FIRST + 5, ANSWER + 7), "bye", ""),
            ("half open", false, (ACK, ANSWER + 7, FIRST + 9), "more", ""),
            ("the other FIN", false, (FIN | ACK, ANSWER + 11, FIRST + 9), "", ""),
            ("the last ACK", true, (ACK, FIRST + 9, ANSWER + 12), "", "; tcp -2; unproven +2"),
            ("once more", true, (ACK, FIRST + 9, ANSWER + 12), "", ""),
            ("a late FIN", false, (FIN | ACK, ANSWER + 11, FIRST + 9), "", ""),
        ] {
            let (packet, sent) = segment(&talk, up, what_it_is, payload.as_bytes());
            let (side, way) = if up { (plane.client, "in") } else { (plane.backend, "out") };
            let change = format!("web: {way} 1/{}{tables}", pair.head() + 20 + payload.len());
            sends(&plane, &format!("{pair:?}: {what}"), side, &packet, &sent, &change);
        }
        let (again, sent) = segment(&talk, true, (SYN, CLIENT_ISN + 100_000, 0), b"");
        let change = format!("web: in 1/{}, flows 1", pair.head() + 20);
        sends(&plane, "the same ports again", plane.client, &again, &sent, &change);
    }
}

#[test]
fn a_reset_ends_it_and_data_revives_it() {
    for pair in Pair::ALL {
        let mut plane = plane(&pair.rules());
        let mut talk = pair.talk(50_010);
        talk.establish(&plane, plane.backend);
        for (what, up, what_it_is, payload) in [
            ("reset", false, (RST, ANSWER, 0), ""),
            ("nobody believed it", true, (ACK, FIRST, ANSWER), "still here"),
            ("so it goes on", true, (ACK, FIRST, ANSWER), "still here"),
            ("reset by the client", true, (RST | ACK, FIRST, ANSWER), ""),
        ] {
            let (packet, sent) = segment(&talk, up, what_it_is, payload.as_bytes());
            let (side, way) = if up { (plane.client, "in") } else { (plane.backend, "out") };
            let change = format!("web: {way} 1/{}", pair.head() + 20 + payload.len());
            sends(&plane, &format!("{pair:?}: {what}"), side, &packet, &sent, &change);
        }
        plane.age(3);
        let (again, sent) = segment(&talk, true, (SYN, CLIENT_ISN + 100_000, 0), b"");
        let change = format!("web: in 1/{}, flows 1; tcp -2; unproven +2", pair.head() + 20);
        sends(&plane, "after a silence", plane.client, &again, &sent, &change);
    }
}

#[test]
fn a_refused_connection_and_a_false_proof() {
    for pair in Pair::ALL {
        let plane = plane(&pair.rules());
        let mut talk = pair.talk(50_020);
        let (syn, _) = segment(&talk, true, (SYN, CLIENT_ISN, 0), b"");
        talk.open(&plane, plane.client, &syn);
        let (ack, _) = segment(&talk, true, (ACK, FIRST, ANSWER), b"");
        drops(&plane, "an ACK before the SYN-ACK", plane.client, &ack, "web: not_proven 1");
        let (refused, sent) = segment(&talk, false, (RST | ACK, 0, FIRST), b"");
        let change = format!("web: out 1/{}", pair.head() + 20);
        sends(&plane, "refused", plane.backend, &refused, &sent, &change);
        let (next, sent) = segment(&talk, true, (SYN, CLIENT_ISN + 9, 0), b"");
        let change = format!("web: in 1/{}, flows 1", pair.head() + 20);
        sends(&plane, "the next try", plane.client, &next, &sent, &change);
    }
}

/// Datagrams of many sizes, whose bytes bring the checksum through all of its carries.
#[test]
fn datagrams() {
    for pair in Pair::ALL {
        let plane = plane(&pair.rules());
        let mut talk = pair.talk(50_030);
        let before = plane.counts();
        talk.open(&plane, plane.client, &talk.client_udp(b"first"));
        let change = format!("web: in 1/{}, flows 1; unproven +2", pair.head() + 13);
        assert_eq!(before.change(&plane.counts()).to_string(), change, "{pair:?}");
        let (answer, change) = (talk.backend_udp(b"answer"), format!("web: out 1/{}", pair.head() + 14));
        sends(&plane, "an answer", plane.backend, &answer, &talk.to_client(&answer), &change);
        let proof = talk.client_udp(b"proof");
        let change = format!("web: in 1/{}; udp +2; unproven -2", pair.head() + 13);
        sends(&plane, "the proof", plane.client, &proof, &talk.to_backend(&proof), &change);
        for size in [0, 1, 2, 3, 64, 511, 1211, 1212, 1213, 1231, 1232, 1233, 1400, 1432] {
            let payload: Vec<u8> = (0..size).map(|at| (at * 31 + size) as u8).collect();
            let bytes = pair.head() + 8 + size;
            let what = format!("{pair:?}: {size} bytes");
            let (there, back) = (talk.client_udp(&payload), talk.backend_udp(&payload));
            let change = format!("web: in 1/{bytes}");
            sends(&plane, &what, plane.client, &there, &talk.to_backend(&there), &change);
            let change = format!("web: out 1/{bytes}");
            sends(&plane, &what, plane.backend, &back, &talk.to_client(&back), &change);
        }
    }
}

/// A checksum of 0 says that there is none: what comes to 0 is sent as its other form.
#[test]
fn a_checksum_that_comes_to_zero() {
    for pair in Pair::ALL {
        let plane = plane(&pair.rules());
        let mut talk = pair.talk(50_040);
        talk.prove(&plane, plane.backend);
        for up in [true, false] {
            let make = |payload: &[u8]| {
                let packet = if up { talk.client_udp(payload) } else { talk.backend_udp(payload) };
                let sent = if up { talk.to_backend(&packet) } else { talk.to_client(&packet) };
                (packet, sent)
            };
            // the checksum of the one with zeros, added to the payload, makes up for all the rest
            let (_, sent) = make(&[0; 6]);
            let (packet, sent) = make(&[0, 0, sent.body()[6], sent.body()[7], 0, 0]);
            assert_eq!(sent.body()[6..8], [0xff, 0xff], "{pair:?}");
            let (side, way) = if up { (plane.client, "in") } else { (plane.backend, "out") };
            let change = format!("web: {way} 1/{}", pair.head() + 14);
            sends(&plane, &format!("{pair:?}"), side, &packet, &sent, &change);
        }
    }
}

/// Class and type of service, hop limit and time to live; a flow label is nobody else's.
#[test]
fn headers_are_carried_over() {
    for pair in Pair::ALL {
        let plane = plane(&pair.rules());
        let (mut udp, mut tcp) = (pair.talk(50_050), pair.talk(50_051));
        udp.prove(&plane, plane.backend);
        tcp.establish(&plane, plane.backend);
        for (service, ttl) in [(0, 2), (1, 3), (2, 64), (3, 128), (0xb8, 254), (0xff, 255)] {
            let marked = |packet: Wire| match packet.with_service(service).with_ttl(ttl) {
                Wire::V4(packet) => Packet { identification: 77, fragment: 0, ..packet }.into(),
                Wire::V6(packet) => PacketV6 { label: 0x0f_edcb, ..packet }.into(),
            };
            let data = Segment::flags(ACK).at(FIRST, ANSWER).carrying(b"marked");
            let back = Segment::flags(ACK).at(ANSWER, FIRST).carrying(b"marked");
            for (talk, there, back, size) in [
                (&udp, udp.client_udp(b"marked"), udp.backend_udp(b"marked"), 14),
                (&tcp, tcp.client_tcp(&data), tcp.backend_tcp(&back), 26),
            ] {
                let (there, back) = (marked(there), marked(back));
                let what = format!("{pair:?}: service {service:#x}, TTL {ttl}");
                let change = format!("web: in 1/{}", pair.head() + size);
                sends(&plane, &what, plane.client, &there, &talk.to_backend(&there), &change);
                let change = format!("web: out 1/{}", pair.head() + size);
                sends(&plane, &what, plane.backend, &back, &talk.to_client(&back), &change);
            }
        }
    }
}

/// Neither end may ask for segments that the smaller of both legs cannot take.
#[test]
fn the_segment_size_is_clamped() {
    for pair in Pair::ALL {
        let head = |is_v6| if is_v6 { 60 } else { 40 };
        let (client, backend) = (head(pair.client_is_v6()), head(pair.backend_is_v6()));
        let narrow = (1500 - client).min(NARROW_MTU as u16 - backend);
        let wide = 1500 - client.max(backend);
        for (port, rules, talk, limit, padding) in [
            (50_080, pair.narrow_rules(), pair.narrow(50_080), narrow, 0),
            (50_081, pair.narrow_rules(), pair.narrow(50_081), narrow, 1),
            (50_082, pair.rules(), pair.talk(50_082), wide, 2),
            (50_083, pair.rules(), pair.talk(50_083), wide, 3),
        ] {
            let (plane, mut talk) = (plane(&rules), talk);
            let side = if limit == wide { plane.backend } else { plane.narrow };
            let syn = |talk: &Talk, mss| {
                talk.client_tcp(&Segment::flags(SYN).at(CLIENT_ISN, 0).with_mss(mss, padding))
            };
            let bytes = pair.head() + 20 + (4 + padding).next_multiple_of(4);
            let ran = plane.programs.tc(plane.client, &syn(&talk, 8960).frame(plane.client.mac), 0);
            let ran = ran.expect("TEST_RUN");
            talk.source.set_port(Wire::parse_ip(&ran.frame[14..]).expect("a packet").ports().0);
            for (asked, granted) in [(8960, limit), (limit + 1, limit), (limit, limit), (536, 536)] {
                let what = format!("{pair:?} at {port}: {asked} after {padding}");
                let (packet, sent) = (syn(&talk, asked), talk.to_backend(&syn(&talk, granted)));
                sends(&plane, &what, plane.client, &packet, &sent, &format!("web: in 1/{bytes}"));
                let answer = |mss| {
                    let segment = Segment::flags(SYN | ACK).at(BACKEND_ISN, FIRST);
                    talk.backend_tcp(&segment.with_mss(mss, padding))
                };
                let (packet, sent) = (answer(asked), talk.to_client(&answer(granted)));
                sends(&plane, &what, side, &packet, &sent, &format!("web: out 1/{bytes}"));
            }
        }
    }
}
