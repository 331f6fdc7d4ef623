//! Making packets: good ones of every kind, then anything done to them.

use harness::packet::{ICMP, MORE_FRAGMENTS, Packet, SYN, Segment, TCP, checksum};
use harness::plane::{BACKEND_NARROW, RELAY_NARROW, RELAY_SECOND, Side};
use harness::world::{BACKEND, CLIENT, RELAY, RELAY_INSIDE};
use std::net::Ipv4Addr;

use crate::conversation::Conversation;

/// SplitMix64 (public domain): small, and good enough to vary packets.
pub(super) struct Random(u64);

impl Random {
    pub(super) const fn new(seed: u64) -> Self {
        Self(seed)
    }

    pub(super) const fn next(&mut self) -> u64 {
        self.0 = self.0.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mut z = self.0;
        z = (z ^ (z >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        z = (z ^ (z >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        z ^ (z >> 31)
    }

    /// `0..limit`.
    pub(super) const fn below(&mut self, limit: usize) -> usize {
        (self.next() % limit as u64) as usize
    }

    pub(super) const fn one_in(&mut self, odds: usize) -> bool {
        self.below(odds) == 0
    }

    pub(super) fn pick<T: Copy>(&mut self, from: &[T]) -> T {
        from[self.below(from.len())]
    }

    pub(super) fn byte(&mut self) -> u8 {
        self.next() as u8
    }

    pub(super) fn bytes(&mut self, length: usize) -> Vec<u8> {
        let mut bytes = Vec::with_capacity(length + 8);
        while bytes.len() < length {
            bytes.extend_from_slice(&self.next().to_ne_bytes());
        }
        bytes.truncate(length);
        bytes
    }
}

/// A frame, where it comes in, and its segment size if it is a super-packet.
#[derive(Clone, Debug)]
pub(super) struct Made {
    pub(super) side: Side,
    pub(super) frame: Vec<u8>,
    pub(super) segment: u32,
}

/// Flows to make packets of.
pub(super) struct Maker {
    pub(super) udp: Vec<Conversation>,
    pub(super) tcp: Vec<Conversation>,
    pub(super) client: Side,
    pub(super) backend: Side,
    pub(super) narrow: Side,
}

/// XDP's test runs take no more in one buffer.
const LONGEST: usize = 3400;
const ETHERNET: usize = 14;

impl Maker {
    pub(super) fn make(&self, random: &mut Random) -> Made {
        let (side, packet) = self.good(random);
        let mut packet = if random.one_in(6) { fragment(packet, random) } else { packet };
        if random.one_in(12) {
            packet.ttl = random.pick(&[0, 1, 2, 255]);
        }
        if random.one_in(16) {
            packet.options = vec![1; 4 * (1 + random.below(10))];
        }
        packet.destination_mac = side.mac;
        let mut frame = packet.frame();
        if !random.one_in(3) {
            for _ in 0..=random.below(3) {
                mutate(&mut frame, random);
            }
            if !random.one_in(3) {
                resum(&mut frame);
            }
        }
        frame.truncate(LONGEST);
        let merged = random.one_in(8) && may_be_merged(&frame);
        let segment = if merged { 1 + random.below(1600) as u32 } else { 0 };
        Made { side, frame, segment }
    }

    fn good(&self, random: &mut Random) -> (Side, Packet) {
        let from_client = random.one_in(2);
        match random.below(10) {
            0..=3 => self.datagram(random, from_client),
            4..=7 => self.segment(random, from_client),
            8 => self.error(random, from_client),
            _ => (self.client, stranger(random)),
        }
    }

    fn side_of(&self, talk: &Conversation, from_client: bool) -> Side {
        match (from_client, talk.source.0) {
            (true, _) => self.client,
            (false, RELAY_NARROW) => self.narrow,
            (false, _) => self.backend,
        }
    }

    fn datagram(&self, random: &mut Random, from_client: bool) -> (Side, Packet) {
        let talk = random.pick(&self.udp);
        let payload = payload(random);
        let packet = if from_client { talk.client_udp(&payload) } else { talk.backend_udp(&payload) };
        (self.side_of(&talk, from_client), packet)
    }

    fn segment(&self, random: &mut Random, from_client: bool) -> (Side, Packet) {
        let talk = random.pick(&self.tcp);
        // mostly plain data: anything else ends the flow sooner or later
        let flags = if random.one_in(200) { random.byte() } else { random.pick(&[16, 24]) };
        let segment = Segment {
            flags,
            sequence: random.next() as u32,
            acknowledgment: random.next() as u32,
            options: if random.one_in(4) { vec![1; 4 * random.below(11)] } else { Vec::new() },
            payload: payload(random),
        };
        let packet = if from_client { talk.client_tcp(&segment) } else { talk.backend_tcp(&segment) };
        (self.side_of(&talk, from_client), packet)
    }

    /// An ICMP error about a packet that the relay has sent to this side.
    fn error(&self, random: &mut Random, from_client: bool) -> (Side, Packet) {
        let udp = random.one_in(2);
        let talk = random.pick(if udp { &self.udp } else { &self.tcp });
        let payload = payload(random);
        let segment = Segment { payload: payload.clone(), ..Segment::flags(16) };
        // what the client has been sent comes from the backend
        let about = match (udp, from_client) {
            (true, true) => talk.to_client(&talk.backend_udp(&payload)),
            (true, false) => talk.to_backend(&talk.client_udp(&payload)),
            (false, true) => talk.to_client(&talk.backend_tcp(&segment)),
            (false, false) => talk.to_backend(&talk.client_tcp(&segment)),
        };
        let quoted = about.body.len().min(random.pick(&[0, 4, 8, 16, 20, 64, 548]));
        let kind = random.pick(&[3, 3, 3, 11, 12, 8, 5]);
        let rest = random.next() as u32;
        let router = Ipv4Addr::from(random.next() as u32);
        let error = Packet::icmp_error(router, kind, random.byte() % 16, rest, &about, quoted);
        (self.side_of(&talk, from_client), error)
    }
}

/// Super-packets are the kernel's own work: it merges whole segments and datagrams, of which it has checked the length.
fn may_be_merged(frame: &[u8]) -> bool {
    frame.len() > ETHERNET + 40
        && usize::from(frame[ETHERNET + 2]) << 8 | usize::from(frame[ETHERNET + 3]) == frame.len() - ETHERNET
        && frame[ETHERNET + 6] & 0x3f == 0
        && frame[ETHERNET + 7] == 0
        && frame[ETHERNET + 9] != ICMP
}

fn payload(random: &mut Random) -> Vec<u8> {
    let length = match random.below(8) {
        0 => random.below(4),
        1 => 1300 + random.below(200),
        2 => random.below(2800),
        _ => random.below(200),
    };
    random.bytes(length)
}

/// A first packet, of somebody, to some port.
fn stranger(random: &mut Random) -> Packet {
    let source = match random.below(4) {
        0 => Ipv4Addr::from(random.next() as u32),
        1 => random.pick(&[RELAY, BACKEND, Ipv4Addr::LOCALHOST, Ipv4Addr::BROADCAST]),
        _ => Ipv4Addr::new(198, 18, random.byte(), random.byte()),
    };
    let to = random.pick(&[RELAY, RELAY, RELAY_SECOND, RELAY_INSIDE, CLIENT]);
    let port = random.pick(&[8080, 10_000, 14_321, 19_000, 19_001, 9000, 7000, 6000, 22]);
    let from = (source, 1024 + random.below(64_000) as u16);
    if random.one_in(2) {
        return Packet::udp(from, (to, port), &payload(random));
    }
    let flags = if random.one_in(4) { random.byte() } else { SYN };
    let segment = Segment::flags(flags).with_mss(random.next() as u16, random.below(8));
    Packet::tcp(from, (to, port), &segment)
}

fn fragment(mut packet: Packet, random: &mut Random) -> Packet {
    packet.identification = random.below(8) as u16;
    let eights = packet.body.len() / 8;
    if random.one_in(2) || eights < 2 {
        packet.fragment = MORE_FRAGMENTS;
        let least = if packet.protocol == TCP { 24 } else { 8 };
        packet.body.truncate((8 * (1 + random.below(eights + 1))).max(least));
    } else {
        let from = 1 + random.below(eights - 1);
        packet.body.drain(..from * 8);
        packet.fragment = from as u16 | if random.one_in(2) { MORE_FRAGMENTS } else { 0 };
    }
    packet
}

/// Does something to a frame, most often where it hurts.
fn mutate(frame: &mut Vec<u8>, random: &mut Random) {
    let header = ETHERNET + usize::from(frame.get(ETHERNET).copied().unwrap_or(0) & 0xf) * 4;
    match random.below(12) {
        0 => flip(frame, random, 0, ETHERNET),
        1..=3 => flip(frame, random, ETHERNET, header),
        4 | 5 => flip(frame, random, header, header + 20),
        6 => flip(frame, random, header + 8, header + 48),
        7 => frame.truncate(random.below(frame.len() + 1).max(1)),
        8 => {
            let more = random.below(64);
            frame.extend(random.bytes(more));
        }
        9 => put16(frame, ETHERNET + 2, random.pick(&[0, 19, 20, 27, 28, 40, 1500, 0xffff]), random),
        10 => put16(frame, header + 4, random.pick(&[0, 7, 8, 9, 0x7fff, 0xffff]), random),
        _ => {
            let at = random.below(frame.len().max(1));
            let noise = random.bytes(8);
            for (to, from) in frame.iter_mut().skip(at).zip(noise) {
                *to = from;
            }
        }
    }
}

/// Turns one to three bits between two offsets.
pub(super) fn flip(frame: &mut [u8], random: &mut Random, from: usize, to: usize) {
    let (from, to) = (from.min(frame.len()), to.min(frame.len()));
    if from == to {
        return;
    }
    for _ in 0..=random.below(3) {
        frame[from + random.below(to - from)] ^= 1 << random.below(8);
    }
}

/// An edge of what a length may be, or what it is plus or minus a little.
fn put16(frame: &mut [u8], at: usize, edge: u16, random: &mut Random) {
    let Some(field) = frame.get_mut(at..at + 2) else { return };
    let old = u16::from_be_bytes([field[0], field[1]]);
    let near = old.wrapping_add(random.below(17) as u16).wrapping_sub(8);
    let value = if random.one_in(2) { edge } else { near };
    field.copy_from_slice(&value.to_be_bytes());
}

/// Makes the header checksum right, and now and then that of an ICMP message.
fn resum(frame: &mut [u8]) {
    let Some(&first) = frame.get(ETHERNET) else { return };
    let end = ETHERNET + usize::from(first & 0xf) * 4;
    if frame.len() < end.max(ETHERNET + 20) {
        return;
    }
    frame[ETHERNET + 10..ETHERNET + 12].fill(0);
    let sum = checksum(&frame[ETHERNET..end]);
    frame[ETHERNET + 10..ETHERNET + 12].copy_from_slice(&sum.to_be_bytes());
    if frame[ETHERNET + 9] == ICMP && frame.len() >= end + 8 {
        frame[end + 2..end + 4].fill(0);
        let sum = checksum(&frame[end..]);
        frame[end + 2..end + 4].copy_from_slice(&sum.to_be_bytes());
    }
}

/// Where the relay sends packets to, and from where.
pub(super) const BACKENDS: [(Ipv4Addr, Ipv4Addr); 2] =
    [(RELAY_INSIDE, BACKEND), (RELAY_NARROW, BACKEND_NARROW)];
