//! Rates: whether a packet may pass, asked right before it is counted. A packet of a rule without a rate costs one read of
//! an array.

use aya_ebpf::helpers::bpf_ktime_get_ns;
use relay_common::counters::DropReason;

use crate::{count, maps};

/// Whether a rule has a rate.
#[inline(always)]
pub(crate) fn is_on(rule: u32) -> bool {
    maps::policer(rule).is_some_and(|policer| !policer.is_off())
}

/// Whether a packet may pass. Pays for it if so, else refuses it.
#[inline(always)]
pub(crate) fn admits(rule: u32, egress: bool, bytes: u64) -> bool {
    if !is_on(rule) || pays(rule, egress, bytes) {
        return true;
    }
    // refused here: the stack has no room for one more call below
    count::refuse(rule, DropReason::Rate);
    false
}

/// By itself, for its share of the stack.
#[inline(never)]
fn pays(rule: u32, egress: bool, bytes: u64) -> bool {
    let Some(policer) = maps::policer(rule) else { return true };
    // SAFETY: the helper takes nothing and returns a number.
    policer.admits(egress, bytes, unsafe { bpf_ktime_get_ns() })
}
