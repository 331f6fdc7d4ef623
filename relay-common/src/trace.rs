//! What the programs log about a packet of the traced rule. They log numbers, since words cost the verifier a walk each;
//! relayd puts them into words.
//!
//! A record is: decision, reason, protocol, source, source port, destination, destination port, interface, length of the
//! frame, bytes per segment. One space between each two, addresses in the notation of IPv6.

use crate::numbered::numbered;

numbered! {
    /// What became of a traced packet.
    Decision:
    HotPath = "forwarded on the hot path",
    SlowPath = "forwarded on the slow path",
    Opened = "forwarded, a new flow",
    /// Not the first of a datagram.
    Fragment = "forwarded, a later fragment",
    /// ICMP, about a flow of the rule.
    Error = "forwarded, an error about a flow",
    /// Refused under a reason, which its sender is told.
    Answered = "refused and answered with an ICMP error",
    /// Refused under a reason.
    Refused = "refused",
    /// A TCP segment on the rule's port.
    NoFlow = "passed to the host: it is of no flow and no SYN",
    Off = "passed to the host: the rule is off",
    Draining = "passed to the host: the rule drains",
    NoBackend = "passed to the host, which resets it: no backend takes new flows",
    LocalSocket = "passed to the host: a local socket wants it",
    User = "passed to the user plane, which carries the rule",
}
