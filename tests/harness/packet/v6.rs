//! Building IPv6 packets with right checksums, and taking packets apart again.

use std::net::{Ipv4Addr, Ipv6Addr};

use super::{Packet, Segment, sum};

pub const ICMPV6: u8 = 58;

/// The number of a fragment header.
const FRAGMENT: u8 = 44;

/// An extension header of so many bytes, or one that says which fragment it is of what.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub enum Extension {
    Padding(u8, usize),
    Fragment { offset: u16, more: bool, identification: u32 },
}

impl Extension {
    const fn number(self) -> u8 {
        match self {
            Self::Padding(number, _) => number,
            Self::Fragment { .. } => FRAGMENT,
        }
    }

    fn bytes(self, next: u8) -> Vec<u8> {
        match self {
            Self::Padding(_, length) => {
                let mut bytes = vec![0; length];
                bytes[0] = next;
                bytes[1] = (length / 8 - 1) as u8;
                bytes
            }
            Self::Fragment { offset, more, identification } => {
                let mut bytes = vec![next, 0];
                bytes.extend((offset | u16::from(more)).to_be_bytes());
                bytes.extend(identification.to_be_bytes());
                bytes
            }
        }
    }
}

/// An IPv6 packet, apart.
#[derive(Clone, Debug, Eq, PartialEq)]
pub struct PacketV6 {
    pub destination_mac: [u8; 6],
    pub source_mac: [u8; 6],
    pub class: u8,
    pub label: u32,
    pub hops: u8,
    pub source: Ipv6Addr,
    pub destination: Ipv6Addr,
    pub extensions: Vec<Extension>,
    /// Of what follows them.
    pub protocol: u8,
    pub body: Vec<u8>,
}

impl PacketV6 {
    pub const fn new(protocol: u8, source: Ipv6Addr, destination: Ipv6Addr, body: Vec<u8>) -> Self {
        Self {
            destination_mac: [0; 6],
            source_mac: [0; 6],
            class: 0,
            label: 0,
            hops: 64,
            source,
            destination,
            extensions: Vec::new(),
            protocol,
            body,
        }
    }

    /// What is in an IPv4 packet, between these addresses.
    pub fn around(inner: &Packet, (source, destination): (Ipv6Addr, Ipv6Addr)) -> Self {
        let mut packet = Self::new(inner.protocol, source, destination, inner.body.clone());
        packet.fix_transport();
        packet
    }

    pub fn udp(source: (Ipv6Addr, u16), destination: (Ipv6Addr, u16), payload: &[u8]) -> Self {
        let any = Ipv4Addr::UNSPECIFIED;
        let inner = Packet::udp((any, source.1), (any, destination.1), payload);
        Self::around(&inner, (source.0, destination.0))
    }

    pub fn tcp(source: (Ipv6Addr, u16), destination: (Ipv6Addr, u16), segment: &Segment) -> Self {
        let any = Ipv4Addr::UNSPECIFIED;
        let inner = Packet::tcp((any, source.1), (any, destination.1), segment);
        Self::around(&inner, (source.0, destination.0))
    }

    /// An ICMPv6 error about a packet, of which it quotes so many bytes behind the headers.
    pub fn icmp_error(from: Ipv6Addr, kind: u8, code: u8, rest: u32, about: &Self, quoted: usize) -> Self {
        let mut body = vec![kind, code, 0, 0];
        body.extend(rest.to_be_bytes());
        let whole = about.ip_bytes();
        body.extend(&whole[..whole.len() - about.body.len() + quoted]);
        let mut packet = Self::new(ICMPV6, from, about.source, body);
        packet.fix_transport();
        packet
    }

    pub fn with_extensions(mut self, extensions: &[Extension]) -> Self {
        self.extensions = extensions.to_vec();
        self
    }

    /// Computes the checksum of TCP, UDP or ICMPv6 anew.
    pub fn fix_transport(&mut self) {
        let Some(at) = sum::place(self.protocol, ICMPV6, &self.body) else { return };
        self.body[at.clone()].fill(0);
        let sum = sum::made(self.protocol, &self.checksummed());
        self.body[at].copy_from_slice(&sum.to_be_bytes());
    }

    /// The bytes that the transport checksum covers.
    fn checksummed(&self) -> Vec<u8> {
        let mut bytes = [self.source.octets(), self.destination.octets()].concat();
        bytes.extend((self.body.len() as u32).to_be_bytes());
        bytes.extend([0, 0, 0, self.protocol]);
        bytes.extend(&self.body);
        bytes
    }

    /// Whether the transport checksum is right, which no packet may be without.
    pub fn transport_ok(&self) -> bool {
        sum::is_right(self.protocol, ICMPV6, &self.body, || self.checksummed())
    }

    /// From the IP header on.
    pub fn ip_bytes(&self) -> Vec<u8> {
        let mut next = self.protocol;
        let mut rest = self.body.clone();
        for extension in self.extensions.iter().rev() {
            rest = [extension.bytes(next), rest].concat();
            next = extension.number();
        }
        let first = 6 << 28 | u32::from(self.class) << 20 | self.label;
        let mut bytes = first.to_be_bytes().to_vec();
        bytes.extend((rest.len() as u16).to_be_bytes());
        bytes.extend([next, self.hops]);
        bytes.extend(self.source.octets());
        bytes.extend(self.destination.octets());
        bytes.extend(rest);
        bytes
    }

    /// With an Ethernet header in front.
    pub fn frame(&self) -> Vec<u8> {
        let mut bytes = [self.destination_mac, self.source_mac].concat();
        bytes.extend([0x86, 0xdd]);
        bytes.extend(self.ip_bytes());
        bytes
    }

    /// An IP packet, apart; `None` if it is no whole IPv6 packet. Of extension headers it knows a fragment header.
    pub fn parse_ip(bytes: &[u8]) -> Option<Self> {
        let word = |at: usize| Some(u32::from_be_bytes(bytes.get(at..at + 4)?.try_into().ok()?));
        let address = |at: usize| {
            let octets: [u8; 16] = bytes.get(at..at + 16)?.try_into().ok()?;
            Some(Ipv6Addr::from(octets))
        };
        let first = word(0)?;
        let end = 40 + (word(4)? >> 16) as usize;
        if first >> 28 != 6 || bytes.len() < end {
            return None;
        }
        let (mut protocol, mut at, mut extensions) = (bytes[6], 40, Vec::new());
        if protocol == FRAGMENT {
            let place = word(at)? as u16;
            let (offset, more, identification) = (place & !1, place & 1 != 0, word(at + 4)?);
            extensions.push(Extension::Fragment { offset, more, identification });
            (protocol, at) = (bytes[at], at + 8);
        }
        let body = bytes.get(at..end)?.to_vec();
        Some(Self {
            class: (first >> 20) as u8,
            label: first & 0xf_ffff,
            hops: bytes[7],
            extensions,
            ..Self::new(protocol, address(8)?, address(24)?, body)
        })
    }

    /// The packet that an ICMPv6 error quotes, as far as it goes.
    pub fn quoted(&self) -> Option<Self> {
        let mut bytes = self.body.get(8..)?.to_vec();
        // the quote is shorter than the packet was
        let whole = u16::from_be_bytes([*bytes.get(4)?, *bytes.get(5)?]);
        let length = (bytes.len().checked_sub(40)? as u16).min(whole);
        bytes[4..6].copy_from_slice(&length.to_be_bytes());
        Self::parse_ip(&bytes)
    }
}
