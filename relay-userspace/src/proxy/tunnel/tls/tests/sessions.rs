//! Sessions that go well.

use proptest::prelude::*;
use rustls::crypto::aws_lc_rs::cipher_suite::TLS13_AES_128_GCM_SHA256;

use super::*;

#[test]
fn all_ciphers_carry_what_comes_in_pieces() {
    let authority = Authority::new();
    let client = client(&trust(&authority));
    let payload: Vec<u8> = (0..40_000_u32).flat_map(u32::to_be_bytes).collect();
    for (server, suite) in every_suite(&authority) {
        for piece in [1, 2, 3, 7, 4096, usize::MAX] {
            let payload = &payload[..payload.len().min(piece.saturating_mul(1000))];
            let mut pair = Pair::new(&client, &server, "relay.test");
            pair.run(|| piece).expect("handshake");
            assert!(!pair.client.tls.is_handshaking() && !pair.server.tls.is_handshaking());
            assert_eq!(pair.client.agreed().suite, suite);
            assert_eq!(pair.server.agreed().version, suite.version().version);
            pair.client.seal(payload);
            pair.server.seal(payload);
            pair.run(|| piece).expect("payload");
            assert!(
                pair.client.got == payload && pair.server.got == payload,
                "{suite:?} in pieces of {piece}"
            );
        }
    }
}

#[test]
fn an_end_is_said_once_and_the_other_side_goes_on() {
    let authority = Authority::new();
    let client = client(&trust(&authority));
    for (server, _suite) in every_suite(&authority) {
        let mut pair = Pair::new(&client, &server, "relay.test");
        pair.shake().expect("handshake");
        pair.client.seal(b"last words");
        pair.client.tls.close(&mut pair.client.out);
        let said = pair.client.out.len();
        pair.client.tls.close(&mut pair.client.out);
        assert_eq!(pair.client.out.len(), said);
        pair.client.out.extend_from_slice(b"what is behind it does not count");
        pair.shake().expect("end");
        assert!(pair.server.has_ended && !pair.client.has_ended);
        assert_eq!(pair.server.got, b"last words");
        pair.server.seal(b"an answer");
        pair.shake().expect("answer");
        assert_eq!(pair.client.got, b"an answer");
        assert_eq!(pair.client.tls.end_of_stream(0), Ok(()));
    }
}

#[test]
fn who_comes_back_has_a_ticket() {
    let authority = Authority::new();
    for (server, suite) in every_suite(&authority) {
        let client = client(&trust(&authority));
        for is_resumed in [false, true, true] {
            let mut pair = Pair::new(&client, &server, "relay.test");
            pair.shake().expect("handshake");
            assert_eq!(pair.client.agreed().is_resumed, is_resumed, "{suite:?}");
            assert_eq!(pair.server.agreed().is_resumed, is_resumed, "{suite:?}");
            pair.server.seal(b"again");
            pair.shake().expect("payload");
            assert_eq!(pair.client.got, b"again");
        }
    }
}

#[test]
fn of_many_that_begin_at_once_each_has_a_ticket() {
    let authority = Authority::new();
    let (cert, key) = authority.issue("relay.test", |_parameters| {});
    let (client, server) = (client(&trust(&authority)), server(&accept(&cert, &key)));
    let mut resumed = 0;
    // each brings two: 1, 2, 4, and so on
    for burst in [1, 2, 4, 8, 16, 32] {
        let mut pairs: Vec<Pair> = (0..burst).map(|_| Pair::new(&client, &server, "relay.test")).collect();
        for pair in &mut pairs {
            // takes its ticket, before anybody has an answer
            pair.client.take(&[]).expect("hello");
        }
        for pair in &mut pairs {
            pair.shake().expect("handshake");
            resumed += u32::from(pair.client.agreed().is_resumed);
        }
    }
    assert_eq!(resumed, 62);
}

#[test]
fn protocols_are_agreed_on() {
    let authority = Authority::new();
    let (cert, key) = authority.issue("relay.test", |_parameters| {});
    let accepted = AcceptTls { alpn: vec!["h2".into(), "http/1.1".into()], ..accept(&cert, &key) };
    let server = server(&accepted);
    for (offered, agreed) in [(&["http/1.1"][..], Some("http/1.1")), (&[], None)] {
        let alpn = offered.iter().map(|protocol| (*protocol).into()).collect();
        let client = client(&ConnectTls { alpn, ..trust(&authority) });
        let mut pair = Pair::new(&client, &server, "relay.test");
        pair.shake().expect("handshake");
        assert_eq!(pair.client.agreed().alpn.as_deref(), agreed);
        assert_eq!(pair.server.agreed().alpn.as_deref(), agreed);
    }
}

#[test]
fn addresses_are_names_too() {
    let authority = Authority::new();
    for address in ["192.0.2.1", "2001:db8::1"] {
        let (cert, key) = authority.issue(address, |_parameters| {});
        let mut pair = Pair::new(&client(&trust(&authority)), &server(&accept(&cert, &key)), address);
        pair.shake().expect("handshake");
    }
}

#[test]
fn client_certificates_are_looked_at() {
    let authority = Authority::new();
    let (cert, key) = authority.issue("relay.test", |_parameters| {});
    let server = server(&AcceptTls { client_ca: Some(authority.file()), ..accept(&cert, &key) });
    let identity = Some(authority.issue("client.test", |_parameters| {}));
    let client = client(&ConnectTls { identity, ..trust(&authority) });
    for _resumed in [false, true] {
        let mut pair = Pair::new(&client, &server, "relay.test");
        pair.shake().expect("handshake");
        let (chain, _key) = authority.pair("client.test");
        assert_eq!(pair.server.agreed().certificate, Some(Fingerprint::of(&chain[0])));
    }
}

#[test]
fn keys_that_are_used_up_are_changed() {
    let authority = Authority::new();
    let client = client(&trust(&authority));
    for (server, suite) in every_suite(&authority) {
        let mut pair = Pair::new(&client, &server, "relay.test");
        pair.shake().expect("handshake");
        let State::Traffic(traffic) = &mut pair.client.tls.state else { panic!("no traffic") };
        traffic.limit = 4;
        let is_tls13 = suite.tls13().is_some();
        for round in 0..20_u8 {
            let sealed = pair.client.tls.seal(&[round], &mut pair.client.out);
            if is_tls13 {
                sealed.expect("seal");
            } else if let Err(fault) = sealed {
                assert_eq!(fault.as_str(), "tls_exhausted");
                break;
            }
            pair.shake().expect("payload");
        }
        let all = if is_tls13 { 20 } else { 3 };
        assert_eq!(pair.server.got, (0..all).collect::<Vec<u8>>(), "{suite:?}");
    }
}

#[test]
fn rustls_changes_its_keys() {
    let authority = Authority::new();
    let (cert, key) = authority.issue("relay.test", |_parameters| {});
    let config = only(&server(&accept(&cert, &key)), TLS13_AES_128_GCM_SHA256, &authority);
    let mut theirs = rustls::ServerConnection::new(config).expect("connection");
    let mut ours =
        Peer::new(Tls::client(&client(&trust(&authority)), server_name("relay.test").expect("name")));
    ours.take(&[]).expect("hello");
    for round in 0..40 {
        while !ours.out.is_empty() || theirs.wants_write() {
            let mut bytes = &ours.out[..];
            while !bytes.is_empty() {
                theirs.read_tls(&mut bytes).expect("read");
                theirs.process_new_packets().expect("packets");
            }
            ours.out.clear();
            let mut answer = Vec::new();
            while theirs.wants_write() {
                theirs.write_tls(&mut answer).expect("write");
            }
            ours.take(&answer).expect("answer");
        }
        std::io::Write::write_all(&mut theirs.writer(), &[round]).expect("payload");
        theirs.refresh_traffic_keys().expect("keys");
        ours.seal(&[round]);
    }
    assert_eq!(ours.got, (0..39).collect::<Vec<u8>>());
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(24))]

    #[test]
    fn any_split_carries_any_payload(
        pieces in proptest::collection::vec(1_usize..20_000, 1..50),
        up in proptest::collection::vec(0_usize..40_000, 0..5),
        down in proptest::collection::vec(0_usize..40_000, 0..5),
    ) {
        let authority = Authority::new();
        let client = client(&trust(&authority));
        let (server, _suite) = every_suite(&authority).nth(up.len()).expect("a suite");
        let mut pair = Pair::new(&client, &server, "relay.test");
        let mut pieces = pieces.into_iter().cycle();
        let mut piece = || pieces.next().unwrap_or(1);
        pair.run(&mut piece).expect("handshake");
        let mut sent = (Vec::new(), Vec::new());
        for length in &up {
            let payload = vec![*length as u8; *length];
            pair.client.seal(&payload);
            sent.0.extend(payload);
        }
        for length in &down {
            let payload = vec![*length as u8; *length];
            pair.server.seal(&payload);
            sent.1.extend(payload);
        }
        pair.run(&mut piece).expect("payload");
        prop_assert!(pair.server.got == sent.0 && pair.client.got == sent.1);
    }
}
