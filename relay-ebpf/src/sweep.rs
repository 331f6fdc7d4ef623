//! Deleting dead flows. relayd walks the tables and names candidates; the decision falls here, beside the packets,
//! where a flow that has just come back to life is seen.
//!
//! An idle flow is first marked and deleted a round later, if no packet has cleared the mark. So is a half that has lost
//! its other half, and would keep a source port for as long as a live flow may be idle.

use relay_common::ended::End;
use relay_common::flow::{FlowEntry, FlowFlags, FlowKey};
use relay_common::net::{Protocol, mapped};
use relay_common::settings::SweepRequest;
use relay_common::tick;

use crate::maps::Room;
use crate::packet::ETHERNET;
use crate::skb::Skb;
use crate::{ended, half, limit, maps};

const REQUEST: u32 = ETHERNET as u32;
const KEYS: u32 = REQUEST + size_of::<SweepRequest>() as u32;

/// A half that has lost its other half may stay silent for this many ticks.
const ALONE: u32 = 2;

/// Works through the keys in the "packet"; returns how many flows it deleted or marked.
#[inline(always)]
pub(crate) fn run(skb: Skb) -> i32 {
    let Ok(request) = skb.load::<SweepRequest>(REQUEST) else { return -1 };
    // in memory: the verifier would follow every value that it may have, from key to key
    let Some(scratch) = maps::room(Room::Sweeper) else { return -1 };
    scratch.touched = 0;
    for index in 0..SweepRequest::MOST {
        if index >= request.keys {
            break;
        }
        let Ok(key) = skb.load::<FlowKey>(KEYS + index * size_of::<FlowKey>() as u32) else { return -1 };
        scratch.touched += step(&key, request.mode, request.rule);
    }
    scratch.touched as i32
}

#[inline(never)]
fn step(key: &FlowKey, mode: u32, slot: u32) -> u32 {
    let Some(protocol) = key.protocol() else { return 0 };
    if mode == SweepRequest::ORPHANS || mode == SweepRequest::GONE {
        return orphan(key, protocol, mode, slot);
    }
    let Some(half) = maps::established(protocol, key) else { return 0 };
    let other_key = half::opposite(half, protocol);
    let other =
        maps::established(protocol, &other_key).filter(|other| half::opposite(other, protocol) == *key);
    if other.is_none() && moves(protocol, key, &other_key) {
        return 0;
    }
    if !is_expired(protocol, half, other.as_deref()) {
        return 0;
    }
    let dying = FlowFlags::DYING.with(FlowFlags::SLOW);
    if mode == SweepRequest::MARK {
        half.set_flags(half.flags().with(dying));
        if let Some(other) = other {
            other.set_flags(other.flags().with(dying));
        }
        return 1;
    }
    if !half.flags().has(FlowFlags::DYING) {
        return 0;
    }
    match other {
        Some(other) if !other.flags().has(FlowFlags::DYING) => return 0,
        Some(other) => {
            let end = ended::reason(half.flags(), other.flags());
            forget(protocol, key, &other_key, half.flags(), end);
        }
        // whatever lies where its other half was belongs to another flow
        None => _ = limit::leave(protocol, key, half),
    }
    1
}

/// Whether the other half lies in the unproven table: the flow is on its way there. A half is put into the one table
/// before it is taken out of the other, so the established one must be looked at first. (A flow on its way from there
/// has just had a packet.)
#[inline(always)]
fn moves(protocol: Protocol, key: &FlowKey, other_key: &FlowKey) -> bool {
    maps::unproven(other_key).is_some_and(|other| half::opposite(other, protocol) == *key)
}

#[inline(always)]
fn forget(protocol: Protocol, key: &FlowKey, other: &FlowKey, flags: FlowFlags, end: End) {
    let (client, backend) = if flags.has(FlowFlags::EGRESS) { (other, key) } else { (key, other) };
    ended::leave(protocol, client, backend, end, Room::Sweeper);
}

/// Deletes a flow that its rule wants no more, if it does not.
#[inline(always)]
fn orphan(key: &FlowKey, protocol: Protocol, mode: u32, slot: u32) -> u32 {
    let Some(half) = maps::established(protocol, key).or_else(|| maps::unproven(key)) else { return 0 };
    // one place for all reasons: the verifier would follow each by itself
    let end = if mode == SweepRequest::GONE { gone(half, slot) } else { unwanted(key, half, protocol) };
    let Some(end) = end else { return 0 };
    let other = half::opposite(half, protocol);
    forget(protocol, key, &other, half.flags(), end);
    maps::forget_unproven_of(protocol, &other, key);
    maps::forget_unproven(key);
    1
}

/// The rule is gone, switched off, or another one by now, or lets the client in no more.
#[inline(always)]
fn unwanted(key: &FlowKey, half: &FlowEntry, protocol: Protocol) -> Option<End> {
    let rule = maps::rule(half.rule()).filter(|rule| rule.generation == half.generation && !rule.is_off());
    let Some(rule) = rule else { return Some(End::RuleEnded) };
    if rule.guarded == 0 {
        return None;
    }
    match client(key, half, protocol) {
        Some(client) if limit::still_allows(rule, &client, half.rule()) => None,
        // an IPv6 client's half alone does not say whose it is
        _ => Some(End::NotAllowed),
    }
}

/// The backend is the rule's no more, which relayd has found by the key.
#[inline(always)]
fn gone(half: &FlowEntry, slot: u32) -> Option<End> {
    (half.rule() == slot).then_some(End::BackendGone)
}

/// The client of a flow. An IPv6 client's address lies in the backend half only, which may have gone before.
#[inline(always)]
fn client(key: &FlowKey, half: &FlowEntry, protocol: Protocol) -> Option<[u32; 4]> {
    match (half.flags().has(FlowFlags::EGRESS), key.is_v6()) {
        (true, _) => Some(half::destination(half)),
        (false, false) => Some(mapped(key.source())),
        (false, true) => half::find_opposite(half, protocol).map(|backend| half::destination(backend)),
    }
}

#[inline(always)]
fn is_expired(protocol: Protocol, half: &FlowEntry, other: Option<&FlowEntry>) -> bool {
    let now = maps::now();
    let Some(other) = other else { return tick::passed(now, half.seen, ALONE) };
    let limit = idle_limit(protocol, half, half.flags(), other.flags());
    tick::passed(now, half.seen, limit) && tick::passed(now, other.seen, limit)
}

/// Ticks that a flow in this state may stay silent.
#[inline(always)]
fn idle_limit(protocol: Protocol, half: &FlowEntry, own: FlowFlags, other: FlowFlags) -> u32 {
    let (Some(rule), Some(settings)) = (maps::rule(half.rule()), maps::settings()) else {
        return u32::MAX / 2;
    };
    match protocol {
        Protocol::Udp => rule.udp_idle,
        Protocol::Tcp if own.has(FlowFlags::RESET) => settings.reset,
        Protocol::Tcp if own.has(FlowFlags::FIN) && other.has(FlowFlags::FIN) => settings.closed,
        Protocol::Tcp if own.has(FlowFlags::FIN) || other.has(FlowFlags::FIN) => rule.tcp_half_closed,
        Protocol::Tcp => rule.tcp_idle,
    }
}
