//! What packets tell of a backend's health: who answers, who does not, and who refuses. relayd probes sooner for it.

use relay_common::flow::{FlowEntry, FlowFlags};
use relay_common::net::Protocol;

use crate::maps;
use crate::packet::{icmp, icmpv6};

/// A client has repeated its SYN, and the backend has not answered the first one.
#[inline(always)]
pub(crate) fn unanswered(client: &FlowEntry) {
    if let Some(usage) = maps::endpoint_usage(client.endpoint()) {
        usage.unanswered().add(1);
    }
}

/// The backend has answered, and the client has proven that it got the answer.
#[inline(always)]
pub(crate) fn answered(flow: &FlowEntry, protocol: Protocol) {
    if let Some(usage) = maps::endpoint_usage(flow.endpoint()) {
        usage.answered(protocol).add(1);
    }
}

/// The backend has answered with a reset, or its host or a router on the way with an ICMP error.
#[inline(always)]
pub(crate) fn refused(flow: &FlowEntry, protocol: Protocol) {
    if let Some(usage) = maps::endpoint_usage(flow.endpoint()) {
        usage.refused(protocol).add(1);
    }
}

/// The backend has taken a connection and reset it without a word: what was counted for an answer was none.
#[inline(always)]
pub(crate) fn broken_off(flow: &FlowEntry) {
    if let Some(usage) = maps::endpoint_usage(flow.endpoint()) {
        usage.answered(Protocol::Tcp).add(u64::MAX);
        usage.refused(Protocol::Tcp).add(1);
    }
}

/// An ICMP error has come in about the other half of this one. A connection that has been answered once survives such
/// errors, which anybody may have sent.
#[inline(always)]
pub(crate) fn error(flow: &FlowEntry, protocol: Protocol, is_unreachable: bool) {
    let is_backends = flow.flags().has(FlowFlags::EGRESS);
    let is_answered = protocol == Protocol::Tcp && flow.flags().has(FlowFlags::REPLIED);
    if is_unreachable && is_backends && !is_answered {
        refused(flow, protocol);
    }
}

/// Whether an ICMP error says that its packet cannot get there, of whatever size.
#[inline(always)]
pub(crate) const fn is_unreachable(kind: u8, code: u8) -> bool {
    kind == icmp::UNREACHABLE && code != icmp::FRAGMENTATION_NEEDED
}

/// The same of ICMPv6.
#[inline(always)]
pub(crate) const fn is_unreachable_v6(kind: u8) -> bool {
    kind == icmpv6::UNREACHABLE
}
