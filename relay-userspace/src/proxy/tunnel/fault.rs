//! What goes wrong in tunnels, and how it is counted.

use thiserror::Error;

use super::datagrams::FrameFault;
use super::tls::{ConfigFault, TlsFault};
use super::ws::{HandshakeFault, Violation};
use crate::proxy::counters::Refusal;

/// Why a tunnel was not opened, or broke.
#[derive(Debug, Error)]
pub enum Fault {
    #[error(transparent)]
    Tls(#[from] TlsFault),
    /// What a backend's certificate has to be for cannot be said.
    #[error(transparent)]
    Name(#[from] ConfigFault),
    #[error(transparent)]
    Handshake(#[from] HandshakeFault),
    #[error(transparent)]
    Frame(#[from] Violation),
    /// Of datagrams, within the tunnel.
    #[error(transparent)]
    Datagrams(#[from] FrameFault),
    /// A connection of many clients, with all of them.
    #[error("the connection that many clients shared broke off: {0}")]
    Lost(h2::Error),
    /// It went before it had sent anything.
    #[error("it ended the connection without a word")]
    Silent,
    #[error("it ended the connection in the middle of the handshake")]
    Ended,
    #[error("it sends more than a handshake needs")]
    TooMuch,
    #[error(
        "its half of the handshake did not come within timeout.handshake: \
         a slow line, or its transport is not what ours is"
    )]
    Late,
}

impl Fault {
    /// The stable name of the cause, for logs.
    pub fn as_str(&self) -> &'static str {
        match self {
            Self::Tls(fault) => fault.as_str(),
            Self::Name(_) => "tls_name",
            Self::Handshake(fault) => fault.as_str(),
            Self::Frame(fault) => fault.as_str(),
            Self::Datagrams(_) => "udp_frames",
            Self::Lost(_) => "tunnel_lost",
            Self::Silent => "tunnel_silent",
            Self::Ended => "tunnel_ended",
            Self::TooMuch => "tunnel_too_much",
            Self::Late => "tunnel_late",
        }
    }

    /// Whether the peer has turned our handshake away. By TLS 1.3 it says so only when we believe to be in; it has read
    /// nothing of what we have sent since.
    pub const fn is_refusal(&self) -> bool {
        matches!(self, Self::Tls(TlsFault { cause, .. }) if cause.is_refusal())
    }

    pub const fn is_silence(&self) -> bool {
        matches!(self, Self::Silent)
    }

    /// How a client's is counted.
    pub const fn of_client(&self) -> Refusal {
        match self {
            Self::Tls(_) | Self::Name(_) => Refusal::ClientTls,
            Self::Handshake(_) => Refusal::ClientWs,
            Self::Frame(_) => Refusal::WsFrames,
            Self::Datagrams(_) => Refusal::UdpFrames,
            Self::Lost(_) => Refusal::TunnelLost,
            Self::Silent | Self::Ended | Self::TooMuch => Refusal::HandshakeBroken,
            Self::Late => Refusal::HandshakeTimeout,
        }
    }

    /// How a backend's is counted.
    pub const fn of_backend(&self) -> Refusal {
        match self {
            Self::Tls(_) | Self::Name(_) => Refusal::BackendTls,
            Self::Handshake(_) => Refusal::BackendWs,
            Self::Frame(_) => Refusal::WsFrames,
            Self::Datagrams(_) => Refusal::UdpFrames,
            Self::Lost(_) => Refusal::TunnelLost,
            Self::Silent | Self::Ended | Self::TooMuch => Refusal::BackendTunnel,
            Self::Late => Refusal::BackendTimeout,
        }
    }
}
