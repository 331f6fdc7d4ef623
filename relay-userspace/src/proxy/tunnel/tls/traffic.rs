//! A session after its handshake: payload, and the few messages that may come between.

use rustls::client::ClientConnectionData;
use rustls::kernel::KernelConnection;
use rustls::server::ServerConnectionData;
use rustls::{
    AlertDescription, ConnectionTrafficSecrets, ContentType, HandshakeType, ProtocolVersion, Side,
    SupportedCipherSuite,
};

use super::fault::Cause;
use super::record::{self, Keys, MOST};
use super::{Agreed, MOST_HELD, Received};

/// The records that are left for the end when keys are used up: a key update, or an alert.
const RESERVE: u64 = 8;
const KEY_UPDATE: [u8; 5] = [24, 0, 0, 1, 0];

/// What is left of rustls: it makes the next keys, and keeps tickets.
pub enum Schedule {
    Client(KernelConnection<ClientConnectionData>),
    Server(KernelConnection<ServerConnectionData>),
    /// Whose keys stay. The side is ours.
    Tls12(Side),
}

type Secrets = (u64, ConnectionTrafficSecrets);

impl Schedule {
    fn next_read(&mut self) -> Result<Secrets, Cause> {
        Ok(match self {
            Self::Client(kernel) => kernel.update_rx_secret()?,
            Self::Server(kernel) => kernel.update_rx_secret()?,
            Self::Tls12(_) => return Err(Cause::Unexpected),
        })
    }

    fn next_write(&mut self) -> Result<Secrets, Cause> {
        Ok(match self {
            Self::Client(kernel) => kernel.update_tx_secret()?,
            Self::Server(kernel) => kernel.update_tx_secret()?,
            Self::Tls12(_) => return Err(Cause::Exhausted),
        })
    }
}

pub struct Traffic {
    agreed: Agreed,
    read: Keys,
    write: Keys,
    /// Records that one key may protect.
    pub(super) limit: u64,
    schedule: Schedule,
    /// A handshake message that is not whole.
    message: Vec<u8>,
    patience: Patience,
    has_closed: bool,
    has_ended: bool,
}

/// How much more of what is allowed, but moves nothing, a peer may send.
struct Patience {
    empty_records: u8,
    key_updates: u8,
    warnings: u8,
    renegotiations: u8,
}

impl Patience {
    const NEW: Self = Self { empty_records: 32, key_updates: 32, warnings: 4, renegotiations: 1 };

    const fn renew(&mut self) {
        self.empty_records = Self::NEW.empty_records;
        self.key_updates = Self::NEW.key_updates;
    }
}

/// Takes one of what a peer has left.
fn take(left: &mut u8, what: &str) -> Result<(), Cause> {
    *left = left.checked_sub(1).ok_or_else(|| Cause::Misbehaved(format!("too many {what}").into()))?;
    Ok(())
}

impl Traffic {
    pub fn new(agreed: Agreed, read: Keys, write: Keys, schedule: Schedule) -> Self {
        let limit = match agreed.suite {
            SupportedCipherSuite::Tls12(suite) => suite.common.confidentiality_limit,
            SupportedCipherSuite::Tls13(suite) => suite.common.confidentiality_limit,
        };
        Self {
            agreed,
            read,
            write,
            limit: limit.saturating_sub(RESERVE),
            schedule,
            message: Vec::new(),
            patience: Patience::NEW,
            has_closed: false,
            has_ended: false,
        }
    }

    pub const fn agreed(&self) -> &Agreed {
        &self.agreed
    }

    /// `data[..at]` has been dealt with. What follows gives its payload, at the front of `data`.
    pub fn receive(
        &mut self,
        data: &mut [u8],
        mut at: usize,
        answers: &mut Vec<u8>,
    ) -> Result<Received, Cause> {
        let mut payload = 0;
        while !self.has_ended
            && let Some(length) = record::length(&data[at..])?
        {
            let (kind, plain) = self.read.open(&mut data[at..at + length])?;
            let plain = at + plain.start..at + plain.end;
            at += length;
            if plain.is_empty() {
                take(&mut self.patience.empty_records, "empty records")?;
            }
            if kind != ContentType::Handshake && !self.message.is_empty() {
                return Err(Cause::Unexpected);
            }
            match kind {
                ContentType::ApplicationData if plain.is_empty() => {}
                ContentType::ApplicationData => {
                    self.patience.renew();
                    let length = plain.len();
                    data.copy_within(plain, payload);
                    payload += length;
                }
                ContentType::Handshake if plain.is_empty() => return Err(Cause::Malformed),
                ContentType::Handshake => self.handshake(&data[plain], answers)?,
                ContentType::Alert => self.hear(&data[plain])?,
                _ => return Err(Cause::Unexpected),
            }
        }
        let rest = if self.has_ended { data.len() } else { at };
        Ok(Received { payload, rest, end: self.has_ended })
    }

    fn hear(&mut self, alert: &[u8]) -> Result<(), Cause> {
        let &[level, description] = alert else { return Err(Cause::Malformed) };
        let alert = AlertDescription::from(description);
        match (level, alert) {
            (_, AlertDescription::CloseNotify) => {
                self.has_ended = true;
                Ok(())
            }
            (1, AlertDescription::UserCanceled) => take(&mut self.patience.warnings, "warnings"),
            (1, _) if matches!(self.schedule, Schedule::Tls12(_)) => {
                take(&mut self.patience.warnings, "warnings")
            }
            (_, alert) => Err(Cause::Alert(alert)),
        }
    }

    /// Takes the messages out of a handshake record.
    fn handshake(&mut self, record: &[u8], answers: &mut Vec<u8>) -> Result<(), Cause> {
        self.message.extend_from_slice(record);
        let joined = std::mem::take(&mut self.message);
        let mut rest = &joined[..];
        while let Some((&[kind, high, middle, low], body)) = rest.split_first_chunk() {
            let length = usize::from(high) << 16 | usize::from(middle) << 8 | usize::from(low);
            if length > MOST_HELD {
                return Err(Cause::TooLongHandshake);
            }
            let Some((body, behind)) = body.split_at_checked(length) else { break };
            self.heed(HandshakeType::from(kind), body, behind.is_empty(), answers)?;
            rest = behind;
        }
        if !rest.is_empty() {
            self.message = rest.to_vec();
        }
        Ok(())
    }

    fn heed(
        &mut self,
        kind: HandshakeType,
        body: &[u8],
        is_last: bool,
        answers: &mut Vec<u8>,
    ) -> Result<(), Cause> {
        match (kind, &mut self.schedule) {
            (HandshakeType::NewSessionTicket, Schedule::Client(kernel)) => {
                Ok(kernel.handle_new_session_ticket(body)?)
            }
            (HandshakeType::KeyUpdate, Schedule::Client(_) | Schedule::Server(_)) => {
                // what follows in the record was sealed with the key that has just ended
                if !is_last {
                    return Err(Cause::Unexpected);
                }
                take(&mut self.patience.key_updates, "key updates")?;
                let secrets = self.schedule.next_read()?;
                self.read = Keys::new(ProtocolVersion::TLSv1_3, secrets)?;
                match body {
                    [0] => Ok(()),
                    [1] if self.has_closed => Ok(()),
                    [1] => self.update(answers),
                    _ => Err(Cause::Malformed),
                }
            }
            (HandshakeType::HelloRequest, Schedule::Tls12(Side::Client))
            | (HandshakeType::ClientHello, Schedule::Tls12(Side::Server)) => {
                take(&mut self.patience.renegotiations, "renegotiations")?;
                self.alert(1, AlertDescription::NoRenegotiation, answers)
            }
            _ => Err(Cause::Unexpected),
        }
    }

    /// Tells the peer that our key ends, and takes the next.
    fn update(&mut self, out: &mut Vec<u8>) -> Result<(), Cause> {
        let secrets = self.schedule.next_write()?;
        self.write.seal(ContentType::Handshake, &KEY_UPDATE, out)?;
        self.write = Keys::new(ProtocolVersion::TLSv1_3, secrets)?;
        Ok(())
    }

    pub fn seal(&mut self, payload: &[u8], out: &mut Vec<u8>) -> Result<(), Cause> {
        for piece in payload.chunks(MOST) {
            if self.write.used() >= self.limit {
                self.update(out)?;
            }
            self.write.seal(ContentType::ApplicationData, piece, out)?;
        }
        Ok(())
    }

    /// Says that nothing more comes, once.
    pub fn close(&mut self, out: &mut Vec<u8>) {
        self.end(1, AlertDescription::CloseNotify, out);
    }

    /// Tells the peer why the session ends.
    pub fn fail(&mut self, cause: &Cause, out: &mut Vec<u8>) {
        if let Some(alert) = cause.alert() {
            self.end(2, alert, out);
        }
    }

    fn end(&mut self, level: u8, alert: AlertDescription, out: &mut Vec<u8>) {
        if !std::mem::replace(&mut self.has_closed, true) {
            // without it the session ends all the same
            _ = self.alert(level, alert, out);
        }
    }

    fn alert(&mut self, level: u8, alert: AlertDescription, out: &mut Vec<u8>) -> Result<(), Cause> {
        self.write.seal(ContentType::Alert, &[level, alert.into()], out)
    }
}
