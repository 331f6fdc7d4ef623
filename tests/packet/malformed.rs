//! Headers that contradict themselves: they pass as they came, since the host's own stack drops and counts them, and
//! nothing is read or written where it should not be.

use harness::packet::{ACK, Packet, SYN, Segment};
use harness::plane::Plane;

use crate::conversation::Conversation;
use crate::table::Gives::{Pass, SendsFast};
use crate::table::{frame, row_of_bytes};
use crate::{WEB, plane};

/// Offsets in a frame.
const IP: usize = 14;
const TRANSPORT: usize = 34;

/// Makes the header checksum right again after a change.
fn resum(frame: &mut [u8]) {
    let end = (IP + usize::from(frame[IP] & 0xf) * 4).min(frame.len());
    frame[IP + 10..IP + 12].fill(0);
    let sum = harness::packet::checksum(&frame[IP..end]);
    frame[IP + 10..IP + 12].copy_from_slice(&sum.to_be_bytes());
}

/// Changes a good frame and checks that what comes of it passes.
#[track_caller]
fn passes(plane: &Plane, what: &str, packet: &Packet, change: impl FnOnce(&mut Vec<u8>)) {
    let mut bytes = frame(plane.client, packet);
    change(&mut bytes);
    resum(&mut bytes);
    row_of_bytes(plane, what, plane.client, &bytes, Pass, "");
}

/// First packets and packets of live flows, both protocols.
fn victims(plane: &Plane) -> Vec<(&'static str, Packet)> {
    let (mut udp, mut tcp) = (Conversation::usual(47_000), Conversation::usual(47_001));
    let stranger = Conversation::usual(47_002);
    let victims = vec![
        ("a first datagram", stranger.client_udp(b"hello there")),
        ("a SYN", stranger.client_tcp(&Segment::flags(SYN))),
    ];
    udp.prove(plane, plane.client, plane.backend);
    tcp.establish(plane, plane.client, plane.backend);
    let segment = Segment::flags(ACK).at(1001, 1).carrying(b"hello there");
    let live = [("a datagram", udp.client_udp(b"hello there")), ("a segment", tcp.client_tcp(&segment))];
    victims.into_iter().chain(live).collect()
}

#[test]
fn wild_ip_headers() {
    let plane = plane(WEB);
    for (what, packet) in victims(&plane) {
        let length = packet.ip_bytes().len() as u16;
        for words in 0..5 {
            passes(&plane, &format!("{what}, header of {words} words"), &packet, |f| f[IP] = 0x40 | words);
        }
        passes(&plane, &format!("{what}, header longer than the packet"), &packet, |f| {
            f.truncate(IP + 56);
            f[IP] = 0x4f;
        });
        for version in [0, 5, 6, 15] {
            passes(&plane, &format!("{what}, version {version}"), &packet, |f| f[IP] = version << 4 | 5);
        }
        for wrong in [0, 1, 19, 20, 27, length + 1, length + 100, 0x8000, 0xffff] {
            passes(&plane, &format!("{what}, total length {wrong}"), &packet, |f| {
                f[IP + 2..IP + 4].copy_from_slice(&wrong.to_be_bytes());
            });
        }
    }
}

#[test]
fn truncated_transport_headers() {
    let plane = plane(WEB);
    for (what, packet) in victims(&plane) {
        let header = if packet.protocol == harness::packet::TCP { 20 } else { 8 };
        for kept in 0..header {
            passes(&plane, &format!("{what}, {kept} bytes of it"), &packet, |f| {
                f.truncate(TRANSPORT + kept);
                f[IP + 2..IP + 4].copy_from_slice(&(20 + kept as u16).to_be_bytes());
            });
            passes(&plane, &format!("{what}, {kept} bytes and padding"), &packet, |f| {
                f[IP + 2..IP + 4].copy_from_slice(&(20 + kept as u16).to_be_bytes());
            });
        }
    }
}

#[test]
fn wild_transport_lengths() {
    let plane = plane(WEB);
    for (what, packet) in victims(&plane) {
        if packet.protocol == harness::packet::TCP {
            for words in [0, 1, 2, 3, 4, 8, 9, 15] {
                // 11 bytes of payload hold no more than two words of options
                if words * 4 > packet.body.len() as u8 || words < 5 {
                    passes(&plane, &format!("{what}, header of {words} words"), &packet, |f| {
                        f[TRANSPORT + 12] = words << 4;
                    });
                }
            }
            continue;
        }
        let length = packet.body.len() as u16;
        for wrong in [0, 1, 7, length + 1, length + 100, 0xffff] {
            passes(&plane, &format!("{what}, UDP length {wrong}"), &packet, |f| {
                f[TRANSPORT + 4..TRANSPORT + 6].copy_from_slice(&wrong.to_be_bytes());
            });
        }
    }
}

/// A datagram may be shorter than the packet that carries it (as in RFC 9868); a segment may hold nothing but options.
#[test]
fn unusual_but_right() {
    let plane = plane(WEB);
    let mut talk = Conversation::usual(47_010);
    talk.prove(&plane, plane.client, plane.backend);
    let mut packet = talk.client_udp(b"with a surplus");
    packet.body[5] -= 4;
    let mut expected = talk.to_backend(&packet);
    // summed over the datagram alone; by difference both ways come to the same
    packet.body[6..8].fill(0);
    expected.body[6..8].fill(0);
    row_of_bytes(
        &plane,
        "surplus",
        plane.client,
        &frame(plane.client, &packet),
        SendsFast(&expected),
        "web: in 1/42",
    );
    let mut talk = Conversation::usual(47_011);
    talk.establish(&plane, plane.client, plane.backend);
    let segment = Segment { options: vec![1; 40], ..Segment::flags(ACK).at(1001, 1) };
    let packet = talk.client_tcp(&segment);
    let sent = talk.to_backend(&packet);
    row_of_bytes(
        &plane,
        "options",
        plane.client,
        &frame(plane.client, &packet),
        SendsFast(&sent),
        "web: in 1/80",
    );
}

/// A broken header checksum is handed on exactly as broken, for the next hop to drop as a router must (RFC 1812).
#[test]
fn a_wrong_header_checksum_stays_wrong() {
    let plane = plane(WEB);
    let mut talk = Conversation::usual(47_012);
    talk.prove(&plane, plane.client, plane.backend);
    let packet = talk.client_udp(b"hello");
    let mut bytes = frame(plane.client, &packet);
    bytes[IP + 10] ^= 0x10;
    let (ran, change) = plane.tc(plane.client, &bytes);
    assert_eq!(change.to_string(), "web: in 1/33");
    let sent = talk.to_backend(&packet).frame();
    assert!(!Packet::parse(&ran.frame).expect("a packet").header_ok);
    assert_eq!((&ran.frame[14..24], &ran.frame[26..]), (&sent[14..24], &sent[26..]));
}
