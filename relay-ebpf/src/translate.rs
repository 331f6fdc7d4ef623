//! Translation between IPv6 and IPv4 (RFC 7915), and of IPv6 to IPv6: another IP header before the same transport header, whose
//! checksum changes by the difference of the addresses.

use aya_ebpf::helpers::bpf_get_prandom_u32;
use relay_common::checksum::fold_wide;
use relay_common::counters::DropReason;
use relay_common::flow::{FlowEntry, FlowFlags};
use relay_common::route::NextHop;

use crate::established::Frame as _;
use crate::ipv6::HEADER as IPV6_HEADER;
use crate::packet::{self, Fragment, Ipv4};
use crate::skb::{Failed, Skb};
use crate::slow::Packet;
use crate::{Outcome, count, error, half, maps};

/// Bytes that an IPv6 header is longer than an IPv4 one.
pub(crate) const GROWTH: u32 = 20;
/// With the fragment header.
pub(crate) const GROWTH_OF_FRAGMENTS: u32 = GROWTH + 8;
pub(crate) const IPV4_HEADER: u32 = 20;
/// IPv4 packets up to this size may be fragmented on their way, which no IPv6 node would tell the sender of (RFC 7915
/// section 5.1).
const MAY_FRAGMENT: u32 = 1260;

/// What both families' headers say.
#[derive(Clone, Copy)]
pub(crate) struct Head {
    /// By its number.
    pub(crate) protocol: u8,
    pub(crate) service: u8,
    /// As it leaves.
    pub(crate) ttl: u8,
    /// IP bytes behind the headers.
    pub(crate) payload: u32,
    pub(crate) piece: Piece,
    pub(crate) segment: Segment,
}

/// What the transport header says, as far as the other family's IP header asks for it.
#[derive(Clone, Copy)]
pub(crate) struct Segment {
    /// Bytes of the transport header.
    pub(crate) header: u32,
    /// Of TCP, as a number.
    pub(crate) sequence: u32,
}

impl Segment {
    /// Of what leaves as IPv6, or has an identification.
    pub(crate) const UNASKED: Self = Self { header: 0, sequence: 0 };
}

impl Head {
    /// Whether it is of several datagrams, which the kernel has made one packet of.
    #[inline(always)]
    fn is_of_datagrams(&self, skb: Skb) -> bool {
        self.protocol == packet::UDP && skb.segment_size() != 0
    }

    /// IPv4's identification and fragment field. What is small may be fragmented on its way: then it needs an identification
    /// that no other has for a while.
    #[inline(always)]
    fn in_v4(&self, skb: Skb) -> (u16, u16) {
        if self.piece.is_marked {
            return self.piece.in_v4();
        }
        let data = match skb.segment_size() {
            0 => self.payload - self.segment.header,
            size => size,
        };
        if IPV4_HEADER + self.segment.header + data > MAY_FRAGMENT {
            return (0, packet::DONT_FRAGMENT);
        }
        if self.protocol == packet::TCP && data != 0 {
            // receivers merge segments that may be fragmented only if they are numbered one after the other
            return (((self.segment.sequence / data) as u16).to_be(), 0);
        }
        // SAFETY: the helper takes nothing and returns a number.
        (unsafe { bpf_get_prandom_u32() } as u16, 0)
    }

    /// Makes room for the header of the other family, or takes away what is too much for it.
    #[inline(always)]
    fn change_protocol(&self, skb: Skb, protocol: u16) -> Result<(), Failed> {
        if self.is_of_datagrams(skb) {
            return skb.change_protocol_of_datagrams(protocol);
        }
        skb.change_protocol(protocol)
    }
}

/// Which part of a datagram a packet is, and whether it says so.
#[derive(Clone, Copy)]
pub(crate) struct Piece {
    /// Of an IPv6 packet: it has a fragment header. Of an IPv4 one: it needs one.
    pub(crate) is_marked: bool,
    /// As a number.
    identification: u32,
    /// Bytes before it, with the lowest bit for more behind it.
    place: u16,
}

impl Piece {
    pub(crate) const WHOLE: Self = Self { is_marked: false, identification: 0, place: 0 };

    #[inline(always)]
    pub(crate) const fn of_v4(ip: &Ipv4) -> Self {
        let fragment = u16::from_be(ip.fragment);
        let place = (fragment & 0x1fff) << 3 | (fragment >> 13) & 1;
        let identification = u16::from_be(ip.identification) as u32;
        Self { is_marked: place != 0, identification, place }
    }

    #[inline(always)]
    pub(crate) const fn of_v6(header: &Fragment) -> Self {
        let (identification, place) = (u32::from_be(header.identification), u16::from_be(header.offset));
        Self { is_marked: true, identification, place: place & !6 }
    }

    /// IPv4's identification and fragment field.
    #[inline(always)]
    const fn in_v4(self) -> (u16, u16) {
        let fragment = self.place >> 3 | (self.place & 1) << 13;
        ((self.identification as u16).to_be(), fragment.to_be())
    }

    /// Whether the transport header is in it.
    #[inline(always)]
    const fn is_first(self) -> bool {
        self.place < 8
    }

    /// Bytes that it is longer as IPv6.
    #[inline(always)]
    pub(crate) const fn growth(self) -> u32 {
        if self.is_marked { GROWTH_OF_FRAGMENTS } else { GROWTH }
    }
}

/// A packet's IP bytes, and those of its IP and transport header, as they are on the client leg.
#[inline(always)]
pub(crate) fn on_client_leg(
    flow: &FlowEntry,
    from_v6: bool,
    growth: u32,
    (length, header_length): (u32, u32),
) -> (u32, u32) {
    let flags = flow.flags();
    if !flags.has(FlowFlags::EGRESS) {
        return (length, header_length);
    }
    match (from_v6, flags.has(FlowFlags::TO_V6)) {
        (false, true) => (length + growth, header_length + growth),
        (true, false) => (length - growth, header_length - growth),
        _ => (length, header_length),
    }
}

/// Sends a packet of the slow path on in the other family.
#[inline(never)]
pub(crate) fn finish(skb: Skb, packet: &Packet, flow: &FlowEntry, next_hop: &NextHop) -> Outcome {
    let from_v6 = packet.key.is_v6();
    let header = packet.transport - packet.l2;
    let head = Head {
        protocol: packet.protocol.number(),
        service: packet.service,
        ttl: packet.ttl - 1,
        payload: packet.length - header,
        piece: packet.piece,
        segment: Segment { header: packet.header_length - header, sequence: packet.sequence },
    };
    forward(skb, packet.l2, from_v6, head, flow, next_hop)
}

/// Translates a packet and sends it.
#[inline(always)]
pub(crate) fn forward(
    skb: Skb,
    l2: u32,
    from_v6: bool,
    head: Head,
    flow: &FlowEntry,
    next_hop: &NextHop,
) -> Outcome {
    if flow.flags().has(FlowFlags::TO_V6) {
        return match to_v6(skb, l2, from_v6, head, flow) {
            Ok(()) => skb.redirect_v6(next_hop, &half::destination(flow)),
            Err(Failed) => refuse(skb, &head, flow),
        };
    }
    match to_v4(skb, l2, head, flow) {
        Ok(()) => skb.redirect(next_hop, flow.translation().destination),
        Err(Failed) => refuse(skb, &head, flow),
    }
}

/// Refuses what the kernel would not let us change.
#[inline(always)]
fn refuse(skb: Skb, head: &Head, flow: &FlowEntry) -> Outcome {
    let reason = if head.is_of_datagrams(skb) { DropReason::UdpGso } else { DropReason::Unwritable };
    count::refuse(flow.rule(), reason)
}

/// From IPv6 to IPv4.
#[inline(never)]
fn to_v4(skb: Skb, l2: u32, head: Head, flow: &FlowEntry) -> Result<(), Failed> {
    let to = flow.translation();
    let length = head.payload + IPV4_HEADER;
    let (identification, fragment) = head.in_v4(skb);
    let mut ip = Ipv4 {
        version_length: packet::PLAIN,
        service: head.service,
        length: (length as u16).to_be(),
        identification,
        fragment,
        ttl: head.ttl,
        protocol: head.protocol,
        checksum: 0,
        source: to.source.to_wire(),
        destination: to.destination.to_wire(),
    };
    ip.checksum = !fold_wide(error::sum_ip(&ip));
    if head.piece.is_marked {
        skb.adjust_room(-(Fragment::BYTES as i32), 0)?;
    }
    head.change_protocol(skb, packet::IPV4)?;
    skb.replace(l2, &ip)?;
    if head.piece.is_first() {
        transport(skb, l2 + IPV4_HEADER, head.protocol, flow)?;
    }
    if l2 == 0 { skb.push_ethernet() } else { Ok(()) }
}

/// From IPv4 or IPv6 to IPv6.
#[inline(never)]
fn to_v6(skb: Skb, l2: u32, from_v6: bool, head: Head, flow: &FlowEntry) -> Result<(), Failed> {
    let ip = &mut maps::scratch().ok_or(Failed)?.ipv6;
    let marked = head.piece.is_marked;
    let (next, extra) = if marked { (Fragment::NEXT, Fragment::BYTES) } else { (head.protocol, 0) };
    ip.version_class_flow = (6 << 28 | u32::from(head.service) << 20).to_be();
    ip.length = ((head.payload + extra) as u16).to_be();
    ip.next = next;
    ip.hops = head.ttl;
    ip.source = *half::own_v6(flow).ok_or(Failed)?;
    ip.destination = half::destination(flow);
    if !from_v6 {
        if marked {
            skb.adjust_room(Fragment::BYTES as i32, 0)?;
        }
        head.change_protocol(skb, packet::IPV6)?;
    }
    skb.replace(l2, ip)?;
    if marked && !from_v6 {
        let header = Fragment {
            next: head.protocol,
            _reserved: 0,
            offset: head.piece.place.to_be(),
            identification: head.piece.identification.to_be(),
        };
        skb.replace(l2 + IPV6_HEADER, &header)?;
    }
    if head.piece.is_first() {
        transport(skb, l2 + IPV6_HEADER + extra, head.protocol, flow)?;
    }
    if l2 == 0 { skb.push_ethernet() } else { Ok(()) }
}

/// The ports, and the checksum.
#[inline(always)]
fn transport(skb: Skb, at: u32, protocol: u8, flow: &FlowEntry) -> Result<(), Failed> {
    skb.store(at, &flow.translation().ports.to_wire())?;
    if protocol == packet::TCP {
        return skb.fix_tcp_checksum(at, flow.address_delta(), flow.port_delta());
    }
    skb.fix_udp_checksum(at, flow.address_delta(), flow.port_delta())
}
