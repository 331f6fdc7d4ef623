//! Transport checksums of hand-made packets, whatever the family.

use std::ops::Range;

use super::{TCP, UDP, checksum};

/// Where a transport header has its checksum. `icmp`: the number of the family's own ICMP.
const fn offset(protocol: u8, icmp: u8) -> Option<usize> {
    match protocol {
        TCP => Some(16),
        UDP => Some(6),
        _ if protocol == icmp => Some(2),
        _ => None,
    }
}

/// The same in a body that reaches so far.
pub(super) fn place(protocol: u8, icmp: u8, body: &[u8]) -> Option<Range<usize>> {
    let at = offset(protocol, icmp)?;
    (body.len() >= at + 2).then_some(at..at + 2)
}

/// The checksum that goes there, of bytes that have none yet; UDP writes zero as its complement (RFC 768).
pub(super) fn made(protocol: u8, covered: &[u8]) -> u16 {
    match checksum(covered) {
        0 if protocol == UDP => 0xffff,
        sum => sum,
    }
}

/// Whether the checksum is right, where the protocol has one.
pub(super) fn is_right(protocol: u8, icmp: u8, body: &[u8], covered: impl FnOnce() -> Vec<u8>) -> bool {
    offset(protocol, icmp).is_none() || (place(protocol, icmp, body).is_some() && checksum(&covered()) == 0)
}
