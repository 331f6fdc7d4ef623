//! Putting a translation into headers that can be written directly.

use relay_common::checksum::Delta;
use relay_common::flow::FlowEntry;

use crate::packet::Ipv4Udp;

/// What one hop does to the word that holds the TTL and the protocol.
pub(crate) const TTL_DELTA: Delta = Delta::word(u16::from_ne_bytes([1, 0]), 0);

/// Addresses, ports, TTL and the header checksum. The transport checksum is the caller's: tc and XDP differ in it.
#[inline(always)]
pub(crate) fn headers(headers: &mut Ipv4Udp, flow: &FlowEntry) {
    let to = flow.translation();
    let ip = &mut headers.ip;
    ip.ttl -= 1;
    ip.checksum = flow.address_delta().and(TTL_DELTA).apply(ip.checksum);
    ip.source = to.source.to_wire();
    ip.destination = to.destination.to_wire();
    headers.ports = to.ports.to_wire();
}
