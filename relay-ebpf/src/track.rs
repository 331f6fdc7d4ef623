//! TCP connection state of established flows (a subset of RFC 9293's machine: open, closing, reset, closed).

use relay_common::ended::End;
use relay_common::flow::{FlowEntry, FlowFlags, FlowKey};
use relay_common::net::Protocol;
use relay_common::tick;

use crate::maps::Room;
use crate::packet::tcp;
use crate::slow::{Action, Packet};
use crate::{ended, half, maps, signal};

/// Takes a segment into account.
#[inline(always)]
pub(crate) fn step(packet: &Packet, flow: &mut FlowEntry) -> Action {
    let key = half::opposite(flow, Protocol::Tcp);
    let Some(other) = maps::established(Protocol::Tcp, &key) else {
        flow.seen = packet.now;
        return Action::Forward;
    };
    if packet.is_syn() && is_dead(packet.now, flow, other) {
        forget(packet, flow);
        return Action::Open;
    }
    flow.seen = packet.now;
    let (mut own_flags, mut other_flags) = (flow.flags(), other.flags());
    if packet.has(tcp::RST) {
        if is_broken_off(packet, own_flags, other) {
            signal::broken_off(flow);
        }
        flow.set_flags(own_flags.with(FlowFlags::RESET).with(FlowFlags::SLOW));
        other.set_flags(other_flags.with(FlowFlags::RESET).with(FlowFlags::SLOW));
        return Action::Forward;
    }
    // a reset that neither end believed leaves the connection alive
    let cleared = FlowFlags::RESET.with(FlowFlags::DYING);
    own_flags = own_flags.without(cleared);
    other_flags = other_flags.without(FlowFlags::RESET);
    if packet.has(tcp::FIN) {
        flow.sequence = packet.end();
        own_flags = own_flags.with(FlowFlags::FIN);
    } else if own_flags.has(FlowFlags::FIN) && packet.is_beyond(flow.sequence) {
        own_flags = own_flags.without(FINISHED);
    }
    if packet.has(tcp::ACK)
        && other_flags.has(FlowFlags::FIN)
        && packet.acknowledgment.wrapping_sub(other.sequence) as i32 >= 0
    {
        other_flags = other_flags.with(FlowFlags::FIN_ACKED);
    }
    let closing = own_flags.has(FlowFlags::FIN) || other_flags.has(FlowFlags::FIN);
    flow.set_flags(paced(own_flags, closing));
    other.set_flags(paced(other_flags, closing));
    if own_flags.has(FlowFlags::FIN_ACKED) && other_flags.has(FlowFlags::FIN_ACKED) {
        return close(packet, flow, &key, other);
    }
    Action::Forward
}

/// Whether this is the backend's first reset, in place of its first byte. The client's half has the backend's first sequence
/// number until the client is done.
#[inline(always)]
fn is_broken_off(packet: &Packet, own: FlowFlags, client: &FlowEntry) -> bool {
    own.has(FlowFlags::EGRESS)
        && !own.has(FlowFlags::RESET)
        && !client.flags().has(FlowFlags::FIN)
        && packet.sequence == client.sequence.wrapping_add(1)
}

/// What data behind a FIN takes back: that FIN was somebody else's.
const FINISHED: FlowFlags = FlowFlags::FIN.with(FlowFlags::FIN_ACKED);

/// While a connection closes, every segment matters.
#[inline(always)]
fn paced(flags: FlowFlags, closing: bool) -> FlowFlags {
    if closing { flags.with(FlowFlags::SLOW) } else { flags.without(FlowFlags::SLOW) }
}

/// Ticks of silence after which a reset is believed. A SYN before that goes on as part of the old flow, which leads to the
/// same backend.
const BELIEVED: u32 = 2;

/// Whether a SYN may take the tuple over. A reset alone does not prove anything: whoever guesses the ports can send one.
#[inline(always)]
fn is_dead(now: u32, flow: &FlowEntry, other: &FlowEntry) -> bool {
    let (own, opposite) = (flow.flags(), other.flags());
    if own.has(FlowFlags::EGRESS) {
        return false;
    }
    let idle = maps::rule(flow.rule()).map_or(u32::MAX / 2, |rule| rule.tcp_idle);
    (own.has(FlowFlags::RESET) && tick::passed(now, other.seen, BELIEVED))
        || (own.has(FlowFlags::FIN) && opposite.has(FlowFlags::FIN))
        || (tick::passed(now, flow.seen, idle) && tick::passed(now, other.seen, idle))
}

/// Moves a finished flow out of the established table, which is for live flows only. The entries stay findable for
/// late segments until the unproven table needs their room.
#[inline(always)]
fn close(packet: &Packet, flow: &mut FlowEntry, key: &FlowKey, other: &FlowEntry) -> Action {
    let Some(scratch) = maps::scratch() else { return Action::Forward };
    let closed = FlowFlags::CLOSED.with(FlowFlags::SLOW);
    scratch.client = *flow;
    scratch.client.set_flags(flow.flags().without(ESTABLISHED).with(closed));
    scratch.backend = *other;
    scratch.backend.set_flags(other.flags().without(ESTABLISHED).with(closed));
    if maps::put_unproven(key, &scratch.backend).is_err()
        || maps::put_unproven(&packet.key, &scratch.client).is_err()
    {
        return Action::Forward;
    }
    // it is counted where the flow lies from now on
    flow.bytes += u64::from(packet.length);
    leave(packet, flow.flags(), key, End::Closed);
    Action::Forward
}

/// What halves are in the established table only.
const ESTABLISHED: FlowFlags = FlowFlags::PROVEN.with(FlowFlags::COUNTED).with(FlowFlags::SOURCE_COUNTED);

/// Takes both halves out of the established table. `key`: of the half that the packet does not match.
#[inline(always)]
fn leave(packet: &Packet, flags: FlowFlags, key: &FlowKey, end: End) {
    let (client, backend) =
        if flags.has(FlowFlags::EGRESS) { (key, &packet.key) } else { (&packet.key, key) };
    ended::leave(packet.protocol, client, backend, end, Room::Packets);
}

/// Drops both halves of a flow from every table. What lies in its other half's place may be another flow's by now: the
/// table of unproven flows evicts one half without the other.
#[inline(always)]
pub(crate) fn forget(packet: &Packet, flow: &FlowEntry) {
    let key = half::opposite(flow, packet.protocol);
    let other = maps::established(packet.protocol, &key).map_or(FlowFlags::NONE, |other| other.flags());
    leave(packet, flow.flags(), &key, ended::reason(flow.flags(), other));
    maps::forget_unproven_of(packet.protocol, &key, &packet.key);
    maps::forget_unproven(&packet.key);
}
