//! The PROXY protocol, versions 1 and 2: a header ahead of a connection's data that says whose connection it is.
//! <https://www.haproxy.org/download/3.0/doc/proxy-protocol.txt>

mod parse;
#[cfg(test)]
mod properties;
mod write;

use std::net::{IpAddr, Ipv4Addr, SocketAddr};

pub use self::parse::{Flaw, parse};
pub use self::write::write;

/// What every binary header begins with.
const SIGNATURE: &[u8; 12] = b"\r\n\r\n\0\r\nQUIT\n";

/// What a header says.
#[derive(Clone, Debug, Eq, PartialEq)]
pub struct Header {
    pub origin: Origin,
    /// What version 2 may say besides, as it came: type, length, value.
    pub tlvs: Vec<u8>,
}

impl Header {
    /// Of a connection that no client is behind.
    pub const LOCAL: Self = Self { origin: Origin::Local, tlvs: Vec::new() };
}

/// Whose connection it is.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub enum Origin {
    /// The proxy's own, such as a health check.
    Local,
    /// Somebody's who has no TCP address.
    Unknown,
    Client {
        source: SocketAddr,
        /// What the client connected to.
        destination: SocketAddr,
    },
}

impl Origin {
    /// A client's, both addresses of one family. IPv4 in IPv6 notation becomes IPv4 where both are.
    pub fn client(source: SocketAddr, destination: SocketAddr) -> Self {
        let nowhere = |end: SocketAddr| end.ip().is_unspecified();
        let [from, to] = [source, destination].map(|end| end.ip().to_canonical());
        let (from, to) = match (from, to) {
            (IpAddr::V4(_), IpAddr::V4(_)) | (IpAddr::V6(_), IpAddr::V6(_)) => (from, to),
            // a proxy that does not know the destination
            (IpAddr::V4(_), IpAddr::V6(_)) if nowhere(destination) => (from, Ipv4Addr::UNSPECIFIED.into()),
            _ => (in_v6(from), in_v6(to)),
        };
        Self::Client {
            source: SocketAddr::new(from, source.port()),
            destination: SocketAddr::new(to, destination.port()),
        }
    }
}

fn in_v6(address: IpAddr) -> IpAddr {
    match address {
        IpAddr::V4(address) => address.to_ipv6_mapped().into(),
        IpAddr::V6(_) => address,
    }
}
