//! IPv6 packets that the kernel plane does not carry: left to the stack as they came, or refused and counted.

use std::net::SocketAddr;

use harness::packet::{ACK, Extension, PacketV6, SYN, Segment, Wire};
use harness::world::RELAY_V6;

use super::talk::{Pair, Talk, drops, passes};
use crate::plane;

/// First packets, and packets of live flows.
fn packets(plane: &crate::Held, pair: Pair) -> Vec<(&'static str, PacketV6)> {
    let (mut udp, mut tcp) = (pair.talk(54_000), pair.talk(54_001));
    let stranger = pair.talk(54_002);
    udp.prove(plane, plane.backend);
    tcp.establish(plane, plane.backend);
    let segment = Segment::flags(ACK).at(1001, 0xffff_fff1).carrying(b"data");
    [
        ("a first datagram", stranger.client_udp(b"hello")),
        ("a SYN", stranger.client_tcp(&Segment::flags(SYN))),
        ("a datagram", udp.client_udp(b"hello")),
        ("a segment", tcp.client_tcp(&segment)),
    ]
    .map(|(what, packet)| match packet {
        Wire::V6(packet) => (what, packet),
        Wire::V4(packet) => panic!("{packet:?}"),
    })
    .into()
}

/// Whether a packet is of a live flow, by what [`packets`] calls it.
fn is_of_flow(what: &str) -> bool {
    matches!(what, "a datagram" | "a segment")
}

/// As many are looked past.
const MOST: usize = 4;

/// Those of flows are refused. Others that show their ports are counted, as they reach relayd's sockets.
#[test]
fn extension_headers() {
    let options = Extension::Padding(60, 8);
    for pair in [Pair::SixToFour, Pair::SixToSix] {
        let plane = plane(&pair.rules());
        for (what, packet) in packets(&plane, pair) {
            for (headers, shows_ports) in [
                (vec![Extension::Padding(0, 8)], true),
                (vec![Extension::Padding(60, 16)], true),
                (vec![Extension::Padding(43, 24)], true),
                (vec![Extension::Padding(0, 8), Extension::Padding(43, 8), options], true),
                (vec![options; MOST], true),
                (vec![options; MOST + 1], false),
                (vec![Extension::Padding(50, 16)], false),
                (vec![Extension::Padding(51, 16)], false),
                (vec![Extension::Padding(135, 8)], false),
                (vec![Extension::Padding(139, 8)], false),
            ] {
                let packet = packet.clone().with_extensions(&headers);
                let bytes = packet.ip_bytes().len();
                let (packet, named) = (packet.into(), format!("{what} behind {headers:?}"));
                if shows_ports && is_of_flow(what) {
                    drops(&plane, &named, plane.client, &packet, "web: bad_header 1");
                    continue;
                }
                let change = if shows_ports { format!("web: in 1/{bytes}") } else { String::new() };
                passes(&plane, &named, plane.client, &packet, &change);
            }
            for protocol in [0, 43, 50, 51, 59, 60, 132, 136] {
                let packet = PacketV6 { protocol, body: vec![59, 0, 1, 4, 0, 0, 0, 0], ..packet.clone() };
                passes(&plane, &format!("{what} as {protocol}"), plane.client, &packet.into(), "");
            }
        }
    }
}

/// The stack would answer a backend's with a reset, too.
#[test]
fn answers_behind_extension_headers() {
    for pair in [Pair::FourToSix, Pair::SixToSix] {
        let plane = plane(&pair.rules());
        let (mut asked, mut udp, mut tcp) = (pair.talk(54_003), pair.talk(54_004), pair.talk(54_005));
        asked.open(&plane, plane.client, &asked.client_udp(b"question"));
        udp.prove(&plane, plane.backend);
        tcp.establish(&plane, plane.backend);
        let segment = Segment::flags(ACK).at(0xffff_fff1, 1001).carrying(b"data");
        let other = Talk { backend: SocketAddr::new(udp.backend.ip(), 81), ..udp };
        for header in [Extension::Padding(0, 8), Extension::Padding(43, 24), Extension::Padding(60, 8)] {
            let behind = |packet: Wire| match packet {
                Wire::V6(packet) => packet.with_extensions(&[header]).into(),
                Wire::V4(packet) => panic!("{packet:?}"),
            };
            for (what, packet) in [
                ("the first answer", asked.backend_udp(b"answer")),
                ("an answer", udp.backend_udp(b"answer")),
                ("a segment", tcp.backend_tcp(&segment)),
            ] {
                let what = format!("{pair:?}: {what} behind {header:?}");
                drops(&plane, &what, plane.backend, &behind(packet), "web: bad_header 1");
            }
            passes(&plane, "of no flow", plane.backend, &behind(other.backend_udp(b"answer")), "");
        }
    }
}

/// What a fragment header is not next to the ports of is no other packet than behind options; its later fragments are left.
#[test]
fn fragment_headers_among_others() {
    let plane = plane(&Pair::SixToFour.rules());
    let options = Extension::Padding(60, 8);
    for (identification, (what, packet)) in (99..).zip(packets(&plane, Pair::SixToFour)) {
        let header = |offset, more| Extension::Fragment { offset, more, identification };
        let bytes = packet.ip_bytes().len() + 16;
        for (headers, later) in [
            ([header(0, true), options], vec![header(64, false)]),
            ([options, header(0, true)], vec![options, header(64, false)]),
        ] {
            let first: Wire = packet.clone().with_extensions(&headers).into();
            let last: Wire = packet.clone().with_extensions(&later).into();
            if is_of_flow(what) {
                drops(&plane, what, plane.client, &first, "web: bad_header 1");
                passes(&plane, &format!("{what}: the last"), plane.client, &last, "");
                continue;
            }
            let what = format!("{what} behind {headers:?}");
            let (ran, change) = plane.tc(plane.client, &first.frame(plane.client.mac));
            assert_eq!(ran.verdict, harness::plane::Verdict::Pass, "{what}");
            assert_eq!(ran.frame, first.frame(plane.client.mac), "{what}");
            assert!(change.to_string().starts_with(&format!("web: in 1/{bytes}")), "{what}: {change}");
            let change = format!("web: in 1/{}", last.ip_bytes().len());
            passes(&plane, &format!("{what}: the last"), plane.client, &last, &change);
        }
    }
}

/// Nobody else may send from these.
#[test]
fn sources_that_cannot_be() {
    for pair in [Pair::SixToFour, Pair::SixToSix] {
        let plane = plane(&pair.rules());
        for source in
            ["::", "::1", "::ffff:198.51.100.2", "::192.0.2.1", "ff02::1", "ff0e::1", "2001:db8:1::1"]
        {
            let client = SocketAddr::new(source.parse().expect(source), 54_010);
            let talk = Talk { client, ..pair.talk(0) };
            drops(&plane, source, plane.client, &talk.client_udp(b"hello"), "web: bad_source 1");
            let syn = talk.client_tcp(&Segment::flags(SYN));
            drops(&plane, source, plane.client, &syn, "web: bad_source 1");
        }
    }
}

/// An address that means nothing beyond its link is for sockets, which know the link.
#[test]
fn link_local_clients() {
    for pair in [Pair::SixToFour, Pair::SixToSix] {
        let plane = plane(&pair.rules());
        let client = SocketAddr::new("fe80::1234".parse().expect("an address"), 54_011);
        let talk = Talk { client, ..pair.talk(0) };
        passes(&plane, "a datagram", plane.client, &talk.client_udp(b"hello"), "web: in 1/53");
        passes(&plane, "a SYN", plane.client, &talk.client_tcp(&Segment::flags(SYN)), "web: in 1/60");
    }
}

/// What is for many, for others or for nobody is no listener's.
#[test]
fn destinations_that_are_not_ours() {
    for pair in [Pair::SixToFour, Pair::SixToSix] {
        let plane = plane(&pair.rules());
        for destination in [
            "::",
            "::1",
            "::ffff:198.51.100.1",
            "fe80::1",
            "ff02::1",
            "ff05::2",
            "2001:db8:1::ffff",
            "2001:db8:1::",
            "2001:db8:9::1",
        ] {
            let listener = SocketAddr::new(destination.parse().expect(destination), 8080);
            let talk = Talk { listener, ..pair.talk(54_020) };
            passes(&plane, destination, plane.client, &talk.client_udp(b"hello"), "");
            passes(&plane, destination, plane.client, &talk.client_tcp(&Segment::flags(SYN)), "");
        }
    }
}

/// Headers that contradict themselves are the stack's, which drops and counts them.
#[test]
fn wild_headers() {
    for pair in [Pair::SixToFour, Pair::SixToSix] {
        let plane = plane(&pair.rules());
        for (what, packet) in packets(&plane, pair) {
            let frame = PacketV6 { destination_mac: plane.client.mac, ..packet.clone() }.frame();
            let pass = |what: String, frame: &[u8]| {
                let (ran, change) = plane.tc(plane.client, frame);
                assert_eq!(
                    (ran.verdict, ran.frame.as_slice()),
                    (harness::plane::Verdict::Pass, frame),
                    "{what}"
                );
                assert!(change.all_drops() == 0 && change.tables.is_empty(), "{what}: {change}");
            };
            let length = packet.body.len() as u16;
            for wrong in [0, 1, 7, length + 1, 0x8000, 0xffff] {
                let mut frame = frame.clone();
                frame[18..20].copy_from_slice(&wrong.to_be_bytes());
                pass(format!("{what}: payload of {wrong} bytes"), &frame);
            }
            for kept in 0..packet.body.len() {
                pass(format!("{what}: cut to {kept} bytes"), &frame[..54 + kept]);
            }
            if packet.protocol == harness::packet::UDP {
                for wrong in [0, 1, 7, length + 1, 0xffff] {
                    let mut frame = frame.clone();
                    frame[58..60].copy_from_slice(&wrong.to_be_bytes());
                    pass(format!("{what}: UDP length {wrong}"), &frame);
                }
            }
        }
        let other = SocketAddr::new(RELAY_V6.into(), 8081);
        let talk = Talk { listener: other, ..pair.talk(54_030) };
        passes(&plane, "another port", plane.client, &talk.client_udp(b"hello"), "");
    }
}
