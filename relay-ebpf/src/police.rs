//! Rates, quotas and expiry: whether a packet may pass, asked right before it is counted. A packet of a rule without any of
//! them costs one read of an array.

use aya_ebpf::helpers::bpf_ktime_get_ns;
use relay_common::counters::DropReason;

use crate::{count, maps};

/// Whether anything is asked of a rule's packets.
#[inline(always)]
pub(crate) fn is_on(rule: u32) -> bool {
    maps::meter(rule).is_some_and(|meter| !meter.is_off())
}

/// Whether a packet may pass. Pays for it if so, else refuses it.
#[inline(always)]
pub(crate) fn admits(rule: u32, egress: bool, bytes: u64) -> bool {
    if !is_on(rule) {
        return true;
    }
    let reason = refusal(rule, egress, bytes);
    // refused here: the stack has no room for one more call below
    match DropReason::from_number(reason) {
        None => true,
        Some(reason) => {
            count::refuse(rule, reason);
            false
        }
    }
}

/// No reason's number.
const NONE: u32 = u32::MAX;

/// The reason's number. By itself, for its share of the stack.
#[inline(never)]
fn refusal(rule: u32, egress: bool, bytes: u64) -> u32 {
    let Some(own) = maps::meter(rule) else { return NONE };
    // SAFETY: the helper takes nothing and returns a number.
    let now = unsafe { bpf_ktime_get_ns() };
    if let Some(reason) = own.refusal(egress, bytes, now) {
        return reason as u32;
    }
    let group = own.group();
    if group != 0
        && let Some(group) = maps::meter(group)
    {
        if let Some(reason) = group.refusal(egress, bytes, now) {
            return reason as u32;
        }
        group.pay(egress, bytes);
    }
    own.pay(egress, bytes);
    NONE
}
