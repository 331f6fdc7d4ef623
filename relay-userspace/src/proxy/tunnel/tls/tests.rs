//! TLS against itself, rustls and OpenSSL.

mod authority;
mod faults;
mod openssl;
mod sessions;
mod settings;

use std::sync::Arc;

use rustls::crypto::{CryptoProvider, aws_lc_rs};
use rustls::{ClientConfig, ServerConfig, SupportedCipherSuite};

use self::authority::Authority;
use super::*;
use crate::rule::tunnel::{AcceptTls, ConnectTls, Identity, Verify};

/// One side, with what has come and what goes.
struct Peer {
    tls: Tls,
    /// What has to be presented again.
    left: Vec<u8>,
    got: Vec<u8>,
    out: Vec<u8>,
    has_ended: bool,
}

impl Peer {
    fn new(tls: Result<Tls, TlsFault>) -> Self {
        let tls = tls.expect("session");
        Self { tls, left: Vec::new(), got: Vec::new(), out: Vec::new(), has_ended: false }
    }

    fn take(&mut self, bytes: &[u8]) -> Result<(), TlsFault> {
        self.left.extend_from_slice(bytes);
        let received = self.tls.receive(&mut self.left, &mut self.out)?;
        self.got.extend_from_slice(&self.left[..received.payload]);
        self.left.drain(..received.rest);
        assert!(self.left.len() <= Tls::MOST_REST);
        self.has_ended |= received.end;
        Ok(())
    }

    fn seal(&mut self, payload: &[u8]) {
        self.tls.seal(payload, &mut self.out).expect("seal");
    }

    fn agreed(&self) -> &Agreed {
        self.tls.agreed().expect("agreed")
    }
}

/// A backend's side and a client's, whose bytes travel in pieces.
struct Pair {
    client: Peer,
    server: Peer,
}

impl Pair {
    fn new(client: &Arc<ClientConfig>, server: &Arc<ServerConfig>, name: &str) -> Self {
        let name = server_name(name).expect("name");
        Self { client: Peer::new(Tls::client(client, name)), server: Peer::new(Tls::server(server)) }
    }

    /// Until nobody has anything to say. `piece` is asked how long each piece may be.
    fn run(&mut self, mut piece: impl FnMut() -> usize) -> Result<(), TlsFault> {
        self.client.take(&[])?;
        loop {
            let (up, down) = (mem::take(&mut self.client.out), mem::take(&mut self.server.out));
            if up.is_empty() && down.is_empty() {
                return Ok(());
            }
            for (bytes, to) in [(up, &mut self.server), (down, &mut self.client)] {
                let mut rest = &bytes[..];
                while !rest.is_empty() {
                    let (now, later) = rest.split_at(piece().clamp(1, rest.len()));
                    to.take(now)?;
                    rest = later;
                }
            }
        }
    }

    fn shake(&mut self) -> Result<(), TlsFault> {
        self.run(|| usize::MAX)
    }
}

fn accept(cert: &std::path::Path, key: &std::path::Path) -> AcceptTls {
    AcceptTls {
        identity: Identity::Files { cert: cert.into(), key: key.into() },
        client_ca: None,
        alpn: Vec::new(),
    }
}

fn trust(authority: &Authority) -> ConnectTls {
    ConnectTls { sni: None, verify: Verify::Ca, ca: Some(authority.file()), identity: None, alpn: Vec::new() }
}

fn server(settings: &AcceptTls) -> Arc<ServerConfig> {
    ServerTls::open(settings, std::path::Path::new("/nonexistent")).expect("server").config()
}

fn client(settings: &ConnectTls) -> Arc<ClientConfig> {
    ClientTls::open(settings).expect("client").config()
}

/// The same server with nothing else than one cipher suite.
fn only(config: &ServerConfig, suite: SupportedCipherSuite, authority: &Authority) -> Arc<ServerConfig> {
    let provider = CryptoProvider { cipher_suites: vec![suite], ..aws_lc_rs::default_provider() };
    let (chain, key) = authority.pair("relay.test");
    let builder = ServerConfig::builder_with_provider(provider.into());
    let mut only = builder
        .with_protocol_versions(&[suite.version()])
        .expect("version")
        .with_no_client_auth()
        .with_single_cert(chain, key)
        .expect("certificate");
    only.ticketer = config.ticketer.clone();
    only.session_storage = config.session_storage.clone();
    only.enable_secret_extraction = true;
    only.into()
}

/// Every form that records have: both versions, with all ciphers.
fn every_suite(authority: &Authority) -> impl Iterator<Item = (Arc<ServerConfig>, SupportedCipherSuite)> {
    let (cert, key) = authority.issue("relay.test", |_parameters| {});
    let base = server(&accept(&cert, &key));
    // the certificate's key is not RSA's
    let suites = aws_lc_rs::default_provider().cipher_suites.into_iter();
    let suites = suites.filter(|suite| !format!("{suite:?}").contains("_RSA_"));
    suites.map(move |suite| (only(&base, suite, authority), suite))
}
