//! Source ports: inserting the backend half with "no such entry yet" *is* the claim, so two flows never share one.

use aya_ebpf::helpers::bpf_get_prandom_u32;
use relay_common::claim::{TRIES, port_in, seed};
use relay_common::flow::{self, ClientV6, FlowEntry, FlowFlags, Hop, Owner};
use relay_common::net::{Address, Port, Protocol};
use relay_common::settings::Settings;
use relay_common::tick;

use crate::maps::{self, Refused};
use crate::slow::Packet;
use crate::{half, round_trip, unproven};

/// In the last tries a half-open flow of somebody else's may be thrown out: in a flood it is most likely forged.
const FORCED: u32 = TRIES - 8;

/// What a new flow is made of.
pub(crate) struct Wanted {
    pub(crate) owner: Owner,
    /// By number, as is the next, where `to_v6` says so.
    pub(crate) source: Address,
    pub(crate) endpoint: Address,
    pub(crate) endpoint_port: Port,
    pub(crate) to_v6: bool,
    pub(crate) to_backend: Hop,
    pub(crate) to_client: Hop,
}

/// Opens the flow of `packet`: claims a port and inserts both halves. `false` if no port was to be had.
#[inline(always)]
pub(crate) fn take(packet: &Packet, wanted: &Wanted, interface: u32) -> bool {
    prepare(packet, wanted, interface);
    search(packet, wanted)
}

/// Puts both halves together, but for the source port.
#[inline(never)]
fn prepare(packet: &Packet, wanted: &Wanted, interface: u32) {
    let Some(scratch) = maps::scratch() else { return };
    flow::open(
        (&mut scratch.client, &mut scratch.backend),
        &packet.key,
        packet.protocol,
        wanted.source,
        (wanted.endpoint, wanted.endpoint_port),
        wanted.owner,
        (wanted.to_backend, wanted.to_client),
        packet.now,
    );
    scratch.client.interface = interface;
    if packet.protocol == Protocol::Tcp {
        round_trip::begin(&mut scratch.backend);
    }
    let from_v6 = packet.key.is_v6();
    if (from_v6 || wanted.to_v6)
        && let Some(inside) = half::inside(wanted.source, wanted.endpoint, wanted.to_v6)
    {
        let client = from_v6.then_some(ClientV6 { address: &packet.sender, number: packet.own_number });
        let halves = (&mut scratch.client, &mut scratch.backend);
        flow::open_v6(halves, client, wanted.to_v6, (packet.outside(), inside));
    }
}

/// Tries ports until one is free, and inserts the halves with it.
#[inline(never)]
fn search(packet: &Packet, wanted: &Wanted) -> bool {
    let (Some(scratch), Some(settings)) = (maps::scratch(), maps::settings()) else { return false };
    let client_port = packet.key.ports().source();
    let mut random = seed(packet.key.source(), client_port, wanted.endpoint, wanted.endpoint_port);
    let mut last = Port::new(0);
    for attempt in 0..TRIES {
        let port = port_in(random, settings.claim_first, settings.claim_count);
        scratch.client.send_from(port);
        scratch.backend.answer_to(last, port);
        last = port;
        if insert(packet, &scratch.client, &scratch.backend, settings, attempt >= FORCED) {
            return maps::put_unproven(&packet.key, &scratch.client).is_ok();
        }
        // SAFETY: the helper takes nothing and returns a number.
        random = unsafe { bpf_get_prandom_u32() };
    }
    false
}

/// Inserts the backend half if its key is free, or held by a flow that may be thrown out.
#[inline(never)]
fn insert(packet: &Packet, client: &FlowEntry, half: &FlowEntry, settings: &Settings, forced: bool) -> bool {
    let key = &half::opposite(client, packet.protocol);
    if maps::established(packet.protocol, key).is_some() {
        return false;
    }
    match maps::claim(key, half) {
        Ok(()) => {}
        Err(Refused::Full) => return false,
        Err(Refused::Taken) => {
            let Some(occupant) = maps::unproven(key) else { return false };
            let client = half::opposite(occupant, packet.protocol);
            if client != packet.key && !may_take(packet, occupant, settings, forced) {
                return false;
            }
            maps::forget_unproven_of(packet.protocol, &client, key);
            maps::forget_unproven(key);
            if maps::claim(key, half).is_err() {
                return false;
            }
        }
    }
    // a flow on its way from one table to the other is in both for a moment, never in neither
    if maps::established(packet.protocol, key).is_some() {
        maps::forget_unproven(key);
        return false;
    }
    true
}

/// Whether a flow without proof has had its chance.
#[inline(always)]
fn may_take(packet: &Packet, occupant: &FlowEntry, settings: &Settings, forced: bool) -> bool {
    let flags = occupant.flags();
    let limit = if flags.has(FlowFlags::CLOSED) {
        settings.closed
    } else {
        match packet.protocol {
            Protocol::Tcp => settings.handshake,
            Protocol::Udp => settings.udp_unanswered,
        }
    };
    tick::passed(packet.now, occupant.seen, limit)
        || (forced && !flags.has_any(FlowFlags::CLOSED.with(FlowFlags::REPLIED)))
}

/// Makes sure that a client half, whose first packet has come again, still owns its port: the table may have evicted the
/// backend half.
#[inline(never)]
pub(crate) fn hold(packet: &Packet, client: &FlowEntry) -> bool {
    let key = half::opposite(client, packet.protocol);
    if let Some(backend) = maps::unproven(&key) {
        backend.seen = packet.now;
        round_trip::give_up(backend);
        return half::opposite(backend, packet.protocol) == packet.key;
    }
    let Some(scratch) = maps::scratch() else { return false };
    let mut own = 0;
    if packet.key.is_v6() {
        let Some(known) = maps::own_address_v6(&packet.destination_v6) else { return false };
        own = known.number;
    }
    scratch.backend = unproven::backend_half(packet, &key, client, own);
    maps::established(packet.protocol, &key).is_none() && maps::claim(&key, &scratch.backend).is_ok()
}
