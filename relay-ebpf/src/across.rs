//! ICMP errors about translated flows: those of one family become those of the other (RFC 7915 sections 4.2 and 5.2).
//!
//! They are written anew, with as much of the quoted packet as an end needs to know its connection, from the host's own
//! address: a router's may not pass the filters of whoever carries it on.

mod tables;

use core::mem::offset_of;

use relay_common::checksum::fold_wide;
use relay_common::counters::DropReason;
use relay_common::digest::Digest;
use relay_common::flow::{FlowEntry, FlowFlags, FlowKey};
use relay_common::net::{Direction, Ports, Protocol};
use relay_common::trace::Decision;

use crate::error::{self, HEAD, HEAD_V6, Icmp};
use crate::ipv6::HEADER;
use crate::maps::Entry;
use crate::packet::{self, Fragment, Ipv4, Ipv6, icmpv6};
use crate::skb::{Failed, Skb};
use crate::slow::{Packet, Read};
use crate::{Outcome, count, half, maps, route, signal, sum, trace};

/// An error that has come in, and where its parts lie.
#[repr(C)]
#[derive(Clone, Copy)]
pub(crate) struct Incoming {
    /// As it came, with its number behind the checksum.
    pub(crate) icmp: Icmp,
    /// Offset of the quoted IP header, and of the transport header behind it.
    pub(crate) quoted: u32,
    pub(crate) transport: u32,
    /// Where the packet ends.
    pub(crate) end: u32,
}

impl Incoming {
    /// Offset of the ICMP header.
    #[inline(always)]
    pub(crate) const fn at(&self) -> u32 {
        self.quoted - size_of::<Icmp>() as u32
    }
}

/// Passes an error on along a half of a flow, whose packets leave in the other family. `packet`: the error, with the key of
/// that half. In steps, each of which has the stack to itself.
#[inline(always)]
pub(crate) fn pass_on(skb: Skb, packet: &mut Packet) -> Outcome {
    if let Err(outcome) = prepare(skb, packet) {
        return outcome;
    }
    let written = if packet.leaves_as_v6 { write_v6(skb, packet) } else { write_v4(skb, packet) };
    if written.is_err() {
        return count::refuse(packet.rule, DropReason::Unwritable);
    }
    send(skb, packet)
}

/// The half that an error goes along.
#[inline(always)]
fn find(packet: &Packet) -> Option<Entry<FlowEntry>> {
    maps::established(packet.protocol, &packet.key).or_else(|| maps::unproven(&packet.key))
}

/// Finds out the way, and what the error is called there.
#[inline(never)]
fn prepare(skb: Skb, packet: &mut Packet) -> Result<(), Outcome> {
    let Some(flow) = find(packet) else { return Err(Outcome::Miss) };
    packet.now = maps::now();
    packet.rule = flow.rule();
    if route::of_error(flow, packet).is_none() {
        return Err(count::refuse(packet.rule, DropReason::NoRoute));
    }
    // no errors about errors (RFC 1122 section 3.2.2)
    if packet.ttl <= 1 {
        return Err(count::refuse(packet.rule, DropReason::TtlExceeded));
    }
    // its own is computed anew, and would make a broken error a good one
    if sum::check(skb, packet).is_err() {
        return Err(count::refuse(packet.rule, DropReason::BadHeader));
    }
    let from = &packet.incoming.icmp;
    if packet.key.is_v6() {
        signal::error(flow, packet.protocol, signal::is_unreachable_v6(from.kind));
    }
    packet.leaves_as_v6 = flow.flags().has(FlowFlags::TO_V6);
    let told = match (packet.key.is_v6(), packet.leaves_as_v6) {
        (true, true) => Some(tables::without_extensions(from)),
        (false, _) => tables::to_icmpv6(from, quoted_bytes(skb, packet)),
        (true, false) => tables::to_icmp(from, packet.protocol),
    };
    let Some(icmp) = told else { return Err(count::refuse(packet.rule, DropReason::BadHeader)) };
    packet.incoming.icmp = icmp;
    trace::decide(packet.rule, Decision::Error);
    Ok(())
}

/// How long a quoted IPv4 packet was.
#[inline(always)]
fn quoted_bytes(skb: Skb, packet: &Packet) -> u32 {
    let at = packet.incoming.quoted + offset_of!(Ipv4, length) as u32;
    skb.load::<u16>(at).map_or(0, |length| u16::from_be(length).into())
}

#[inline(never)]
fn send(skb: Skb, packet: &Packet) -> Outcome {
    let Some(flow) = find(packet) else { return count::refuse(packet.rule, DropReason::NotProven) };
    let Some(next_hop) = route::usable(flow.hop().index) else {
        return count::refuse(packet.rule, DropReason::NoRoute);
    };
    let head = if packet.leaves_as_v6 { HEAD_V6 } else { HEAD } - packet::ETHERNET as u32;
    let on_client_leg = match flow.direction() {
        Direction::Ingress => packet.length,
        Direction::Egress => head + error::kept(packet.protocol),
    };
    if !count::one(flow.rule(), flow.flags().has(FlowFlags::EGRESS), on_client_leg, false) {
        return Outcome::Dropped;
    }
    if packet.leaves_as_v6 {
        return skb.redirect_v6(next_hop, &half::destination(flow));
    }
    skb.redirect(next_hop, flow.translation().destination)
}

/// The quoted transport header, with the ports and the checksum that the receiver knows. Routers quote 8 bytes or more; where they left out
/// what we would quote of TCP, zeros stand for it.
#[inline(always)]
fn quote(skb: Skb, packet: &Packet, flow: &FlowEntry, to: *mut error::Quoted) -> Result<(), Failed> {
    let incoming = &packet.incoming;
    let whole = packet.protocol == Protocol::Udp || incoming.transport + 20 <= incoming.end;
    if packet.protocol == Protocol::Tcp && whole {
        skb.load_to(incoming.transport, to)?;
    } else {
        // SAFETY: `to` is scratch space.
        unsafe { to.write_unaligned([0; 5]) };
        skb.load_to(incoming.transport, to.cast::<[u32; 2]>())?;
    }
    let ports = flow.translation().ports.swapped().to_wire();
    // SAFETY: the same; its first word holds the ports.
    unsafe { to.cast::<u32>().write_unaligned(ports) };
    if !whole {
        return Ok(());
    }
    // what this half does to checksums undoes what the other one has done to the quoted packet's
    let change = flow.address_delta().and(flow.port_delta());
    let field = to.cast::<u16>().wrapping_add(match packet.protocol {
        Protocol::Tcp => 8,
        Protocol::Udp => 3,
    });
    // SAFETY: the checksums of both are among its ten half-words.
    let old = unsafe { field.read_unaligned() };
    let new = match packet.protocol {
        Protocol::Tcp => change.apply(old),
        Protocol::Udp => change.apply_udp(old),
    };
    // SAFETY: as above.
    unsafe { field.write_unaligned(new) };
    Ok(())
}

/// An IPv6 error about a client's or a backend's packet.
#[inline(never)]
fn write_v6(skb: Skb, packet: &Packet) -> Result<(), Failed> {
    let flow = find(packet).ok_or(Failed)?;
    let error = &mut maps::scratch().ok_or(Failed)?.error_v6;
    let own = half::own_v6(flow).ok_or(Failed)?;
    let (length, hops) = quoted_head(skb, packet)?;
    quote(skb, packet, flow, &raw mut error.quoted)?;
    error.quoted_ip = Ipv6 {
        version_class_flow: packet::IPV6_PLAIN,
        length,
        next: packet.protocol.number(),
        hops,
        source: half::destination(flow),
        destination: *own,
    };
    let length = HEAD_V6 + error::kept(packet.protocol);
    if !packet.key.is_v6() {
        skb.change_protocol(packet::IPV6)?;
    }
    skb.become_frame(packet.l2, length)?;
    let ends = (own, &half::destination(flow));
    error.write(skb, ends, packet.incoming.icmp, packet.protocol, false)
}

/// Of the quoted packet: its length behind the IP header, as it lies in an IPv6 header, and how far it could have gone.
#[inline(always)]
fn quoted_head(skb: Skb, packet: &Packet) -> Result<(u16, u8), Failed> {
    let at = packet.incoming.quoted;
    if packet.key.is_v6() {
        let ip = skb.load::<Ipv6>(at)?;
        return Ok((quoted_length(packet, &ip).to_be(), ip.hops));
    }
    let ip = skb.load::<Ipv4>(at)?;
    Ok((u16::from_be(ip.length).wrapping_sub(20).to_be(), ip.ttl))
}

/// How much there was behind a quoted IPv6 packet's headers.
#[inline(always)]
fn quoted_length(packet: &Packet, ip: &Ipv6) -> u16 {
    let extra = packet.incoming.transport - packet.incoming.quoted - HEADER;
    u16::from_be(ip.length).wrapping_sub(extra as u16)
}

/// An IPv4 error about a backend's packet.
#[inline(never)]
fn write_v4(skb: Skb, packet: &Packet) -> Result<(), Failed> {
    let flow = find(packet).ok_or(Failed)?;
    let error = &mut maps::scratch().ok_or(Failed)?.error;
    let to = flow.translation();
    let ip = skb.load::<Ipv6>(packet.incoming.quoted)?;
    quote(skb, packet, flow, &raw mut error.quoted)?;
    let mut quoted_ip = Ipv4 {
        version_length: packet::PLAIN,
        service: ip.class(),
        length: quoted_length(packet, &ip).wrapping_add(20).to_be(),
        identification: 0,
        fragment: packet::DONT_FRAGMENT,
        ttl: ip.hops,
        protocol: packet.protocol.number(),
        checksum: 0,
        source: to.destination.to_wire(),
        destination: to.source.to_wire(),
    };
    quoted_ip.checksum = !fold_wide(error::sum_ip(&quoted_ip));
    error.quoted_ip = quoted_ip;
    skb.change_protocol(packet::IPV4)?;
    skb.become_frame(packet.l2, HEAD + error::kept(packet.protocol))?;
    let ends = (to.source.to_wire(), to.destination.to_wire());
    error.write(skb, ends, packet.incoming.icmp, packet.protocol, false)
}

/// An ICMPv6 packet: errors about translated flows are passed on, everything else is the stack's, neighbour discovery above
/// all.
#[inline(never)]
pub(crate) fn read_v6(packet: &mut Packet, skb: Skb, l2: u32, ip: &Ipv6) -> Read {
    let at = l2 + HEADER;
    let Ok(icmp) = skb.load::<Icmp>(at) else { return Read::Done(Outcome::Miss) };
    if !matches!(icmp.kind, icmpv6::UNREACHABLE..=icmpv6::PARAMETER_PROBLEM) {
        return Read::Done(Outcome::Miss);
    }
    let Ok(length) = skb.ip_length(l2, HEADER + u32::from(u16::from_be(ip.length))) else {
        return Read::Done(Outcome::Miss);
    };
    packet.l2 = l2;
    packet.length = length;
    packet.ttl = ip.hops;
    packet.destination_v6 = ip.destination;
    match read_quote(packet, skb, at, icmp) {
        Ok(()) => Read::Error,
        Err(Failed) => Read::Done(Outcome::Miss),
    }
}

/// Reads what an ICMPv6 error quotes; the packet's key becomes that of the half that answers to it.
#[inline(always)]
fn read_quote(packet: &mut Packet, skb: Skb, at: u32, icmp: Icmp) -> Result<(), Failed> {
    let (quoted, end) = (at + 8, packet.l2 + packet.length);
    let mut transport = quoted + HEADER;
    let ip = skb.load::<Ipv6>(quoted)?;
    let mut next = ip.next;
    if next == Fragment::NEXT {
        let fragment = skb.load::<Fragment>(transport)?;
        if fragment.offset & Fragment::OFFSET != 0 {
            return Err(Failed);
        }
        next = fragment.next;
        transport += Fragment::BYTES;
    }
    let protocol = Protocol::from_number(next).ok_or(Failed)?;
    let whole = quoted + HEADER + u32::from(u16::from_be(ip.length));
    // who is told is who has sent it
    if transport + 8 > end || transport + 8 > whole || packet.destination_v6 != ip.source {
        return Err(Failed);
    }
    let ports = Ports::from_wire(skb.load::<u32>(transport)?);
    let secret = &maps::settings().ok_or(Failed)?.secret;
    let digest = |address| Digest::new(address, secret);
    packet.key = FlowKey::of_v6(digest(&ip.destination), digest(&ip.source), ports.swapped(), protocol);
    packet.protocol = protocol;
    packet.sender = ip.destination;
    packet.incoming = Incoming { icmp, quoted, transport, end };
    Ok(())
}
