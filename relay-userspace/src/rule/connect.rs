//! How a rule goes to its backend.

/// The backend leg.
#[derive(Clone, Debug, Default, Eq, PartialEq)]
pub struct Connect {
    /// Begin every TCP connection with a PROXY protocol header that names the client.
    pub proxy_protocol: Option<ProxyVersion>,
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
        match self.proxy_protocol {
            Some(_) => Some("relayd writes the PROXY protocol header (connect.proxy_protocol)"),
            None => None,
        }
    }
}
