//! Fragments: the first one has the ports, the others follow it into the other family.

use harness::packet::{ACK, DONT_FRAGMENT, Extension, MORE_FRAGMENTS, Packet, PacketV6, Segment, Wire};
use harness::plane::Side;

use super::talk::{Pair, Talk, drops, passes, sends};
use crate::plane;

/// Bytes of a fragment's IP headers on the clients' leg.
const fn head(pair: Pair) -> usize {
    match pair {
        Pair::FourToSix => 20,
        Pair::SixToFour | Pair::SixToSix => 48,
    }
}

/// What a first fragment adds to the tables.
const fn remembered(is_v6: bool) -> &'static str {
    if is_v6 { "fragments of IPv6 +1" } else { "fragments +1" }
}

/// A datagram of 2,008 bytes and what it becomes, from the client or from the backend.
fn datagram(talk: &Talk, up: bool) -> (Wire, Wire) {
    let payload: Vec<u8> = (0..2000u32).map(|at| (at * 13) as u8).collect();
    if up {
        let whole = talk.client_udp(&payload);
        let sent = talk.to_backend(&whole);
        return (whole, sent);
    }
    let whole = talk.backend_udp(&payload);
    let sent = talk.to_client(&whole);
    (whole, sent)
}

const IDENTIFICATION: u32 = 0x1234_5678;

/// As the next hop numbers a datagram: IPv4 has half of the bits.
const fn numbered(whole: &Wire, sent: &Wire) -> u32 {
    if whole.is_v6() && sent.is_v6() { IDENTIFICATION } else { IDENTIFICATION & 0xffff }
}

#[test]
fn parts_go_the_way_of_the_first() {
    for pair in Pair::ALL {
        let plane = plane(&pair.rules());
        let mut talk = pair.talk(51_000);
        talk.prove(&plane, plane.backend);
        let ways: [(bool, Side, &str); 2] = [(true, plane.client, "in"), (false, plane.backend, "out")];
        for (up, side, way) in ways {
            let (whole, sent) = datagram(&talk, up);
            let number = numbered(&whole, &sent);
            let early = whole.part(800, 1600, IDENTIFICATION);
            passes(&plane, &format!("{pair:?} {way}: before the first"), side, &early, "");
            let first = format!("; {}", remembered(whole.is_v6()));
            for (from, to, tables) in [
                (0, 800, first.as_str()),
                (1600, 2008, ""),
                (800, 1600, ""),
                (800, 1600, ""),
                (808, 1608, ""),
            ] {
                let what = format!("{pair:?} {way}: {from}..{to}");
                let (packet, expected) = (whole.part(from, to, IDENTIFICATION), sent.part(from, to, number));
                let change = format!("web: {way} 1/{}{tables}", head(pair) + to - from);
                sends(&plane, &what, side, &packet, &expected, &change);
            }
            let stranger = whole.part(800, 1600, IDENTIFICATION + 1);
            passes(&plane, &format!("{pair:?} {way}: of another"), side, &stranger, "");
        }
    }
}

#[test]
fn a_first_part_may_open_a_flow() {
    for pair in Pair::ALL {
        let plane = plane(&pair.rules());
        let mut talk = pair.talk(51_010);
        let (whole, _) = datagram(&talk, true);
        let first = whole.part(0, 800, IDENTIFICATION);
        let (ran, change) = plane.tc(plane.client, &first.frame(plane.client.mac));
        let stored = format!("flows 1; unproven +2; {}", remembered(whole.is_v6()));
        assert_eq!(change.to_string(), format!("web: in 1/{}, {stored}", head(pair) + 800));
        talk.source.set_port(Wire::parse_ip(&ran.frame[14..]).expect("a packet").ports().0);
        let (_, sent) = datagram(&talk, true);
        let number = numbered(&whole, &sent);
        assert_eq!(ran.frame[14..], sent.part(0, 800, number).ip_bytes(), "{pair:?}");
        let (rest, expected) = (whole.part(800, 2008, IDENTIFICATION), sent.part(800, 2008, number));
        let change = format!("web: in 1/{}", head(pair) + 1208);
        sends(&plane, &format!("{pair:?}: the rest"), plane.client, &rest, &expected, &change);
    }
}

#[test]
fn a_segment_in_parts() {
    for pair in Pair::ALL {
        let plane = plane(&pair.rules());
        let mut talk = pair.talk(51_020);
        talk.establish(&plane, plane.backend);
        let segment = Segment::flags(ACK).at(1001, 0xffff_fff1).carrying(&[7; 1000]);
        let whole = talk.client_tcp(&segment);
        let sent = talk.to_backend(&whole);
        let number = numbered(&whole, &sent);
        for (from, to, tables) in
            [(0, 520, format!("; {}", remembered(whole.is_v6()))), (520, 1020, "".into())]
        {
            let (packet, expected) = (whole.part(from, to, IDENTIFICATION), sent.part(from, to, number));
            let change = format!("web: in 1/{}{tables}", head(pair) + to - from);
            sends(&plane, &format!("{pair:?}: {from}..{to}"), plane.client, &packet, &expected, &change);
        }
    }
}

/// A fragment header on a whole packet (RFC 6946): IPv4 gets its number, IPv6 keeps it.
#[test]
fn a_part_that_is_all() {
    for pair in [Pair::SixToFour, Pair::SixToSix] {
        let plane = plane(&pair.rules());
        let mut talk = pair.talk(51_030);
        talk.prove(&plane, plane.backend);
        for size in [5, 1300] {
            let payload = vec![9; size];
            let whole = talk.client_udp(&payload).part(0, size + 8, IDENTIFICATION);
            let change = format!("web: in 1/{}", head(pair) + 8 + size);
            let (ran, changed) = plane.tc(plane.client, &whole.frame(plane.client.mac));
            assert_eq!(changed.to_string(), change, "{pair:?}");
            let sent = match talk.to_backend(&talk.client_udp(&payload)) {
                Wire::V4(packet) => Packet { identification: 0x5678, fragment: 0, ..packet }.into(),
                sent @ Wire::V6(_) => sent.part(0, size + 8, IDENTIFICATION),
            };
            assert_eq!(ran.frame[14..], sent.ip_bytes(), "{pair:?}: {size}");
        }
    }
}

/// IPv6 knows no datagram without a checksum, and of one in parts nobody here can make it.
#[test]
fn datagrams_without_a_checksum() {
    let pairs = [(Pair::FourToSix, true), (Pair::SixToFour, false)];
    for (pair, up) in pairs {
        let plane = plane(&pair.rules());
        let mut talk = pair.talk(51_040);
        talk.prove(&plane, plane.backend);
        let (side, way) = if up { (plane.client, "in") } else { (plane.backend, "out") };
        for size in [0, 1, 5, 18, 511, 512, 513, 1023, 1024, 1400, 1452] {
            let payload: Vec<u8> = (0..size).map(|at| (at * 7 + size) as u8).collect();
            let mut packet = if up { talk.client_udp(&payload) } else { talk.backend_udp(&payload) };
            let sent = if up { talk.to_backend(&packet) } else { talk.to_client(&packet) };
            packet.body_mut()[6..8].fill(0);
            let change = format!("web: {way} 1/{}", pair.head() + 8 + size);
            sends(&plane, &format!("{pair:?}: {size} bytes"), side, &packet, &sent, &change);
            // what Ethernet is padded with is nobody's
            let padded = [packet.frame(side.mac), vec![0xee; 40]].concat();
            let (ran, _) = plane.tc(side, &padded);
            let wanted = sent.ip_bytes();
            let padding = &ran.frame[14 + wanted.len()..];
            let got = Wire::parse_ip(&ran.frame[14..]);
            assert_eq!(got, Some(sent.clone()), "{pair:?}: {size} bytes, then {padding:x?}");
        }
        let (mut whole, _) = datagram(&talk, up);
        whole.body_mut()[6..8].fill(0);
        let first = whole.part(0, 800, IDENTIFICATION);
        drops(&plane, "in parts", side, &first, "web: bad_header 1");
        passes(&plane, "the rest", side, &whole.part(800, 2008, IDENTIFICATION), "");
        // a datagram shorter than its packet has a checksum of its own length
        let mut short = talk.client_udp(b"with a surplus");
        if !up {
            short = talk.backend_udp(b"with a surplus");
        }
        short.body_mut()[5] -= 4;
        short.body_mut()[6..8].fill(0);
        drops(&plane, "with a surplus", side, &short, "web: bad_header 1");
    }
}

/// Between IPv4 addresses that is allowed, and between IPv6 ones it stays as wrong as it was.
#[test]
fn no_checksum_in_ipv6() {
    for pair in [Pair::SixToFour, Pair::SixToSix] {
        let plane = plane(&pair.rules());
        let mut talk = pair.talk(51_050);
        talk.prove(&plane, plane.backend);
        let mut packet = talk.client_udp(b"forbidden");
        let mut sent = talk.to_backend(&packet);
        packet.body_mut()[6..8].fill(0);
        sent.body_mut()[6..8].fill(0);
        let change = format!("web: in 1/{}", pair.head() + 17);
        sends(&plane, &format!("{pair:?}"), plane.client, &packet, &sent, &change);
    }
}

#[test]
fn parts_that_cannot_go_on() {
    for pair in Pair::ALL {
        let plane = plane(&pair.narrow_rules());
        let mut talk = pair.narrow(51_060);
        talk.prove(&plane, plane.narrow);
        let (whole, sent) = datagram(&talk, true);
        let part = |from, to| whole.part(from, to, IDENTIFICATION);
        let first = sent.part(0, 400, numbered(&whole, &sent));
        let change = format!("web: in 1/{}; {}", head(pair) + 400, remembered(whole.is_v6()));
        sends(&plane, "first", plane.client, &part(0, 400), &first, &change);
        // of 1,400 bytes the next hop's headers leave so many, in units of 8
        let fits = if pair.backend_is_v6() { 1352 } else { 1376 };
        let last = sent.part(400, 400 + fits, numbered(&whole, &sent));
        let change = format!("web: in 1/{}", head(pair) + fits);
        let what = format!("{pair:?}: fits");
        sends(&plane, &what, plane.client, &part(400, 400 + fits), &last, &change);
        drops(&plane, "too big", plane.client, &part(400, 408 + fits), "web: too_big 1");
        let old = part(400, 800).with_ttl(1);
        drops(&plane, "too old", plane.client, &old, "web: ttl_exceeded 1");
    }
}

/// A later fragment's bytes may look like ports: they are none.
#[test]
fn payload_is_not_taken_for_ports() {
    for pair in Pair::ALL {
        let plane = plane(&pair.rules());
        let disguised: Wire = match pair.talk(51_070).client_udp(b"hello") {
            Wire::V4(packet) => Packet { fragment: 1 | MORE_FRAGMENTS | DONT_FRAGMENT, ..packet }.into(),
            Wire::V6(packet) => {
                let header = Extension::Fragment { offset: 8, more: true, identification: 1 };
                PacketV6 { extensions: vec![header], ..packet }.into()
            }
        };
        passes(&plane, &format!("{pair:?}"), plane.client, &disguised, "");
    }
}

/// Options of IPv4 have no place in IPv6.
#[test]
fn options_are_refused() {
    let plane = plane(&Pair::FourToSix.rules());
    let mut talk = Pair::FourToSix.talk(51_080);
    talk.prove(&plane, plane.backend);
    let (whole, sent) = datagram(&talk, true);
    let first = whole.part(0, 800, IDENTIFICATION);
    let change = "web: in 1/820; fragments +1";
    let expected = sent.part(0, 800, numbered(&whole, &sent));
    sends(&plane, "first", plane.client, &first, &expected, change);
    let with_options = |packet: Wire| match packet {
        Wire::V4(packet) => Wire::V4(packet.with_options(&[1; 4])),
        Wire::V6(_) => panic!("{packet:?}"),
    };
    let later = with_options(whole.part(800, 2008, IDENTIFICATION));
    drops(&plane, "a later fragment", plane.client, &later, "web: bad_header 1");
    let packet = with_options(talk.client_udp(b"with options"));
    drops(&plane, "a datagram", plane.client, &packet, "web: bad_header 1");
}
