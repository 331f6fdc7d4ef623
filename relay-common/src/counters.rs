//! What is counted: per rule and direction, and every refusal under a reason.

use crate::numbered::numbered;
use crate::shared::Shared;

/// Packets and IP bytes of one direction.
#[repr(C)]
#[derive(Clone, Copy, Debug, Default, Eq, PartialEq)]
pub struct Traffic {
    pub packets: u64,
    pub bytes: u64,
}

/// Counters of one rule on one CPU (64 bytes, one cache line).
#[repr(C)]
#[derive(Clone, Copy, Debug, Default, Eq, PartialEq)]
pub struct RuleCounters {
    /// Indexed by direction: client to backend, backend to client.
    pub traffic: [Traffic; 2],
    /// Flows opened.
    pub flows: u64,
    pub _reserved: [u64; 3],
}

/// Names one port's counters of a rule that counts its ports.
#[repr(C)]
#[derive(Clone, Copy, Debug, Eq, Hash, PartialEq)]
pub struct PortKey {
    pub rule: u32,
    pub port: u32,
}

/// Packets and bytes of one port, client to backend and back.
#[repr(C)]
#[derive(Debug, Default)]
pub struct PortCounters {
    pub packets: [Shared; 2],
    pub bytes: [Shared; 2],
}

/// As many ports as all rules that count theirs may have together.
pub const COUNTED_PORTS: u32 = 65_536;

/// Names the counter of one reason for one rule.
#[repr(C)]
#[derive(Clone, Copy, Debug, Eq, Hash, PartialEq)]
pub struct DropKey {
    pub rule: u32,
    pub reason: u32,
}

/// In [`DropKey::rule`]: packets that could not be laid at a rule's door.
pub const NO_RULE: u32 = u32::MAX;

numbered! {
    /// Why a packet was refused. The only list: the programs, the API and the metrics all use it.
    DropReason:
    /// There is no next hop towards the backend or back to the client.
    NoRoute = "no_route",
    /// Every source port tried towards the endpoint was taken.
    PortsExhausted = "ports_exhausted",
    /// The established table of the protocol is full.
    TableFull = "table_full",
    /// TTL ran out; answered with ICMP time exceeded.
    TtlExceeded = "ttl_exceeded",
    /// Larger than the way out takes; answered with ICMP fragmentation needed.
    TooBig = "too_big",
    /// An ICMP answer that its rate limit held back.
    IcmpLimited = "icmp_limited",
    /// A TCP segment that the handshake so far does not explain.
    NotProven = "not_proven",
    /// A new flow for a rule that is draining.
    Draining = "draining",
    /// A source address that no client can have.
    BadSource = "bad_source",
    /// Headers that contradict themselves, end early or cannot be translated, and ICMP errors with a wrong checksum.
    BadHeader = "bad_header",
    /// A packet that the kernel would not let the program change.
    Unwritable = "unwritable",
    /// An XDP device that went away between the lookup and the redirect.
    DeviceGone = "device_gone",
    /// A new flow from an address that is not on the rule's allow list.
    NotAllowed = "not_allowed",
    /// A new flow of a rule that has as many as it may.
    LimitConnections = "limit_connections",
    /// A new flow from an address that has as many as it may.
    LimitConnectionsPerIp = "limit_connections_per_ip",
    /// A new flow sooner than the rule's pace allows.
    LimitNewFlows = "limit_new_flows",
    /// A new flow sooner than an address's pace allows.
    LimitNewFlowsPerIp = "limit_new_flows_per_ip",
    /// Several datagrams in one packet, which the kernel does not let the program translate.
    UdpGso = "udp_gso",
    /// A new flow of a rule that has no backend to give it to.
    NoBackend = "no_backend",
    /// A packet beyond the rule's rate.
    Rate = "rate",
    /// A packet of a rule or group whose quota is used up.
    Quota = "quota",
    /// A packet of a rule or group that has expired.
    Expired = "expired",
    /// A packet beyond its client's rate.
    RatePerClient = "rate_per_client",
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn numbers_and_names_agree() {
        for (number, &reason) in DropReason::ALL.iter().enumerate() {
            assert_eq!(reason as usize, number);
            assert_eq!(DropReason::from_number(number as u32), Some(reason));
            assert!(reason.as_str().bytes().all(|b| b.is_ascii_lowercase() || b == b'_'));
        }
        assert_eq!(DropReason::from_number(DropReason::ALL.len() as u32), None);
    }
}
