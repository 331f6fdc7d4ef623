//! Listeners: `8388`, `:8388`, `1.2.3.4:80`, `[2001:db8::1]:80`, `%eth0:80`, each also with a range of ports.

use std::fmt;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};

/// Where a rule accepts traffic.
#[derive(Clone, Debug, Eq, Hash, PartialEq)]
pub struct Listener {
    pub on: ListenOn,
    pub ports: PortRange,
}

/// Which of the host's addresses a listener takes.
#[derive(Clone, Debug, Eq, Hash, PartialEq)]
pub enum ListenOn {
    /// Every address of both families.
    Everywhere,
    /// Every IPv4 address: `0.0.0.0:80`.
    EverywhereV4,
    /// Every IPv6 address: `[::]:80`.
    EverywhereV6,
    Address(IpAddr),
    /// Every address, for packets that come in on this interface: `%eth0:80`.
    Interface(Box<str>),
}

/// Why a text is not a listener.
#[derive(Clone, Copy, Debug, Eq, PartialEq, thiserror::Error)]
pub enum ListenerError {
    #[error("there is no port")]
    NoPort,
    #[error("the port is not a number from 1 to 65535")]
    Port,
    #[error("the range of ports ends before it starts")]
    Backwards,
    #[error("that is no IPv4 address; an IPv6 address goes in brackets")]
    Address,
    #[error("that is no interface name (at most 15 characters, no slash, no space)")]
    Interface,
}

impl Listener {
    /// What a listener may look like, for error texts.
    pub const FORMS: &str = r#"":8388" (every address), "1.2.3.4:8388", "[2001:db8::1]:8388", "%eth0:8388", or a range ":10000-19000""#;

    pub fn parse(text: &str) -> Result<Self, ListenerError> {
        let (on, ports) = match text.rsplit_once(':') {
            None => ("", text),
            Some((on, ports)) => (on, ports),
        };
        if ports.is_empty() || ports.ends_with(']') {
            return Err(ListenerError::NoPort);
        }
        // ports first: in "1.2.3.4" the whole text is taken for a port
        let ports = PortRange::parse(ports).map_err(|error| match error {
            ListenerError::Port if text.parse::<IpAddr>().is_ok() => ListenerError::NoPort,
            other => other,
        })?;
        Ok(Self { on: ListenOn::parse(on)?, ports })
    }
}

impl fmt::Display for Listener {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}:{}", self.on, self.ports)
    }
}

impl ListenOn {
    fn parse(text: &str) -> Result<Self, ListenerError> {
        if text.is_empty() || text == "*" {
            return Ok(Self::Everywhere);
        }
        if let Some(name) = text.strip_prefix('%') {
            return if is_interface_name(name) {
                Ok(Self::Interface(name.into()))
            } else {
                Err(ListenerError::Interface)
            };
        }
        let address = if let Some(inner) = text.strip_prefix('[') {
            let inner = inner.strip_suffix(']').ok_or(ListenerError::Address)?;
            inner.parse::<Ipv6Addr>().map(IpAddr::V6)
        } else {
            text.parse::<Ipv4Addr>().map(IpAddr::V4)
        };
        Ok(match address {
            Err(_no_address) => return Err(ListenerError::Address),
            Ok(IpAddr::V4(Ipv4Addr::UNSPECIFIED)) => Self::EverywhereV4,
            Ok(IpAddr::V6(Ipv6Addr::UNSPECIFIED)) => Self::EverywhereV6,
            Ok(address) => Self::Address(address),
        })
    }

    pub const fn takes_ipv4(&self) -> bool {
        !matches!(self, Self::EverywhereV6 | Self::Address(IpAddr::V6(_)))
    }

    pub const fn takes_ipv6(&self) -> bool {
        !matches!(self, Self::EverywhereV4 | Self::Address(IpAddr::V4(_)))
    }
}

/// The kernel's rule (`dev_valid_name`): 1 to 15 bytes, no slash, no colon, no white space.
pub fn is_interface_name(name: &str) -> bool {
    let bad = |byte: u8| byte == b'/' || byte == b':' || byte.is_ascii_whitespace();
    (1..=15).contains(&name.len()) && name != "." && name != ".." && !name.bytes().any(bad)
}

impl fmt::Display for ListenOn {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Everywhere => Ok(()),
            Self::EverywhereV4 => f.write_str("0.0.0.0"),
            Self::EverywhereV6 => f.write_str("[::]"),
            Self::Address(IpAddr::V4(address)) => address.fmt(f),
            Self::Address(IpAddr::V6(address)) => write!(f, "[{address}]"),
            Self::Interface(name) => write!(f, "%{name}"),
        }
    }
}

/// One port or a range, both ends included; never port 0.
#[derive(Clone, Copy, Debug, Eq, Hash, Ord, PartialEq, PartialOrd)]
pub struct PortRange {
    first: u16,
    last: u16,
}

impl PortRange {
    /// `None` if the range is backwards or holds port 0.
    pub const fn new(first: u16, last: u16) -> Option<Self> {
        if first == 0 || last < first { None } else { Some(Self { first, last }) }
    }

    pub fn parse(text: &str) -> Result<Self, ListenerError> {
        let port = |text: &str| match text.parse::<u16>() {
            // "+80" parses as a number, but nobody writes a port like that
            Ok(port) if port != 0 && !text.starts_with('+') => Ok(port),
            _ => Err(ListenerError::Port),
        };
        let (first, last) = match text.split_once('-') {
            None => (port(text)?, port(text)?),
            Some((first, last)) => (port(first)?, port(last)?),
        };
        Self::new(first, last).ok_or(ListenerError::Backwards)
    }

    pub const fn first(self) -> u16 {
        self.first
    }

    pub const fn last(self) -> u16 {
        self.last
    }

    /// Number of ports, 1 to 65,535.
    #[expect(clippy::len_without_is_empty, reason = "a range is never empty")]
    pub const fn len(self) -> u32 {
        (self.last - self.first) as u32 + 1
    }

    pub const fn is_single(self) -> bool {
        self.first == self.last
    }

    pub const fn contains(self, port: u16) -> bool {
        self.first <= port && port <= self.last
    }

    pub const fn overlaps(self, other: Self) -> bool {
        self.first <= other.last && other.first <= self.last
    }
}

impl fmt::Display for PortRange {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        if self.is_single() { self.first.fmt(f) } else { write!(f, "{}-{}", self.first, self.last) }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_form_reads_and_prints() {
        for (text, printed) in [
            ("8388", ":8388"),
            (":8388", ":8388"),
            ("*:8388", ":8388"),
            ("1.2.3.4:80", "1.2.3.4:80"),
            ("0.0.0.0:80", "0.0.0.0:80"),
            ("[::]:80", "[::]:80"),
            ("[2001:db8::1]:80-90", "[2001:db8::1]:80-90"),
            ("%eth0.100:80", "%eth0.100:80"),
            (":10000-19000", ":10000-19000"),
            ("7-7", ":7"),
        ] {
            let listener = Listener::parse(text).unwrap_or_else(|error| panic!("{text}: {error}"));
            assert_eq!(listener.to_string(), printed);
            assert_eq!(Listener::parse(printed), Ok(listener));
        }
    }

    #[test]
    fn nonsense_says_what_is_wrong() {
        for (text, error) in [
            ("", ListenerError::NoPort),
            ("1.2.3.4", ListenerError::NoPort),
            ("1.2.3.4:", ListenerError::NoPort),
            ("[::1]", ListenerError::NoPort),
            (":0", ListenerError::Port),
            (":65536", ListenerError::Port),
            (":+80", ListenerError::Port),
            (":http", ListenerError::Port),
            (":90-80", ListenerError::Backwards),
            ("1.2.3.400:80", ListenerError::Address),
            ("host:80", ListenerError::Address),
            ("2001:db8::1:80", ListenerError::Address),
            ("[1.2.3.4]:80", ListenerError::Address),
            ("%:80", ListenerError::Interface),
            ("%a/b:80", ListenerError::Interface),
            ("%sixteen-letters-:80", ListenerError::Interface),
        ] {
            assert_eq!(Listener::parse(text), Err(error), "{text}");
        }
    }

    #[test]
    fn families() {
        let takes = |text| {
            let on = Listener::parse(text).expect(text).on;
            (on.takes_ipv4(), on.takes_ipv6())
        };
        assert_eq!(takes(":1"), (true, true));
        assert_eq!(takes("%eth0:1"), (true, true));
        assert_eq!(takes("0.0.0.0:1"), (true, false));
        assert_eq!(takes("[::1]:1"), (false, true));
    }
}
