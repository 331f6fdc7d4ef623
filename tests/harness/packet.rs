//! Building IPv4 packets with right checksums, and taking packets apart again. Independent of Relay's own arithmetic,
//! so that it can judge it.

mod sum;
mod v6;
mod wire;

use std::net::Ipv4Addr;

pub use self::v6::{Extension, ICMPV6, PacketV6};
pub use self::wire::Wire;

pub const ICMP: u8 = 1;
pub const TCP: u8 = 6;
pub const UDP: u8 = 17;

pub const FIN: u8 = 1;
pub const SYN: u8 = 2;
pub const RST: u8 = 4;
pub const ACK: u8 = 16;

/// An IPv4 packet, apart.
#[derive(Clone, Debug, Eq, PartialEq)]
pub struct Packet {
    pub destination_mac: [u8; 6],
    pub source_mac: [u8; 6],
    pub service: u8,
    pub identification: u16,
    /// Flags and offset, as in the header.
    pub fragment: u16,
    pub ttl: u8,
    pub protocol: u8,
    pub source: Ipv4Addr,
    pub destination: Ipv4Addr,
    pub options: Vec<u8>,
    /// What follows the IP header.
    pub body: Vec<u8>,
    /// Whether the header checksum of a parsed packet was right.
    pub header_ok: bool,
}

pub const DONT_FRAGMENT: u16 = 0x4000;
pub const MORE_FRAGMENTS: u16 = 0x2000;

impl Packet {
    pub fn new(protocol: u8, source: Ipv4Addr, destination: Ipv4Addr, body: Vec<u8>) -> Self {
        Self {
            destination_mac: [0; 6],
            source_mac: [0; 6],
            service: 0,
            identification: 0x1234,
            fragment: DONT_FRAGMENT,
            ttl: 64,
            protocol,
            source,
            destination,
            options: Vec::new(),
            body,
            header_ok: true,
        }
    }

    pub fn udp(source: (Ipv4Addr, u16), destination: (Ipv4Addr, u16), payload: &[u8]) -> Self {
        let mut body = Vec::new();
        body.extend(source.1.to_be_bytes());
        body.extend(destination.1.to_be_bytes());
        body.extend((8 + payload.len() as u16).to_be_bytes());
        body.extend([0, 0]);
        body.extend(payload);
        let mut packet = Self::new(UDP, source.0, destination.0, body);
        packet.fix_transport();
        packet
    }

    pub fn tcp(source: (Ipv4Addr, u16), destination: (Ipv4Addr, u16), segment: &Segment) -> Self {
        let mut options = segment.options.clone();
        options.resize(options.len().next_multiple_of(4), 0);
        let mut body = Vec::new();
        body.extend(source.1.to_be_bytes());
        body.extend(destination.1.to_be_bytes());
        body.extend(segment.sequence.to_be_bytes());
        body.extend(segment.acknowledgment.to_be_bytes());
        body.push((((20 + options.len()) / 4) << 4) as u8);
        body.push(segment.flags);
        body.extend(0xffffu16.to_be_bytes());
        body.extend([0; 4]);
        body.extend(&options);
        body.extend(&segment.payload);
        let mut packet = Self::new(TCP, source.0, destination.0, body);
        packet.fix_transport();
        packet
    }

    /// An ICMP error about a packet, of which it quotes so many bytes of the body.
    pub fn icmp_error(from: Ipv4Addr, kind: u8, code: u8, rest: u32, about: &Self, quoted: usize) -> Self {
        let mut body = vec![kind, code, 0, 0];
        body.extend(rest.to_be_bytes());
        body.extend(&about.ip_bytes()[..20 + about.options.len() + quoted]);
        let mut packet = Self::new(ICMP, from, about.source, body);
        packet.fix_transport();
        packet
    }

    pub fn with_ttl(mut self, ttl: u8) -> Self {
        self.ttl = ttl;
        self
    }

    pub fn with_options(mut self, options: &[u8]) -> Self {
        self.options = options.to_vec();
        self
    }

    /// Computes the checksum of TCP, UDP or ICMP anew.
    pub fn fix_transport(&mut self) {
        let Some(at) = sum::place(self.protocol, ICMP, &self.body) else { return };
        self.body[at.clone()].fill(0);
        let sum = sum::made(self.protocol, &self.checksummed());
        self.body[at].copy_from_slice(&sum.to_be_bytes());
    }

    /// The bytes that the transport checksum covers.
    fn checksummed(&self) -> Vec<u8> {
        let mut bytes = Vec::new();
        if self.protocol != ICMP {
            bytes.extend(self.source.octets());
            bytes.extend(self.destination.octets());
            bytes.extend([0, self.protocol]);
            bytes.extend((self.body.len() as u16).to_be_bytes());
        }
        bytes.extend(&self.body);
        bytes
    }

    /// Whether the transport checksum is right; a UDP packet may have none.
    pub fn transport_ok(&self) -> bool {
        if self.protocol == UDP && self.body.get(6..8) == Some(&[0, 0]) {
            return true;
        }
        sum::is_right(self.protocol, ICMP, &self.body, || self.checksummed())
    }

    /// From the IP header on.
    pub fn ip_bytes(&self) -> Vec<u8> {
        let header = 20 + self.options.len();
        let mut bytes = vec![0x40 | (header / 4) as u8, self.service];
        bytes.extend(((header + self.body.len()) as u16).to_be_bytes());
        bytes.extend(self.identification.to_be_bytes());
        bytes.extend(self.fragment.to_be_bytes());
        bytes.extend([self.ttl, self.protocol, 0, 0]);
        bytes.extend(self.source.octets());
        bytes.extend(self.destination.octets());
        bytes.extend(&self.options);
        let sum = checksum(&bytes);
        bytes[10..12].copy_from_slice(&sum.to_be_bytes());
        bytes.extend(&self.body);
        bytes
    }

    /// With an Ethernet header in front.
    pub fn frame(&self) -> Vec<u8> {
        let mut bytes = Vec::new();
        bytes.extend(self.destination_mac);
        bytes.extend(self.source_mac);
        bytes.extend([8, 0]);
        bytes.extend(self.ip_bytes());
        bytes
    }

    /// A frame, apart; `None` if it is no whole IPv4 packet.
    pub fn parse(frame: &[u8]) -> Option<Self> {
        if frame.get(12..14)? != [8, 0] {
            return None;
        }
        let mut packet = Self::parse_ip(frame.get(14..)?)?;
        packet.destination_mac = frame[..6].try_into().ok()?;
        packet.source_mac = frame[6..12].try_into().ok()?;
        Some(packet)
    }

    pub fn parse_ip(bytes: &[u8]) -> Option<Self> {
        let header = usize::from(bytes.first()? & 0xf) * 4;
        let total = usize::from(u16::from_be_bytes([*bytes.get(2)?, *bytes.get(3)?]));
        if bytes[0] >> 4 != 4 || header < 20 || total < header || bytes.len() < total {
            return None;
        }
        let address = |at: usize| Ipv4Addr::new(bytes[at], bytes[at + 1], bytes[at + 2], bytes[at + 3]);
        Some(Self {
            destination_mac: [0; 6],
            source_mac: [0; 6],
            service: bytes[1],
            identification: u16::from_be_bytes([bytes[4], bytes[5]]),
            fragment: u16::from_be_bytes([bytes[6], bytes[7]]),
            ttl: bytes[8],
            protocol: bytes[9],
            source: address(12),
            destination: address(16),
            options: bytes[20..header].to_vec(),
            body: bytes[header..total].to_vec(),
            header_ok: checksum(&bytes[..header]) == 0,
        })
    }

    /// Source and destination port.
    pub fn ports(&self) -> (u16, u16) {
        let port =
            |at: usize| self.body.get(at..at + 2).map_or(0, |bytes| u16::from_be_bytes([bytes[0], bytes[1]]));
        (port(0), port(2))
    }

    pub fn set_ports(&mut self, ports: (u16, u16)) {
        self.body[..2].copy_from_slice(&ports.0.to_be_bytes());
        self.body[2..4].copy_from_slice(&ports.1.to_be_bytes());
    }

    pub fn tcp_flags(&self) -> u8 {
        self.body.get(13).copied().unwrap_or(0)
    }

    fn word(&self, at: usize) -> u32 {
        self.body.get(at..at + 4).map_or(0, |b| u32::from_be_bytes([b[0], b[1], b[2], b[3]]))
    }

    pub fn sequence(&self) -> u32 {
        self.word(4)
    }

    pub fn acknowledgment(&self) -> u32 {
        self.word(8)
    }

    /// The packet that an ICMP error quotes, as far as it goes.
    pub fn quoted(&self) -> Option<Self> {
        let mut bytes = self.body.get(8..)?.to_vec();
        // the quote is shorter than the packet was
        let whole = u16::from_be_bytes([*bytes.get(2)?, *bytes.get(3)?]);
        let header_ok = checksum(bytes.get(..usize::from(bytes[0] & 0xf) * 4)?) == 0;
        let length = (bytes.len() as u16).min(whole);
        bytes[2..4].copy_from_slice(&length.to_be_bytes());
        let mut packet = Self::parse_ip(&bytes)?;
        packet.header_ok = header_ok;
        Some(packet)
    }

    /// Payload behind a UDP or TCP header.
    pub fn payload(&self) -> &[u8] {
        let header = match self.protocol {
            TCP => usize::from(self.body.get(12).copied().unwrap_or(0x50) >> 4) * 4,
            _ => 8,
        };
        self.body.get(header..).unwrap_or(&[])
    }
}

/// What a TCP packet carries.
#[derive(Clone, Debug, Default)]
pub struct Segment {
    pub flags: u8,
    pub sequence: u32,
    pub acknowledgment: u32,
    pub options: Vec<u8>,
    pub payload: Vec<u8>,
}

impl Segment {
    pub fn flags(flags: u8) -> Self {
        Self { flags, ..Self::default() }
    }

    pub const fn at(mut self, sequence: u32, acknowledgment: u32) -> Self {
        self.sequence = sequence;
        self.acknowledgment = acknowledgment;
        self
    }

    pub fn carrying(mut self, payload: &[u8]) -> Self {
        self.payload = payload.to_vec();
        self
    }

    /// With an MSS option, after so many no-operations.
    pub fn with_mss(mut self, mss: u16, padding: usize) -> Self {
        self.options = vec![1; padding];
        self.options.extend([2, 4]);
        self.options.extend(mss.to_be_bytes());
        self
    }
}

/// RFC 1071, the obvious way; 0 for data whose checksum is right.
pub fn checksum(bytes: &[u8]) -> u16 {
    let (mut sum, mut at) = (0u64, 0);
    // an index instead of an iterator: these programs are built without optimisation, and this is most of their work
    while at + 1 < bytes.len() {
        sum += (bytes[at] as u64) << 8 | bytes[at + 1] as u64;
        at += 2;
    }
    if at < bytes.len() {
        sum += (bytes[at] as u64) << 8;
    }
    while sum > 0xffff {
        sum = (sum & 0xffff) + (sum >> 16);
    }
    !(sum as u16)
}
