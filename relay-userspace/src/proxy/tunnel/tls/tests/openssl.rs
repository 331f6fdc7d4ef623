//! OpenSSL's own programs as the other side.

use std::io::{BufRead as _, BufReader, Read as _, Write as _};
use std::net::{TcpListener, TcpStream};
use std::process::{Child, Command, Stdio};
use std::time::Duration;

use super::*;

const PATIENCE: Duration = Duration::from_secs(20);

/// A child that ends with its test.
struct Program(Child);

impl Drop for Program {
    fn drop(&mut self) {
        _ = self.0.kill();
        _ = self.0.wait();
    }
}

fn openssl(arguments: &[&str]) -> Program {
    let mut command = Command::new("openssl");
    command.args(arguments).stdin(Stdio::piped()).stdout(Stdio::piped()).stderr(Stdio::null());
    Program(command.spawn().expect("openssl"))
}

/// Carries bytes between a session and its socket until `is_enough`.
fn carry(peer: &mut Peer, stream: &mut TcpStream, is_enough: impl Fn(&Peer) -> bool) -> Result<(), TlsFault> {
    stream.set_read_timeout(Some(PATIENCE)).expect("timeout");
    peer.take(&[])?;
    let mut piece = [0; 1000];
    loop {
        stream.write_all(&mem::take(&mut peer.out)).expect("write");
        if is_enough(peer) {
            return Ok(());
        }
        let length = stream.read(&mut piece).expect("read");
        if length == 0 {
            return peer.tls.end_of_stream(peer.left.len());
        }
        let taken = peer.take(&piece[..length]);
        if taken.is_err() {
            stream.write_all(&peer.out).expect("write");
        }
        taken?;
    }
}

/// A server that sends each line back, turned round; and its address.
fn reversing(authority: &Authority, options: &[&str]) -> (Program, String) {
    let (cert, key) = authority.issue("relay.test", |_parameters| {});
    let (cert, key) = (cert.display().to_string(), key.display().to_string());
    let base = ["s_server", "-accept", "127.0.0.1:0", "-rev", "-cert", &cert, "-key", &key];
    let mut program = openssl(&[&base, options].concat());
    let lines = BufReader::new(program.0.stdout.take().expect("output")).lines();
    let address =
        lines.map_while(Result::ok).find_map(|line| line.strip_prefix("ACCEPT ").map(str::to_owned));
    (program, address.expect("address"))
}

#[test]
fn our_client_and_its_server() {
    let authority = Authority::new();
    let client = client(&trust(&authority));
    for options in [&["-tls1_3"][..], &["-tls1_2"], &["-tls1_2", "-cipher", "ECDHE-ECDSA-CHACHA20-POLY1305"]]
    {
        let (_program, address) = reversing(&authority, options);
        for is_resumed in [false, true] {
            let mut peer = Peer::new(Tls::client(&client, server_name("relay.test").expect("name")));
            let mut stream = TcpStream::connect(&address).expect("connect");
            carry(&mut peer, &mut stream, |peer| !peer.tls.is_handshaking()).expect("handshake");
            // versions differ between rounds; a ticket of another version is not used
            assert!(is_resumed || !peer.agreed().is_resumed || options == ["-tls1_2"]);
            peer.seal(b"hello relay\n");
            carry(&mut peer, &mut stream, |peer| peer.got.ends_with(b"\n")).expect("answer");
            assert_eq!(peer.got, b"yaler olleh\n", "{options:?}");
            peer.seal(b"CLOSE\n");
            carry(&mut peer, &mut stream, |peer| peer.has_ended).expect("end");
        }
    }
}

#[test]
fn its_client_and_our_server() {
    let authority = Authority::new();
    let (cert, key) = authority.issue("relay.test", |_parameters| {});
    let server = server(&accept(&cert, &key));
    let ca = authority.file().display().to_string();
    for options in [&["-tls1_3"][..], &["-tls1_2"], &["-tls1_2", "-cipher", "ECDHE-ECDSA-CHACHA20-POLY1305"]]
    {
        let listener = TcpListener::bind("127.0.0.1:0").expect("listener");
        let address = listener.local_addr().expect("address").to_string();
        let base = ["s_client", "-connect", &address, "-servername", "relay.test", "-CAfile", &ca];
        let strict = ["-verify_return_error", "-verify_hostname", "relay.test"];
        let mut program = openssl(&[&base[..], &strict, options].concat());
        let mut stream = listener.accept().expect("accept").0;
        let mut peer = Peer::new(Tls::server(&server));
        carry(&mut peer, &mut stream, |peer| !peer.tls.is_handshaking()).expect("handshake");
        let mut input = program.0.stdin.take().expect("input");
        input.write_all(b"one\n").expect("input");
        carry(&mut peer, &mut stream, |peer| peer.got == b"one\n").expect("payload");
        if options == ["-tls1_3"] {
            // a command: new keys on both sides
            input.write_all(b"K\n").expect("input");
            std::thread::sleep(Duration::from_millis(100));
        }
        input.write_all(b"two\n").expect("input");
        carry(&mut peer, &mut stream, |peer| peer.got == b"one\ntwo\n").expect("payload");
        peer.seal(b"what we say\n");
        peer.tls.close(&mut peer.out);
        carry(&mut peer, &mut stream, |peer| peer.out.is_empty()).expect("answer");
        drop(stream);
        let mut said = String::new();
        program.0.stdout.take().expect("output").read_to_string(&mut said).expect("output");
        // it stops at the end of its input, whatever has come
        drop(input);
        assert!(said.contains("what we say"), "{options:?}: {said}");
        assert!(said.contains("Verify return code: 0 (ok)") || said.contains("Verification: OK"), "{said}");
    }
}

#[test]
fn its_client_does_not_trust_us() {
    let authority = Authority::new();
    let (cert, key) = authority.issue("relay.test", |_parameters| {});
    let server = server(&accept(&cert, &key));
    for version in ["-tls1_3", "-tls1_2"] {
        let listener = TcpListener::bind("127.0.0.1:0").expect("listener");
        let address = listener.local_addr().expect("address").to_string();
        let _program = openssl(&["s_client", "-connect", &address, "-verify_return_error", version]);
        let mut stream = listener.accept().expect("accept").0;
        let mut peer = Peer::new(Tls::server(&server));
        let fault = carry(&mut peer, &mut stream, |_peer| false).expect_err("an alert");
        assert_eq!(fault.cause, Cause::Alert(rustls::AlertDescription::UnknownCA));
        assert!(fault.to_string().contains("accept.cert"), "{fault}");
    }
}

#[test]
fn its_old_client_is_refused() {
    let authority = Authority::new();
    let (cert, key) = authority.issue("relay.test", |_parameters| {});
    let listener = TcpListener::bind("127.0.0.1:0").expect("listener");
    let address = listener.local_addr().expect("address").to_string();
    let _program = openssl(&["s_client", "-connect", &address, "-tls1_1", "-cipher", "ALL:@SECLEVEL=0"]);
    let mut stream = listener.accept().expect("accept").0;
    let mut peer = Peer::new(Tls::server(&server(&accept(&cert, &key))));
    let fault = carry(&mut peer, &mut stream, |_peer| false).expect_err("too old");
    assert_eq!(fault.as_str(), "tls_no_common_version");
}
