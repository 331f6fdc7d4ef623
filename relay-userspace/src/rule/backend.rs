//! Backends: `203.0.113.10:8388`, `jp.example.com:443`, `[2001:db8::5]:443`; without a port the listener's own is kept.

use std::fmt;
use std::net::{IpAddr, Ipv6Addr};

use super::listen::{Listener, PortRange};

/// A configured destination.
#[derive(Clone, Debug, Eq, PartialEq)]
pub struct Backend {
    pub host: Host,
    pub ports: BackendPorts,
    /// Its share of new flows, beside the others' weights; 0: it gets none. At most [`Backend::MOST_WEIGHT`].
    pub weight: u16,
    /// Backends of a higher number are for when all of the lower ones are down.
    pub priority: u16,
}

/// An address, or a name that is resolved when the rule is applied.
#[derive(Clone, Debug, Eq, Hash, Ord, PartialEq, PartialOrd)]
pub enum Host {
    Address(IpAddr),
    Name(Box<str>),
}

/// Where on the backend a rule's ports go.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub enum BackendPorts {
    /// Every port to the same port.
    Same,
    /// The listener's first port goes here, the next one to the next, and so on.
    From(u16),
    /// The same, written out; the listener must be as wide.
    Range(PortRange),
}

/// Why a text is not a backend.
#[derive(Clone, Copy, Debug, Eq, PartialEq, thiserror::Error)]
pub enum BackendError {
    #[error("there is no address or host name")]
    NoHost,
    #[error("the port is not a number from 1 to 65535")]
    Port,
    #[error("that is neither an address nor a host name")]
    Host,
    #[error("an interface is no part of it; `connect.interface` names one")]
    Interface,
}

impl Backend {
    /// What a backend may look like, for error texts.
    pub const FORMS: &str = r#""203.0.113.10:8388", "[2001:db8::5]:443", "host.example.com:443""#;

    pub const MOST_WEIGHT: u16 = 1000;
    /// What it has if nothing is said of it.
    pub const USUAL_WEIGHT: u16 = 1;
    /// How many a rule may have.
    pub const MOST: usize = 128;

    pub fn parse(text: &str) -> Result<Self, BackendError> {
        if text.contains('%') {
            return Err(BackendError::Interface);
        }
        let (host, ports) = split_ports(text);
        let ports = match ports {
            None => BackendPorts::Same,
            Some(ports) => match PortRange::parse(ports) {
                Ok(range) if range.is_single() && !ports.contains('-') => BackendPorts::From(range.first()),
                Ok(range) => BackendPorts::Range(range),
                Err(_) => return Err(BackendError::Port),
            },
        };
        Ok(Self { host: Host::parse(host)?, ports, weight: Self::USUAL_WEIGHT, priority: 0 })
    }

    /// The port that the first port of a listener goes to; `None`: the ports stay as they are.
    pub const fn first_port(&self) -> Option<u16> {
        match self.ports {
            BackendPorts::Same => None,
            BackendPorts::From(port) => Some(port),
            BackendPorts::Range(range) => Some(range.first()),
        }
    }

    /// Where the ports of a listener go; `None`: some have no place here.
    pub fn ports_of(&self, listen: PortRange) -> Option<PortRange> {
        let first = self.first_port().unwrap_or(listen.first());
        let last = u32::from(first) + listen.len() - 1;
        PortRange::new(first, u16::try_from(last).ok()?)
    }

    /// Whether everything that comes to `listen` goes to the same place here as there.
    pub fn is_where(&self, other: &Self, listen: &[Listener]) -> bool {
        let first = |listener: &Listener, to: &Self| to.first_port().unwrap_or(listener.ports.first());
        self.host.is(&other.host)
            && match listen {
                [] => self.first_port() == other.first_port(),
                listen => listen.iter().all(|listener| first(listener, self) == first(listener, other)),
            }
    }

    /// Whether every port of `listen` has a place here.
    pub const fn fits(&self, listen: PortRange) -> bool {
        match self.ports {
            BackendPorts::Same => true,
            BackendPorts::From(port) => port as u32 + listen.len() - 1 <= u16::MAX as u32,
            BackendPorts::Range(range) => range.len() == listen.len(),
        }
    }
}

/// Splits at the last colon, unless the colons are an address's own.
fn split_ports(text: &str) -> (&str, Option<&str>) {
    if text.parse::<Ipv6Addr>().is_ok() || text.ends_with(']') {
        return (text, None);
    }
    match text.rsplit_once(':') {
        None => (text, None),
        Some((host, ports)) => (host, Some(ports)),
    }
}

impl Host {
    /// Whether two spellings name the same host.
    fn is(&self, other: &Self) -> bool {
        let plain = |name: &str| name.strip_suffix('.').unwrap_or(name).to_ascii_lowercase();
        match (self, other) {
            (Self::Address(own), Self::Address(other)) => own.to_canonical() == other.to_canonical(),
            (Self::Name(own), Self::Name(other)) => plain(own) == plain(other),
            _ => false,
        }
    }

    fn parse(text: &str) -> Result<Self, BackendError> {
        if text.is_empty() {
            return Err(BackendError::NoHost);
        }
        if let Some(inner) = text.strip_prefix('[').and_then(|rest| rest.strip_suffix(']')) {
            let address = inner.parse::<Ipv6Addr>().map_err(|_no_address| BackendError::Host)?;
            return Ok(Self::Address(IpAddr::V6(address)));
        }
        if let Ok(address) = text.parse::<IpAddr>() {
            return Ok(Self::Address(address));
        }
        if is_host_name(text) { Ok(Self::Name(text.into())) } else { Err(BackendError::Host) }
    }
}

/// RFC 1123 section 2.1, and underscores, which occur in the wild. All digits and dots is a mistyped address.
fn is_host_name(text: &str) -> bool {
    let label = |label: &str| {
        (1..=63).contains(&label.len())
            && !label.starts_with('-')
            && !label.ends_with('-')
            && label.bytes().all(|byte| byte.is_ascii_alphanumeric() || matches!(byte, b'-' | b'_'))
    };
    let name = text.strip_suffix('.').unwrap_or(text);
    name.len() <= 253
        && name.split('.').all(label)
        && !name.bytes().all(|byte| matches!(byte, b'0'..=b'9' | b'.'))
}

impl fmt::Display for Host {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Address(IpAddr::V4(address)) => address.fmt(f),
            Self::Address(IpAddr::V6(address)) => write!(f, "[{address}]"),
            Self::Name(name) => f.write_str(name),
        }
    }
}

impl fmt::Display for Backend {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self.ports {
            BackendPorts::Same => self.host.fmt(f),
            BackendPorts::From(port) => write!(f, "{}:{port}", self.host),
            BackendPorts::Range(range) => write!(f, "{}:{range}", self.host),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_form_reads_and_prints() {
        for (text, printed) in [
            ("203.0.113.10:8388", "203.0.113.10:8388"),
            ("203.0.113.10", "203.0.113.10"),
            ("jp.example.com:443", "jp.example.com:443"),
            ("localhost", "localhost"),
            ("[2001:db8::5]:443", "[2001:db8::5]:443"),
            ("[2001:db8::5]", "[2001:db8::5]"),
            ("2001:db8::5", "[2001:db8::5]"),
            ("10.0.0.9:20000-29000", "10.0.0.9:20000-29000"),
        ] {
            let backend = Backend::parse(text).unwrap_or_else(|error| panic!("{text}: {error}"));
            assert_eq!(backend.to_string(), printed);
            assert_eq!(Backend::parse(printed), Ok(backend));
        }
    }

    #[test]
    fn nonsense_says_what_is_wrong() {
        for (text, error) in [
            ("", BackendError::NoHost),
            (":443", BackendError::NoHost),
            ("10.0.0.9:", BackendError::Port),
            ("10.0.0.9:0", BackendError::Port),
            ("10.0.0.9:90-80", BackendError::Port),
            ("10.0.0.300:80", BackendError::Host),
            ("two words:80", BackendError::Host),
            ("-x:80", BackendError::Host),
            ("[10.0.0.9]:80", BackendError::Host),
            ("fe80::5%eth0", BackendError::Interface),
            ("[fe80::5%eth0]:80", BackendError::Interface),
        ] {
            assert_eq!(Backend::parse(text), Err(error), "{text}");
        }
    }

    #[test]
    fn the_same_place_is_known_in_other_words() {
        let is_where = |one: &str, other: &str, listen: &[&str]| {
            let listen: Vec<Listener> =
                listen.iter().map(|text| Listener::parse(text).expect(text)).collect();
            let backend = |text| Backend::parse(text).expect(text);
            backend(one).is_where(&backend(other), &listen)
        };
        assert!(is_where("10.0.0.1", "10.0.0.1:80", &[":80"]));
        assert!(is_where("[::ffff:10.0.0.1]:80", "10.0.0.1:80", &[":8080"]));
        assert!(is_where("Host.example.:80", "host.example:80", &[]));
        assert!(is_where("10.0.0.1:80", "10.0.0.1:80-89", &[":10-19"]));
        assert!(!is_where("10.0.0.1", "10.0.0.1:80", &[":80", ":81"]));
        assert!(!is_where("10.0.0.1:80", "10.0.0.1:81", &[":80"]));
        assert!(!is_where("10.0.0.1:80", "10.0.0.2:80", &[":80"]));
    }

    #[test]
    fn a_range_must_fit() {
        let listen = PortRange::new(10000, 19000).expect("range");
        let fits = |text| Backend::parse(text).expect(text).fits(listen);
        assert!(fits("h"));
        assert!(fits("h:56535"));
        assert!(!fits("h:56536"));
        assert!(fits("h:20000-29000"));
        assert!(!fits("h:20000-29001"));
    }
}
