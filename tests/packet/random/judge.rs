//! What must hold of any packet that any program hands back, whatever it was.

use std::net::Ipv4Addr;
use std::ops::Range;

use harness::packet::{ICMP, Packet, TCP, UDP, checksum};
use harness::plane::{MTU, NARROW_MTU, NEIGHBOUR_MAC, Plane, RELAY_NARROW, RELAY_SECOND, Ran, Verdict};
use harness::world::{RELAY, RELAY_INSIDE};

use super::make::{BACKENDS, Made};

/// What came of a packet.
#[derive(Debug)]
pub(super) enum Finding {
    Passed,
    Dropped,
    /// Sent back as an ICMP error about itself.
    Answered,
    /// Sent on: what must have been counted.
    Forwarded {
        packets: u64,
        bytes: u64,
    },
    /// Passed, and counted for a rule.
    Left {
        packets: u64,
        bytes: u64,
    },
    /// The kernel would not take it for a test packet.
    Refused,
}

pub(super) struct Judge {
    /// MAC addresses of the ways out.
    ways_out: [[u8; 6]; 3],
}

const IP: usize = 14;
const OWN: [Ipv4Addr; 4] = [RELAY, RELAY_SECOND, RELAY_INSIDE, RELAY_NARROW];

macro_rules! demand {
    ($so:expr, $($text:tt)*) => {
        if !$so {
            return Err(format!($($text)*));
        }
    };
}

impl Judge {
    pub(super) fn new(plane: &Plane) -> Self {
        Self { ways_out: [plane.uplink.mac, plane.backend.mac, plane.narrow.mac] }
    }

    pub(super) fn tc(&self, made: &Made, ran: &Ran) -> Result<Finding, String> {
        match ran.verdict {
            Verdict::Pass => untouched(made, ran),
            Verdict::Drop => Ok(Finding::Dropped),
            Verdict::Redirect if is_answer(made, ran) => answered(made, ran),
            Verdict::Redirect => {
                demand!(ran.frame[..12] == made.frame[..12], "the link header is not tc's to write");
                forwarded(made, ran, made.segment)
            }
            Verdict::Other(code) => Err(format!("verdict {code}")),
        }
    }

    pub(super) fn xdp(&self, made: &Made, ran: &Ran) -> Result<Finding, String> {
        match ran.verdict {
            Verdict::Pass => untouched(made, ran),
            Verdict::Redirect => {
                demand!(ran.frame[..6] == NEIGHBOUR_MAC, "not to the neighbour");
                demand!(self.ways_out.iter().any(|mac| ran.frame[6..12] == mac[..]), "not from us");
                forwarded(made, ran, 0)
            }
            Verdict::Drop => Err("XDP refuses nothing by itself".into()),
            Verdict::Other(code) => Err(format!("verdict {code}")),
        }
    }
}

fn untouched(made: &Made, ran: &Ran) -> Result<Finding, String> {
    demand!(ran.frame == made.frame, "passed, but changed to {:x?}", ran.frame);
    Ok(Finding::Passed)
}

/// Fields of an IPv4 header at an offset, whatever they claim.
struct Header<'a> {
    bytes: &'a [u8],
}

impl<'a> Header<'a> {
    fn of(frame: &'a [u8], at: usize) -> Result<Self, String> {
        let bytes = frame.get(at..).filter(|bytes| bytes.len() >= 20).ok_or("no room for an IP header")?;
        let header = Self { bytes };
        demand!(bytes[0] >> 4 == 4 && header.length() >= 20, "no IPv4 header: {:x?}", &bytes[..20]);
        demand!(header.length() <= header.total(), "header longer than packet: {:x?}", &bytes[..20]);
        Ok(header)
    }

    fn length(&self) -> usize {
        usize::from(self.bytes[0] & 0xf) * 4
    }

    fn word(&self, at: usize) -> u16 {
        u16::from_be_bytes([self.bytes[at], self.bytes[at + 1]])
    }

    fn total(&self) -> usize {
        self.word(2).into()
    }

    fn ttl(&self) -> u8 {
        self.bytes[8]
    }

    fn protocol(&self) -> u8 {
        self.bytes[9]
    }

    fn address(&self, at: usize) -> Ipv4Addr {
        Ipv4Addr::new(self.bytes[at], self.bytes[at + 1], self.bytes[at + 2], self.bytes[at + 3])
    }

    fn source(&self) -> Ipv4Addr {
        self.address(12)
    }

    fn destination(&self) -> Ipv4Addr {
        self.address(16)
    }

    fn is_later_fragment(&self) -> bool {
        self.word(6) & 0x1fff != 0
    }

    /// What is left over when the header is summed: 0 if its checksum is right.
    fn residue(&self) -> u16 {
        residue(&self.bytes[..self.length().min(self.bytes.len())])
    }
}

/// The checksum of bytes, with both zeros of one's complement made one.
fn residue(bytes: &[u8]) -> u16 {
    match checksum(bytes) {
        0xffff => 0,
        other => other,
    }
}

fn is_answer(made: &Made, ran: &Ran) -> bool {
    let protocol = |frame: &[u8]| frame.get(IP + 9).copied();
    protocol(&ran.frame) == Some(ICMP) && matches!(protocol(&made.frame), Some(TCP | UDP))
}

/// An ICMP error about the packet, to its sender, quoting its first bytes.
fn answered(made: &Made, ran: &Ran) -> Result<Finding, String> {
    let original = Header::of(&made.frame, IP)?;
    let quoted = 20 + if original.protocol() == TCP { 20 } else { 8 };
    demand!(ran.frame.len() == IP + 28 + quoted, "an answer of {} bytes", ran.frame.len());
    let answer = Packet::parse(&ran.frame).ok_or("the answer is no packet")?;
    demand!(answer.header_ok && answer.transport_ok(), "bad checksum in the answer {answer:?}");
    demand!(answer.ttl == 64 && answer.source == original.destination(), "who answers? {answer:?}");
    demand!(answer.destination == original.source(), "whom? {answer:?}");
    demand!(OWN.contains(&answer.source), "an answer in another's name: {answer:?}");
    let kind = if original.ttl() <= 1 { [11, 0] } else { [3, 4] };
    demand!(answer.body[..2] == kind, "the wrong answer {answer:?}");
    demand!(answer.body[8..] == made.frame[IP..IP + quoted], "a wrong quote {answer:?}");
    Ok(Finding::Answered)
}

fn forwarded(made: &Made, ran: &Ran, segment: u32) -> Result<Finding, String> {
    demand!(ran.frame.len() == made.frame.len(), "{} bytes instead of {}", ran.frame.len(), made.frame.len());
    let (before, after) = (Header::of(&made.frame, IP)?, Header::of(&ran.frame, IP)?);
    demand!(before.ttl() >= 2 && after.ttl() == before.ttl() - 1, "TTL {} to {}", before.ttl(), after.ttl());
    demand!(before.residue() == after.residue(), "the header checksum came out wrong");
    let mtu = known_way(&before, &after)?;
    only_changed(made, ran, &before)?;
    transport_kept(&before, &after)?;
    count(made, &before, segment, mtu)
}

/// Between addresses that a flow can have; returns what the way out takes.
fn known_way(before: &Header<'_>, after: &Header<'_>) -> Result<u32, String> {
    let (source, destination) = (after.source(), after.destination());
    if BACKENDS.contains(&(source, destination)) {
        demand!(OWN.contains(&before.destination()), "it was for {}", before.destination());
        return Ok(if source == RELAY_NARROW { NARROW_MTU } else { MTU });
    }
    demand!(OWN.contains(&source), "from {source} to {destination}");
    demand!(OWN.contains(&before.destination()), "it was for {}", before.destination());
    let first = destination.octets()[0];
    demand!(first != 0 && first != 127 && first < 224, "to {destination}, where no client is");
    Ok(MTU)
}

/// Nothing else in the packet may have changed.
fn only_changed(made: &Made, ran: &Ran, before: &Header<'_>) -> Result<(), String> {
    let transport = IP + before.length();
    let mut allowed: Vec<Range<usize>> = vec![0..12, IP + 8..IP + 9, IP + 10..IP + 20];
    if !before.is_later_fragment() {
        match before.protocol() {
            UDP => allowed.extend([transport..transport + 4, transport + 6..transport + 8]),
            TCP => {
                allowed.extend([transport..transport + 4, transport + 16..transport + 18]);
                let options = usize::from(made.frame[transport + 12] >> 4) * 4;
                if made.frame[transport + 13] & harness::packet::SYN != 0 {
                    allowed.push(transport + 20..transport + options);
                }
            }
            _ => {
                let quote = transport + 8;
                let inner = quote + usize::from(made.frame[quote] & 0xf) * 4;
                allowed.extend([transport + 2..transport + 4, quote + 10..quote + 20, inner..inner + 4]);
                allowed.extend([inner + 6..inner + 8, inner + 16..inner + 18]);
            }
        }
    }
    let end = IP + before.total();
    let (old, new) = (&made.frame, &ran.frame);
    for block in (0..old.len()).step_by(16) {
        let blocks = block..(block + 16).min(old.len());
        // whole blocks first: nearly all of a packet is as it was
        if old[blocks.clone()] == new[blocks.clone()] {
            continue;
        }
        for at in blocks.filter(|&at| old[at] != new[at]) {
            let may = (at < end || at < IP) && allowed.iter().any(|range| range.contains(&at));
            demand!(may, "byte {at} changed from {:#x} to {:#x}: {new:x?}", old[at], new[at]);
        }
    }
    Ok(())
}

/// A transport checksum is as right as it was.
fn transport_kept(before: &Header<'_>, after: &Header<'_>) -> Result<(), String> {
    if before.is_later_fragment() {
        return Ok(());
    }
    let body = before.length()..before.total();
    if before.protocol() == ICMP {
        let (old, new) = (residue(&before.bytes[body.clone()]), residue(&after.bytes[body]));
        demand!(old == new, "the ICMP checksum came out wrong");
        let inner = before.length() + 8;
        let (old, new) = (Header::of(before.bytes, inner), Header::of(after.bytes, inner));
        if let (Ok(old), Ok(new)) = (old, new) {
            demand!(old.residue() == new.residue(), "the quoted header checksum came out wrong");
        }
        return Ok(());
    }
    let sum_at = body.start + if before.protocol() == TCP { 16 } else { 6 };
    if before.protocol() == UDP && before.word(sum_at) == 0 {
        demand!(after.word(sum_at) == 0, "a checksum out of nothing");
        return Ok(());
    }
    demand!(before.protocol() == TCP || after.word(sum_at) != 0, "the checksum has gone");
    // addresses are summed with the packet; the rest of the pseudo-header is the same before and after
    let whole = |header: &Header<'_>| residue(&[&header.bytes[12..20], &header.bytes[body.clone()]].concat());
    demand!(whole(before) == whole(after), "the transport checksum came out wrong");
    Ok(())
}

/// Whether a packet that passes may be the user plane's.
pub(super) fn may_be_left(made: &Made) -> bool {
    let Ok(header) = Header::of(&made.frame, IP) else { return false };
    let port = made.frame.get(IP + header.length()..).and_then(|body| body.get(2..4));
    let port = port.map_or(0, |port| u16::from_be_bytes([port[0], port[1]]));
    let listened = super::LISTENED.iter().any(|ports| ports.contains(&port));
    OWN.contains(&header.destination()) && (listened || header.is_later_fragment())
}

/// Packets and bytes that must be counted for it if it is.
pub(super) fn left(made: &Made) -> Result<(u64, u64), String> {
    let (packets, bytes, _) = on_wire(made, &Header::of(&made.frame, IP)?, made.segment);
    Ok((packets, bytes))
}

/// What must be counted for the packet, and that it fits its way out.
fn count(made: &Made, before: &Header<'_>, segment: u32, mtu: u32) -> Result<Finding, String> {
    let (packets, bytes, largest) = on_wire(made, before, segment);
    demand!(largest <= mtu, "{largest} bytes where {mtu} fit");
    Ok(Finding::Forwarded { packets, bytes })
}

/// Packets, bytes, and the largest packet.
fn on_wire(made: &Made, before: &Header<'_>, segment: u32) -> (u64, u64, u32) {
    let plain = segment == 0 || before.is_later_fragment() || before.protocol() == ICMP;
    let total = before.total() as u32;
    if plain {
        return (1, total.into(), total);
    }
    let transport =
        if before.protocol() == TCP { usize::from(before.bytes[before.length() + 12] >> 4) * 4 } else { 8 };
    let headers = (before.length() + transport) as u32;
    let length = (made.frame.len() - IP) as u32;
    let packets = length.saturating_sub(headers).div_ceil(segment);
    let bytes = i64::from(length) + (i64::from(packets) - 1) * i64::from(headers);
    (packets.into(), bytes.cast_unsigned(), segment + headers)
}
