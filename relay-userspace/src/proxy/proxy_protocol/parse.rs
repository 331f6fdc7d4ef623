//! Headers from bytes, as many as have come.

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr};
use std::str;

use super::{Header, Origin, SIGNATURE};

/// A line, its end included (section 2.1).
const LONGEST_LINE: usize = 107;
/// A binary header with all it says. The addresses need 232; what else proxies say is some hundreds, a client's certificate
/// a few thousand.
const LONGEST: usize = 16 * 1024;
const LINE_START: &[u8] = b"PROXY ";
/// Signature, command, family, length.
const FIXED: usize = 16;
/// A checksum, which would not fit the header that goes on.
const CRC32C: u8 = 0x03;

/// Why bytes are no header.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub enum Flaw {
    /// They do not begin as one does.
    Missing,
    Malformed,
    TooLong,
}

/// The header that `data` begins with, and its length; `None`: it has not come whole yet.
pub fn parse(data: &[u8]) -> Result<Option<(Header, usize)>, Flaw> {
    let begins = |with: &[u8]| data.iter().zip(with).all(|(a, b)| a == b);
    if begins(SIGNATURE) {
        binary(data)
    } else if begins(LINE_START) {
        line(data)
    } else {
        Err(Flaw::Missing)
    }
}

fn line(data: &[u8]) -> Result<Option<(Header, usize)>, Flaw> {
    let Some(end) = data.iter().take(LONGEST_LINE).position(|&byte| byte == b'\n') else {
        return if data.len() < LONGEST_LINE { Ok(None) } else { Err(Flaw::TooLong) };
    };
    let text = data[..end].strip_suffix(b"\r").and_then(|text| str::from_utf8(text).ok());
    let words: Vec<&str> = text.ok_or(Flaw::Malformed)?.split(' ').collect();
    let origin = match words[..] {
        // what else it says is to be ignored
        [_, "UNKNOWN", ..] => Origin::Unknown,
        [_, "TCP4", from, to, port, to_port] => ends::<Ipv4Addr>([from, to], [port, to_port])?,
        [_, "TCP6", from, to, port, to_port] => ends::<Ipv6Addr>([from, to], [port, to_port])?,
        _ => return Err(Flaw::Malformed),
    };
    Ok(Some((Header { origin, tlvs: Vec::new() }, end + 1)))
}

fn ends<A: str::FromStr + Into<IpAddr>>(addresses: [&str; 2], ports: [&str; 2]) -> Result<Origin, Flaw> {
    let end = |at: usize| {
        let address: A = addresses[at].parse().ok()?;
        Some(SocketAddr::new(address.into(), port(ports[at])?))
    };
    let (source, destination) = end(0).zip(end(1)).ok_or(Flaw::Malformed)?;
    Ok(Origin::client(source, destination))
}

/// Digits and nothing else, no zeros ahead of them.
fn port(text: &str) -> Option<u16> {
    let port: u16 = text.parse().ok()?;
    (port.to_string() == text).then_some(port)
}

fn binary(data: &[u8]) -> Result<Option<(Header, usize)>, Flaw> {
    let Some((fixed, rest)) = data.split_first_chunk::<FIXED>() else { return Ok(None) };
    let [.., command, family, high, low] = *fixed;
    let length = usize::from(u16::from_be_bytes([high, low]));
    if !matches!(command, 0x20 | 0x21) || family >> 4 > 3 || family & 0xf > 2 {
        return Err(Flaw::Malformed);
    }
    if FIXED + length > LONGEST {
        return Err(Flaw::TooLong);
    }
    let Some(body) = rest.get(..length) else { return Ok(None) };
    let header = match command {
        // the block is to be skipped, whatever it says
        0x20 => Header { origin: Origin::Local, tlvs: Vec::new() },
        _ => said(family, body)?,
    };
    Ok(Some((header, FIXED + length)))
}

/// What the block after the fixed part says.
fn said(family: u8, body: &[u8]) -> Result<Header, Flaw> {
    let (origin, tlvs) = match family >> 4 {
        1 => addresses::<4>(body)?,
        2 => addresses::<16>(body)?,
        3 => (Origin::Unknown, body.get(216..).ok_or(Flaw::Malformed)?),
        _ => (Origin::Unknown, body),
    };
    // the addresses of datagrams are no client's of ours
    let origin = if family & 0xf == 1 { origin } else { Origin::Unknown };
    Ok(Header { origin, tlvs: kept(tlvs)? })
}

/// Two addresses of `N` bytes and two ports, and what is behind them.
fn addresses<const N: usize>(body: &[u8]) -> Result<(Origin, &[u8]), Flaw>
where
    IpAddr: From<[u8; N]>,
{
    let take = |body| <[u8]>::split_first_chunk::<N>(body).ok_or(Flaw::Malformed);
    let port = |body| <[u8]>::split_first_chunk::<2>(body).ok_or(Flaw::Malformed);
    let (source, body) = take(body)?;
    let (destination, body) = take(body)?;
    let (source_port, body) = port(body)?;
    let (destination_port, body) = port(body)?;
    let end = |address: [u8; N], port| SocketAddr::new(IpAddr::from(address), u16::from_be_bytes(port));
    Ok((Origin::client(end(*source, *source_port), end(*destination, *destination_port)), body))
}

/// The TLVs that may go on.
fn kept(mut tlvs: &[u8]) -> Result<Vec<u8>, Flaw> {
    let mut kept = Vec::with_capacity(tlvs.len());
    while let Some((&[kind, high, low], rest)) = tlvs.split_first_chunk() {
        let length = usize::from(u16::from_be_bytes([high, low]));
        let value = rest.get(..length).ok_or(Flaw::Malformed)?;
        if kind != CRC32C {
            kept.extend_from_slice(&[kind, high, low]);
            kept.extend_from_slice(value);
        }
        tlvs = &rest[length..];
    }
    if tlvs.is_empty() { Ok(kept) } else { Err(Flaw::Malformed) }
}
