//! Counting: traffic per rule on this CPU, refusals under their reason.

use relay_common::counters::{DropKey, DropReason};
use relay_common::flow::{FlowEntry, FlowFlags};

use crate::maps::Room;
use crate::note::{self, Where};
use crate::skb::Skb;
use crate::slow::Packet;
use crate::{Outcome, maps, police, trace};

/// Counts a packet of a flow. Returns the bytes counted; `None`: the rule's rate does not allow it, and it is refused.
/// Its addresses have not been changed yet.
#[inline(always)]
pub(crate) fn traffic(
    skb: Skb,
    l2: u32,
    flow: &FlowEntry,
    ports: Where,
    (length, header_length): (u32, u32),
    segment_size: u32,
) -> Option<u64> {
    let (packets, bytes) = on_wire(length, header_length, segment_size, skb.segments());
    let egress = flow.flags().has(FlowFlags::EGRESS);
    let note = || note::of_flow(skb, l2, flow, ports);
    let defer = || skb.note_payment(flow.rule(), egress);
    add(flow.rule(), egress, (packets, bytes), note, defer).then_some(bytes)
}

/// The packets and bytes that a packet becomes on the wire: every segment of a super-packet, each with its own headers.
#[inline(always)]
pub(crate) fn on_wire(length: u32, header_length: u32, segment_size: u32, segments: u32) -> (u64, u64) {
    if segment_size == 0 {
        return (1, length.into());
    }
    let segments = if segments == 0 {
        // virtio leaves the count out
        length.saturating_sub(header_length).div_ceil(segment_size)
    } else {
        segments
    };
    let packets = u64::from(segments);
    (packets, u64::from(length) + (packets - 1) * u64::from(header_length))
}

/// Adds packets and bytes to a rule's traffic in one direction. `false`: its rate does not allow it, so it is refused instead. `note`
/// and `defer`: as [`police::admits`] takes them.
#[inline(always)]
pub(crate) fn add(
    rule: u32,
    egress: bool,
    (packets, bytes): (u64, u64),
    note: impl FnOnce() -> bool,
    defer: impl FnOnce(),
) -> bool {
    let passes = police::admits(rule, egress, (packets, bytes), note, defer);
    if passes {
        tally(rule, egress, packets, bytes);
    }
    passes
}

/// The same for one packet off the hot path, which waits for nothing. `is_noted`: whose it is. By itself, for its share of the stack.
#[inline(never)]
pub(crate) fn one(rule: u32, egress: bool, bytes: u32, is_noted: bool) -> bool {
    add(rule, egress, (1, bytes.into()), || is_noted, || {})
}

/// The same for a rule that is known to ask nothing.
#[inline(always)]
pub(crate) fn tally(rule: u32, egress: bool, packets: u64, bytes: u64) {
    if let Some(counters) = maps::counters(rule) {
        let traffic = if egress { &mut counters.traffic[1] } else { &mut counters.traffic[0] };
        traffic.packets += packets;
        traffic.bytes += bytes;
    }
}

/// Adds to the traffic of the port that has been noted. By itself, for its share of the stack.
#[inline(never)]
pub(crate) fn port(egress: bool, packets: u64, bytes: u64) {
    let Some(counters) =
        maps::room(Room::Packets).and_then(|scratch| maps::port_counters_or_new(&scratch.port))
    else {
        return;
    };
    let way = if egress {
        (&counters.packets[1], &counters.bytes[1])
    } else {
        (&counters.packets[0], &counters.bytes[0])
    };
    way.0.add(packets);
    way.1.add(bytes);
}

/// Counts a new flow.
#[inline(always)]
pub(crate) fn flow(packet: &Packet) {
    if let Some(counters) = maps::counters(packet.rule) {
        counters.flows += 1;
    }
    if let Some(usage) = maps::endpoint_usage(packet.endpoint) {
        usage.opened(packet.protocol).add(1);
    }
}

/// Refuses a packet of `rule` under a reason.
#[inline(never)]
pub(crate) fn refuse(rule: u32, reason: DropReason) -> Outcome {
    trace::refuse(rule, reason);
    if let Some(count) = maps::drops(&DropKey { rule, reason: reason as u32 }) {
        *count += 1;
    }
    Outcome::Dropped
}
