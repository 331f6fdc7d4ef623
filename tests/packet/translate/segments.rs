//! Super-packets, whose segments are what counts, and how IPv4 packets made of IPv6 ones are numbered.

use harness::packet::{ACK, DONT_FRAGMENT, Wire};
use harness::plane::{NARROW_MTU, Verdict};

use super::talk::Pair;
use super::{ANSWER, FIRST, segment};
use crate::plane;

/// The identification of what a client's packet becomes, which may be fragmented on its way.
fn identification(plane: &crate::Held, packet: &Wire) -> u16 {
    let ran = plane.programs.tc(plane.client, &packet.frame(plane.client.mac), 0).expect("TEST_RUN");
    match Wire::parse_ip(&ran.frame[14..]) {
        Some(Wire::V4(packet)) if packet.fragment & DONT_FRAGMENT == 0 => packet.identification,
        other => panic!("{other:?}"),
    }
}

/// What may be fragmented needs an identification that other packets have not.
#[test]
fn identifications_are_random() {
    let plane = plane(&Pair::SixToFour.rules());
    let (mut udp, mut tcp) = (Pair::SixToFour.talk(50_060), Pair::SixToFour.talk(50_061));
    udp.prove(&plane, plane.backend);
    tcp.establish(&plane, plane.backend);
    let (ack, _) = segment(&tcp, true, (ACK, FIRST, ANSWER), b"");
    for packet in [udp.client_udp(b"hello"), ack] {
        let seen: std::collections::BTreeSet<u16> =
            (0..16).map(|_| identification(&plane, &packet)).collect();
        assert!(seen.len() > 8, "{packet:?}: {seen:?}");
    }
}

/// Those of a stream's segments count up, or receivers do not merge them.
#[test]
fn identifications_of_a_stream_count_up() {
    let plane = plane(&Pair::SixToFour.rules());
    let mut talk = Pair::SixToFour.talk(50_062);
    talk.establish(&plane, plane.backend);
    for size in [1, 536, 1220] {
        let payload = vec![5; size as usize];
        let numbers: Vec<u16> = (0..8)
            .map(|index| {
                let (packet, _) = segment(&talk, true, (ACK, FIRST + index * size, ANSWER), &payload);
                identification(&plane, &packet)
            })
            .collect();
        let counted: Vec<u16> = (0..8).map(|index| numbers[0].wrapping_add(index)).collect();
        assert_eq!(numbers, counted, "segments of {size} bytes");
    }
}

/// A super-packet is judged by its segments, and of IPv4 numbers them. A test's is of no protocol: not every kernel changes the family of such a one.
#[test]
fn segments_are_what_counts() {
    for pair in Pair::ALL {
        let plane = plane(&pair.narrow_rules());
        let mut talk = pair.narrow(50_070);
        talk.establish(&plane, plane.narrow);
        let (packet, sent) = segment(&talk, true, (ACK, FIRST, ANSWER), &[3; 3000]);
        let backend_head = if pair.backend_is_v6() { 60 } else { 40 };
        let most = NARROW_MTU - backend_head;
        for size in [1000, most, most + 1] {
            let before = plane.counts();
            let ran =
                plane.programs.tc(plane.client, &packet.frame(plane.client.mac), size).expect("TEST_RUN");
            let change = before.change(&plane.counts()).to_string();
            let counted = format!("web: in 3/{}", 3 * (pair.head() + 20) + 3000);
            let what = format!("{pair:?}: segments of {size}");
            if size > most {
                assert_eq!((ran.verdict, change.as_str()), (Verdict::Redirect, "web: too_big 1"), "{what}");
            } else if ran.verdict == Verdict::Redirect {
                assert_eq!(change, counted, "{what}");
                let mut sent = sent.clone();
                if let Wire::V4(sent) = &mut sent
                    && 40 + size <= 1260
                {
                    (sent.fragment, sent.identification) = (0, (FIRST / size) as u16);
                }
                assert_eq!(ran.frame[14..], sent.ip_bytes(), "{what}");
            } else {
                assert_ne!(pair, Pair::SixToSix);
                assert_eq!(
                    (ran.verdict, change),
                    (Verdict::Drop, format!("{counted}, unwritable 1")),
                    "{what}"
                );
            }
        }
    }
}

/// Datagrams that the kernel has made one packet of: a test's is of no protocol, and no kernel changes the family of such a one.
#[test]
fn datagrams_in_one_packet() {
    for pair in Pair::ALL {
        let plane = plane(&pair.rules());
        let mut talk = pair.talk(50_071);
        talk.prove(&plane, plane.backend);
        let packet = talk.client_udp(&[3; 1000]);
        let counted = format!("web: in 3/{}", 3 * (pair.head() + 8) + 1000);
        let before = plane.counts();
        let ran = plane.programs.tc(plane.client, &packet.frame(plane.client.mac), 400).expect("TEST_RUN");
        let change = before.change(&plane.counts()).to_string();
        if pair == Pair::SixToSix {
            assert_eq!((ran.verdict, change), (Verdict::Redirect, counted));
            assert_eq!(ran.frame[14..], talk.to_backend(&packet).ip_bytes());
        } else {
            assert_eq!((ran.verdict, change), (Verdict::Drop, format!("{counted}, udp_gso 1")), "{pair:?}");
        }
    }
}
