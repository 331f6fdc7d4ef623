//! How a rule's endpoints are judged: what they are asked, how often, and when a better one is taken back.

use std::ops::RangeInclusive;
use std::time::Duration;

/// How endpoints are checked.
#[derive(Clone, Debug, Eq, PartialEq)]
pub struct Check {
    pub kind: CheckKind,
    /// From the beginning of one probe to the next one's, at most.
    pub interval: Duration,
    /// For the whole of a probe.
    pub timeout: Duration,
    /// Failures in a row that make an endpoint down; at least 1.
    pub fall: u32,
    /// Successes in a row that bring it up again; at least 1.
    pub rise: u32,
    /// What must have passed since its last failure before it is up again.
    pub cooldown: Duration,
    pub failback: Failback,
    /// Where it is asked, if not on the port that flows go to.
    pub port: Option<u16>,
}

/// What an endpoint is asked.
#[derive(Clone, Debug, Default, Eq, PartialEq)]
pub enum CheckKind {
    /// Nothing: what becomes of flows and sessions tells.
    Passive,
    /// To accept a connection.
    #[default]
    Tcp,
    /// To finish a TLS handshake.
    Tls {
        /// `None`: the backend's name, if it has one.
        sni: Option<Box<str>>,
        /// Whether its certificate must be good for that name.
        verify: bool,
    },
    /// To answer a GET.
    Http(HttpCheck),
    /// To answer a datagram.
    Udp {
        send: Box<[u8]>,
        /// What the answer must contain; `None`: any answer will do.
        expect: Option<Box<[u8]>>,
    },
}

/// A GET and what must come back.
#[derive(Clone, Debug, Eq, PartialEq)]
pub struct HttpCheck {
    pub tls: bool,
    /// `None`: the backend's name or address.
    pub host: Option<Box<str>>,
    pub path: Box<str>,
    pub status: StatusRange,
    /// What the first 64 KiB of the body must contain.
    pub body: Option<Box<str>>,
}

/// HTTP status codes, first and last.
#[derive(Clone, Debug, Eq, PartialEq)]
pub struct StatusRange(pub RangeInclusive<u16>);

/// When flows go back to a better tier that is up again.
#[derive(Clone, Copy, Debug, Default, Eq, PartialEq)]
pub enum Failback {
    /// At once.
    #[default]
    Auto,
    /// By an order, or when the tier that has them goes down.
    Manual,
    /// After it has been up for so long.
    Delay(Duration),
}

impl Default for Check {
    fn default() -> Self {
        Self {
            kind: CheckKind::default(),
            interval: Duration::from_secs(4),
            timeout: Duration::from_secs(3),
            fall: 2,
            rise: 2,
            cooldown: Duration::from_secs(120),
            failback: Failback::default(),
            port: None,
        }
    }
}

impl Default for HttpCheck {
    fn default() -> Self {
        Self { tls: false, host: None, path: "/".into(), status: StatusRange::default(), body: None }
    }
}

impl Default for StatusRange {
    fn default() -> Self {
        Self(200..=399)
    }
}

impl CheckKind {
    /// What it is called in the configuration.
    pub const fn as_str(&self) -> &'static str {
        match self {
            Self::Passive => "passive",
            Self::Tcp => "tcp",
            Self::Tls { .. } => "tls",
            Self::Http(_) => "http",
            Self::Udp { .. } => "udp",
        }
    }
}
