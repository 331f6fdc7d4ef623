//! A probe that opens the tunnel of the rule's sessions, and takes leave: whether a backend's other end takes us in, not
//! only whether somebody listens there.

use std::io::{ErrorKind, Read as _};

use nix::sys::epoll::EpollFlags;
use socket2::Socket;

use super::stream::{Outgoing, greeting};
use super::{Halt, ProbeError, Step, connected};
use crate::health::prober::Probe;
use crate::proxy::tunnel::tls::Tls;
use crate::proxy::tunnel::ws::{self, Encoder, Expected, HandshakeFault, Masking, Role};
use crate::proxy::tunnel::{Beginning, Connector, Fault};

/// What is read at once.
const PIECE: usize = 4096;
/// What the other end may send until the tunnel is open: certificates, tickets and a head.
const MOST: usize = 128 * 1024;
/// How many pieces of what the other end has sent besides are taken off it at the end. Who streams on gets a reset: the
/// thread has others to ask.
const LAST_PIECES: usize = 16;

/// A tunnel that is being opened.
pub(in crate::health) struct Tunnelling {
    socket: Socket,
    is_connected: bool,
    tls: Option<Box<Tls>>,
    upgrade: Option<(Vec<u8>, Expected)>,
    outgoing: Outgoing,
    /// What has come and has not been decrypted,
    raw: Vec<u8>,
    /// and what has been.
    plain: Vec<u8>,
    /// How much has come.
    heard: usize,
    progress: Progress,
}

#[derive(Clone, Copy, Eq, PartialEq)]
enum Progress {
    Securing,
    Upgrading,
    Open,
}

impl Tunnelling {
    pub(super) fn new(probe: &Probe, connector: &Connector, socket: Socket) -> Result<Self, ProbeError> {
        let address = probe.address.ip().to_string();
        let host = probe.name.as_deref().unwrap_or(&address);
        let Beginning { mut tls, upgrade } = connector.begin_afresh(host)?;
        let mut bytes = greeting(probe);
        if let Some(tls) = &mut tls {
            tls.receive(&mut [], &mut bytes).map_err(Fault::from)?;
        }
        Ok(Self {
            socket,
            is_connected: false,
            tls,
            upgrade,
            outgoing: Outgoing::new(bytes),
            raw: Vec::new(),
            plain: Vec::new(),
            heard: 0,
            progress: Progress::Securing,
        })
    }

    /// Goes on from wherever it is.
    pub(super) fn advance(&mut self, ready: EpollFlags) -> Step<()> {
        if !self.is_connected {
            connected(&self.socket, ready)?;
            self.is_connected = true;
        }
        loop {
            self.outgoing.send(&mut self.socket)?;
            if self.progress == Progress::Securing && !self.is_handshaking() {
                self.ask()?;
            } else if self.is_open()? {
                return Ok(());
            } else {
                self.receive()?;
            }
        }
    }

    fn is_handshaking(&self) -> bool {
        self.tls.as_ref().is_some_and(|tls| tls.is_handshaking())
    }

    /// Asks for the WebSocket, if there is to be one.
    fn ask(&mut self) -> Step<()> {
        self.progress = Progress::Upgrading;
        match &self.upgrade {
            None => self.progress = Progress::Open,
            Some((request, _)) => {
                let request = request.clone();
                self.say(&request)?;
            }
        }
        Ok(())
    }

    fn is_open(&mut self) -> Step<bool> {
        if let (Progress::Upgrading, Some((_, expected))) = (self.progress, &self.upgrade)
            && ws::read_response(&self.plain, expected).map_err(Fault::from)?.is_some()
        {
            self.progress = Progress::Open;
        }
        Ok(self.progress == Progress::Open)
    }

    fn receive(&mut self) -> Step<()> {
        let mut piece = [0; PIECE];
        let length = match self.socket.read(&mut piece) {
            Ok(0) => return Err(self.ended().into()),
            Ok(length) => length,
            Err(error) if error.kind() == ErrorKind::Interrupted => return Ok(()),
            Err(error) => return Err(error.into()),
        };
        self.heard += length;
        let piece = &piece[..length];
        match &mut self.tls {
            None => self.plain.extend_from_slice(piece),
            Some(tls) => {
                self.raw.extend_from_slice(piece);
                let mut answers = Vec::new();
                let received = tls.receive(&mut self.raw, &mut answers);
                self.outgoing.append(&answers);
                if received.is_err() {
                    // an alert: who does not take it now needs none
                    _ = self.outgoing.send(&mut self.socket);
                }
                let received = received.map_err(Fault::from)?;
                self.plain.extend_from_slice(&self.raw[..received.payload]);
                self.raw.drain(..received.rest);
            }
        }
        if self.heard > MOST { Err(Fault::TooMuch.into()) } else { Ok(()) }
    }

    fn ended(&self) -> Fault {
        match self.progress {
            // realm turns who asks for another host or path away without a word
            Progress::Upgrading => HandshakeFault::Closed.into(),
            _ if self.heard > 0 => Fault::Ended,
            _ => Fault::Silent,
        }
    }

    fn say(&mut self, message: &[u8]) -> Step<()> {
        match &mut self.tls {
            None => self.outgoing.append(message),
            Some(tls) => {
                let mut sealed = Vec::new();
                tls.seal(message, &mut sealed).map_err(Fault::from)?;
                self.outgoing.append(&sealed);
            }
        }
        Ok(())
    }

    /// Takes leave of an other end that has opened, as a session would, so that it has nothing to complain of.
    pub fn end(mut self) {
        if self.progress != Progress::Open {
            return;
        }
        if self.upgrade.is_some() {
            let mut close = Vec::new();
            Encoder::new(Role::Client(Masking::Zero)).close(&mut close);
            _ = self.say(&close);
        }
        let mut farewell = Vec::new();
        if let Some(tls) = &mut self.tls {
            tls.close(&mut farewell);
        }
        self.outgoing.append(&farewell);
        // whoever does not take it now needs none
        _ = self.outgoing.send(&mut self.socket);
        // what nobody has read would make a reset of the end
        let mut piece = [0; PIECE];
        let is_more = |_: &usize| self.socket.read(&mut piece).is_ok_and(|length| length > 0);
        _ = (0..LAST_PIECES).take_while(is_more).count();
    }
}

impl From<Fault> for Halt {
    fn from(fault: Fault) -> Self {
        Self::Fail(fault.into())
    }
}
