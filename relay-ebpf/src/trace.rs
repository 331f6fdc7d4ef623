//! `relayd --trace-packets RULE`: what becomes of one rule's packets, logged through aya-log.
//!
//! The rule is read-only data that the verifier knows when it checks the program: switched off, it removes all of this.
//! Switched on, a packet's headers are noted before they change, what is decided is added where it is decided, and the
//! log is written last, where the stack is not deep. What is noted serves those who watch, too.

use aya_ebpf::Global;
use aya_log_ebpf::info;
use relay_common::counters::{DropReason, NO_RULE};
use relay_common::net::{Address, Ports, mapped};
use relay_common::trace::Decision;

use crate::established::Frame as _;
use crate::packet::{self, Fragment, Ipv4, Ipv6};
use crate::skb::Skb;
use crate::{ipv6, maps, observe};

/// No rule is traced.
const OFF: u32 = u32::MAX;

/// Slot of the rule to trace.
#[unsafe(no_mangle)]
static TRACED_RULE: Global<u32> = Global::new(OFF);

/// The packet that this CPU is at.
#[repr(C)]
pub(crate) struct Note {
    /// Whose packet it is, once that is known.
    pub(crate) rule: u32,
    decision: u32,
    /// Of the last refusal.
    pub(crate) reason: u32,
    pub(crate) protocol: u32,
    /// As they lie in a packet, an IPv4 one as IPv6.
    pub(crate) source: [u32; 4],
    pub(crate) destination: [u32; 4],
    /// 0: it has none.
    pub(crate) ports: u32,
    interface: u32,
    pub(crate) length: u32,
    segment: u32,
    /// 1: the headers are this packet's.
    pub(crate) is_known: u32,
    /// 1: it was refused, and nobody who watches has been told.
    pub(crate) is_refused: u32,
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
    if is_on() || observe::is_on() {
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
pub(crate) fn note(skb: Skb, l2: u32) {
    let Some(note) = maps::note() else { return };
    (note.rule, note.is_known, note.is_refused) = (NO_RULE, 1, 0);
    let transport = match skb.protocol() {
        packet::IPV6 => note_v6(note, skb, l2),
        _ => note_v4(note, skb, l2),
    };
    let has_ports = matches!(note.protocol as u8, packet::TCP | packet::UDP);
    let ports = transport.filter(|_| has_ports).and_then(|at| skb.load(at).ok());
    note.ports = ports.unwrap_or_default();
    note.interface = skb.interface();
    note.length = skb.length();
    note.segment = skb.segment_size();
}

/// Returns where the transport header is, if it is there.
#[inline(always)]
fn note_v4(note: &mut Note, skb: Skb, l2: u32) -> Option<u32> {
    let ip = skb.load::<Ipv4>(l2).ok()?;
    note.protocol = ip.protocol.into();
    note.source = mapped(Address::from_wire(ip.source));
    note.destination = mapped(Address::from_wire(ip.destination));
    (ip.fragment & packet::FRAGMENT_OFFSET == 0).then_some(l2 + u32::from(ip.version_length & 0xf) * 4)
}

/// The same for IPv6. A fragment header is looked past.
#[inline(always)]
fn note_v6(note: &mut Note, skb: Skb, l2: u32) -> Option<u32> {
    let ip = skb.load::<Ipv6>(l2).ok()?;
    note.protocol = ip.next.into();
    note.source = ip.source;
    note.destination = ip.destination;
    let behind = l2 + ipv6::HEADER;
    if ip.next != Fragment::NEXT {
        return Some(behind);
    }
    let fragment = skb.load::<Fragment>(behind).ok()?;
    note.protocol = fragment.next.into();
    (fragment.offset & Fragment::OFFSET == 0).then_some(behind + Fragment::BYTES)
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
    if (is_on() || observe::is_on())
        && let Some(note) = maps::note()
    {
        note.rule = rule;
        note.decision = Decision::Refused as u32;
        note.reason = reason as u32;
        note.is_refused = 1;
    }
}

/// Logs what has been noted, if it is about the traced rule.
#[inline(always)]
pub(crate) fn end() {
    if is_on() {
        log();
    }
}

/// An address as the log takes it.
#[inline(always)]
fn octets(address: &[u32; 4]) -> [u8; 16] {
    // SAFETY: both are sixteen bytes, and any of them are a value.
    unsafe { core::mem::transmute(*address) }
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
        octets(&note.source),
        ports.source().number(),
        octets(&note.destination),
        ports.destination().number(),
        note.interface,
        note.length,
        note.segment
    );
}
