//! `openssl s_client` and `s_server`, OpenSSL's own ends of TLS: processes in a namespace, with a TCP connection for a
//! terminal.

use std::io::Write as _;
use std::net::{Ipv4Addr, SocketAddr, TcpListener, TcpStream};
use std::os::fd::OwnedFd;
use std::path::Path;
use std::process::{Command, Stdio};

use crate::netns::NetNs;
use crate::programs::{Running, await_listener};
use crate::traffic::Client;

/// A running `openssl s_client` or `s_server`.
pub struct Openssl(#[expect(dead_code, reason = "it ends with this")] Running);

impl Openssl {
    /// A TLS connection, of which the client's side is in clear.
    pub fn client(ns: &NetNs, folder: &Path, to: SocketAddr, args: &[&str]) -> (Self, Client) {
        let (clear, terminal) = ns.run(|| {
            let listener = TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).expect("bind");
            let address = listener.local_addr().expect("address");
            let clear = TcpStream::connect(address).expect("connect");
            (clear, listener.accept().expect("accept").0)
        });
        clear.set_read_timeout(Some(crate::traffic::PATIENCE)).expect("timeout");
        let to = to.to_string();
        let args = [&["s_client", "-connect", &to, "-quiet", "-nocommands"], args].concat();
        (Self::start(ns, folder, &args, terminal), Client(clear))
    }

    /// A TLS server for one connection, which is handed on in clear to `backend`.
    pub fn server(ns: &NetNs, folder: &Path, port: u16, backend: u16, args: &[&str]) -> Self {
        let terminal = ns.run(|| TcpStream::connect((Ipv4Addr::LOCALHOST, backend))).expect("a backend");
        let accept = port.to_string();
        let args = [&["s_server", "-accept", &accept, "-naccept", "1", "-quiet"], args].concat();
        let server = Self::start(ns, folder, &args, terminal);
        await_listener(ns, port);
        server
    }

    fn start(ns: &NetNs, folder: &Path, args: &[&str], terminal: TcpStream) -> Self {
        let input = OwnedFd::from(terminal);
        let output = input.try_clone().expect("descriptor");
        let mut command = Command::new("openssl");
        command.args(args).current_dir(folder).stdin(input).stdout(output).stderr(Stdio::null());
        Self(Running::start(ns, &mut command, "openssl"))
    }
}

/// The certificate that a server shows, as PEM. `None`: no handshake came about.
pub fn certificate(ns: &NetNs, to: SocketAddr, name: &str) -> Option<String> {
    let to = to.to_string();
    let said = run(ns, &["s_client", "-connect", &to, "-servername", name], b"");
    let said = String::from_utf8_lossy(&said);
    let begin = said.find("-----BEGIN CERTIFICATE-----")?;
    let length = said[begin..].find("-----END CERTIFICATE-----")?;
    Some(format!("{}-----END CERTIFICATE-----\n", &said[begin..begin + length]))
}

/// The name in a certificate's subject.
pub fn subject(ns: &NetNs, certificate: &str) -> String {
    let said = run(ns, &["x509", "-noout", "-subject", "-nameopt", "multiline"], certificate.as_bytes());
    let said = String::from_utf8_lossy(&said);
    let name = said.lines().find_map(|line| line.trim().strip_prefix("commonName"));
    name.unwrap_or_default().trim_matches([' ', '=']).to_owned()
}

/// A certificate's SHA-256, in base 64.
pub fn fingerprint(ns: &NetNs, certificate: &str) -> String {
    let der = run(ns, &["x509", "-outform", "DER"], certificate.as_bytes());
    let digest = run(ns, &["dgst", "-sha256", "-binary"], &der);
    String::from_utf8_lossy(&run(ns, &["base64"], &digest)).trim().to_owned()
}

/// What `openssl` prints, given something to read.
fn run(ns: &NetNs, args: &[&str], input: &[u8]) -> Vec<u8> {
    let mut command = Command::new("openssl");
    command.args(args).stdin(Stdio::piped()).stdout(Stdio::piped()).stderr(Stdio::null());
    let mut child =
        ns.run(|| command.spawn()).unwrap_or_else(|error| panic!("openssl: {error} (apt install openssl)"));
    let mut stdin = child.stdin.take().expect("stdin");
    // it may have ended before it has read everything
    let _unread = stdin.write_all(input);
    drop(stdin);
    child.wait_with_output().expect("openssl").stdout
}

/// What a WebSocket server answers to a key (RFC 6455 section 1.3).
pub fn websocket_accept(key: &str) -> String {
    let own = NetNs::own("here");
    let text = format!("{key}258EAFA5-E914-47DA-95CA-C5AB0DC85B11");
    let digest = run(&own, &["dgst", "-sha1", "-binary"], text.as_bytes());
    String::from_utf8_lossy(&run(&own, &["base64"], &digest)).trim().to_owned()
}
