//! UDP: a flow from its first packet to its proof.

use harness::packet::Packet;
use harness::plane::Plane;

use crate::conversation::Conversation;
use crate::table::Gives::{Sends, SendsFast};
use crate::table::row;
use crate::{WEB, plane};

#[test]
fn a_flow_is_opened_answered_and_proven() {
    let plane = plane(WEB);
    let (client, backend) = (plane.client, plane.backend);
    let mut talk = Conversation::usual(40_000);
    let hello = talk.client_udp(b"hello");
    let before = plane.counts();
    talk.open(&plane, client, &hello);
    assert_eq!(before.change(&plane.counts()).to_string(), "web: in 1/33, flows 1; unproven +2");
    let sent = talk.to_backend(&hello);
    row(&plane, "again before an answer", client, &hello, SendsFast(&sent), "web: in 1/33");
    let answer = talk.backend_udp(b"and hello to you");
    let got = talk.to_client(&answer);
    row(&plane, "the first answer", backend, &answer, Sends(&got), "web: out 1/44");
    row(&plane, "the next answer", backend, &answer, SendsFast(&got), "web: out 1/44");
    row(&plane, "the proof", client, &hello, Sends(&sent), "web: in 1/33; udp +2; unproven -2");
    row(&plane, "a live flow", client, &hello, SendsFast(&sent), "web: in 1/33");
    row(&plane, "a live flow, back", backend, &answer, SendsFast(&got), "web: out 1/44");
}

#[test]
fn payloads_of_every_kind() {
    let plane = plane(WEB);
    let mut talk = Conversation::usual(40_001);
    talk.prove(&plane, plane.client, plane.backend);
    for length in [0usize, 1, 2, 3, 31, 512, 1471, 1472] {
        let payload: Vec<u8> = (0..length).map(|at| (at * 7 + length) as u8).collect();
        both_ways(&plane, &talk, &payload, &format!("{length} bytes"));
    }
}

/// One's complement has two zeros and UDP gives each a meaning of its own. And a complete checksum may happen to have
/// the value that one begun by a sender's offload would have, which tc must not take it for.
#[test]
fn checksums_at_the_edge() {
    let plane = plane(WEB);
    let mut talk = Conversation::usual(40_002);
    talk.prove(&plane, plane.client, plane.backend);
    let checksum = |packet: &Packet| u16::from_be_bytes([packet.body[6], packet.body[7]]);
    let edge = [0, 1, 2, 0x7fff, 0x8000, 0xfffd, 0xfffe, 0xffff, begun(&talk.client_udp(&[0; 2]))];
    let mut seen = 0;
    for word in 0..=u16::MAX {
        let payload = word.to_be_bytes();
        let packet = talk.client_udp(&payload);
        if edge.contains(&checksum(&packet)) || edge.contains(&checksum(&talk.to_backend(&packet))) {
            both_ways(&plane, &talk, &payload, &format!("payload {word:#x}"));
            seen += 1;
        }
    }
    assert!(seen >= edge.len(), "{seen}");
}

/// The sum over the pseudo-header of a packet.
fn begun(packet: &Packet) -> u16 {
    let mut pseudo = [packet.source.octets(), packet.destination.octets()].concat();
    pseudo.extend([0, packet.protocol]);
    pseudo.extend((packet.body.len() as u16).to_be_bytes());
    !harness::packet::checksum(&pseudo)
}

#[track_caller]
fn both_ways(plane: &Plane, talk: &Conversation, payload: &[u8], what: &str) {
    let bytes = payload.len() + 28;
    let (there, back) = (talk.client_udp(payload), talk.backend_udp(payload));
    let change = format!("web: in 1/{bytes}");
    row(plane, what, plane.client, &there, SendsFast(&talk.to_backend(&there)), &change);
    let change = format!("web: out 1/{bytes}");
    row(plane, what, plane.backend, &back, SendsFast(&talk.to_client(&back)), &change);
}

#[test]
fn no_checksum_stays_none() {
    let plane = plane(WEB);
    let mut talk = Conversation::usual(40_003);
    let unsummed = |mut packet: Packet| {
        packet.body[6..8].fill(0);
        packet
    };
    let first = unsummed(talk.client_udp(b"first"));
    talk.open(&plane, plane.client, &first);
    let answer = unsummed(talk.backend_udp(b"answer"));
    row(&plane, "slow", plane.backend, &answer, Sends(&talk.to_client(&answer)), "web: out 1/34");
    row(&plane, "fast", plane.backend, &answer, SendsFast(&talk.to_client(&answer)), "web: out 1/34");
    let sent = talk.to_backend(&first);
    row(&plane, "proof", plane.client, &first, Sends(&sent), "web: in 1/33; udp +2; unproven -2");
    row(&plane, "fast", plane.client, &first, SendsFast(&sent), "web: in 1/33");
}

/// A wrong checksum is the receiver's to judge: it must arrive exactly as wrong as it was.
#[test]
fn a_wrong_checksum_stays_wrong() {
    let plane = plane(WEB);
    let mut talk = Conversation::usual(40_004);
    talk.prove(&plane, plane.client, plane.backend);
    let mut packet = talk.client_udp(b"damaged on the way");
    let mut expected = talk.to_backend(&packet);
    packet.body[10] ^= 0x20;
    expected.body[10] ^= 0x20;
    assert!(!expected.transport_ok());
    row(&plane, "damaged", plane.client, &packet, SendsFast(&expected), "web: in 1/46");
}
