//! Tickets that backends have given us: a session that has one begins without certificates and signatures.

use std::collections::VecDeque;
use std::fmt;
use std::sync::{Mutex, MutexGuard, PoisonError};

use rustls::NamedGroup;
use rustls::client::{
    ClientSessionMemoryCache, ClientSessionStore, Tls12ClientSessionValue, Tls13ClientSessionValue,
};
use rustls::pki_types::ServerName;

/// Names that tickets are kept for; then the one that came first goes.
const NAMES: usize = 32;
/// Tickets for each. A session takes one and brings two, but many begin before the first has brought any: with the 8 of
/// rustls' own store most of such a burst would go without.
const TICKETS: usize = 64;
/// What rustls counts for a name.
const COUNTED: usize = 8;

/// What a rule's sessions know of its backends from earlier ones.
pub struct Tickets {
    names: Mutex<Names>,
    /// All but tickets of TLS 1.3.
    others: ClientSessionMemoryCache,
}

/// Newest last, names and tickets.
type Names = VecDeque<(ServerName<'static>, VecDeque<Tls13ClientSessionValue>)>;

impl Tickets {
    pub fn new() -> Self {
        Self { names: Mutex::default(), others: ClientSessionMemoryCache::new(NAMES * COUNTED) }
    }

    fn names(&self) -> MutexGuard<'_, Names> {
        // it is whole whenever it is not being changed, and changing it does not fail
        self.names.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl fmt::Debug for Tickets {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        // secrets are nobody's business
        f.debug_struct("Tickets").finish_non_exhaustive()
    }
}

impl ClientSessionStore for Tickets {
    fn insert_tls13_ticket(&self, name: ServerName<'static>, ticket: Tls13ClientSessionValue) {
        let mut names = self.names();
        if let Some((_, tickets)) = names.iter_mut().find(|(known, _)| *known == name) {
            if tickets.len() == TICKETS {
                tickets.pop_front();
            }
            tickets.push_back(ticket);
            return;
        }
        if names.len() == NAMES {
            names.pop_front();
        }
        names.push_back((name, VecDeque::from([ticket])));
    }

    fn take_tls13_ticket(&self, name: &ServerName<'static>) -> Option<Tls13ClientSessionValue> {
        let mut names = self.names();
        let (_, tickets) = names.iter_mut().find(|(known, _)| known == name)?;
        tickets.pop_back()
    }

    fn set_kx_hint(&self, name: ServerName<'static>, group: NamedGroup) {
        self.others.set_kx_hint(name, group);
    }

    fn kx_hint(&self, name: &ServerName<'_>) -> Option<NamedGroup> {
        self.others.kx_hint(name)
    }

    fn set_tls12_session(&self, name: ServerName<'static>, session: Tls12ClientSessionValue) {
        self.others.set_tls12_session(name, session);
    }

    fn tls12_session(&self, name: &ServerName<'_>) -> Option<Tls12ClientSessionValue> {
        self.others.tls12_session(name)
    }

    fn remove_tls12_session(&self, name: &ServerName<'static>) {
        self.others.remove_tls12_session(name);
    }
}
