//! The user plane's packets: counted on their way to the host's stack and from it, and never touched.
//!
//! Counted is what a rule listens for and the kernel plane leaves alone, at tc ingress, and what the host itself sends
//! from a rule's listener, at tc egress. Packets that the kernel plane sends pass tc egress too, and were counted.

use relay_common::flow::{FragmentEntry, FragmentKey};
use relay_common::net::{Ports, Protocol};

use crate::established::Frame as _;
use crate::listening::{self, Address};
use crate::maps::{self, Entry};
use crate::packet::{self, Ipv4, Ipv6};
use crate::skb::{Failed, Skb};
use crate::slow::Packet;
use crate::{count, fragment};

/// Counts an IPv4 packet that the slow path leaves to the stack.
#[inline(never)]
pub(crate) fn incoming_v4(skb: Skb, packet: &Packet) {
    let (segment_size, segments) = (skb.segment_size(), skb.segments());
    let (packets, bytes) = count::on_wire(packet.length, packet.header_length, segment_size, segments);
    count::add(packet.rule, false, packets, bytes);
    if packet.fragment & packet::MORE_FRAGMENTS != 0 {
        let key = FragmentKey {
            source: packet.key.source().to_wire(),
            destination: packet.key.destination().to_wire(),
            identification: packet.identification.into(),
            protocol: packet.protocol.number().into(),
        };
        maps::put_fragment(&key, &FragmentEntry::of_user(packet.rule, false, packet.now));
    }
}

/// Counts an IPv6 packet that comes in.
#[inline(always)]
pub(crate) fn incoming_v6(skb: Skb, l2: u32) {
    let _not_ours = ipv6(skb, l2, false);
}

/// Counts a packet that leaves.
#[inline(always)]
pub(crate) fn outgoing(skb: Skb, l2: u32) {
    // what is forwarded was received; tagged frames have passed the VLAN's own interface
    if skb.was_received() || skb.is_vlan_tagged() {
        return;
    }
    let _not_ours = match skb.protocol() {
        packet::IPV4 => outgoing_v4(skb, l2),
        packet::IPV6 => ipv6(skb, l2, true),
        _ => return,
    };
}

#[inline(never)]
fn outgoing_v4(skb: Skb, l2: u32) -> Result<(), Failed> {
    let ip = skb.load::<Ipv4>(l2)?;
    let header = u32::from(ip.version_length & 0xf) * 4;
    let length = skb.ip_length(l2, u16::from_be(ip.length).into())?;
    let protocol = Protocol::from_number(ip.protocol).ok_or(Failed)?;
    let key = FragmentKey {
        source: ip.source,
        destination: ip.destination,
        identification: ip.identification.into(),
        protocol: ip.protocol.into(),
    };
    if ip.fragment & packet::FRAGMENT_OFFSET != 0 {
        count_later(maps::fragment(&key), true, length);
        return Ok(());
    }
    let seen = Seen { protocol, l2, transport: l2 + header, length };
    let rule = count_first(skb, &seen, &ip.source, true).ok_or(Failed)?;
    if ip.fragment & packet::MORE_FRAGMENTS != 0 {
        maps::put_fragment(&key, &FragmentEntry::of_user(rule, true, maps::now()));
    }
    Ok(())
}

/// What follows an IPv6 header (RFC 8200 section 4), by number.
const HOP_BY_HOP: u8 = 0;
const ROUTING: u8 = 43;
const FRAGMENT: u8 = 44;
const DESTINATION: u8 = 60;
/// Extension headers that are looked past.
const MOST_HEADERS: u32 = 4;

/// A fragment header.
#[repr(C)]
#[derive(Clone, Copy)]
struct FragmentHeader {
    next: u8,
    _reserved: u8,
    /// In network order; the lowest bit says that more follow.
    offset: u16,
    identification: u32,
}

impl FragmentHeader {
    const OFFSET: u16 = 0xfff8u16.to_be();
    const MORE: u16 = 1u16.to_be();
}

#[inline(never)]
fn ipv6(skb: Skb, l2: u32, egress: bool) -> Result<(), Failed> {
    let ip = skb.load::<Ipv6>(l2)?;
    let length = skb.ip_length(l2, 40 + u32::from(u16::from_be(ip.length)))?;
    let (mut next, mut at) = (ip.next, l2 + 40);
    let key = |identification| FragmentKey {
        source: ip.source,
        destination: ip.destination,
        identification,
        protocol: 0,
    };
    let mut first = None;
    for _ in 0..MOST_HEADERS {
        match next {
            HOP_BY_HOP | ROUTING | DESTINATION => {
                let [following, words] = skb.load::<[u8; 2]>(at)?;
                next = following;
                at += (u32::from(words) + 1) * 8;
            }
            FRAGMENT => {
                let header = skb.load::<FragmentHeader>(at)?;
                if header.offset & FragmentHeader::OFFSET != 0 {
                    count_later(maps::fragment_v6(&key(header.identification)), egress, length);
                    return Ok(());
                }
                if header.offset & FragmentHeader::MORE != 0 {
                    first = Some(header.identification);
                }
                next = header.next;
                at += 8;
            }
            _ => break,
        }
    }
    let seen = Seen { protocol: Protocol::from_number(next).ok_or(Failed)?, l2, transport: at, length };
    let own = if egress { &ip.source } else { &ip.destination };
    let rule = count_first(skb, &seen, own, egress).ok_or(Failed)?;
    if let Some(identification) = first {
        maps::put_fragment_v6(&key(identification), &FragmentEntry::of_user(rule, egress, maps::now()));
    }
    Ok(())
}

/// A packet whose transport header begins at `transport`.
struct Seen {
    protocol: Protocol,
    l2: u32,
    transport: u32,
    /// IP bytes.
    length: u32,
}

impl Seen {
    /// IP and transport header bytes, which every segment of a super-packet repeats.
    #[inline(always)]
    fn header_length(&self, skb: Skb) -> Result<u32, Failed> {
        let transport = match self.protocol {
            Protocol::Tcp => u32::from(skb.load::<u8>(self.transport + 12)? >> 4) * 4,
            Protocol::Udp => 8,
        };
        Ok(self.transport - self.l2 + transport)
    }
}

/// Counts a packet that shows its ports, if a rule listens at the host's end of it. Returns the rule.
#[inline(always)]
fn count_first<A: Address>(skb: Skb, seen: &Seen, own: &A, egress: bool) -> Option<u32> {
    let ports = Ports::from_wire(skb.load(seen.transport).ok()?);
    let port = if egress { ports.source() } else { ports.destination() };
    let rule = listening::find(seen.protocol, own, port, skb.interface())?.rule;
    if !A::is_left_to_user(maps::rule(rule)?) {
        return None;
    }
    let segment_size = skb.segment_size();
    let header_length = if segment_size == 0 { 0 } else { seen.header_length(skb).ok()? };
    let (packets, bytes) = count::on_wire(seen.length, header_length, segment_size, skb.segments());
    count::add(rule, egress, packets, bytes);
    Some(rule)
}

/// Counts a fragment without ports for the rule of the first one.
#[inline(always)]
fn count_later(first: Option<Entry<FragmentEntry>>, egress: bool, length: u32) {
    if let Some(first) = first
        && first.is_of_user(egress)
        && fragment::is_fresh(first)
    {
        count::add(first.rule, egress, 1, length.into());
    }
}
