//! A probe that talks: connection, PROXY header, TLS handshake, request, as far as its kind goes.

use std::io;
use std::time::Duration;

use nix::sys::epoll::EpollFlags;
use rustls::ClientConnection;
use socket2::Socket;

use super::http::{Exchange, Response};
use super::tls::Tls;
use super::{Halt, ProbeError, Step, connected};
use crate::health::prober::Probe;
use crate::proxy::proxy_protocol::{self, Header, Origin};
use crate::rule::CheckKind;

/// What is read at once.
const PIECE: usize = 16 * 1024;
/// What an endpoint may send in all: certificates, a head and a body, and what they come in. One that goes on without an answer
/// would keep the thread from all others.
const MOST: usize = 512 * 1024;

/// A probe's conversation with an endpoint.
pub(in crate::health) struct Conversation {
    socket: Bounded,
    is_connected: bool,
    /// What goes ahead of everything: the PROXY header, if the rule's backends want one.
    greeting: Outgoing,
    tls: Option<Box<ClientConnection>>,
    exchange: Option<(Outgoing, Response)>,
}

/// A connection that takes in so much and no more.
struct Bounded {
    socket: Socket,
    left: usize,
}

/// Bytes on their way.
pub(super) struct Outgoing {
    bytes: Vec<u8>,
    sent: usize,
}

impl Conversation {
    pub(super) fn new(probe: &Probe, socket: Socket, tls: &Tls) -> Result<Self, ProbeError> {
        let (tls, exchange) = match &probe.check.kind {
            CheckKind::Tls { sni, verify } => (Some(tls.connection(probe, sni.as_deref(), *verify)?), None),
            CheckKind::Http(check) => {
                let host = check.host.as_deref();
                let tls = check.tls.then(|| tls.connection(probe, host.and_then(name_of), false));
                let Exchange { request, response } = Exchange::new(probe, check);
                (tls.transpose()?, Some((Outgoing::new(request), response)))
            }
            CheckKind::Passive | CheckKind::Tcp | CheckKind::Udp { .. } => (None, None),
        };
        let socket = Bounded { socket, left: MOST };
        Ok(Self { socket, is_connected: false, greeting: Outgoing::new(greeting(probe)), tls, exchange })
    }

    /// Breaks the connection off: nobody waits for what is left of it, and its port is free at once.
    pub fn end(self) {
        // fails only for a connection that is gone already
        _ = self.socket.socket.set_linger(Some(Duration::ZERO));
    }

    /// Goes on from wherever it is.
    pub(super) fn advance(&mut self, ready: EpollFlags) -> Step<()> {
        if !self.is_connected {
            connected(&self.socket.socket, ready)?;
            self.is_connected = true;
        }
        self.greeting.send(&mut self.socket)?;
        if let Some(tls) = &mut self.tls {
            while tls.is_handshaking() {
                tls.complete_io(&mut self.socket)?;
            }
        }
        let Some((request, response)) = &mut self.exchange else { return Ok(()) };
        match &mut self.tls {
            None => converse(request, response, &mut self.socket),
            Some(tls) => converse(request, response, &mut rustls::Stream::new(&mut **tls, &mut self.socket)),
        }
    }
}

/// What a backend is sent first, if the rule says so.
pub(super) fn greeting(probe: &Probe) -> Vec<u8> {
    let header = Header { origin: Origin::Local, tlvs: Vec::new() };
    let version = probe.connect.proxy_protocol;
    version.map(|version| proxy_protocol::write(&header, version)).unwrap_or_default()
}

/// The name in a Host header, without a port.
fn name_of(host: &str) -> Option<&str> {
    let host = host.strip_prefix('[').map_or(host, |rest| rest.split(']').next().unwrap_or(rest));
    let name = if host.parse::<std::net::Ipv6Addr>().is_ok() { Some(host) } else { host.split(':').next() };
    name.filter(|name| !name.is_empty())
}

/// Sends a request and reads what comes until there is a verdict.
fn converse(
    request: &mut Outgoing,
    response: &mut Response,
    stream: &mut (impl io::Read + io::Write),
) -> Step<()> {
    request.send(stream)?;
    let mut piece = [0; PIECE];
    loop {
        let verdict = match stream.read(&mut piece) {
            Ok(0) => response.end(),
            // a server of TLS that does not say that it ends
            Err(error) if error.kind() == io::ErrorKind::UnexpectedEof => response.end(),
            Err(error) if error.kind() == io::ErrorKind::Interrupted => continue,
            Err(error) => return Err(error.into()),
            Ok(length) => match response.take(&piece[..length]) {
                None => continue,
                Some(verdict) => verdict,
            },
        };
        return verdict.map_err(Halt::Fail);
    }
}

impl io::Read for Bounded {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        if self.left == 0 {
            return Err(io::Error::other(ProbeError::TooMuch));
        }
        let room = buffer.len().min(self.left);
        let length = self.socket.read(&mut buffer[..room])?;
        self.left -= length;
        Ok(length)
    }
}

impl io::Write for Bounded {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        self.socket.write(bytes)
    }

    fn flush(&mut self) -> io::Result<()> {
        self.socket.flush()
    }
}

impl Outgoing {
    pub const fn new(bytes: Vec<u8>) -> Self {
        Self { bytes, sent: 0 }
    }

    pub fn append(&mut self, bytes: &[u8]) {
        self.bytes.extend_from_slice(bytes);
    }

    pub fn send(&mut self, stream: &mut impl io::Write) -> Step<()> {
        while self.sent < self.bytes.len() {
            self.sent += stream.write(&self.bytes[self.sent..])?;
        }
        Ok(stream.flush()?)
    }
}
