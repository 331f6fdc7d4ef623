//! What is told to who watches: flows that begin, and packets that are refused. Nothing of this is on the hot path, and while
//! nobody watches the slow path pays for reading a setting.
//!
//! A packet that is refused is told of where the stack is not deep, as it is traced: its headers have been noted before they
//! changed, and the reason where it was refused.

use relay_common::counters::DropReason;
use relay_common::net::mapped;
use relay_common::observe::{LOST_FLOWS, LOST_PACKETS, Ration, Seen, Sight};
use relay_common::settings::Settings;

use crate::maps;
use crate::skb::Skb;
use crate::slow::Packet;
use crate::{half, trace};

/// Whether anybody watches. By itself, for its share of the stack.
#[inline(never)]
pub(crate) fn is_on() -> bool {
    maps::settings().is_some_and(|settings| settings.wants(Settings::SEEN))
}

/// A flow begins, or is proven, with a packet of its client. The client half lies in the scratch space.
#[inline(always)]
pub(crate) fn flow(packet: &Packet, sight: Sight) {
    if is_on() {
        tell_flow(packet, sight as u32);
    }
}

#[inline(never)]
fn tell_flow(packet: &Packet, sight: u32) {
    if !has_ration(Ration::account(packet.rule, None), packet.now, Ration::FLOWS) {
        return maps::observed_lost(LOST_FLOWS);
    }
    let Some(scratch) = maps::scratch() else { return };
    let client = &scratch.client;
    let Some(mut record) = maps::observed() else { return maps::observed_lost(LOST_FLOWS) };
    let destination =
        if packet.key.is_v6() { packet.destination_v6 } else { mapped(packet.key.destination()) };
    record.write(Seen {
        source: packet.sender,
        destination,
        backend: half::destination(client),
        ports: packet.key.ports().to_wire(),
        backend_ports: client.translation().ports.to_wire(),
        rule: packet.rule,
        generation: client.generation,
        sight,
        reason: 0,
        protocol: packet.protocol.number().into(),
        length: packet.length,
    });
    record.submit(0);
}

/// The slow path is done with a packet.
#[inline(always)]
pub(crate) fn end() {
    if is_on() {
        tell_refused();
    }
}

/// A packet was refused on a hot path, where nobody has noted it.
#[inline(always)]
pub(crate) fn refused(skb: Skb, l2: u32) {
    if is_on() {
        note_and_tell(skb, l2);
    }
}

#[inline(never)]
fn note_and_tell(skb: Skb, l2: u32) {
    let Some(note) = maps::note() else { return };
    let (rule, reason) = (note.rule, note.reason);
    // one that could not be changed may have been in part
    if reason != DropReason::Unwritable as u32 {
        trace::note(skb, l2);
    }
    (note.rule, note.reason, note.is_refused) = (rule, reason, 1);
    tell_refused();
}

/// Tells of a packet that has been noted, if it was refused.
#[inline(never)]
fn tell_refused() {
    let Some(note) = maps::note() else { return };
    let (is_known, is_refused) = (note.is_known != 0, note.is_refused != 0);
    (note.is_known, note.is_refused) = (0, 0);
    if !is_refused {
        return;
    }
    let now = maps::now();
    if !has_ration(Ration::account(note.rule, Some(note.reason)), now, Ration::PACKETS) {
        return maps::observed_lost(LOST_PACKETS);
    }
    if !is_known {
        (note.source, note.destination) = ([0; 4], [0; 4]);
        (note.ports, note.protocol, note.length) = (0, 0, 0);
    }
    let Some(mut record) = maps::observed() else { return maps::observed_lost(LOST_PACKETS) };
    record.write(Seen {
        source: note.source,
        destination: note.destination,
        backend: [0; 4],
        ports: note.ports,
        backend_ports: 0,
        rule: note.rule,
        generation: 0,
        sight: Sight::Refused as u32,
        reason: note.reason,
        protocol: note.protocol,
        length: note.length,
    });
    record.submit(0);
}

/// Whether an account has something left of this tick's ration, of which one is taken.
#[inline(always)]
fn has_ration(account: u32, now: u32, most: u32) -> bool {
    maps::ration(account).is_some_and(|ration| ration.takes(now, most))
}
