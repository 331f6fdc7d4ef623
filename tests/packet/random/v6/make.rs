//! Packets of every pair of families: good ones, then anything done to them.

use harness::packet::{Extension, ICMP, ICMPV6, PacketV6, SYN, Segment, TCP, UDP, Wire, checksum};
use harness::plane::{Plane, Side};
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr};

use super::super::make::{Random, flip};
use crate::translate::talk::{Pair, Talk};

/// What is put to the test.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub(super) enum Kind {
    Plain,
    Extensions,
    Errors,
    Fragments,
    /// Any of the others, on a VLAN.
    Tagged,
}

/// All but those that are tagged.
pub(super) const KINDS: [Kind; 4] = [Kind::Plain, Kind::Extensions, Kind::Errors, Kind::Fragments];

/// A frame, and where it comes in.
#[derive(Clone, Debug)]
pub(super) struct Made {
    pub(super) side: Side,
    /// From the side of the clients.
    pub(super) from_client: bool,
    pub(super) is_tagged: bool,
    pub(super) frame: Vec<u8>,
}

/// A conversation, and its backend's side.
type Flow = (Talk, Side);

/// Flows to make packets of.
pub(super) struct Maker {
    udp: Vec<Flow>,
    tcp: Vec<Flow>,
    client: Side,
}

const ETHERNET: usize = 14;
/// XDP's test runs take no more in one buffer.
const LONGEST: usize = 3400;

impl Maker {
    /// Opens flows of every kind; some of UDP go unanswered.
    pub(super) fn new(plane: &Plane) -> Self {
        let (mut udp, mut tcp): (Vec<Flow>, Vec<Flow>) = (Vec::new(), Vec::new());
        for (index, pair) in (0..12).zip(Pair::ALL.into_iter().cycle()) {
            let is_narrow = index % 2 == 0;
            let (talk, side) =
                if is_narrow { (pair.narrow(0), plane.narrow) } else { (pair.talk(0), plane.backend) };
            let mut talk = talk;
            talk.client.set_port(50_000 + index);
            talk.listener.set_port(8080 + u16::from(pair.backend_is_v6()) + 2 * u16::from(is_narrow));
            let mut stream = talk;
            stream.establish(plane, side);
            tcp.push((stream, side));
            if index % 4 == 3 {
                talk.open(plane, plane.client, &talk.client_udp(b"unanswered"));
            } else {
                talk.prove(plane, side);
            }
            udp.push((talk, side));
        }
        Self { udp, tcp, client: plane.client }
    }

    pub(super) fn make(&self, kind: Kind, random: &mut Random) -> Made {
        let is_tagged = kind == Kind::Tagged;
        let kind = if is_tagged { random.pick(&KINDS) } else { kind };
        let (side, from_client, packet) = self.good(kind, random);
        let packet = if random.one_in(12) { packet.with_ttl(random.pick(&[0, 1, 2, 255])) } else { packet };
        let mut frame = packet.with_service(random.byte()).frame(side.mac);
        if !random.one_in(3) {
            for _ in 0..=random.below(3) {
                mutate(&mut frame, random);
            }
            if !random.one_in(3) {
                resum(&mut frame);
            }
        }
        if is_tagged && frame.len() > 12 {
            let tag = [random.pick(&[[0x81, 0], [0x88, 0xa8]]), [random.byte(), random.byte()]].concat();
            frame.splice(12..12, tag);
        }
        frame.truncate(LONGEST);
        Made { side, from_client, is_tagged, frame }
    }

    fn good(&self, kind: Kind, random: &mut Random) -> (Side, bool, Wire) {
        if kind != Kind::Errors && random.one_in(10) {
            return (self.client, true, stranger(random));
        }
        let is_udp = random.one_in(2);
        let (talk, backend) = random.pick(if is_udp { &self.udp } else { &self.tcp });
        let from_client = random.one_in(2);
        let packet = original(&talk, is_udp, from_client, random);
        let side = if from_client { self.client } else { backend };
        match kind {
            Kind::Plain | Kind::Tagged => (side, from_client, packet),
            Kind::Extensions => (side, from_client, behind_headers(packet, random)),
            Kind::Fragments => (side, from_client, part(&packet, random)),
            Kind::Errors => {
                // about what the other side has sent
                let seen = if from_client { talk.to_backend(&packet) } else { talk.to_client(&packet) };
                let side = if from_client { backend } else { self.client };
                (side, !from_client, error(&seen, random))
            }
        }
    }
}

fn payload(random: &mut Random) -> Vec<u8> {
    let length = match random.below(8) {
        0 => random.below(4),
        1 => 1200 + random.below(280),
        _ => random.below(300),
    };
    random.bytes(length)
}

/// A packet of a flow as its sender sends it.
fn original(talk: &Talk, is_udp: bool, from_client: bool, random: &mut Random) -> Wire {
    let payload = payload(random);
    if is_udp {
        return if from_client { talk.client_udp(&payload) } else { talk.backend_udp(&payload) };
    }
    // mostly plain data: anything else ends the flow sooner or later
    let flags = if random.one_in(200) { random.byte() } else { random.pick(&[16, 24]) };
    let options = if random.one_in(4) { vec![1; 4 * random.below(11)] } else { Vec::new() };
    let (sequence, acknowledgment) = (random.next() as u32, random.next() as u32);
    let segment = Segment { flags, sequence, acknowledgment, options, payload };
    if from_client { talk.client_tcp(&segment) } else { talk.backend_tcp(&segment) }
}

/// A first packet of somebody to some port.
fn stranger(random: &mut Random) -> Wire {
    let talk = random.pick(&Pair::ALL).talk(0);
    let client = match (talk.client.ip(), random.below(4)) {
        (IpAddr::V4(_), 0) => Ipv4Addr::from(random.next() as u32).into(),
        (IpAddr::V4(_), _) => Ipv4Addr::new(198, 18, random.byte(), random.byte()).into(),
        (IpAddr::V6(_), 0) => {
            Ipv6Addr::from_bits(u128::from(random.next()) << 64 | u128::from(random.next())).into()
        }
        (IpAddr::V6(_), _) => Ipv6Addr::new(0x2001, 0xdb8, 1, 0, 0, 0, 0, random.next() as u16).into(),
    };
    let port = random.pick(&[8080, 8081, 8082, 8083, 8084, 22]);
    let client = SocketAddr::new(client, 1024 + random.below(64_000) as u16);
    let talk = Talk { client, listener: SocketAddr::new(talk.listener.ip(), port), ..talk };
    if random.one_in(2) {
        return talk.client_udp(&payload(random));
    }
    let flags = if random.one_in(4) { random.byte() } else { SYN };
    talk.client_tcp(&Segment::flags(flags).with_mss(random.next() as u16, random.below(8)))
}

/// Extension headers, fragment headers among them. IPv4 has none.
fn behind_headers(packet: Wire, random: &mut Random) -> Wire {
    let Wire::V6(packet) = packet else { return packet };
    let headers: Vec<Extension> = (0..random.below(7))
        .map(|_| match random.below(8) {
            0 => {
                let offset = if random.one_in(2) { 0 } else { 8 * random.below(200) as u16 };
                Extension::Fragment { offset, more: random.one_in(2), identification: random.below(8) as u32 }
            }
            1 => Extension::Padding(random.byte(), 8),
            _ => Extension::Padding(random.pick(&[0, 43, 60]), 8 * (1 + random.below(4))),
        })
        .collect();
    packet.with_extensions(&headers).into()
}

fn part(packet: &Wire, random: &mut Random) -> Wire {
    let length = packet.body().len();
    let eights = length / 8;
    let identification = random.below(8) as u32;
    if random.one_in(2) || eights < 4 {
        let to = (8 * (3 + random.below(eights + 1))).min(length);
        return packet.part(0, to, identification);
    }
    let from = 1 + random.below(eights - 1);
    let to = from + 1 + random.below(eights - from);
    packet.part(8 * from, if random.one_in(3) { length } else { 8 * to }, identification)
}

/// An error about a packet that the relay has sent to this side.
fn error(seen: &Wire, random: &mut Random) -> Wire {
    let quoted = seen.body().len().min(random.pick(&[0, 4, 8, 16, 20, 64, 548, 1192]));
    let seen = match seen.clone() {
        Wire::V6(seen) if random.one_in(6) => {
            let header = Extension::Fragment { offset: 0, more: random.one_in(2), identification: 7 };
            seen.with_extensions(&[header]).into()
        }
        seen => seen,
    };
    let rest = match random.below(3) {
        0 => random.next() as u32,
        1 => random.below(64) as u32,
        _ => 1280 + random.below(300) as u32,
    };
    let (router, kind): (IpAddr, u8) = if seen.is_v6() {
        let router = Ipv6Addr::new(0x2001, 0xdb8, 99, 0, 0, 0, 0, random.next() as u16);
        (router.into(), random.pick(&[1, 1, 2, 2, 3, 4, 128, 135, 136]))
    } else {
        (Ipv4Addr::from(random.next() as u32).into(), random.pick(&[3, 3, 3, 11, 12, 8, 5]))
    };
    Wire::icmp_error(router, kind, random.byte() % 16, rest, &seen, quoted)
}

/// Does something to a frame, most often where it hurts.
fn mutate(frame: &mut Vec<u8>, random: &mut Random) {
    let is_v6 = frame.get(ETHERNET).is_some_and(|first| first >> 4 == 6);
    let header = ETHERNET + if is_v6 { 40 } else { 20 };
    match random.below(12) {
        0 => flip(frame, random, 0, ETHERNET),
        1 | 2 => flip(frame, random, ETHERNET, ETHERNET + 8),
        3 => flip(frame, random, ETHERNET + 8, header),
        4 | 5 => flip(frame, random, header, header + 24),
        6 | 7 => flip(frame, random, header + 8, header + 72),
        8 => frame.truncate(random.below(frame.len() + 1).max(1)),
        9 => {
            let more = random.below(64);
            frame.extend(random.bytes(more));
        }
        10 => {
            let at = ETHERNET + if is_v6 { 4 } else { 2 };
            let length = random.pick(&[0, 7, 8, 19, 20, 28, 40, 1500, 0xffff]);
            frame.iter_mut().skip(at).zip(u16::to_be_bytes(length)).for_each(|(to, from)| *to = from);
        }
        _ => {
            let at = random.below(frame.len().max(1));
            let noise = random.bytes(8);
            frame.iter_mut().skip(at).zip(noise).for_each(|(to, from)| *to = from);
        }
    }
}

/// Makes an IPv4 header's checksum right, and that of whatever the headers say comes next.
fn resum(frame: &mut Vec<u8>) {
    let is_v4 = frame.get(ETHERNET).is_some_and(|first| first >> 4 == 4);
    if is_v4 && frame.len() >= ETHERNET + 20 {
        frame[ETHERNET + 10..ETHERNET + 12].fill(0);
        let sum = checksum(&frame[ETHERNET..ETHERNET + 20]);
        frame[ETHERNET + 10..ETHERNET + 12].copy_from_slice(&sum.to_be_bytes());
    }
    let Some(mut packet) = frame.get(ETHERNET..).and_then(Wire::parse_ip) else { return };
    if !matches!(packet.protocol(), TCP | UDP | ICMP | ICMPV6) {
        return;
    }
    let padding = frame.split_off(ETHERNET + packet.ip_bytes().len());
    packet.fix_transport();
    let whole = match &packet {
        Wire::V4(_) => packet.ip_bytes(),
        Wire::V6(packet) => PacketV6::ip_bytes(packet),
    };
    frame.truncate(ETHERNET);
    frame.extend(whole);
    frame.extend(padding);
}
