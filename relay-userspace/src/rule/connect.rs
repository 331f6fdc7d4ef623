//! How a rule goes to its backend.

use std::net::IpAddr;

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
    /// Why relayd itself must carry TCP to the backend, if it must.
    pub const fn needs_relayd(&self) -> Option<&'static str> {
        match self {
            Self { proxy_protocol: Some(_), .. } => {
                Some("relayd writes the PROXY protocol header (connect.proxy_protocol)")
            }
            Self { mptcp: true, .. } => Some("relayd speaks Multipath TCP (connect.mptcp)"),
            _ => None,
        }
    }

    /// Whether a backend's address can be reached from `source`.
    pub fn suits(&self, backend: IpAddr) -> bool {
        self.source.is_none_or(|source| source.is_ipv4() == backend.is_ipv4())
    }
}
