//! Flows that are over, told to relayd where it keeps a connection log. Nothing of this is on the hot path.
//!
//! Of the CPUs that end a flow at once, the one that takes its client half out of the table tells of it.

use relay_common::ended::{End, EndedFlow};
use relay_common::flow::{FlowEntry, FlowFlags, FlowKey};
use relay_common::net::Protocol;
use relay_common::settings::Settings;

use crate::maps::{Entry, Room};
use crate::slow::Packet;
use crate::{half, limit, maps};

/// Takes both halves of a flow out of the established table. The backend half goes last: it holds the claim on the source
/// port. A half that belongs to another flow by now stays.
#[inline(always)]
pub(crate) fn leave(protocol: Protocol, client: &FlowKey, backend: &FlowKey, end: End, room: Room) {
    note(end, room);
    leave_for_noted(protocol, client, backend, room);
}

/// Puts the reason into memory: as an argument, Linux 5.10's verifier would follow each of them by itself, through all of
/// what comes now.
#[inline(always)]
fn note(end: End, room: Room) {
    if let Some(scratch) = maps::room(room) {
        scratch.end = end as u32;
    }
}

#[inline(never)]
fn leave_for_noted(protocol: Protocol, client: &FlowKey, backend: &FlowKey, room: Room) {
    let Some(scratch) = maps::room(room) else { return };
    // before: memory that is freed may be another flow's at once
    scratch.kept = u32::from(is_wanted() && keep(protocol, client, backend, room));
    if let Some(half) = half_of(protocol, client, backend) {
        let first = limit::leave(protocol, client, half);
        scratch.kept &= u32::from(first);
    }
    if let Some(half) = half_of(protocol, backend, client) {
        let _somebody_was_faster = limit::leave(protocol, backend, half);
    }
    if scratch.kept != 0 {
        tell(client, room);
    }
}

/// The established half at `key`, if the one at `other` is its other half.
#[inline(never)]
fn half_of(protocol: Protocol, key: &FlowKey, other: &FlowKey) -> Option<Entry<FlowEntry>> {
    maps::established(protocol, key).filter(|half| half::opposite(half, protocol) == *other)
}

/// The backend has answered a client's first packet with a reset.
#[inline(never)]
pub(crate) fn refused(packet: &Packet, backend: &FlowEntry) {
    let client_key = half::opposite(backend, Protocol::Tcp);
    if !is_wanted() {
        return;
    }
    let (Some(client), Some(scratch)) = (maps::unproven(&client_key), maps::room(Room::Packets)) else {
        return;
    };
    scratch.client = *client;
    scratch.backend = *backend;
    // counted in the flow only when it is sent on
    scratch.backend.bytes += u64::from(packet.length);
    note(End::BackendRefused, Room::Packets);
    tell(&client_key, Room::Packets);
}

/// Why a flow with these flags was swept.
#[inline(always)]
pub(crate) fn reason(own: FlowFlags, other: FlowFlags) -> End {
    let fins = u32::from(own.has(FlowFlags::FIN)) + u32::from(other.has(FlowFlags::FIN));
    match fins {
        _ if own.has(FlowFlags::RESET) => End::Reset,
        2 => End::Closed,
        1 => End::HalfClosed,
        _ => End::Idle,
    }
}

#[inline(always)]
fn is_wanted() -> bool {
    maps::settings().is_some_and(|settings| settings.wants(Settings::ENDED))
}

/// Copies both halves to where [`tell`] looks for them.
#[inline(never)]
fn keep(protocol: Protocol, client_key: &FlowKey, backend_key: &FlowKey, room: Room) -> bool {
    let Some(client) = half_of(protocol, client_key, backend_key) else { return false };
    let Some(backend) = half_of(protocol, backend_key, client_key) else { return false };
    let Some(scratch) = maps::room(room) else { return false };
    scratch.client = *client;
    scratch.backend = *backend;
    true
}

#[inline(never)]
fn tell(key: &FlowKey, room: Room) {
    let Some(scratch) = maps::room(room) else { return };
    let Some(mut record) = maps::ended() else { return maps::ended_lost() };
    let (client, to) = (&scratch.client, scratch.client.translation());
    // what is silent has lasted until now; of what was ended by its ends, the last packet was the end
    let at_its_ends = scratch.end == End::Closed as u32 || scratch.end == End::Reset as u32;
    let over = if at_its_ends { latest(client.seen, scratch.backend.seen) } else { maps::now() };
    record.write(EndedFlow {
        key: *key,
        client: half::destination(&scratch.backend),
        backend: half::destination(client),
        ports: to.ports.to_wire(),
        rule: client.rule(),
        generation: client.generation,
        bytes: [client.bytes, scratch.backend.bytes],
        end: scratch.end,
        ticks: over.wrapping_sub(client.created),
        _reserved: 0,
    });
    record.submit(0);
}

#[inline(always)]
fn latest(one: u32, other: u32) -> u32 {
    if one.wrapping_sub(other) < u32::MAX / 2 { one } else { other }
}
