//! ICMP errors made here, in the program: time exceeded, fragmentation needed, packet too big (RFC 792, RFC 1191, RFC 4443).
//!
//! The offending packet is turned around in place: cut to what the error quotes, headers put in front, sent back to
//! where it came from. No daemon, no raw socket, and nothing of ours reaches the host's own stack.

use relay_common::counters::DropReason;
use relay_common::trace::Decision;

use crate::error::{self, HEAD, HEAD_V6, Icmp};
use crate::established::Frame as _;
use crate::packet::{icmp, icmpv6};
use crate::skb::{Failed, Skb};
use crate::slow::Packet;
use crate::{Outcome, count, maps, route, trace};

/// IPv6 has no link that takes less, and no sender that would listen to less (RFC 8201 section 4).
const LEAST_MTU_V6: u32 = 1280;

/// Whether a packet cannot go on and its sender is owed a word about it.
#[inline(always)]
pub(crate) fn is_due(skb: Skb, packet: &Packet) -> bool {
    packet.ttl <= 1 || packet.on_wire(skb) > packet.mtu
}

/// Turns a packet into the error about it.
#[inline(always)]
pub(crate) fn run(skb: Skb, packet: &Packet) -> Outcome {
    if !is_allowed(packet) {
        return Outcome::Dropped;
    }
    let turned = if packet.key.is_v6() { turn_v6(skb, packet) } else { turn(skb, packet) };
    if turned.is_err() {
        return count::refuse(packet.rule, DropReason::Unwritable);
    }
    send(skb, packet)
}

/// Whether an error may be made. The packet itself is refused in any case, and counted.
#[inline(never)]
fn is_allowed(packet: &Packet) -> bool {
    let reason = if packet.ttl <= 1 { DropReason::TtlExceeded } else { DropReason::TooBig };
    count::refuse(packet.rule, reason);
    // quoting header options would make every size variable, for packets that hardly exist
    let reason = if !within_budget(packet.now) {
        DropReason::IcmpLimited
    } else if !packet.key.is_v6() && packet.transport - packet.l2 != 20 {
        DropReason::BadHeader
    } else {
        trace::decide(packet.rule, Decision::Answered);
        return true;
    };
    count::refuse(packet.rule, reason);
    false
}

#[inline(never)]
fn send(skb: Skb, packet: &Packet) -> Outcome {
    let hop = route::towards(skb.interface(), &packet.sender).and_then(|hop| route::usable(hop.index));
    let Some(next_hop) = hop else { return count::refuse(packet.rule, DropReason::NoRoute) };
    if packet.key.is_v6() {
        return skb.redirect_v6(next_hop, &packet.sender);
    }
    skb.redirect(next_hop, packet.key.source())
}

/// Each CPU may make so many errors a tick.
#[inline(always)]
fn within_budget(now: u32) -> bool {
    let (Some(settings), Some(budget)) = (maps::settings(), maps::icmp_budget()) else { return false };
    if budget.tick != now {
        budget.tick = now;
        budget.spent = 0;
    }
    budget.spent += 1;
    budget.spent <= settings.icmp_per_tick
}

/// Turns an IPv4 packet into the error about it.
#[inline(never)]
fn turn(skb: Skb, packet: &Packet) -> Result<(), Failed> {
    let error = &mut maps::scratch().ok_or(Failed)?.error;
    error.quote(skb, packet)?;
    let checksum_pending = cut(skb, packet, HEAD)?;
    let icmp = match packet.ttl {
        0..=1 => Icmp::new(icmp::TIME_EXCEEDED, 0, 0),
        _ => Icmp::new(icmp::UNREACHABLE, icmp::FRAGMENTATION_NEEDED, packet.told_mtu),
    };
    let ends = (packet.key.destination().to_wire(), packet.key.source().to_wire());
    error.write(skb, ends, icmp, packet.protocol, checksum_pending)
}

/// The same for an IPv6 packet.
#[inline(never)]
fn turn_v6(skb: Skb, packet: &Packet) -> Result<(), Failed> {
    let error = &mut maps::scratch().ok_or(Failed)?.error_v6;
    error.quote(skb, packet)?;
    let checksum_pending = cut(skb, packet, HEAD_V6)?;
    let icmp = match packet.ttl {
        0..=1 => Icmp::new(icmpv6::TIME_EXCEEDED, 0, 0),
        _ => Icmp::new(icmpv6::TOO_BIG, 0, mtu_v6(packet.told_mtu)),
    };
    let ends = (&packet.destination_v6, &packet.sender);
    error.write(skb, ends, icmp, packet.protocol, checksum_pending)
}

/// Cuts the packet down to the quote, with room for `head` bytes before the transport header. Returns whether its checksum is
/// still to be filled in by the device, which the kernel does not let us cut off.
#[inline(always)]
fn cut(skb: Skb, packet: &Packet, head: u32) -> Result<bool, Failed> {
    let checksum_pending = skb.resize(packet.transport).is_err();
    skb.resize(packet.transport + error::kept(packet.protocol))?;
    skb.grow_head(head - packet.transport)?;
    Ok(checksum_pending)
}

/// A size that IPv6 senders may be told.
#[inline(always)]
pub(crate) const fn mtu_v6(mtu: u32) -> u32 {
    if mtu < LEAST_MTU_V6 { LEAST_MTU_V6 } else { mtu }
}
