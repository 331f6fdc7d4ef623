//! What the user plane counts for a rule: shared by all its workers, read by the API.

use std::sync::atomic::{AtomicU64, AtomicUsize, Ordering};
use std::sync::{Arc, OnceLock};

use super::roster::{Entry, Live, Roster};

/// Why a session was refused or cut short. The names are the API's and the metrics'.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub enum Refusal {
    /// No backend has an address (yet), or none takes sessions.
    NoBackend,
    /// No address of the backend accepted the connection, or it has no program on the UDP port.
    BackendRefused,
    /// No address of the backend answered in time.
    BackendTimeout,
    /// relayd has no file descriptor for it.
    Descriptors,
    /// A datagram could not be sent on.
    Unsendable,
    /// No source port is left towards the backend.
    PortsExhausted,
    /// As many clients as a listener may have.
    TableFull,
    /// A new client of a rule that is draining.
    Draining,
    /// A connection that must begin with a PROXY protocol header, from somebody whose word on it is worth nothing.
    ProxyUntrusted,
    /// One that does not begin with such a header.
    ProxyMissing,
    /// One whose header makes no sense or ends early.
    ProxyMalformed,
    /// One whose header is longer than any need be.
    ProxyTooLong,
    /// What must come before a client is connected has not come in time.
    HandshakeTimeout,
    /// A client that is not on the rule's allow list.
    NotAllowed,
    /// The rule has as many connections as it may.
    LimitConnections,
    /// The client has as many as it may.
    LimitConnectionsPerIp,
    /// Sooner than the rule's pace allows.
    LimitNewFlows,
    /// Sooner than the client's pace allows.
    LimitNewFlowsPerIp,
    /// There is no way to the backend, or the interface or address towards it is gone.
    NoRoute,
    /// A client whose TLS handshake failed, or who broke TLS later.
    ClientTls,
    /// One that asked for no WebSocket, or not for this one.
    ClientWs,
    /// One that ended its half of a handshake early or made too much of it.
    HandshakeBroken,
    /// As many clients are in the middle of their handshakes as may be.
    HandshakesFull,
    /// Either side sent what is no WebSocket frame, or none that carries a stream.
    WsFrames,
    /// A backend whose TLS handshake failed, or who broke TLS later.
    BackendTls,
    /// One that refused the WebSocket.
    BackendWs,
    /// One that did not finish its half of a handshake.
    BackendTunnel,
    /// A datagram for a tunnel that is not open, and cannot be opened for now.
    TunnelDown,
    /// One for a tunnel whose queue is full: the other end is slower than what comes.
    TunnelFull,
    /// One out of a tunnel, of a flow that is over.
    FlowOver,
    /// The other end of a tunnel sent what is no frame of datagrams.
    UdpFrames,
    /// A client whose stream was in a connection of many that broke off.
    TunnelLost,
}

impl Refusal {
    pub const ALL: [Self; 32] = [
        Self::NoBackend,
        Self::BackendRefused,
        Self::BackendTimeout,
        Self::Descriptors,
        Self::Unsendable,
        Self::PortsExhausted,
        Self::TableFull,
        Self::Draining,
        Self::ProxyUntrusted,
        Self::ProxyMissing,
        Self::ProxyMalformed,
        Self::ProxyTooLong,
        Self::HandshakeTimeout,
        Self::NotAllowed,
        Self::LimitConnections,
        Self::LimitConnectionsPerIp,
        Self::LimitNewFlows,
        Self::LimitNewFlowsPerIp,
        Self::NoRoute,
        Self::ClientTls,
        Self::ClientWs,
        Self::HandshakeBroken,
        Self::HandshakesFull,
        Self::WsFrames,
        Self::BackendTls,
        Self::BackendWs,
        Self::BackendTunnel,
        Self::TunnelDown,
        Self::TunnelFull,
        Self::FlowOver,
        Self::UdpFrames,
        Self::TunnelLost,
    ];

    pub const fn as_str(self) -> &'static str {
        match self {
            Self::NoBackend => "no_backend",
            Self::BackendRefused => "backend_refused",
            Self::BackendTimeout => "backend_timeout",
            Self::Descriptors => "descriptors",
            Self::Unsendable => "unsendable",
            Self::PortsExhausted => "ports_exhausted",
            Self::TableFull => "table_full",
            Self::Draining => "draining",
            Self::ProxyUntrusted => "proxy_untrusted",
            Self::ProxyMissing => "proxy_missing",
            Self::ProxyMalformed => "proxy_malformed",
            Self::ProxyTooLong => "proxy_too_long",
            Self::HandshakeTimeout => "handshake_timeout",
            Self::NotAllowed => "not_allowed",
            Self::LimitConnections => "limit_connections",
            Self::LimitConnectionsPerIp => "limit_connections_per_ip",
            Self::LimitNewFlows => "limit_new_flows",
            Self::LimitNewFlowsPerIp => "limit_new_flows_per_ip",
            Self::NoRoute => "no_route",
            Self::ClientTls => "client_tls",
            Self::ClientWs => "client_ws",
            Self::HandshakeBroken => "handshake_broken",
            Self::HandshakesFull => "handshakes_full",
            Self::WsFrames => "ws_frames",
            Self::BackendTls => "backend_tls",
            Self::BackendWs => "backend_ws",
            Self::BackendTunnel => "backend_tunnel",
            Self::TunnelDown => "tunnel_down",
            Self::TunnelFull => "tunnel_full",
            Self::FlowOver => "flow_over",
            Self::UdpFrames => "udp_frames",
            Self::TunnelLost => "tunnel_lost",
        }
    }
}

impl Refusal {
    /// Whether it is what the rule wants rather than something that has gone wrong.
    pub const fn is_policy(self) -> bool {
        matches!(
            self,
            Self::Draining
                | Self::NotAllowed
                | Self::LimitConnections
                | Self::LimitConnectionsPerIp
                | Self::LimitNewFlows
                | Self::LimitNewFlowsPerIp
        )
    }
}

/// Payload carried one way. `packets`: datagrams; TCP has none to count.
#[derive(Debug, Default)]
pub struct Carried {
    bytes: AtomicU64,
    packets: AtomicU64,
}

impl Carried {
    pub fn bytes(&self) -> u64 {
        self.bytes.load(Ordering::Relaxed)
    }

    pub fn packets(&self) -> u64 {
        self.packets.load(Ordering::Relaxed)
    }

    pub fn add_bytes(&self, bytes: u64) {
        self.bytes.fetch_add(bytes, Ordering::Relaxed);
    }

    pub fn add_packets(&self, packets: u64, bytes: u64) {
        self.packets.fetch_add(packets, Ordering::Relaxed);
        self.add_bytes(bytes);
    }
}

/// The counters of one rule.
#[derive(Debug, Default)]
pub struct Counters {
    /// Client to backend.
    pub ingress: Carried,
    /// Backend to client.
    pub egress: Carried,
    active: AtomicU64,
    total: AtomicU64,
    /// From the first one on: most rules never refuse anybody.
    refused: OnceLock<Box<[AtomicU64; Refusal::ALL.len()]>>,
    /// Sessions whose backend's address was the rule's no more, and that nobody has been told of.
    lost: AtomicU64,
    /// From the first session on: most rules never have one.
    roster: OnceLock<Box<Roster>>,
    /// Tunnels for datagrams to backends, which there may be no more of than so many.
    pub carriers: AtomicUsize,
}

impl Counters {
    /// What was carried: client to backend, and back.
    pub const fn payload(&self) -> [&Carried; 2] {
        [&self.ingress, &self.egress]
    }

    /// Sessions under way.
    pub fn active(&self) -> u64 {
        self.active.load(Ordering::Relaxed)
    }

    /// Sessions ever begun.
    pub fn total(&self) -> u64 {
        self.total.load(Ordering::Relaxed)
    }

    pub fn refused(&self, reason: Refusal) -> u64 {
        self.refused.get().map_or(0, |refused| refused[reason as usize].load(Ordering::Relaxed))
    }

    pub fn refuse(&self, reason: Refusal) {
        self.refuse_many(reason, 1);
    }

    pub fn refuse_many(&self, reason: Refusal, count: u64) {
        self.refused.get_or_init(Box::default)[reason as usize].fetch_add(count, Ordering::Relaxed);
    }

    /// A session has ended because its backend's address is the rule's no more.
    pub fn lose(&self) {
        self.lost.fetch_add(1, Ordering::Relaxed);
    }

    /// How many have since the last call.
    pub fn take_lost(&self) -> u64 {
        self.lost.swap(0, Ordering::Relaxed)
    }

    /// Sessions that can be seen.
    pub fn roster(&self) -> &Roster {
        self.roster.get_or_init(Box::default)
    }

    /// Counts a session, which is active, and can be seen, until what this returns is dropped.
    pub fn begin(self: &Arc<Self>, live: Live) -> Active {
        self.enter();
        Active { counters: self.clone(), entry: Entry::new(self, live) }
    }

    /// As [`Self::begin`], for who keeps the balance with [`Self::leave`].
    pub(super) fn enter(&self) {
        self.total.fetch_add(1, Ordering::Relaxed);
        self.active.fetch_add(1, Ordering::Relaxed);
    }

    pub(super) fn leave(&self) {
        self.active.fetch_sub(1, Ordering::Relaxed);
    }
}

/// A session under way.
#[derive(Debug)]
pub struct Active {
    counters: Arc<Counters>,
    entry: Entry,
}

impl Active {
    pub const fn live(&self) -> &Arc<Live> {
        self.entry.live()
    }
}

impl Drop for Active {
    fn drop(&mut self) {
        self.counters.leave();
    }
}
