//! TLS on one leg of a session: bytes in, bytes out, no sockets.
//!
//! rustls shakes hands. Then its keys are taken over: records are sealed and opened by [`record`] right in the caller's
//! buffers, without a copy on the heap for each, and what is left of a session are two keys and what makes the next ones.

mod certificate;
mod client;
mod fault;
mod files;
mod fingerprint;
mod handshake;
mod hello;
mod identity;
mod provider;
mod record;
mod self_signed;
mod server;
#[cfg(test)]
mod tests;
mod tickets;
mod traffic;
pub mod verify;

use std::mem;
use std::sync::Arc;

use rustls::client::UnbufferedClientConnection;
use rustls::pki_types::ServerName;
use rustls::server::UnbufferedServerConnection;
use rustls::{ClientConfig, ProtocolVersion, ServerConfig, Side, SupportedCipherSuite};

pub use self::certificate::Certificate;
pub use self::client::{ClientTls, public_roots, server_name, trusting, witnessed};
pub use self::fault::{Cause, TlsFault};
pub use self::files::ConfigFault;
pub use self::fingerprint::Fingerprint;
pub use self::hello::of_protocols;
pub use self::server::ServerTls;
pub use self::verify::Witness;

use self::handshake::{Connection, Handshake};
use self::traffic::Traffic;

/// The most of a handshake message that is kept until the rest of it comes. A chain of certificates takes some KiB.
const MOST_HELD: usize = 32 * 1024;

/// What a session's leg is wrapped in. Its bytes go out in the order in which they were made, whichever call made them.
pub struct Tls {
    side: Side,
    state: State,
}

enum State {
    Handshake(Box<Handshake>),
    Traffic(Box<Traffic>),
    Failed(TlsFault),
}

/// What [`Tls::receive`] made of what arrived.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub struct Received {
    /// How much payload lies at the front of the data.
    pub payload: usize,
    /// Where what is to be presented again begins, as it lies there now.
    pub rest: usize,
    /// The peer has said that nothing more comes; what came behind it is ignored. We may go on sending.
    pub end: bool,
}

/// What the two sides have agreed on.
#[derive(Clone, Debug)]
pub struct Agreed {
    pub version: ProtocolVersion,
    pub suite: SupportedCipherSuite,
    pub alpn: Option<Box<str>>,
    /// Without a full handshake, by a ticket of an earlier session.
    pub is_resumed: bool,
    /// The peer's certificate, if it has one.
    pub certificate: Option<Fingerprint>,
}

impl Tls {
    /// The longest record, head and all: with as much room a record that has begun can always be finished, once the
    /// handshake is over.
    pub const MOST_RECORD: usize = record::HEAD + record::MOST + record::MOST_ADDED;
    /// The most that is ever left over to be presented again.
    pub const MOST_REST: usize = MOST_HELD + Self::MOST_RECORD;

    /// Towards a backend, with a configuration of [`ClientTls`]. Its first message comes from `receive(&mut [], answers)`.
    pub fn client(config: &Arc<ClientConfig>, name: ServerName<'static>) -> Result<Self, TlsFault> {
        let connection = UnbufferedClientConnection::new(config.clone(), name);
        Self::new(Side::Client, connection.map(Connection::Client))
    }

    /// Towards a client, with a configuration of [`ServerTls`].
    pub fn server(config: &Arc<ServerConfig>) -> Result<Self, TlsFault> {
        let connection = UnbufferedServerConnection::new(config.clone());
        Self::new(Side::Server, connection.map(Connection::Server))
    }

    fn new(side: Side, connection: Result<Connection, rustls::Error>) -> Result<Self, TlsFault> {
        match connection {
            Ok(connection) => Ok(Self { side, state: State::Handshake(Handshake::new(connection).into()) }),
            Err(error) => Err(TlsFault { side, cause: error.into() }),
        }
    }

    /// Takes apart what has arrived: what was left over before, then what is new. What must be sent is appended to
    /// `answers`, also when it fails. After a failure all calls fail.
    pub fn receive(&mut self, data: &mut [u8], answers: &mut Vec<u8>) -> Result<Received, TlsFault> {
        let received = match &mut self.state {
            State::Failed(fault) => return Err(fault.clone()),
            State::Traffic(traffic) => traffic.receive(data, 0, answers),
            State::Handshake(_) => self.handshake(data, answers),
        };
        received.map_err(|cause| self.fail(cause, answers))
    }

    fn handshake(&mut self, data: &mut [u8], answers: &mut Vec<u8>) -> Result<Received, Cause> {
        let State::Handshake(handshake) = &mut self.state else { return Err(Cause::Handshaking) };
        let progress = handshake.advance(data, answers)?;
        if !progress.is_over {
            return Ok(Received { payload: 0, rest: progress.rest, end: false });
        }
        let over = State::Failed(TlsFault { side: self.side, cause: Cause::Handshaking });
        let State::Handshake(handshake) = mem::replace(&mut self.state, over) else {
            return Err(Cause::Handshaking);
        };
        let mut traffic = Box::new(handshake.into_traffic()?);
        let received = traffic.receive(data, progress.rest, answers);
        self.state = State::Traffic(traffic);
        received
    }

    /// Seals payload in records, which are appended to `out`.
    pub fn seal(&mut self, payload: &[u8], out: &mut Vec<u8>) -> Result<(), TlsFault> {
        let cause = match &mut self.state {
            State::Traffic(traffic) => match traffic.seal(payload, out) {
                Ok(()) => return Ok(()),
                Err(cause) => cause,
            },
            State::Handshake(_) => Cause::Handshaking,
            State::Failed(fault) => return Err(fault.clone()),
        };
        Err(self.fail(cause, out))
    }

    /// Appends the word that nothing more comes from us, once. Peers ignore what is sealed behind it. There is none for a
    /// handshake that is given up.
    pub fn close(&mut self, out: &mut Vec<u8>) {
        if let State::Traffic(traffic) = &mut self.state {
            traffic.close(out);
        }
    }

    /// What the end of the peer's stream means: a fault during the handshake. Afterwards it is an end like another, since
    /// not everybody takes leave, unless a record is not whole: `left_over` bytes of one have come.
    pub fn end_of_stream(&self, left_over: usize) -> Result<(), TlsFault> {
        match &self.state {
            State::Handshake(_) => Err(TlsFault { side: self.side, cause: Cause::Closed }),
            State::Traffic(_) if left_over > 0 => Err(TlsFault { side: self.side, cause: Cause::Truncated }),
            State::Traffic(_) => Ok(()),
            State::Failed(fault) => Err(fault.clone()),
        }
    }

    pub const fn is_handshaking(&self) -> bool {
        matches!(self.state, State::Handshake(_))
    }

    /// `None` until the handshake is over.
    pub fn agreed(&self) -> Option<&Agreed> {
        match &self.state {
            State::Traffic(traffic) => Some(traffic.agreed()),
            State::Handshake(_) | State::Failed(_) => None,
        }
    }

    fn fail(&mut self, cause: Cause, out: &mut Vec<u8>) -> TlsFault {
        match &mut self.state {
            State::Handshake(handshake) => handshake.fail(&cause, out),
            State::Traffic(traffic) => traffic.fail(&cause, out),
            State::Failed(_) => {}
        }
        let fault = TlsFault { side: self.side, cause };
        self.state = State::Failed(fault.clone());
        fault
    }
}
