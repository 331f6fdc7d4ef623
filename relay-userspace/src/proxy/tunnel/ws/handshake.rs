//! What both heads of a handshake have in common (RFC 6455 section 4).

use std::hash::{BuildHasher as _, RandomState};

use aws_lc_rs::digest::{Digest, SHA1_FOR_LEGACY_USE_ONLY, digest};
use data_encoding::BASE64;
use httparse::Header;

use super::HandshakeFault;

/// A head may be so long, and have so many lines.
pub const LONGEST_HEAD: usize = 8 * 1024;
pub(super) const MOST_HEADERS: usize = 64;

/// What every server adds to a key (section 1.3).
const GUID: &[u8] = b"258EAFA5-E914-47DA-95CA-C5AB0DC85B11";

/// What a server has to answer to a key.
pub(super) fn accept(key: &[u8]) -> String {
    BASE64.encode(sha1(key, GUID).as_ref())
}

/// A key for a request of ours. Nothing in it tells whose it is: tunnels are looked for.
pub(super) fn new_key() -> String {
    let half = || RandomState::new().hash_one(()).to_le_bytes();
    BASE64.encode(&[half(), half()].concat())
}

fn sha1(first: &[u8], then: &[u8]) -> Digest {
    digest(&SHA1_FOR_LEGACY_USE_ONLY, &[first, then].concat())
}

/// As much of `data` as may be a head.
pub(super) fn within_limit(data: &[u8]) -> &[u8] {
    &data[..data.len().min(LONGEST_HEAD)]
}

/// A head is not whole: nothing yet, unless there was enough.
pub(super) const fn unfinished<T>(data: &[u8]) -> Result<Option<T>, HandshakeFault> {
    if data.len() < LONGEST_HEAD { Ok(None) } else { Err(HandshakeFault::HeadTooLong) }
}

/// What `data` is, which the parser has refused.
pub(super) const fn refused(data: &[u8], error: httparse::Error) -> HandshakeFault {
    /// The record types of TLS: alert and handshake; then the version, whose first byte has never changed.
    const ALERT: u8 = 21;
    const HANDSHAKE: u8 = 22;
    match (data, error) {
        (_, httparse::Error::TooManyHeaders) => HandshakeFault::HeadTooLong,
        ([ALERT | HANDSHAKE, 3, ..] | [ALERT | HANDSHAKE], _) => HandshakeFault::Tls,
        _ => HandshakeFault::NotHttp,
    }
}

/// The value of a header that must not come twice.
pub(super) fn only<'a>(headers: &[Header<'a>], name: &str) -> Option<&'a [u8]> {
    let mut found = headers.iter().filter(|header| header.name.eq_ignore_ascii_case(name));
    let first = found.next()?;
    found.next().is_none().then_some(first.value)
}

/// Whether a header, a list which may come in parts, has this word in it.
pub(super) fn lists(headers: &[Header<'_>], name: &str, word: &str) -> bool {
    let values = headers.iter().filter(|header| header.name.eq_ignore_ascii_case(name));
    values
        .flat_map(|header| header.value.split(|&byte| byte == b','))
        .any(|said| said.trim_ascii().eq_ignore_ascii_case(word.as_bytes()))
}

/// Appends headers as they are configured.
pub(super) fn append(head: &mut String, headers: &[(Box<str>, Box<str>)]) {
    for (name, value) in headers {
        head.extend([name, ": ", value, "\r\n"]);
    }
}

/// What somebody sent, as far as it is worth a line in the log.
pub(super) fn excerpt(value: &[u8]) -> Box<str> {
    const LONGEST: usize = 128;
    String::from_utf8_lossy(&value[..value.len().min(LONGEST)]).into()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_example_of_the_rfc() {
        assert_eq!(accept(b"dGhlIHNhbXBsZSBub25jZQ=="), "s3pPLMBiTxaQ9kYGzzhZRbK+xOo=");
    }

    #[test]
    fn our_keys_differ() {
        let (key, other) = (new_key(), new_key());
        assert_eq!(key.len(), 24);
        assert_ne!(key, other);
        assert_eq!(BASE64.decode(key.as_bytes()).expect("a nonce").len(), 16);
    }

    #[test]
    fn words_of_lists() {
        let headers = [
            Header { name: "Connection", value: b"keep-alive , UPGRADE" },
            Header { name: "connection", value: b"x" },
            Header { name: "upgrade", value: b"websockets" },
        ];
        assert!(lists(&headers, "connection", "upgrade") && lists(&headers, "connection", "x"));
        assert!(!lists(&headers, "connection", "keep") && !lists(&headers, "upgrade", "websocket"));
        assert_eq!(only(&headers, "connection"), None);
        assert_eq!(only(&headers, "Upgrade"), Some(&b"websockets"[..]));
    }
}
