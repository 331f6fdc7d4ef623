//! Certificates and keys out of files, and what happens when they change.

use std::fs;
use std::os::unix::fs::PermissionsExt as _;

use super::*;

#[test]
fn a_new_certificate_is_for_new_sessions() {
    let authority = Authority::new();
    let (cert, key) = authority.issue("relay.test", |_parameters| {});
    let tls = ServerTls::open(&accept(&cert, &key), authority.folder()).expect("server");
    let client = client(&trust(&authority));
    let mut old = Pair::new(&client, &tls.config(), "relay.test");
    old.shake().expect("handshake");
    let first = tls.fingerprint();
    assert_eq!(tls.refresh(), Ok(false));

    // the certificate is there before its key
    let old_key = fs::read(&key).expect("read");
    authority.issue("relay.test", |_parameters| {});
    let new_key = fs::read(&key).expect("read");
    fs::write(&key, old_key).expect("write");
    assert_eq!(tls.refresh(), Err(ConfigFault::Mismatch { cert: cert.clone(), key: key.clone() }));
    assert_eq!((tls.refresh(), tls.fingerprint()), (Ok(false), first), "said once");
    fs::write(&key, new_key).expect("write");
    assert_eq!(tls.refresh(), Ok(true));
    assert_ne!(tls.fingerprint(), first);

    let mut new = Pair::new(&client, &tls.config(), "relay.test");
    new.shake().expect("handshake");
    assert_eq!(new.client.agreed().certificate, Some(tls.fingerprint()));
    old.server.seal(b"still there");
    old.shake().expect("payload");
    assert_eq!(old.client.got, b"still there");

    // half of it
    let text = fs::read(&cert).expect("read");
    fs::write(&cert, &text[..text.len() / 2]).expect("write");
    assert!(tls.refresh().is_err());
    fs::remove_file(&cert).expect("remove");
    assert!(matches!(tls.refresh(), Err(ConfigFault::Read { path, .. }) if path == cert));
    assert_eq!(tls.fingerprint(), new.client.agreed().certificate.expect("certificate"));
}

#[test]
fn authorities_are_read_again() {
    let (authority, other) = (Authority::new(), Authority::new());
    let (cert, key) = authority.issue("relay.test", |_parameters| {});
    let server = server(&accept(&cert, &key));
    let tls = ClientTls::open(&trust(&other)).expect("client");
    Pair::new(&tls.config(), &server, "relay.test").shake().expect_err("a stranger");
    fs::copy(authority.file(), other.file()).expect("copy");
    assert_eq!(tls.refresh(), Ok(true));
    Pair::new(&tls.config(), &server, "relay.test").shake().expect("handshake");
}

#[test]
fn a_certificate_of_our_own_is_made_once() {
    let state = tempfile::tempdir().expect("folder");
    let settings = |name: &str| AcceptTls {
        identity: Identity::SelfSigned { name: name.into() },
        client_ca: None,
        alpn: Vec::new(),
    };
    for name in ["relay", "relay.test", "192.0.2.1", "2001:db8::1"] {
        let made = ServerTls::open(&settings(name), state.path()).expect("made");
        let kept = ServerTls::open(&settings(name), state.path()).expect("kept");
        assert_eq!(made.fingerprint(), kept.fingerprint());
        let file = state.path().join("tls").join(format!("{name}.pem"));
        assert_eq!(fs::metadata(&file).expect("file").permissions().mode() & 0o777, 0o600);
        // by its pin, and by its own file as an authority
        for (verify, ca) in [(Verify::Pin(kept.fingerprint().0), None), (Verify::Ca, Some(file))] {
            let client = client(&ConnectTls { sni: None, verify, ca, identity: None, alpn: Vec::new() });
            Pair::new(&client, &kept.config(), name).shake().expect("handshake");
        }
    }
    for name in ["", "../relay", "a b", "a/b"] {
        let refused = ServerTls::open(&settings(name), state.path()).err();
        assert_eq!(refused, Some(ConfigFault::Name(name.into())));
    }
}

#[test]
fn files_that_will_not_do() {
    let authority = Authority::new();
    let (cert, key) = authority.issue("relay.test", |_parameters| {});
    let fault = |cert, key| ServerTls::open(&accept(cert, key), authority.folder()).err();
    assert_eq!(fault(&key, &key), Some(ConfigFault::NoCertificate(key.clone())));
    assert_eq!(fault(&cert, &cert), Some(ConfigFault::NoKey(cert.clone())));
    let missing = authority.folder().join("missing.pem");
    assert!(matches!(fault(&missing, &key), Some(ConfigFault::Read { path, .. }) if path == missing));
    let noise = authority.folder().join("noise.pem");
    fs::write(&noise, "noise").expect("write");
    assert!(matches!(fault(&noise, &key), Some(ConfigFault::Malformed { path, .. }) if path == noise));
    assert_eq!(fault(&cert, &noise), Some(ConfigFault::NoKey(noise.clone())));
    let both = authority.folder().join("both.pem");
    fs::write(&both, [fs::read(&key).expect("key"), fs::read(&cert).expect("cert")].concat()).expect("write");
    assert_eq!(fault(&both, &both), None);
    assert_eq!(server_name("a b"), Err(ConfigFault::Name("a b".into())));
    assert_eq!(server_name("[2001:db8::1]").expect("address").to_str(), "2001:db8::1");
    assert_eq!(server_name("relay.test.").expect("name").to_str(), "relay.test");
}

#[test]
fn keys_of_every_kind() {
    let folder = tempfile::tempdir().expect("folder");
    let at = |name: &str| folder.path().join(name);
    let run = |arguments: &str| {
        let arguments = arguments.replace('@', &format!("{}/", folder.path().display()));
        let done =
            std::process::Command::new("openssl").args(arguments.split(' ')).output().expect("openssl");
        assert!(done.status.success(), "{arguments}: {}", String::from_utf8_lossy(&done.stderr));
    };
    run("genrsa -traditional -out @pkcs1.key 2048");
    run("pkey -in @pkcs1.key -out @pkcs8.key");
    run("ecparam -name prime256v1 -genkey -noout -out @sec1.key");
    run("genpkey -algorithm ed25519 -out @ed25519.key");
    run("pkcs8 -topk8 -nocrypt -in @sec1.key -outform DER -out @der.key");
    for name in ["pkcs1", "pkcs8", "sec1", "ed25519", "der"] {
        run(&format!(
            "req -x509 -key @{name}.key -out @{name}.pem -subj /CN=relay -addext subjectAltName=DNS:relay"
        ));
        let server = server(&accept(&at(&format!("{name}.pem")), &at(&format!("{name}.key"))));
        let blind =
            ConnectTls { sni: None, verify: Verify::Insecure, ca: None, identity: None, alpn: Vec::new() };
        Pair::new(&client(&blind), &server, "relay").shake().expect(name);
    }
}
