//! `relayd --trace-packets RULE`: what becomes of one rule's packets, logged through aya-log.
//!
//! The rule is read-only data that the verifier knows when it checks the program: switched off, it removes all of this.
//! Switched on, a packet's headers are noted before they change, what is decided is added where it is decided, and the
//! log is written last, where the stack is not deep.

use aya_ebpf::Global;
use aya_log_ebpf::info;
use relay_common::counters::{DropReason, NO_RULE};
use relay_common::net::Ports;
use relay_common::trace::Decision;

use crate::established::Frame as _;
use crate::maps;
use crate::packet::{self, Ipv4};
use crate::skb::Skb;

/// No rule is traced.
const OFF: u32 = u32::MAX;

/// Slot of the rule to trace.
#[unsafe(no_mangle)]
static TRACED_RULE: Global<u32> = Global::new(OFF);

/// The packet that this CPU is at.
#[repr(C)]
pub(crate) struct Note {
    /// Whose packet it is, once that is known.
    rule: u32,
    decision: u32,
    /// Of the last refusal.
    reason: u32,
    protocol: u32,
    source: u32,
    destination: u32,
    /// 0: it has none.
    ports: u32,
    interface: u32,
    length: u32,
    segment: u32,
}

#[inline(always)]
fn is_on() -> bool {
    TRACED_RULE.load() != OFF
}

/// Whether packets of `rule` are logged. tc does it; XDP leaves them to tc.
#[inline(always)]
pub(crate) fn is_traced(rule: u32) -> bool {
    let traced = TRACED_RULE.load();
    traced != OFF && traced == rule
}

/// Notes a packet that the slow path begins with.
#[inline(always)]
pub(crate) fn begin(skb: Skb, l2: u32) {
    if is_on() {
        note(skb, l2);
    }
}

/// Logs a packet of `rule` that the hot path is about to forward.
#[inline(always)]
pub(crate) fn hot_path(skb: Skb, l2: u32, rule: u32) {
    if is_traced(rule) {
        note(skb, l2);
        decide(rule, Decision::HotPath);
        log();
    }
}

/// The headers as they came in.
#[inline(never)]
fn note(skb: Skb, l2: u32) {
    let Some(note) = maps::note() else { return };
    note.rule = NO_RULE;
    let Ok(ip) = skb.load::<Ipv4>(l2) else { return };
    let has_ports =
        matches!(ip.protocol, packet::TCP | packet::UDP) && ip.fragment & packet::FRAGMENT_OFFSET == 0;
    let ports = if has_ports { skb.load(l2 + u32::from(ip.version_length & 0xf) * 4) } else { Ok(0) };
    note.protocol = ip.protocol.into();
    note.source = ip.source;
    note.destination = ip.destination;
    note.ports = ports.unwrap_or_default();
    note.interface = skb.interface();
    note.length = skb.length();
    note.segment = skb.segment_size();
}

/// Notes what is to become of a packet of `rule`; what is noted later counts.
#[inline(always)]
pub(crate) fn decide(rule: u32, decision: Decision) {
    if is_on()
        && let Some(note) = maps::note()
    {
        note.rule = rule;
        note.decision = decision as u32;
    }
}

/// Notes that a packet of `rule` is refused.
#[inline(always)]
pub(crate) fn refuse(rule: u32, reason: DropReason) {
    if is_on()
        && let Some(note) = maps::note()
    {
        note.rule = rule;
        note.decision = Decision::Refused as u32;
        note.reason = reason as u32;
    }
}

/// Logs what has been noted, if it is about the traced rule.
#[inline(always)]
pub(crate) fn end() {
    if is_on() {
        log();
    }
}

#[inline(never)]
fn log() {
    let Some(note) = maps::note() else { return };
    if note.rule != TRACED_RULE.load() {
        return;
    }
    let ports = Ports::from_wire(note.ports);
    info!(
        (),
        "{} {} {} {:i} {} {:i} {} {} {} {}",
        note.decision,
        note.reason,
        note.protocol,
        u32::from_be(note.source),
        ports.source().number(),
        u32::from_be(note.destination),
        ports.destination().number(),
        note.interface,
        note.length,
        note.segment
    );
}
