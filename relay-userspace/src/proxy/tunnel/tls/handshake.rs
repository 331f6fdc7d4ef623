//! A handshake: rustls' state machine, given one record after the other.
//!
//! One at a time, so that it is the first to see the keys and the last to see a record before they are used for payload.

use rustls::client::UnbufferedClientConnection;
use rustls::server::UnbufferedServerConnection;
use rustls::unbuffered::{ConnectionState, EncodeError, InsufficientSizeError, UnbufferedStatus};
use rustls::{AlertDescription, CommonState, ContentType, ProtocolVersion, Side};

use super::fault::Cause;
use super::record::{self, Keys};
use super::traffic::{Schedule, Traffic};
use super::{Agreed, MOST_HELD};

pub enum Connection {
    Client(UnbufferedClientConnection),
    Server(UnbufferedServerConnection),
}

pub struct Handshake {
    connection: Connection,
    /// How much of what the caller keeps rustls has seen already: messages that are not whole.
    held: usize,
    has_heard: bool,
}

/// How far a handshake got with what there is.
pub struct Progress {
    /// Where what is still to be presented begins.
    pub rest: usize,
    pub is_over: bool,
}

/// What rustls says to do next.
enum Turn {
    Again,
    /// It wants another record.
    Blocked,
    Over,
}

impl Handshake {
    pub const fn new(connection: Connection) -> Self {
        Self { connection, held: 0, has_heard: false }
    }

    pub fn advance(&mut self, data: &mut [u8], answers: &mut Vec<u8>) -> Result<Progress, Cause> {
        self.hear(data)?;
        if data.len() < self.held {
            return Err(Cause::Internal("what was left over is not presented again".into()));
        }
        let (mut rest, mut seen) = (0, self.held);
        let is_over = loop {
            let (discard, turn) = match &mut self.connection {
                Connection::Client(client) => {
                    turn(client.process_tls_records(&mut data[rest..seen]), answers)
                }
                Connection::Server(server) => {
                    turn(server.process_tls_records(&mut data[rest..seen]), answers)
                }
            };
            rest += discard;
            match turn? {
                Turn::Again => {}
                Turn::Over if rest == seen => break true,
                // a message that began under the handshake's keys would go on under others
                Turn::Over => return Err(Cause::Unexpected),
                Turn::Blocked if seen - rest > MOST_HELD => return Err(Cause::TooLongHandshake),
                Turn::Blocked => match record::length(&data[seen..])? {
                    Some(length) => seen += length,
                    None => break false,
                },
            }
        };
        self.held = seen - rest;
        Ok(Progress { rest, is_over })
    }

    /// Sees from the first bytes whether it is TLS at all that the peer speaks: what is none may never make a whole record.
    fn hear(&mut self, data: &[u8]) -> Result<(), Cause> {
        if self.has_heard {
            return Ok(());
        }
        let is_tls = match data {
            [] => return Ok(()),
            [kind, rest @ ..] => {
                let first = ContentType::from(*kind);
                matches!(first, ContentType::Handshake | ContentType::Alert)
                    && rest.first().is_none_or(|major| *major == 3)
            }
        };
        self.has_heard = data.len() > 1;
        if is_tls { Ok(()) } else { Err(Cause::NotTls) }
    }

    /// Tells the peer why it ends: in rustls' words, or in ours if it has none.
    pub fn fail(&mut self, cause: &Cause, out: &mut Vec<u8>) {
        let before = out.len();
        self.flush(out);
        if out.len() == before && *cause == Cause::NotTls {
            // some of those who speak no TLS know its alerts
            out.extend_from_slice(&[
                ContentType::Alert.into(),
                3,
                3,
                0,
                2,
                2,
                AlertDescription::DecodeError.into(),
            ]);
        }
    }

    fn flush(&mut self, out: &mut Vec<u8>) {
        // rustls hands out what it has queued before it looks at data
        while self.common().wants_write() {
            let (_nothing, turn) = match &mut self.connection {
                Connection::Client(client) => turn(client.process_tls_records(&mut []), out),
                Connection::Server(server) => turn(server.process_tls_records(&mut []), out),
            };
            if !matches!(turn, Ok(Turn::Again)) {
                break;
            }
        }
    }

    /// Takes the keys out of a handshake that is over.
    pub fn into_traffic(self) -> Result<Traffic, Cause> {
        let agreed = self.agreed()?;
        let is_tls13 = agreed.version == ProtocolVersion::TLSv1_3;
        let (secrets, schedule) = match self.connection {
            Connection::Client(client) => {
                let (secrets, kernel) = client.dangerous_into_kernel_connection()?;
                (secrets, if is_tls13 { Schedule::Client(kernel) } else { Schedule::Tls12(Side::Client) })
            }
            Connection::Server(server) => {
                let (secrets, kernel) = server.dangerous_into_kernel_connection()?;
                (secrets, if is_tls13 { Schedule::Server(kernel) } else { Schedule::Tls12(Side::Server) })
            }
        };
        let (read, write) = (Keys::new(agreed.version, secrets.rx)?, Keys::new(agreed.version, secrets.tx)?);
        Ok(Traffic::new(agreed, read, write, schedule))
    }

    fn agreed(&self) -> Result<Agreed, Cause> {
        let common = self.common();
        let (Some(version), Some(suite)) = (common.protocol_version(), common.negotiated_cipher_suite())
        else {
            return Err(Cause::Handshaking);
        };
        Ok(Agreed {
            version,
            suite,
            alpn: common.alpn_protocol().map(|protocol| String::from_utf8_lossy(protocol).into()),
            is_resumed: common.handshake_kind() == Some(rustls::HandshakeKind::Resumed),
            certificate: common.peer_certificates().and_then(<[_]>::first).map(super::Fingerprint::of),
        })
    }

    fn common(&self) -> &CommonState {
        match &self.connection {
            Connection::Client(client) => client,
            Connection::Server(server) => server,
        }
    }
}

/// Does what rustls asks for. How much of the data it is done with, and what comes next.
fn turn<Data>(status: UnbufferedStatus<'_, '_, Data>, answers: &mut Vec<u8>) -> (usize, Result<Turn, Cause>) {
    let UnbufferedStatus { discard, state } = status;
    let turn = match state {
        Err(error) => Err(error.into()),
        Ok(ConnectionState::EncodeTlsData(mut message)) => {
            let at = answers.len();
            // the first try tells how long it is
            if let Err(EncodeError::InsufficientSize(InsufficientSizeError { required_size })) =
                message.encode(&mut [])
            {
                answers.resize(at + required_size, 0);
            }
            let encoded = message.encode(&mut answers[at..]);
            encoded.map(|_length| Turn::Again).map_err(|error| Cause::Internal(error.to_string().into()))
        }
        Ok(ConnectionState::TransmitTlsData(message)) => {
            message.done();
            Ok(Turn::Again)
        }
        Ok(ConnectionState::BlockedHandshake) => Ok(Turn::Blocked),
        Ok(ConnectionState::WriteTraffic(_)) => Ok(Turn::Over),
        Ok(ConnectionState::PeerClosed | ConnectionState::Closed) => Err(Cause::Closed),
        Ok(other) => Err(Cause::Internal(format!("{other:?} in a handshake").into())),
    };
    (discard, turn)
}
