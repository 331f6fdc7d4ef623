//! Packets that are too old or too large for the way out, and the errors made about them in the sender's family.

use std::net::IpAddr;

use harness::packet::{ACK, SYN, Segment, TCP, Wire};
use harness::plane::{NARROW_MTU, Plane, Side, Verdict};

use super::talk::{Pair, sends};
use crate::plane;

/// The error that the relay makes about a packet: 20 bytes quoted of TCP, 8 of UDP.
fn answer(from: IpAddr, mtu: Option<u32>, about: &Wire) -> Wire {
    let (kind, code, rest) = match (about.is_v6(), mtu) {
        (true, None) => (3, 0, 0),
        (true, Some(mtu)) => (2, 0, mtu),
        (false, None) => (11, 0, 0),
        (false, Some(mtu)) => (3, 4, mtu),
    };
    let quoted = if about.protocol() == TCP { 20 } else { 8 };
    match Wire::icmp_error(from, kind, code, rest, about, quoted) {
        Wire::V4(mut packet) => {
            packet.identification = 0;
            packet.into()
        }
        sent @ Wire::V6(_) => sent,
    }
}

/// Checks that a packet is answered, and that nothing stands behind the quote.
#[track_caller]
fn answered(plane: &Plane, what: &str, side: Side, packet: &Wire, expected: &Wire, reason: &str) {
    sends(plane, what, side, packet, expected, &format!("web: {reason} 1"));
    let (ran, _) = plane.tc(side, &packet.frame(side.mac));
    assert_eq!(ran.frame.len(), expected.ip_bytes().len() + 14, "{what}");
    assert_eq!(ran.frame[12..14], expected.frame([0; 6])[12..14], "{what}: EtherType");
}

#[test]
fn an_old_packet_is_answered() {
    for pair in Pair::ALL {
        let plane = plane(&pair.rules());
        let stranger = pair.talk(53_000);
        let (mut udp, mut tcp) = (pair.talk(53_001), pair.talk(53_002));
        udp.prove(&plane, plane.backend);
        tcp.establish(&plane, plane.backend);
        let segment = Segment::flags(ACK).at(1001, 1).carrying(&[1; 1200]);
        for ttl in [0, 1] {
            for (what, up, packet, from) in [
                ("a first datagram", true, stranger.client_udp(b"first"), stranger.listener),
                (
                    "a SYN",
                    true,
                    stranger.client_tcp(&Segment::flags(SYN).with_mss(1460, 0)),
                    stranger.listener,
                ),
                ("a datagram", true, udp.client_udp(&[9; 1000]), udp.listener),
                ("an answer", false, udp.backend_udp(&[9; 1000]), udp.source),
                ("a segment", true, tcp.client_tcp(&segment), tcp.listener),
                ("a segment back", false, tcp.backend_tcp(&segment), tcp.source),
            ] {
                let (side, packet) = (if up { plane.client } else { plane.backend }, packet.with_ttl(ttl));
                let sent = answer(from.ip(), None, &packet);
                answered(&plane, &format!("{pair:?}: {what}"), side, &packet, &sent, "ttl_exceeded");
            }
        }
    }
}

/// What the narrow link takes, in the client's family: whole datagrams and segments, and the MTU that is told.
const fn limits(pair: Pair) -> (usize, u32, u32) {
    let mtu = NARROW_MTU as usize;
    match pair {
        Pair::SixToFour => (mtu + 20, NARROW_MTU + 20, NARROW_MTU + 20),
        // a datagram that is sent in fragments then needs another header
        Pair::FourToSix => (mtu - 20, NARROW_MTU - 28, NARROW_MTU - 20),
        Pair::SixToSix => (mtu, NARROW_MTU, NARROW_MTU),
    }
}

#[test]
fn what_does_not_fit_is_answered_with_what_does() {
    for pair in Pair::ALL {
        let plane = plane(&pair.narrow_rules());
        let (fits, of_datagrams, of_segments) = limits(pair);
        let (stranger, mut udp, mut tcp) = (pair.narrow(53_010), pair.narrow(53_011), pair.narrow(53_012));
        let payload = vec![5; fits - pair.head() - 8];
        let larger = vec![5; payload.len() + 1];
        let first = stranger.client_udp(&larger);
        let sent = answer(stranger.listener.ip(), Some(of_datagrams), &first);
        answered(&plane, &format!("{pair:?}: a first datagram"), plane.client, &first, &sent, "too_big");
        udp.prove(&plane, plane.narrow);
        let packet = udp.client_udp(&payload);
        let change = format!("web: in 1/{fits}");
        sends(&plane, &format!("{pair:?}: fits"), plane.client, &packet, &udp.to_backend(&packet), &change);
        let packet = udp.client_udp(&larger);
        let sent = answer(udp.listener.ip(), Some(of_datagrams), &packet);
        answered(&plane, &format!("{pair:?}: one byte more"), plane.client, &packet, &sent, "too_big");
        if let Wire::V4(packet) = packet {
            // nobody fragments on the way any more: the sender is told, as IPv6 would
            let packet = harness::packet::Packet { fragment: 0, ..packet }.into();
            let sent = answer(udp.listener.ip(), Some(of_datagrams), &packet);
            answered(&plane, "may be fragmented", plane.client, &packet, &sent, "too_big");
        }
        tcp.establish(&plane, plane.narrow);
        let segment = |length| Segment::flags(ACK).at(1001, 1).carrying(&vec![1; length]);
        let most = fits - pair.head() - 20;
        let packet = tcp.client_tcp(&segment(most));
        sends(&plane, &format!("{pair:?}: fits"), plane.client, &packet, &tcp.to_backend(&packet), &change);
        let packet = tcp.client_tcp(&segment(most + 1));
        let sent = answer(tcp.listener.ip(), Some(of_segments), &packet);
        answered(&plane, &format!("{pair:?}: a segment"), plane.client, &packet, &sent, "too_big");
    }
}

/// And back, where the clients' link takes 1,500 bytes.
#[test]
fn answers_of_the_backend_too() {
    for (pair, fits, of_datagrams, of_segments) in [
        (Pair::SixToFour, 1480, 1472, 1480),
        (Pair::FourToSix, 1520, 1520, 1520),
        (Pair::SixToSix, 1500, 1500, 1500),
    ] {
        let plane = plane(&pair.rules());
        let (mut udp, mut tcp) = (pair.talk(53_020), pair.talk(53_021));
        udp.prove(&plane, plane.backend);
        tcp.establish(&plane, plane.backend);
        let head = if pair.backend_is_v6() { 40 } else { 20 };
        let on_client_leg = fits + pair.head() - head;
        let change = format!("web: out 1/{on_client_leg}");
        let packet = udp.backend_udp(&vec![5; fits - head - 8]);
        sends(&plane, &format!("{pair:?}: fits"), plane.backend, &packet, &udp.to_client(&packet), &change);
        let packet = udp.backend_udp(&vec![5; fits - head - 7]);
        let sent = answer(udp.source.ip(), Some(of_datagrams), &packet);
        answered(&plane, &format!("{pair:?}: a datagram"), plane.backend, &packet, &sent, "too_big");
        let packet = tcp.backend_tcp(&Segment::flags(ACK).at(1, 1001).carrying(&vec![1; fits - head - 19]));
        let sent = answer(tcp.source.ip(), Some(of_segments), &packet);
        answered(&plane, &format!("{pair:?}: a segment"), plane.backend, &packet, &sent, "too_big");
    }
}

/// The fragment header is left out of what is quoted: who looks past it for ports finds them.
#[test]
fn a_first_fragment_is_answered() {
    for (pair, fits, told) in [
        (Pair::SixToFour, NARROW_MTU + 28, NARROW_MTU + 20),
        (Pair::FourToSix, NARROW_MTU - 28, NARROW_MTU - 28),
        (Pair::SixToSix, NARROW_MTU, NARROW_MTU),
    ] {
        let plane = plane(&pair.narrow_rules());
        let mut talk = pair.narrow(53_030);
        talk.prove(&plane, plane.narrow);
        let whole = talk.client_udp(&[7; 3000]);
        let head = if pair.client_is_v6() { 48 } else { 20 };
        let most = (fits as usize - head) / 8 * 8;
        let first = whole.part(0, most, 77);
        let (ran, change) = plane.tc(plane.client, &first.frame(plane.client.mac));
        assert_eq!(ran.verdict, Verdict::Redirect);
        assert!(change.to_string().starts_with(&format!("web: in 1/{};", head + most)), "{pair:?}: {change}");
        let first = whole.part(0, most + 8, 78);
        let about = match &first {
            Wire::V4(_) => first.clone(),
            Wire::V6(packet) => packet.clone().with_extensions(&[]).into(),
        };
        let sent = answer(talk.listener.ip(), Some(told), &about);
        answered(&plane, &format!("{pair:?}"), plane.client, &first, &sent, "too_big");
    }
}
