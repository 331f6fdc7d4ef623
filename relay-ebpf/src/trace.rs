//! `relayd --trace-packets RULE`: decisions about one rule's packets, logged through aya-log.
//!
//! The rule is read-only data that the verifier knows when it checks the program: switched off, it removes the logging
//! code altogether.

use aya_ebpf::Global;
use aya_ebpf::programs::TcContext;
use aya_log_ebpf::info;

use crate::established::Frame as _;
use crate::skb::Skb;

/// No rule is traced.
const OFF: u32 = u32::MAX;

/// Slot of the rule to trace.
#[unsafe(no_mangle)]
static TRACED_RULE: Global<u32> = Global::new(OFF);

/// Logs one step in a packet's way.
#[inline(always)]
pub(crate) fn packet(skb: Skb, rule: u32, step: &'static str) {
    let traced = TRACED_RULE.load();
    if traced != OFF && traced == rule {
        log(skb, step);
    }
}

#[inline(always)]
fn log(skb: Skb, step: &'static str) {
    let ctx = TcContext::new(skb.raw());
    info!(
        &ctx,
        "{} interface={} length={} segment={}",
        step,
        skb.interface(),
        skb.length(),
        skb.segment_size()
    );
}
