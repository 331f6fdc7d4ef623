//! Sessions that are refused, each for its reason.

use proptest::prelude::*;
use rcgen::{PublicKeyData as _, date_time_ymd};

use super::*;

/// Both sides' reasons, as far as they have one: ours as a client's, then as a server's.
fn reasons(client: &Arc<ClientConfig>, server: &Arc<ServerConfig>, name: &str) -> [Option<&'static str>; 2] {
    let mut pair = Pair::new(client, server, name);
    let first = pair.shake().expect_err("a fault");
    // the one that fell tells the other
    let (bytes, other) = match first.side {
        Side::Client => (&pair.client.out, &mut pair.server),
        Side::Server => (&pair.server.out, &mut pair.client),
    };
    let second = other.take(bytes).err();
    let mut found = [None; 2];
    for fault in [Some(first), second].into_iter().flatten() {
        assert!(!fault.to_string().is_empty());
        found[usize::from(fault.side == Side::Server)] = Some(fault.as_str());
    }
    found
}

#[test]
fn certificates_that_will_not_do() {
    let authority = Authority::new();
    let (cert, key) = authority.issue("relay.test", |_parameters| {});
    let good = server(&accept(&cert, &key));
    let trusting = client(&trust(&authority));
    assert_eq!(reasons(&trusting, &good, "other.test"), [Some("tls_wrong_name"), Some("tls_alert")]);
    let stranger = client(&trust(&Authority::new()));
    assert_eq!(reasons(&stranger, &good, "relay.test"), [Some("tls_unknown_ca"), Some("tls_alert")]);
    let public = client(&ConnectTls { ca: None, ..trust(&authority) });
    assert_eq!(reasons(&public, &good, "relay.test"), [Some("tls_unknown_ca"), Some("tls_alert")]);
    for (name, before, after, reason) in [
        ("expired.test", 2001, 2002, "tls_certificate_expired"),
        ("early.test", 3001, 3002, "tls_certificate_not_yet_valid"),
    ] {
        let (cert, key) = authority.issue(name, |parameters| {
            parameters.not_before = date_time_ymd(before, 1, 1);
            parameters.not_after = date_time_ymd(after, 1, 1);
        });
        let found = reasons(&trusting, &server(&accept(&cert, &key)), name);
        assert_eq!(found, [Some(reason), Some("tls_alert")]);
        // who does not look is content
        let blind = client(&ConnectTls { verify: Verify::Insecure, ..trust(&authority) });
        Pair::new(&blind, &server(&accept(&cert, &key)), "any.test").shake().expect("handshake");
    }
}

#[test]
fn a_pin_is_for_one_certificate_or_its_key() {
    let authority = Authority::new();
    let (cert, key) = authority.issue("relay.test", |_parameters| {});
    let config = server(&accept(&cert, &key));
    let (chain, private) = authority.pair("relay.test");
    let public = rcgen::KeyPair::try_from(&private).expect("key").subject_public_key_info();
    let (whole, spki) = (Fingerprint::of(&chain[0]), Fingerprint::of_bytes(&public));
    for pin in [whole, spki] {
        let pinned = client(&ConnectTls { verify: Verify::Pin(pin.0), ..trust(&Authority::new()) });
        Pair::new(&pinned, &config, "whatever.test").shake().expect("handshake");
    }
    let wrong = client(&ConnectTls { verify: Verify::Pin([7; 32]), ..trust(&authority) });
    let fault = Pair::new(&wrong, &config, "relay.test").shake().expect_err("wrong pin");
    assert_eq!((fault.as_str(), &fault.cause), ("tls_wrong_pin", &Cause::WrongPin { found: whole }));
    assert!(fault.to_string().contains(&format!("connect.verify = \"pin:{whole}\"")), "{fault}");
}

#[test]
fn clients_without_the_right_certificate() {
    let (authority, stranger) = (Authority::new(), Authority::new());
    let (cert, key) = authority.issue("relay.test", |_parameters| {});
    let server = server(&AcceptTls { client_ca: Some(authority.file()), ..accept(&cert, &key) });
    let nobody = client(&trust(&authority));
    assert_eq!(reasons(&nobody, &server, "relay.test"), [Some("tls_no_client_certificate"); 2]);
    let identity = Some(stranger.issue("client.test", |_parameters| {}));
    let foreign = client(&ConnectTls { identity, ..trust(&authority) });
    assert_eq!(reasons(&foreign, &server, "relay.test"), [Some("tls_alert"), Some("tls_unknown_ca")]);
}

#[test]
fn nothing_in_common() {
    let authority = Authority::new();
    let (cert, key) = authority.issue("relay.test", |_parameters| {});
    let server = server(&AcceptTls { alpn: vec!["h2".into()], ..accept(&cert, &key) });
    let other = client(&ConnectTls { alpn: vec!["http/1.1".into()], ..trust(&authority) });
    assert_eq!(reasons(&other, &server, "relay.test"), [Some("tls_no_common_alpn"); 2]);
    // TLS 1.0, as OpenSSL 1.0 says hello in it
    let hello = b"\x16\x03\x01\x00\x2f\x01\x00\x00\x2b\x03\x01RRRRRRRRRRRRRRRRRRRRRRRRRRRRRRRR\x00\x00\x04\xc0\x13\x00\x2f\x01\x00";
    let mut peer = Peer::new(Tls::server(&server));
    assert_eq!(peer.take(hello).expect_err("too old").as_str(), "tls_no_common_version");
}

#[test]
fn what_is_no_tls() {
    let authority = Authority::new();
    let (cert, key) = authority.issue("relay.test", |_parameters| {});
    let (server, client) = (server(&accept(&cert, &key)), client(&trust(&authority)));
    for stranger in
        [&b"GET / HTTP/1.1\r\nHost: relay.test\r\n\r\n"[..], b"G", b"SSH-2.0-OpenSSH_9.6\r\n", b"\x16HELO"]
    {
        let mut peer = Peer::new(Tls::server(&server));
        let fault = peer.take(stranger).expect_err("no TLS");
        assert_eq!(fault.as_str(), "tls_not_tls");
        assert!(fault.to_string().contains("accept.transport"), "{fault}");
        assert_eq!(peer.out, [21, 3, 3, 0, 2, 2, 50], "an alert");
        assert_eq!(peer.take(b"more"), Err(fault));
        let mut peer = Peer::new(Tls::client(&client, server_name("relay.test").expect("name")));
        let fault = peer.take(stranger).expect_err("no TLS");
        assert!(fault.to_string().contains("connect.transport"), "{fault}");
    }
    let mut peer = Peer::new(Tls::server(&server));
    assert_eq!(peer.take(&[22, 3, 1, 0xff, 0xff]).expect_err("too long").as_str(), "tls_too_long_record");
    assert_eq!(
        Peer::new(Tls::server(&server)).tls.end_of_stream(0).expect_err("closed").as_str(),
        "tls_closed"
    );
}

#[test]
fn a_handshake_has_an_end() {
    let authority = Authority::new();
    let (cert, key) = authority.issue("relay.test", |_parameters| {});
    let mut peer = Peer::new(Tls::server(&server(&accept(&cert, &key))));
    // a hello of 65,000 bytes, which comes in small records
    let mut fault = peer.take(&[22, 3, 1, 0, 4, 1, 0, 0xfd, 0xe8]).err();
    for _ in 0..1000 {
        let record = [&[22, 3, 1, 0, 100][..], &[0; 100]].concat();
        fault = fault.or_else(|| peer.take(&record).err());
    }
    assert_eq!(fault.expect("an end").as_str(), "tls_too_long_handshake");
}

#[test]
fn changed_records_are_refused() {
    let authority = Authority::new();
    let client = client(&trust(&authority));
    for (server, suite) in every_suite(&authority) {
        // the version in a head of TLS 1.3 does not count
        for at in [0, 3, 4, 5, 12, 20, 30] {
            let mut pair = Pair::new(&client, &server, "relay.test");
            pair.shake().expect("handshake");
            pair.client.seal(b"0123456789");
            let mut record = mem::take(&mut pair.client.out);
            record[at] ^= 1;
            record.extend([0; 300]);
            let fault = pair.server.take(&record).expect_err("changed");
            assert!(
                ["tls_bad_record", "tls_misbehaved", "tls_too_long_record"].contains(&fault.as_str()),
                "{suite:?} {at} {fault:?}"
            );
            let bytes = mem::take(&mut pair.server.out);
            assert_eq!(pair.client.take(&bytes).expect_err("alert").as_str(), "tls_alert");
        }
    }
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(200))]

    #[test]
    fn nothing_makes_it_panic(
        noise in proptest::collection::vec(any::<u8>(), 0..600),
        kind in 20_u8..25,
        is_framed: bool,
        has_session: bool,
    ) {
        let authority = Authority::new();
        let (cert, key) = authority.issue("relay.test", |_parameters| {});
        let mut pair = Pair::new(&client(&trust(&authority)), &server(&accept(&cert, &key)), "relay.test");
        if has_session {
            pair.shake().expect("handshake");
        }
        let length = u16::try_from(noise.len()).expect("short").to_be_bytes();
        let head = [kind, 3, 3, length[0], length[1]];
        let bytes = if is_framed { [&head[..], &noise].concat() } else { noise };
        for side in [&mut pair.client, &mut pair.server] {
            _ = side.take(&bytes);
            _ = side.take(&bytes);
        }
    }
}
