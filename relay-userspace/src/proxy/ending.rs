//! How sessions end, and handing them to the connection log.

use std::net::SocketAddr;
use std::time::Instant;

use relay_common::net::Protocol;

use super::counters::Refusal;
use super::service::Service;
use crate::connections::Ended;
use crate::flows::Plane;
use crate::observe::{Event, What};

/// How a session ended. The names are the connection log's.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub enum Ending {
    /// Both sides ended their streams.
    Closed,
    /// One side broke off, and the other was told the same way.
    Reset,
    /// Silence for longer than allowed.
    Idle,
    /// The same, after one side had ended its stream.
    HalfClosed,
    /// The client has gone before there was a backend.
    ClientGone,
    /// The rule, its listener or relayd has ended.
    RuleEnded,
    /// The backend's address is the rule's no more, and the rule ends such sessions.
    BackendGone,
    Refused(Refusal),
}

impl Ending {
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Closed => "closed",
            Self::Reset => "reset",
            Self::Idle => "idle",
            Self::HalfClosed => "half_closed",
            Self::ClientGone => "client_gone",
            Self::RuleEnded => "rule_ended",
            Self::BackendGone => "backend_gone",
            Self::Refused(refusal) => refusal.as_str(),
        }
    }
}

/// What the log wants to know of a session.
#[derive(Debug)]
pub struct Record {
    pub client: SocketAddr,
    pub backend: Option<SocketAddr>,
    /// Payload: client to backend, backend to client.
    pub bytes: [u64; 2],
    pub begun: Instant,
    pub ending: Ending,
}

impl Record {
    /// A session that begins. Unless somebody says otherwise its rule has ended it.
    pub fn new(client: SocketAddr) -> Self {
        let (begun, ending) = (Instant::now(), Ending::RuleEnded);
        Self { client, backend: None, bytes: [0; 2], begun, ending }
    }

    /// The session is over, as the log and those who watch are told.
    pub fn log(&self, service: &Service, protocol: Protocol) {
        service.log.ended(|| self.ended(service, protocol));
        self.tell(service, protocol);
    }

    /// The same for those who watch alone.
    pub fn tell(&self, service: &Service, protocol: Protocol) {
        service.observatory.tell(|| Event::closed(self.ended(service, protocol)));
    }

    /// It was never let in.
    pub fn log_refused(&self, service: &Service, protocol: Protocol) {
        service.log.ended(|| self.ended(service, protocol));
        let what = What::Refused { reason: self.ending.as_str() };
        service.observatory.tell(|| Event::of_session(&service.rule, protocol, Some(self.client), what));
    }

    fn ended(&self, service: &Service, protocol: Protocol) -> Ended {
        Ended {
            rule: service.rule.clone(),
            plane: Plane::User,
            protocol,
            client: self.client,
            backend: self.backend,
            bytes: self.bytes,
            lasted: self.begun.elapsed(),
            reason: self.ending.as_str(),
        }
    }
}
