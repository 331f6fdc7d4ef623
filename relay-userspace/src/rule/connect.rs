//! How a rule goes to its backend.

use std::net::IpAddr;
use std::sync::Arc;

use super::{ConnectTunnel, Transport, UdpOver};

/// The backend leg.
#[derive(Clone, Debug, Default, Eq, PartialEq)]
pub struct Connect {
    /// Begin every TCP connection with a PROXY protocol header that names the client.
    pub proxy_protocol: Option<ProxyVersion>,
    /// Which of the host's addresses the backend sees.
    pub source: Option<IpAddr>,
    /// The interface that its packets leave by, whatever the routes of others say.
    pub interface: Option<Box<str>>,
    /// Multipath TCP where the backend speaks it.
    pub mptcp: bool,
    /// How many tunnels to each backend are held open for clients to come.
    pub pool: u8,
    /// What its TCP connections are wrapped in; `None`: nothing.
    pub tunnel: Option<Arc<ConnectTunnel>>,
}

/// A version of the PROXY protocol: a line of text, or binary.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub enum ProxyVersion {
    V1,
    V2,
}

impl ProxyVersion {
    pub const ALL: [Self; 2] = [Self::V1, Self::V2];

    pub const fn number(self) -> u8 {
        match self {
            Self::V1 => 1,
            Self::V2 => 2,
        }
    }
}

impl Connect {
    /// The most tunnels that may be held open to a backend.
    pub const MOST_POOL: u8 = 64;

    pub fn transport(&self) -> Transport {
        self.tunnel.as_ref().map_or(Transport::Plain, |tunnel| tunnel.transport())
    }

    /// Whether UDP goes through tunnels, to another Relay.
    pub fn sends_datagrams(&self) -> bool {
        self.tunnel.as_ref().is_some_and(|tunnel| tunnel.udp_over == Some(UdpOver::Tunnel))
    }

    /// Why relayd itself must carry TCP to the backend, if it must.
    pub fn needs_relayd(&self) -> Option<&'static str> {
        match self.transport() {
            Transport::Plain => {}
            Transport::Tls => return Some("relayd wraps it in TLS (connect.transport = \"tls\")"),
            Transport::Ws => return Some("relayd wraps it in WebSocket (connect.transport = \"ws\")"),
            Transport::Wss => {
                return Some("relayd wraps it in WebSocket and TLS (connect.transport = \"wss\")");
            }
        }
        if self.proxy_protocol.is_some() {
            return Some("relayd writes the PROXY protocol header (connect.proxy_protocol)");
        }
        if self.mptcp {
            return Some("relayd speaks Multipath TCP (connect.mptcp)");
        }
        None
    }

    /// Whether a backend's address can be reached from `source`.
    pub fn suits(&self, backend: IpAddr) -> bool {
        self.source.is_none_or(|source| source.is_ipv4() == backend.is_ipv4())
    }
}
