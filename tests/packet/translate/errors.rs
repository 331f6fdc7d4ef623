//! ICMP errors about flows: told in the other family, or under another address of the same; and all other ICMPv6, which
//! is the host's.

mod tables;

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};

use harness::packet::{ACK, Extension, ICMPV6, PacketV6, Segment, TCP, Wire};
use harness::plane::{Plane, Side};
use harness::world::{CLIENT_V6, RELAY_INSIDE_V6, RELAY_V6};

use self::tables::{Error, TO_V4, TO_V6, told};
use super::talk::{Pair, Talk, drops, passes, sends};
use crate::plane;

/// Routers on the way, whose own addresses nobody should see.
const ROUTER: Ipv4Addr = Ipv4Addr::new(192, 88, 99, 7);
const ROUTER_V6: Ipv6Addr = Ipv6Addr::new(0x2001, 0xdb8, 99, 0, 0, 0, 0, 7);

/// Bytes of a transport header that an error of ours quotes.
const fn kept(protocol: u8) -> usize {
    if protocol == TCP { 20 } else { 8 }
}

/// As the program writes it: its own TTL, no identification, no class in what it quotes.
fn expected(from: IpAddr, (kind, code, rest): Error, about: &Wire) -> Wire {
    let kept = kept(about.protocol());
    match Wire::icmp_error(from, kind, code, rest, &plain(about), kept) {
        Wire::V4(mut packet) => {
            packet.identification = 0;
            packet.into()
        }
        sent @ Wire::V6(_) => sent,
    }
}

/// A packet without what translation loses of it.
fn plain(packet: &Wire) -> Wire {
    match packet.clone().with_service(0) {
        Wire::V4(mut packet) => {
            (packet.identification, packet.fragment) = (0, harness::packet::DONT_FRAGMENT);
            packet.into()
        }
        Wire::V6(packet) => PacketV6 { label: 0, extensions: Vec::new(), ..packet }.into(),
    }
}

const fn router(is_v6: bool) -> IpAddr {
    if is_v6 { IpAddr::V6(ROUTER_V6) } else { IpAddr::V4(ROUTER) }
}

/// Every error about one packet of a flow, with as much of it quoted as there may be. `about`: as its sender knows it, and as
/// it was seen behind the relay.
fn every_error(plane: &Plane, (side, way): (Side, &str), from: IpAddr, (about, seen): (&Wire, &Wire)) {
    let (from_v6, to_v6, protocol) = (seen.is_v6(), about.is_v6(), about.protocol());
    let rows: &[(Error, Option<Error>)] = if from_v6 { TO_V4 } else { TO_V6 };
    let (seen, about) = (seen.clone().with_ttl(1), about.clone().with_ttl(1));
    for &(error, _) in rows {
        let (kind, code, rest) = error;
        for quoted in [kept(protocol), seen.body().len()] {
            let what = format!("{way}: {error:?} about {protocol} to {about:?}, {quoted} bytes quoted");
            let packet = Wire::icmp_error(router(from_v6), kind, code, rest, &seen, quoted);
            let Some(told) = told(error, from_v6, to_v6, protocol) else {
                drops(plane, &what, side, &packet, "web: bad_header 1");
                continue;
            };
            let sent = expected(from, told, &about);
            // on the client's leg
            let bytes = if way == "in" { packet.ip_bytes().len() } else { sent.ip_bytes().len() };
            sends(plane, &what, side, &packet, &sent, &format!("web: {way} 1/{bytes}"));
        }
    }
    let (kind, code) = if from_v6 { (1, 4) } else { (3, 3) };
    let packet = Wire::icmp_error(router(from_v6), kind, code, 0, &seen, kept(protocol));
    drops(plane, "TTL 1", side, &packet.with_ttl(1), "web: ttl_exceeded 1");
}

fn both_ways(plane: &Plane, talk: &Talk, there: &Wire, back: &Wire) {
    let seen = talk.to_backend(there);
    every_error(plane, (plane.backend, "out"), talk.listener.ip(), (there, &seen));
    let seen = talk.to_client(back);
    every_error(plane, (plane.client, "in"), talk.source.ip(), (back, &seen));
}

#[test]
fn errors_about_datagrams_reach_who_sent_them() {
    for pair in Pair::ALL {
        let plane = plane(&pair.rules());
        let (mut open, mut proven) = (pair.talk(52_000), pair.talk(52_001));
        open.open(&plane, plane.client, &open.client_udp(b"question"));
        proven.prove(&plane, plane.backend);
        for talk in [open, proven] {
            let (there, back) = (talk.client_udp(b"a question"), talk.backend_udp(b"an answer"));
            both_ways(&plane, &talk, &there, &back);
        }
    }
}

#[test]
fn errors_about_segments_reach_who_sent_them() {
    for pair in Pair::ALL {
        let plane = plane(&pair.rules());
        let mut talk = pair.talk(52_010);
        talk.establish(&plane, plane.backend);
        let segment = Segment::flags(ACK).at(1001, 2002).carrying(b"more than an error quotes, by far");
        let (there, back) = (talk.client_tcp(&segment), talk.backend_tcp(&segment));
        both_ways(&plane, &talk, &there, &back);
    }
}

/// A router that does not say what it takes: what it quotes was too large for it, so it is likely one of the usual sizes below.
#[test]
fn a_size_left_out() {
    let pair = Pair::SixToFour;
    let plane = plane(&pair.rules());
    let mut talk = pair.talk(52_060);
    talk.prove(&plane, plane.backend);
    let seen = talk.to_backend(&talk.client_udp(b"question"));
    let plateaus: [u16; 6] = [32_000, 17_914, 8166, 4352, 2002, 1492];
    let around = |size: u16| [size - 1, size, size + 1];
    for about in plateaus.into_iter().chain([1280, 1500, 65_534]).flat_map(around) {
        let told = plateaus.into_iter().find(|plateau| *plateau < about).unwrap_or(1280);
        let mut error = Wire::icmp_error(router(false), 3, 4, 0, &seen, 8);
        error.body_mut()[10..12].copy_from_slice(&about.to_be_bytes());
        error.fix_transport();
        let ran = plane.programs.tc(plane.backend, &error.frame(plane.backend.mac), 0).expect("TEST_RUN");
        let told_there = Wire::parse_ip(&ran.frame[14..]).expect("a packet").body()[..8].to_vec();
        let expected = [&[2, 0, told_there[2], told_there[3]], &u32::from(told).to_be_bytes()[..]].concat();
        assert_eq!(told_there, expected, "about {about} bytes");
    }
}

/// Ours has a good checksum, so theirs must have had one.
#[test]
fn broken_errors_are_not_mended() {
    for pair in Pair::ALL {
        let plane = plane(&pair.rules());
        let mut talk = pair.talk(52_070);
        talk.prove(&plane, plane.backend);
        let (there, back) = (talk.client_udp(&[9; 1000]), talk.backend_udp(&[9; 1001]));
        for (side, seen) in [(plane.backend, talk.to_backend(&there)), (plane.client, talk.to_client(&back))]
        {
            let (kind, code) = if seen.is_v6() { (1, 4) } else { (3, 3) };
            let quoted = seen.body().len().min(if seen.is_v6() { 1192 } else { 548 });
            for quoted in [8, 9, 100, 479, 480, 481, quoted] {
                let error = Wire::icmp_error(router(seen.is_v6()), kind, code, 0, &seen, quoted);
                let whole = error.body().len();
                // the last byte of an odd one is the upper half of a word
                for at in [2, 3, 4, 12, whole - 2, whole - 1] {
                    let mut broken = error.clone();
                    broken.body_mut()[at] ^= 1;
                    let what = format!("{pair:?}: byte {at} of {whole}");
                    drops(&plane, &what, side, &broken, "web: bad_header 1");
                }
                let ran = plane.programs.tc(side, &error.frame(side.mac), 0).expect("TEST_RUN");
                assert_eq!(ran.verdict, harness::plane::Verdict::Redirect, "{pair:?}: {whole} bytes");
            }
        }
    }
}

/// Anybody can send one, from anywhere: the client's answers go on leaving where the client is.
#[test]
fn errors_move_no_flow() {
    for pair in Pair::ALL {
        let plane = plane(&pair.rules());
        let (mut open, mut proven) = (pair.talk(52_050), pair.talk(52_051));
        open.open(&plane, plane.client, &open.client_udp(b"question"));
        proven.prove(&plane, plane.backend);
        let halves = || {
            let mut all: Vec<_> = plane.flows().map(|(_, key, half)| (key.to_bytes(), half)).collect();
            all.sort_by_key(|(key, _)| *key);
            format!("{all:?}")
        };
        let before = halves();
        for talk in [open, proven] {
            let about = talk.to_client(&talk.backend_udp(b"answer"));
            let (kind, code) = if about.is_v6() { (1, 4) } else { (3, 3) };
            let error = Wire::icmp_error(router(about.is_v6()), kind, code, 0, &about, 8);
            let ran = plane.programs.tc(plane.narrow, &error.frame(plane.narrow.mac), 0).expect("TEST_RUN");
            assert_eq!(ran.verdict, harness::plane::Verdict::Redirect, "{pair:?}");
        }
        assert_eq!(halves(), before, "{pair:?}");
    }
}

/// Eight bytes of a transport header are what routers must quote; where TCP's others would be are zeros.
#[test]
fn short_quotes() {
    for pair in Pair::ALL {
        let plane = plane(&pair.rules());
        let mut talk = pair.talk(52_020);
        talk.establish(&plane, plane.backend);
        let there = talk.client_tcp(&Segment::flags(ACK).at(1001, 2002).carrying(b"data"));
        let seen = talk.to_backend(&there);
        let (error, told) = match (seen.is_v6(), there.is_v6()) {
            (true, true) => ((1, 4, 0), (1, 4, 0)),
            (true, false) => ((1, 4, 0), (3, 3, 0)),
            (false, _) => ((3, 3, 0), (1, 4, 0)),
        };
        for quoted in [8, 12, 19] {
            let packet = Wire::icmp_error(router(seen.is_v6()), error.0, error.1, error.2, &seen, quoted);
            let mut known = there.clone();
            known.body_mut()[8..20].fill(0);
            let sent = expected(talk.listener.ip(), told, &known.with_ttl(63));
            let change = format!("web: out 1/{}", sent.ip_bytes().len());
            sends(&plane, &format!("{pair:?}: {quoted} bytes"), plane.backend, &packet, &sent, &change);
        }
    }
}

/// Fragments that were sent as IPv6 are quoted with their header; it is no part of what the sender knows.
#[test]
fn errors_about_first_fragments() {
    for pair in [Pair::SixToFour, Pair::SixToSix] {
        let plane = plane(&pair.rules());
        let mut talk = pair.talk(52_030);
        talk.prove(&plane, plane.backend);
        let back = talk.backend_udp(&[7; 1000]);
        let whole = talk.to_client(&back);
        let header = Extension::Fragment { offset: 0, more: true, identification: 7 };
        let Wire::V6(seen) = whole else { panic!("{whole:?}") };
        let seen: Wire = seen.with_extensions(&[header]).into();
        let packet = Wire::icmp_error(router(true), 2, 0, 1400, &seen, 400);
        let told = if back.is_v6() { (2, 0, 1400) } else { (3, 4, 1372) };
        let sent = expected(talk.source.ip(), told, &back.with_ttl(63));
        let change = format!("web: in 1/{}", packet.ip_bytes().len());
        sends(&plane, &format!("{pair:?}"), plane.client, &packet, &sent, &change);
        let Wire::V6(seen) = seen else { panic!("{seen:?}") };
        let later = Extension::Fragment { offset: 8, more: true, identification: 7 };
        let packet = Wire::icmp_error(router(true), 2, 0, 1400, &seen.with_extensions(&[later]).into(), 400);
        passes(&plane, "about a later one", plane.client, &packet, "");
    }
}

#[test]
fn what_is_not_about_a_flow_passes() {
    let pair = Pair::SixToSix;
    let plane = plane(&pair.rules());
    let mut talk = pair.talk(52_040);
    talk.prove(&plane, plane.backend);
    let Wire::V6(seen) = talk.to_backend(&talk.client_udp(b"question")) else { panic!("IPv6") };
    let error = |about: &PacketV6, kind| PacketV6::icmp_error(ROUTER_V6, kind, 0, 0, about, about.body.len());
    let pass = |what: &str, packet: PacketV6| passes(&plane, what, plane.backend, &packet.into(), "");
    // echo, multicast listeners, neighbour discovery, unassigned errors
    for kind in [0, 5, 100, 127, 128, 129, 130, 131, 132, 133, 134, 135, 136, 137, 143, 255] {
        pass(&format!("type {kind}"), error(&seen, kind));
        let mut body = vec![kind; 24];
        body[1] = 0;
        let mut packet = PacketV6::new(ICMPV6, CLIENT_V6, RELAY_V6, body);
        packet.fix_transport();
        pass(&format!("type {kind} of 24 bytes"), packet);
    }
    let stranger = PacketV6::udp((RELAY_INSIDE_V6, 999), (CLIENT_V6, 80), b"not of a flow");
    pass("about something else", error(&stranger, 1));
    for protocol in [0, 43, 50, 58, 59, 132] {
        pass("about another protocol", error(&PacketV6 { protocol, ..seen.clone() }, 1));
    }
    pass("not to who sent it", PacketV6 { destination: RELAY_V6, ..error(&seen, 1) });
    let header = Extension::Fragment { offset: 0, more: true, identification: 9 };
    pass("in fragments", error(&seen, 1).with_extensions(&[header]));
    pass("behind options", error(&seen, 1).with_extensions(&[Extension::Padding(60, 8)]));
    let whole = error(&seen, 1);
    for kept in 1..8 + 40 + 8 {
        let mut short = PacketV6 { body: whole.body[..kept].to_vec(), ..whole.clone() };
        short.fix_transport();
        pass(&format!("cut to {kept} bytes"), short);
    }
    // a frame that ends before its packet does
    let mut frame = whole.frame();
    frame[..6].copy_from_slice(&plane.backend.mac);
    frame.truncate(frame.len() - 1);
    let (ran, change) = plane.tc(plane.backend, &frame);
    assert_eq!((ran.verdict, ran.frame, change.is_empty()), (harness::plane::Verdict::Pass, frame, true));
}
