//! What must hold for every header, however it comes in.

use std::net::{IpAddr, SocketAddr};

use proptest::collection::vec;
use proptest::prelude::*;

use super::{Flaw, Header, Origin, parse, write};
use crate::rule::ProxyVersion;

fn ends() -> impl Strategy<Value = SocketAddr> {
    (any::<IpAddr>(), any::<u16>()).prop_map(|(address, port)| SocketAddr::new(address, port))
}

fn origins() -> impl Strategy<Value = Origin> {
    let client = (ends(), ends()).prop_map(|(source, destination)| Origin::client(source, destination));
    prop_oneof![1 => Just(Origin::Local), 1 => Just(Origin::Unknown), 6 => client]
}

/// Of any type but the checksum's.
fn tlvs() -> impl Strategy<Value = Vec<u8>> {
    let one = (4..=255u8, vec(any::<u8>(), 0..300)).prop_map(|(kind, value)| {
        let [high, low] = (value.len() as u16).to_be_bytes();
        [&[kind, high, low], &value[..]].concat()
    });
    vec(one, 0..5).prop_map(|all| all.concat())
}

fn headers() -> impl Strategy<Value = Header> {
    (origins(), tlvs()).prop_map(|(origin, tlvs)| match origin {
        Origin::Local => Header { origin, tlvs: Vec::new() },
        _ => Header { origin, tlvs },
    })
}

/// The header as far as a version can say it.
fn sayable(header: &Header, version: ProxyVersion) -> Header {
    match (version, header.origin) {
        (ProxyVersion::V2, _) => header.clone(),
        (ProxyVersion::V1, Origin::Local) => Header { origin: Origin::Unknown, tlvs: Vec::new() },
        (ProxyVersion::V1, origin) => Header { origin, tlvs: Vec::new() },
    }
}

fn versions() -> impl Strategy<Value = ProxyVersion> {
    proptest::sample::select(&ProxyVersion::ALL[..])
}

proptest! {
    #[test]
    fn what_is_written_reads_back_byte_by_byte(header in headers(), version in versions(), rest in vec(any::<u8>(), 0..40)) {
        let bytes = write(&header, version);
        for end in 0..bytes.len() {
            prop_assert_eq!(parse(&bytes[..end]), Ok(None), "at {}", end);
        }
        let expected = Ok(Some((sayable(&header, version), bytes.len())));
        prop_assert_eq!(parse(&bytes), expected.clone());
        prop_assert_eq!(parse(&[&bytes[..], &rest].concat()), expected);
    }

    #[test]
    fn nothing_makes_it_panic_or_wait_for_ever(start in 0..3usize, noise in vec(any::<u8>(), 0..20_000)) {
        let starts: [&[u8]; 3] = [b"", b"PROXY ", super::SIGNATURE];
        let data = [starts[start], &noise].concat();
        let answer = parse(&data);
        if data.len() >= 16 * 1024 {
            prop_assert!(answer != Ok(None));
        }
        if let Ok(Some((_, length))) = answer {
            prop_assert!(length <= data.len());
        }
    }

    #[test]
    fn a_changed_byte_never_makes_it_longer_than_it_says(header in headers(), version in versions(), at: prop::sample::Index, byte: u8) {
        let mut bytes = write(&header, version);
        let at = at.index(bytes.len());
        bytes[at] = byte;
        if let Ok(Some((_, length))) = parse(&bytes) {
            prop_assert!(length <= bytes.len());
        }
    }
}

const TCP4: &[u8] = b"\xc0\0\x02\x07\xc6\x33\x64\x01\0\x05\x01\xbb";

fn binary(command: u8, family: u8, body: &[u8]) -> Vec<u8> {
    let length = (body.len() as u16).to_be_bytes();
    [&super::SIGNATURE[..], &[command, family], &length, body].concat()
}

#[test]
fn lines_that_are_none() {
    for (text, flaw) in [
        ("GET / HTTP/1.1\r\n", Flaw::Missing),
        ("PROXZ", Flaw::Missing),
        ("proxy TCP4", Flaw::Missing),
        ("\r\n\r\nx", Flaw::Missing),
        ("PROXY \r\n", Flaw::Malformed),
        ("PROXY TCP4 1.2.3.4 5.6.7.8 1\r\n", Flaw::Malformed),
        ("PROXY TCP4 1.2.3.4 5.6.7.8 1 2 \r\n", Flaw::Malformed),
        ("PROXY TCP4  1.2.3.4 5.6.7.8 1 2\r\n", Flaw::Malformed),
        ("PROXY TCP4 1.2.3.4 5.6.7.8 1 2\n", Flaw::Malformed),
        ("PROXY TCP4 1.2.3.4 5.6.7.8 01 2\r\n", Flaw::Malformed),
        ("PROXY TCP4 1.2.3.4 5.6.7.8 +1 2\r\n", Flaw::Malformed),
        ("PROXY TCP4 1.2.3.4 5.6.7.8 65536 2\r\n", Flaw::Malformed),
        ("PROXY TCP4 1.2.3.004 5.6.7.8 1 2\r\n", Flaw::Malformed),
        ("PROXY TCP4 ::1 ::2 1 2\r\n", Flaw::Malformed),
        ("PROXY TCP6 1.2.3.4 5.6.7.8 1 2\r\n", Flaw::Malformed),
        ("PROXY UDP4 1.2.3.4 5.6.7.8 1 2\r\n", Flaw::Malformed),
    ] {
        assert_eq!(parse(text.as_bytes()), Err(flaw), "{text:?}");
    }
}

#[test]
fn the_longest_line_is_taken_and_a_longer_one_is_not() {
    let v6 = "ffff:ffff:ffff:ffff:ffff:ffff:ffff:ffff";
    let longest = format!("PROXY UNKNOWN {v6} {v6} 65535 65535\r\n");
    assert_eq!(longest.len(), 107);
    assert_eq!(parse(longest.as_bytes()).map(|found| found.map(|(_, length)| length)), Ok(Some(107)));
    let endless = [b"PROXY UNKNOWN ".as_slice(), &[b'x'; 200]].concat();
    assert_eq!(parse(&endless[..106]), Ok(None));
    assert_eq!(parse(&endless[..107]), Err(Flaw::TooLong));
}

#[test]
fn binary_headers_that_are_none() {
    for (bytes, flaw) in [
        (binary(0x11, 0x11, TCP4), Flaw::Malformed),
        (binary(0x22, 0x11, TCP4), Flaw::Malformed),
        (binary(0x21, 0x13, TCP4), Flaw::Malformed),
        (binary(0x21, 0x41, TCP4), Flaw::Malformed),
        (binary(0x21, 0x11, &TCP4[..11]), Flaw::Malformed),
        (binary(0x21, 0x21, TCP4), Flaw::Malformed),
        (binary(0x21, 0x31, &[0; 215]), Flaw::Malformed),
        (binary(0x21, 0x11, &[TCP4, b"\x05\0\x02x"].concat()), Flaw::Malformed),
        (binary(0x21, 0x11, &[TCP4, b"\x05\0"].concat()), Flaw::Malformed),
        (binary(0x21, 0x11, &[TCP4, &[0; 17_000]].concat())[..16].to_vec(), Flaw::TooLong),
    ] {
        assert_eq!(parse(&bytes), Err(flaw), "{bytes:x?}");
    }
}

#[test]
fn whose_connection_it_is_may_be_unsaid() {
    for (bytes, origin, tlvs) in [
        (binary(0x20, 0x11, TCP4), Origin::Local, &b""[..]),
        (binary(0x20, 0x00, b"nonsense"), Origin::Local, b""),
        (binary(0x21, 0x00, b"\x05\0\x01x"), Origin::Unknown, b"\x05\0\x01x"),
        (binary(0x21, 0x12, TCP4), Origin::Unknown, b""),
        (binary(0x21, 0x31, &[0; 216]), Origin::Unknown, b""),
        (b"PROXY UNKNOWN\r\n".to_vec(), Origin::Unknown, b""),
        (b"PROXY UNKNOWN ::1 ::2 3 4 5\r\n".to_vec(), Origin::Unknown, b""),
    ] {
        let header = Header { origin, tlvs: tlvs.to_vec() };
        assert_eq!(parse(&bytes), Ok(Some((header, bytes.len()))), "{bytes:x?}");
    }
}

#[test]
fn a_checksum_does_not_go_on() {
    let tlvs = b"\x01\0\x02h2\x03\0\x04abcd\x05\0\x01x";
    let (header, _) = parse(&binary(0x21, 0x11, &[TCP4, tlvs].concat())).unwrap().unwrap();
    assert_eq!(header.tlvs, b"\x01\0\x02h2\x05\0\x01x");
}
