//! Who is let in: allow lists and limits. Asked when a flow is opened and when it is proven, never on the hot path.
//!
//! Connections are counted from their proof on, since anybody can send first packets. The count belongs to the backend half
//! in the established table: adding that half takes a place, and who succeeds in removing it gives the place back.

use aya_ebpf::helpers::bpf_ktime_get_ns;
use relay_common::counters::DropReason;
use relay_common::flow::{FlowEntry, FlowFlags, FlowKey};
use relay_common::net::{Protocol, subscriber};
use relay_common::rule::{RuleEntry, SourceKey};

use crate::slow::Packet;
use crate::{half, maps};

/// Why a new flow is refused, if it is.
#[inline(never)]
pub(crate) fn refusal(packet: &Packet, rule: &RuleEntry) -> Option<DropReason> {
    if rule.guarded != 0 && !maps::is_allowed(key(packet.rule, &packet.sender)) {
        return Some(DropReason::NotAllowed);
    }
    let limits = &rule.limits;
    if limits.are_none() {
        return None;
    }
    let source = key(packet.rule, &subscriber(&packet.sender));
    let now = now();
    let usage = maps::usage(packet.rule)?;
    if usage.is_full(limits.connections, now) {
        return Some(DropReason::LimitConnections);
    }
    if limits.connections_per_ip != 0
        && maps::source(&source).is_some_and(|count| count.get() >= i64::from(limits.connections_per_ip))
    {
        return Some(DropReason::LimitConnectionsPerIp);
    }
    if limits.interval_per_ip != 0
        && maps::pace(&source).is_some_and(|pace| !pace.admits(limits.interval_per_ip, now))
    {
        return Some(DropReason::LimitNewFlowsPerIp);
    }
    if !usage.pace.admits(limits.interval, now) {
        return Some(DropReason::LimitNewFlows);
    }
    None
}

/// Takes places for a client's flow that has just been proven; `half` is its backend half, on the way to its table.
#[inline(never)]
pub(crate) fn enter(client: &[u32; 4], half: &mut FlowEntry) -> Result<(), DropReason> {
    let (Some(rule), Some(usage)) = (maps::rule(half.rule()), maps::usage(half.rule())) else {
        return Ok(());
    };
    let limits = &rule.limits;
    let now = if limits.connections == 0 { 0 } else { now() };
    if !usage.take_flow(limits.connections, now) {
        return Err(DropReason::LimitConnections);
    }
    half.set_flags(half.flags().with(FlowFlags::COUNTED));
    if let Some(usage) = maps::endpoint_usage(half.endpoint()) {
        usage.active().add(1);
    }
    if limits.connections_per_ip == 0 {
        return Ok(());
    }
    let Some(count) = maps::source_or_new(&key(half.rule(), &subscriber(client))) else { return Ok(()) };
    count.add(1);
    half.set_flags(half.flags().with(FlowFlags::SOURCE_COUNTED));
    if count.get() > i64::from(limits.connections_per_ip) {
        give_back((half.rule(), half.endpoint()), half.flags(), client);
        return Err(DropReason::LimitConnectionsPerIp);
    }
    Ok(())
}

/// Takes a half out of the established table, and gives back what it counts for. `false`: somebody else was faster.
#[inline(always)]
pub(crate) fn leave(protocol: Protocol, at: &FlowKey, half: &FlowEntry) -> bool {
    // read before: its memory may be another flow's at once
    let (owner, flags, client) = ((half.rule(), half.endpoint()), half.flags(), half::destination(half));
    let gone = maps::forget_established(protocol, at);
    if gone {
        give_back(owner, flags, &client);
    }
    gone
}

/// Gives back what a backend half with these flags has taken. `rule`, `endpoint`: their numbers.
#[inline(never)]
pub(crate) fn give_back((rule, endpoint): (u32, u32), flags: FlowFlags, client: &[u32; 4]) {
    if !flags.has(FlowFlags::COUNTED) {
        return;
    }
    if let Some(usage) = maps::usage(rule) {
        usage.give_flow_back();
    }
    if let Some(usage) = maps::endpoint_usage(endpoint) {
        usage.active().add(-1);
    }
    if !flags.has(FlowFlags::SOURCE_COUNTED) {
        return;
    }
    let source = key(rule, &subscriber(client));
    if let Some(count) = maps::source(&source) {
        count.add(-1);
        // one that comes at this moment is not counted; that is to its advantage, and over when it ends
        if count.get() <= 0 {
            maps::forget_source(&source);
        }
    }
}

/// Whether a flow's client may still be there: allow lists change.
#[inline(always)]
pub(crate) fn still_allows(rule: &RuleEntry, client: &[u32; 4], slot: u32) -> bool {
    rule.guarded == 0 || maps::is_allowed(key(slot, client))
}

#[inline(always)]
fn key(rule: u32, client: &[u32; 4]) -> SourceKey {
    SourceKey::new(rule, *client)
}

#[inline(always)]
fn now() -> u64 {
    // SAFETY: the helper takes nothing and returns a number.
    unsafe { bpf_ktime_get_ns() }
}
