//! Probes under way, by the number of their socket, which is how epoll knows them.

use std::collections::HashMap;
use std::os::fd::AsRawFd;
use std::time::Instant;

use nix::sys::epoll::{Epoll, EpollFlags};

use super::pool::{self, Pool, Way};
use super::{Probe, ProbeId};
use crate::health::probe::{Attempt, ProbeError, Progress, Tls};
use crate::proxy::descriptors;
use crate::rule::CheckKind;

/// The number of a socket under way.
#[derive(Clone, Copy, Debug, Eq, Hash, PartialEq)]
pub(super) struct FlightId(pub u64);

/// All probes under way.
pub(super) struct Flights {
    under_way: HashMap<FlightId, Flight>,
    pool: Pool,
    tls: Tls,
    /// Others want descriptors too.
    most: usize,
}

struct Flight {
    id: ProbeId,
    began: Instant,
    attempt: Attempt,
    way: Way,
}

/// A probe that is over.
pub(super) struct Landed {
    pub id: ProbeId,
    pub began: Instant,
    pub outcome: Result<(), ProbeError>,
}

/// What epoll calls a socket.
pub(super) fn number(socket: &impl AsRawFd) -> u64 {
    // a descriptor is not negative
    u64::try_from(socket.as_raw_fd()).unwrap_or(u64::MAX)
}

impl Flights {
    pub fn new(tls: Tls) -> Self {
        let most = (descriptors::limit() / 4).max(1);
        Self { under_way: HashMap::new(), pool: Pool::default(), tls, most }
    }

    /// Whether there are as many as there may be.
    pub fn are_full(&self) -> bool {
        self.under_way.len() >= self.most
    }

    pub fn begin(&mut self, id: ProbeId, probe: &Probe, poller: &Epoll) -> Result<FlightId, ProbeError> {
        let socket = match probe.check.kind {
            _ if probe.connector.is_some() => pool::open(probe, poller)?,
            CheckKind::Tcp | CheckKind::Passive => {
                let socket = self.pool.take(probe, poller)?;
                pool::withhold_ack(&socket);
                socket
            }
            CheckKind::Tls { .. } | CheckKind::Http(_) | CheckKind::Udp { .. } => pool::open(probe, poller)?,
        };
        let began = Instant::now();
        let number = FlightId(number(&socket));
        let attempt = Attempt::begin(probe, socket, &self.tls)?;
        self.under_way.insert(number, Flight { id, began, attempt, way: Way::of(probe) });
        Ok(number)
    }

    /// Goes on with a probe whose socket is ready. A socket that is not under way is one of the pool.
    pub fn advance(&mut self, number: FlightId, ready: EpollFlags) -> Option<Landed> {
        let flight = self.under_way.get_mut(&number)?;
        match flight.attempt.advance(ready) {
            Progress::Waits => None,
            Progress::Ends(outcome) => {
                let Flight { id, began, .. } = *flight;
                self.end(number);
                Some(Landed { id, began, outcome })
            }
        }
    }

    /// Ends a probe, whatever has become of it.
    pub fn end(&mut self, number: FlightId) {
        match self.under_way.remove(&number) {
            Some(Flight { attempt: Attempt::Connection(socket), way, .. }) => {
                self.pool.give_back(way, socket)
            }
            Some(Flight { attempt: Attempt::Conversation(conversation), .. }) => conversation.end(),
            Some(Flight { attempt: Attempt::Tunnelling(tunnelling), .. }) => tunnelling.end(),
            Some(Flight { attempt: Attempt::Question(_), .. }) | None => {}
        }
    }
}
