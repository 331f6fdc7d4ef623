//! Rates, quotas and expiry: whether a packet may pass, asked right before it is counted. A packet of a rule without any of
//! them costs one read of an array.

use aya_ebpf::helpers::bpf_ktime_get_ns;
use relay_common::counters::DropReason;

use crate::maps::Room;
use crate::{count, maps};

/// Whether anything is asked of a rule's packets.
#[inline(always)]
pub(crate) fn is_on(rule: u32) -> bool {
    maps::meter(rule).is_some_and(|meter| !meter.is_off())
}

/// Whether a packet may pass. Pays for it if so, else refuses it. `note`: notes whose it is ([`crate::note`]), and says whether it
/// could. `defer`: is called for what may be [due](due)
/// later, before it is known whether it passes: the verifier has fewer ways to follow so.
#[inline(always)]
pub(crate) fn admits(
    rule: u32,
    egress: bool,
    (packets, bytes): (u64, u64),
    note: impl FnOnce() -> bool,
    defer: impl FnOnce(),
) -> bool {
    let Some(meter) = maps::meter(rule) else { return true };
    if meter.is_off() {
        return true;
    }
    defer();
    let is_noted = meter.asks_whose() && note();
    if meter.may_refuse() {
        let reason = refusal(rule, egress, bytes, is_noted && meter.asks_clients());
        // refused here: the stack has no room for one more call below
        if let Some(reason) = DropReason::from_number(reason) {
            count::refuse(rule, reason);
            return false;
        }
    }
    if is_noted && meter.counts_ports() {
        count::port(egress, packets, bytes);
    }
    true
}

/// When a packet is due that has been let through, in nanoseconds of the monotonic clock: once it is paid for. What is past is due
/// now. Asked only where it can be kept until then.
#[inline(never)]
pub(crate) fn due(rule: u32, egress: bool) -> u64 {
    let Some(own) = maps::meter(rule) else { return 0 };
    let mut due = own.due(egress);
    if let Some(group) = maps::meter(own.group()).filter(|_| own.group() != 0) {
        due = later(due, group.due(egress));
    }
    // whose it is has been noted right before, but for what had to wait for a neighbour's address
    if own.asks_clients()
        && let Some(client) =
            maps::room(Room::Packets).and_then(|scratch| maps::client_or_new(&scratch.payer))
    {
        due = later(due, own.due_of_client(client, egress));
    }
    if due > 0 { due as u64 } else { 0 }
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

#[inline(always)]
const fn later(one: i64, other: i64) -> i64 {
    if one > other { one } else { other }
}
