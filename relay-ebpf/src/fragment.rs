//! Fragments after the first: no ports, no transport checksum, so only the IP header changes.

use relay_common::checksum::Delta;
use relay_common::counters::DropReason;
use relay_common::flow::{FlowEntry, FlowFlags, FragmentEntry, FragmentKey, Hop};
use relay_common::net::Address;
use relay_common::tick;
use relay_common::trace::Decision;

use crate::packet::Ipv4;
use crate::rewrite::TTL_DELTA;
use crate::skb::Skb;
use crate::slow::{Ipv4Tail, Packet};
use crate::{Outcome, count, maps, route, trace};

/// Later fragments carry no ports: they are matched by what they share with the first.
#[inline(always)]
pub(crate) fn remember(packet: &Packet, flow: &FlowEntry) {
    let to = flow.translation();
    let key = FragmentKey {
        source: packet.key.source().to_wire(),
        destination: packet.key.destination().to_wire(),
        identification: packet.identification.into(),
        protocol: packet.protocol.number().into(),
    };
    let hop = flow.hop();
    let entry = FragmentEntry {
        source: to.source.to_wire(),
        destination: to.destination.to_wire(),
        rule: flow.rule(),
        seen: packet.now,
        egress: flow.flags().has(FlowFlags::EGRESS).into(),
        hop_index: hop.index,
        hop_generation: hop.generation,
        address_delta: flow.address_delta().raw(),
        user: 0,
        _reserved: [0; 2],
    };
    maps::put_fragment(&key, &entry);
}

/// Sends a fragment the way its first one went. One whose first fragment has not come by is the stack's.
#[inline(never)]
pub(crate) fn follow(skb: Skb, l2: u32, ip: &Ipv4) -> Outcome {
    let key = FragmentKey {
        source: ip.source,
        destination: ip.destination,
        identification: ip.identification.into(),
        protocol: ip.protocol.into(),
    };
    let Some(entry) = maps::fragment(&key).filter(|entry| is_fresh(entry)) else { return Outcome::Miss };
    let rule = entry.rule;
    let length = u32::from(u16::from_be(ip.length));
    if entry.user != 0 {
        if entry.is_of_user(false) {
            trace::decide(rule, Decision::User);
            count::add(rule, false, 1, length.into());
        }
        return Outcome::Miss;
    }
    if ip.ttl <= 1 {
        return count::refuse(rule, DropReason::TtlExceeded);
    }
    let destination = Address::from_wire(entry.destination);
    let Some(hop) = way(entry, destination) else { return count::refuse(rule, DropReason::NoRoute) };
    let Some(next_hop) = route::usable(hop.index) else { return count::refuse(rule, DropReason::NoRoute) };
    if length > next_hop.mtu {
        // the first fragment had the same size and was answered (RFC 1122: no errors about later ones)
        return count::refuse(rule, DropReason::TooBig);
    }
    trace::decide(rule, Decision::Fragment);
    count::add(rule, entry.egress != 0, 1, length.into());
    let tail = Ipv4Tail {
        ttl: ip.ttl - 1,
        protocol: ip.protocol,
        checksum: Delta::from_raw(entry.address_delta).and(TTL_DELTA).apply(ip.checksum),
        source: entry.source,
        destination: entry.destination,
    };
    if skb.store(l2 + 8, &tail).is_err() || (l2 == 0 && skb.push_ethernet().is_err()) {
        return count::refuse(rule, DropReason::Unwritable);
    }
    skb.redirect(next_hop, destination)
}

/// Whether a first fragment has come by so lately that others may still follow it.
#[inline(always)]
pub(crate) fn is_fresh(entry: &FragmentEntry) -> bool {
    maps::settings().is_some_and(|settings| !tick::passed(maps::now(), entry.seen, settings.fragments))
}

#[inline(always)]
fn way(entry: &FragmentEntry, destination: Address) -> Option<Hop> {
    let hop = Hop { index: entry.hop_index, generation: entry.hop_generation };
    match route::usable(hop.index) {
        Some(next_hop) if next_hop.generation == hop.generation => Some(hop),
        _ => route::towards(0, destination),
    }
}
