//! Rates, quotas and expiry: whether a packet may pass, asked right before it is counted. A packet of a rule without any of
//! them costs one read of an array.

use aya_ebpf::helpers::bpf_ktime_get_ns;
use relay_common::counters::DropReason;
use relay_common::flow::{FlowEntry, FlowFlags};
use relay_common::meter::Meter;
use relay_common::net::{mapped, subscriber};
use relay_common::rule::SourceKey;

use crate::maps::Room;
use crate::packet::{self, Ipv4, Ipv6};
use crate::skb::Skb;
use crate::{count, half, maps};

/// Whether anything is asked of a rule's packets.
#[inline(always)]
pub(crate) fn is_on(rule: u32) -> bool {
    maps::meter(rule).is_some_and(|meter| !meter.is_off())
}

/// Whether a packet may pass. Pays for it if so, else refuses it. `note_client` notes whose packet it is, and says whether it could.
#[inline(always)]
pub(crate) fn admits(rule: u32, egress: bool, bytes: u64, note_client: impl FnOnce() -> bool) -> bool {
    let Some(meter) = maps::meter(rule) else { return true };
    if meter.is_off() {
        return true;
    }
    let by_client = meter.asks_clients() && note_client();
    let reason = refusal(rule, egress, bytes, by_client);
    // refused here: the stack has no room for one more call below
    match DropReason::from_number(reason) {
        None => true,
        Some(reason) => {
            count::refuse(rule, reason);
            false
        }
    }
}

/// Notes whose packet a rule's is, if that is asked. `flow`: of the kernel plane's, the half that it belongs to.
#[inline(always)]
pub(crate) fn note_client_if_asked(
    rule: u32,
    egress: bool,
    skb: Skb,
    l2: u32,
    flow: Option<&FlowEntry>,
) -> bool {
    maps::meter(rule).is_some_and(Meter::asks_clients)
        && match flow {
            Some(flow) => note_client_of(skb, l2, flow),
            None => note_client_in(skb, l2, rule, egress),
        }
}

/// Notes whose packet of the kernel plane it is, before its addresses change.
#[inline(always)]
pub(crate) fn note_client_of(skb: Skb, l2: u32, flow: &FlowEntry) -> bool {
    if flow.flags().has(FlowFlags::EGRESS) {
        note_destination(flow)
    } else {
        note_client_in(skb, l2, flow.rule(), false)
    }
}

#[inline(never)]
fn note_destination(flow: &FlowEntry) -> bool {
    note(flow.rule(), &half::destination(flow))
}

/// Notes the client that a packet's header names: who has sent it, or at egress whom it goes to.
#[inline(never)]
pub(crate) fn note_client_in(skb: Skb, l2: u32, rule: u32, egress: bool) -> bool {
    let address = match skb.protocol() {
        packet::IPV4 => {
            let at = if egress {
                core::mem::offset_of!(Ipv4, destination)
            } else {
                core::mem::offset_of!(Ipv4, source)
            };
            skb.load(l2 + at as u32).map(mapped)
        }
        _ => {
            let at = if egress {
                core::mem::offset_of!(Ipv6, destination)
            } else {
                core::mem::offset_of!(Ipv6, source)
            };
            skb.load(l2 + at as u32)
        }
    };
    address.is_ok_and(|address| note(rule, &address))
}

#[inline(always)]
fn note(rule: u32, client: &[u32; 4]) -> bool {
    let Some(scratch) = maps::room(Room::Packets) else { return false };
    let rule = maps::meter(rule).map_or(rule, |meter| meter.clients_of(rule));
    scratch.payer = SourceKey::new(rule, subscriber(client));
    true
}

/// No reason's number.
const NONE: u32 = u32::MAX;

/// The reason's number. By itself, for its share of the stack. `by_client`: it is known whose packet it is.
#[inline(never)]
fn refusal(rule: u32, egress: bool, bytes: u64, by_client: bool) -> u32 {
    let Some(own) = maps::meter(rule) else { return NONE };
    // SAFETY: the helper takes nothing and returns a number.
    let now = unsafe { bpf_ktime_get_ns() };
    if let Some(reason) = own.refusal(egress, bytes, now) {
        return reason as u32;
    }
    let group = maps::meter(own.group()).filter(|_| own.group() != 0);
    if let Some(group) = &group
        && let Some(reason) = group.refusal(egress, bytes, now)
    {
        return reason as u32;
    }
    if by_client
        && let Some(client) =
            maps::room(Room::Packets).and_then(|scratch| maps::client_or_new(&scratch.payer))
    {
        if !own.admits_client(client, egress, bytes, now) {
            return DropReason::RatePerClient as u32;
        }
        own.pay_client(client, egress, bytes);
    }
    if let Some(group) = group {
        group.pay(egress, bytes);
    }
    own.pay(egress, bytes);
    NONE
}
