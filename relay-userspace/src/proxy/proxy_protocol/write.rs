//! Headers as bytes.

use std::net::{IpAddr, SocketAddr};

use super::{Header, Origin, SIGNATURE};
use crate::rule::ProxyVersion;

/// The header in a version; the first one has no TLVs.
pub fn write(header: &Header, version: ProxyVersion) -> Vec<u8> {
    match version {
        ProxyVersion::V1 => line(header.origin).into_bytes(),
        ProxyVersion::V2 => binary(header),
    }
}

fn line(origin: Origin) -> String {
    let Origin::Client { source, destination } = origin else { return "PROXY UNKNOWN\r\n".to_owned() };
    let family = if source.is_ipv4() { "TCP4" } else { "TCP6" };
    // not the socket addresses' own notation, which knows brackets and zones
    let (from, to) = (source.ip(), destination.ip());
    format!("PROXY {family} {from} {to} {} {}\r\n", source.port(), destination.port())
}

fn binary(header: &Header) -> Vec<u8> {
    let (command, family, addresses, tlvs) = match header.origin {
        Origin::Local => (0x20, 0x00, Vec::new(), &[][..]),
        Origin::Unknown => (0x21, 0x00, Vec::new(), &header.tlvs[..]),
        Origin::Client { source, destination } => {
            let family = if source.is_ipv4() { 0x11 } else { 0x21 };
            (0x21, family, addresses(source, destination), &header.tlvs[..])
        }
    };
    let mut bytes = Vec::with_capacity(SIGNATURE.len() + 4 + addresses.len() + tlvs.len());
    bytes.extend_from_slice(SIGNATURE);
    bytes.extend_from_slice(&[command, family]);
    // headers that came in are bounded far below that
    let length = u16::try_from(addresses.len() + tlvs.len()).unwrap_or(u16::MAX);
    bytes.extend_from_slice(&length.to_be_bytes());
    bytes.extend_from_slice(&addresses);
    bytes.extend_from_slice(tlvs);
    bytes
}

fn addresses(source: SocketAddr, destination: SocketAddr) -> Vec<u8> {
    let mut bytes = Vec::with_capacity(36);
    for end in [source, destination] {
        match end.ip() {
            IpAddr::V4(address) => bytes.extend_from_slice(&address.octets()),
            IpAddr::V6(address) => bytes.extend_from_slice(&address.octets()),
        }
    }
    bytes.extend_from_slice(&source.port().to_be_bytes());
    bytes.extend_from_slice(&destination.port().to_be_bytes());
    bytes
}

#[cfg(test)]
mod tests {
    use super::*;

    fn written(source: &str, destination: &str, version: ProxyVersion) -> Vec<u8> {
        let origin = Origin::client(source.parse().unwrap(), destination.parse().unwrap());
        write(&Header { origin, tlvs: Vec::new() }, version)
    }

    #[test]
    fn lines() {
        for (source, destination, line) in [
            ("192.0.2.7:5", "198.51.100.1:443", "PROXY TCP4 192.0.2.7 198.51.100.1 5 443\r\n"),
            ("[2001:db8::7]:5", "[2001:db8::1]:443", "PROXY TCP6 2001:db8::7 2001:db8::1 5 443\r\n"),
            ("[fe80::7%3]:5", "[fe80::1%3]:443", "PROXY TCP6 fe80::7 fe80::1 5 443\r\n"),
            (
                "[::ffff:192.0.2.7]:5",
                "[::ffff:198.51.100.1]:443",
                "PROXY TCP4 192.0.2.7 198.51.100.1 5 443\r\n",
            ),
            ("[::ffff:192.0.2.7]:5", "[::]:0", "PROXY TCP4 192.0.2.7 0.0.0.0 5 0\r\n"),
            ("192.0.2.7:5", "[2001:db8::1]:443", "PROXY TCP6 ::ffff:192.0.2.7 2001:db8::1 5 443\r\n"),
        ] {
            assert_eq!(String::from_utf8(written(source, destination, ProxyVersion::V1)).unwrap(), line);
        }
        for origin in [Origin::Local, Origin::Unknown] {
            let header = Header { origin, tlvs: vec![4, 0, 0] };
            assert_eq!(write(&header, ProxyVersion::V1), b"PROXY UNKNOWN\r\n");
        }
    }

    #[test]
    fn binary_headers() {
        let expected = b"\r\n\r\n\0\r\nQUIT\n\x21\x11\0\x0c\xc0\0\x02\x07\xc6\x33\x64\x01\0\x05\x01\xbb";
        assert_eq!(written("192.0.2.7:5", "198.51.100.1:443", ProxyVersion::V2), expected);
        let ipv6 = written("[2001:db8::7]:5", "[2001:db8::1]:443", ProxyVersion::V2);
        assert_eq!((ipv6.len(), &ipv6[12..16]), (52, &b"\x21\x21\0\x24"[..]));
        assert_eq!(&ipv6[48..], b"\0\x05\x01\xbb");
        let with = |origin| write(&Header { origin, tlvs: vec![4, 0, 0] }, ProxyVersion::V2);
        assert_eq!(&with(Origin::Local)[12..], b"\x20\0\0\0");
        assert_eq!(&with(Origin::Unknown)[12..], b"\x21\0\0\x03\x04\0\0");
    }
}
