//! What a tunnel is for, which two Relays agree on in its handshake: in a WebSocket's by a subprotocol (RFC 6455 section
//! 1.9), in that of TLS alone by ALPN (RFC 7301). Where nothing is said it is one client's stream, as realm's are.

/// What a tunnel carries.
#[derive(Clone, Copy, Debug, Default, Eq, PartialEq)]
pub enum Purpose {
    /// The stream of one client.
    #[default]
    Session,
    /// Datagrams of many clients.
    Datagrams,
    /// Streams of many clients.
    Streams,
}

/// Which purposes a rule takes besides the usual one.
#[derive(Clone, Copy, Debug, Default, Eq, PartialEq)]
pub struct Willing {
    pub datagrams: bool,
    pub streams: bool,
}

impl Purpose {
    /// What has to be said.
    pub const SAID: [Self; 2] = [Self::Datagrams, Self::Streams];

    /// How it is called in handshakes; `None`: nothing is said. What is framed differently gets another name.
    pub const fn protocol(self) -> Option<&'static str> {
        match self {
            Self::Session => None,
            Self::Datagrams => Some("relay-udp.v1"),
            Self::Streams => Some("relay-mux.v1"),
        }
    }

    /// The option that asks for it.
    pub const fn option(self) -> &'static str {
        match self {
            Self::Session => "connect.transport",
            Self::Datagrams => "connect.udp_over = \"tunnel\"",
            Self::Streams => "connect.mux = true",
        }
    }
}

impl Willing {
    pub fn has(self, purpose: Purpose) -> bool {
        match purpose {
            Purpose::Session => true,
            Purpose::Datagrams => self.datagrams,
            Purpose::Streams => self.streams,
        }
    }

    /// The purpose that a peer asks for, where it is one of those: `asks` says whether a name is among what it said.
    pub fn choose(self, asks: impl Fn(&str) -> bool) -> Purpose {
        let is_asked = |purpose: &Purpose| self.has(*purpose) && purpose.protocol().is_some_and(&asks);
        Purpose::SAID.into_iter().find(is_asked).unwrap_or_default()
    }
}
