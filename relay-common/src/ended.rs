//! Flows that are over: what the programs tell relayd of them for the connection log.

use crate::flow::FlowKey;
use crate::net::Ports;
use crate::numbered::numbered;

numbered! {
    /// Why a flow is over. The names are the connection log's.
    End:
    /// Both sides ended their streams.
    Closed = "closed",
    /// One side broke off.
    Reset = "reset",
    /// Silence for longer than the rule allows.
    Idle = "idle",
    /// The same, after one side had ended its stream.
    HalfClosed = "half_closed",
    /// The backend has no program on the port.
    BackendRefused = "backend_refused",
    /// The rule was removed, disabled or is another one by now.
    RuleEnded = "rule_ended",
    /// The client was taken off the rule's allow list.
    NotAllowed = "not_allowed",
    /// The backend's address is the rule's no more, and the rule ends such flows.
    BackendGone = "backend_gone",
}

/// One flow that is over (88 bytes). IPv4 addresses lie there as IPv6 ones.
#[repr(C)]
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub struct EndedFlow {
    /// The key of its client half.
    pub key: FlowKey,
    pub client: [u32; 4],
    pub backend: [u32; 4],
    /// What the client half turns the ports into.
    pub ports: u32,
    pub rule: u32,
    pub generation: u32,
    pub end: u32,
    /// IP bytes: client to backend, backend to client.
    pub bytes: [u64; 2],
    pub ticks: u32,
    pub _reserved: u32,
}

impl EndedFlow {
    /// What the map that carries them has room for, in bytes.
    pub const RING: u32 = 256 * 1024;

    pub const fn backend_ports(&self) -> Ports {
        Ports::from_wire(self.ports)
    }
}
