//! Fragments after the first: no ports, no transport checksum, so only the IP header changes.

use relay_common::counters::DropReason;
use relay_common::flow::{FlowEntry, FlowFlags, FragmentEntry, FragmentKey, Hop};
use relay_common::net::Protocol;
use relay_common::tick;
use relay_common::trace::Decision;

use crate::maps::Entry;
use crate::note::Where;
use crate::packet::{Fragment, Ipv4, Ipv6};
use crate::rewrite::TTL_DELTA;
use crate::skb::Skb;
use crate::slow::{Ipv4Tail, Packet};
use crate::translate::{self, Head, Piece, Segment};
use crate::{Outcome, count, half, ipv6, maps, note, route, trace};

/// Later fragments carry no ports: they are matched by what they share with the first.
#[inline(always)]
pub(crate) fn remember(packet: &Packet, flow: &FlowEntry) {
    let egress = flow.flags().has(FlowFlags::EGRESS).into();
    let entry = FragmentEntry { key: packet.key, rule: flow.rule(), seen: packet.now, egress, user: 0 };
    put(packet, &entry);
}

/// The same for whoever has the packet.
#[inline(always)]
pub(crate) fn put(packet: &Packet, entry: &FragmentEntry) {
    let identification = packet.identification;
    if packet.key.is_v6() {
        let (source, destination) = (packet.sender, packet.destination_v6);
        return maps::put_fragment_v6(
            &FragmentKey { source, destination, identification, protocol: 0 },
            entry,
        );
    }
    let key = FragmentKey {
        source: packet.key.source().to_wire(),
        destination: packet.key.destination().to_wire(),
        identification,
        protocol: packet.protocol.number().into(),
    };
    maps::put_fragment(&key, entry);
}

/// An IPv4 fragment: it goes the way its first one went. One whose first fragment has not come by is the stack's.
#[inline(never)]
pub(crate) fn follow(skb: Skb, l2: u32, ip: &Ipv4) -> Outcome {
    let key = FragmentKey {
        source: ip.source,
        destination: ip.destination,
        identification: ip.identification.into(),
        protocol: ip.protocol.into(),
    };
    let Some(entry) = maps::fragment(&key).filter(|entry| is_fresh(entry)) else { return Outcome::Miss };
    let length = u32::from(u16::from_be(ip.length));
    let Some((flow, hop)) = (match admit(skb, l2, entry, length, ip.ttl) {
        Ok(found) => found,
        Err(outcome) => return outcome,
    }) else {
        return Outcome::Miss;
    };
    let rule = entry.rule;
    let header = u32::from(ip.version_length & 0xf) * 4;
    if flow.flags().has(FlowFlags::TO_V6) {
        if header != translate::IPV4_HEADER {
            return count::refuse(rule, DropReason::BadHeader);
        }
        let piece = Piece::of_v4(ip);
        let (service, payload) = (ip.service, length - header);
        let (protocol, ttl, segment) = (ip.protocol, ip.ttl - 1, Segment::UNASKED);
        let head = Head { protocol, service, ttl, payload, piece, segment };
        let ports = Where::known(entry.key.ports().destination());
        return send((skb, l2), false, length, head, flow, hop, ports);
    }
    let Some(next_hop) = route::usable(hop.index) else { return count::refuse(rule, DropReason::NoRoute) };
    if length > next_hop.mtu {
        // the first fragment had the same size and was answered (RFC 1122: no errors about later ones)
        return count::refuse(rule, DropReason::TooBig);
    }
    let ports = Where::known(entry.key.ports().destination());
    let is_noted = note::if_asked(rule, entry.egress != 0, (skb, l2), Some(&*flow), ports);
    if !count::one(rule, entry.egress != 0, length, is_noted) {
        return Outcome::Dropped;
    }
    let to = flow.translation();
    let tail = Ipv4Tail {
        ttl: ip.ttl - 1,
        protocol: ip.protocol,
        checksum: flow.address_delta().and(TTL_DELTA).apply(ip.checksum),
        source: to.source.to_wire(),
        destination: to.destination.to_wire(),
    };
    if skb.store(l2 + 8, &tail).is_err() || (l2 == 0 && skb.push_ethernet().is_err()) {
        return count::refuse(rule, DropReason::Unwritable);
    }
    skb.redirect(next_hop, to.destination)
}

/// An IPv6 fragment.
#[inline(never)]
pub(crate) fn follow_v6(skb: Skb, l2: u32, ip: &Ipv6, header: &Fragment) -> Outcome {
    let (source, destination, identification) = (ip.source, ip.destination, header.identification);
    let key = FragmentKey { source, destination, identification, protocol: 0 };
    let Some(entry) = maps::fragment_v6(&key).filter(|entry| is_fresh(entry)) else { return Outcome::Miss };
    let payload = u32::from(u16::from_be(ip.length));
    if payload < Fragment::BYTES {
        return Outcome::Miss;
    }
    let Ok(length) = skb.ip_length(l2, payload + ipv6::HEADER) else { return Outcome::Miss };
    let Some((flow, hop)) = (match admit(skb, l2, entry, length, ip.hops) {
        Ok(found) => found,
        Err(outcome) => return outcome,
    }) else {
        return Outcome::Miss;
    };
    let head = Head {
        // what later ones say need not be true (RFC 8200 section 4.5)
        protocol: entry.key.protocol().map_or(header.next, Protocol::number),
        service: ip.class(),
        ttl: ip.hops - 1,
        payload: payload - Fragment::BYTES,
        piece: Piece::of_v6(header),
        segment: Segment::UNASKED,
    };
    send((skb, l2), true, length, head, flow, hop, Where::known(entry.key.ports().destination()))
}

/// The flow of a fragment and its way out. `None`: the user plane has it, and it is counted.
#[inline(always)]
fn admit(
    skb: Skb,
    l2: u32,
    entry: &FragmentEntry,
    length: u32,
    ttl: u8,
) -> Result<Option<(Entry<FlowEntry>, Hop)>, Outcome> {
    let rule = entry.rule;
    if entry.user != 0 {
        if entry.is_of_user(false) {
            trace::decide(rule, Decision::User);
            let ports = Where::known(entry.port_of_user());
            let is_noted = note::if_asked(rule, false, (skb, l2), None, ports);
            if !count::one(rule, false, length, is_noted) {
                return Err(Outcome::Dropped);
            }
        }
        return Ok(None);
    }
    if ttl <= 1 {
        return Err(count::refuse(rule, DropReason::TtlExceeded));
    }
    let Some(protocol) = entry.key.protocol() else { return Ok(None) };
    let flow = maps::established(protocol, &entry.key).or_else(|| maps::unproven(&entry.key));
    // thrown out in the meantime
    let Some(flow) = flow else { return Err(count::refuse(rule, DropReason::NotProven)) };
    let Some(hop) = way(flow) else { return Err(count::refuse(rule, DropReason::NoRoute)) };
    trace::decide(rule, Decision::Fragment);
    Ok(Some((flow, hop)))
}

/// Translates a fragment and sends it.
#[inline(always)]
fn send(
    (skb, l2): (Skb, u32),
    from_v6: bool,
    length: u32,
    head: Head,
    flow: &FlowEntry,
    hop: Hop,
    ports: Where,
) -> Outcome {
    let Some(next_hop) = route::usable(hop.index) else {
        return count::refuse(flow.rule(), DropReason::NoRoute);
    };
    let to_v6 = flow.flags().has(FlowFlags::TO_V6);
    let growth = translate::GROWTH_OF_FRAGMENTS;
    let sent = match (from_v6, to_v6) {
        (true, false) => length - growth,
        (false, true) => length + growth,
        _ => length,
    };
    if sent > next_hop.mtu {
        return count::refuse(flow.rule(), DropReason::TooBig);
    }
    let egress = flow.flags().has(FlowFlags::EGRESS);
    let is_noted = note::if_asked(flow.rule(), egress, (skb, l2), Some(flow), ports);
    if !count::one(flow.rule(), egress, if egress { sent } else { length }, is_noted) {
        return Outcome::Dropped;
    }
    translate::forward(skb, l2, from_v6, head, flow, next_hop)
}

/// Whether a first fragment has come by so lately that others may still follow it.
#[inline(always)]
pub(crate) fn is_fresh(entry: &FragmentEntry) -> bool {
    maps::settings().is_some_and(|settings| !tick::passed(maps::now(), entry.seen, settings.fragments))
}

#[inline(always)]
fn way(flow: &FlowEntry) -> Option<Hop> {
    let hop = flow.hop();
    match route::usable(hop.index) {
        Some(next_hop) if next_hop.generation == hop.generation => Some(hop),
        _ => route::towards(0, &half::destination(flow)),
    }
}
