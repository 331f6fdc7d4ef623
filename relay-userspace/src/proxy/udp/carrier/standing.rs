//! What a client has of a carrier, and what it can know of that without asking the carrier.

use std::net::SocketAddr;
use std::sync::atomic::{AtomicBool, AtomicU32, Ordering};
use std::sync::{Arc, MutexGuard, PoisonError};

use super::flows::Flow;
use crate::proxy::roster::Peer;

/// Where a carrier stands.
#[derive(Debug, Default)]
pub struct Standing {
    /// The other end, as long as the carrier is open.
    peer: Peer,
    /// Another one for each attempt to open it: flows that were announced in an earlier one are not known to the other
    /// end. 0: for those that have not been announced.
    attempt: AtomicU32,
    /// The other end takes no new flows.
    is_leaving: AtomicBool,
    /// There is no carrier any more.
    is_over: AtomicBool,
}

impl Standing {
    pub fn peer(&self) -> Option<SocketAddr> {
        *self.lock()
    }

    pub fn attempt(&self) -> u32 {
        self.attempt.load(Ordering::Relaxed)
    }

    pub fn is_leaving(&self) -> bool {
        self.is_leaving.load(Ordering::Relaxed)
    }

    /// It is about to be opened.
    pub fn open(&self) {
        self.attempt.store(self.attempt().wrapping_add(1).max(1), Ordering::Relaxed);
    }

    pub fn opened(&self, peer: Option<SocketAddr>) {
        *self.lock() = peer;
    }

    pub fn leave(&self) {
        self.is_leaving.store(true, Ordering::Relaxed);
    }

    pub fn closed(&self) {
        *self.lock() = None;
        self.is_leaving.store(false, Ordering::Relaxed);
    }

    pub fn end(&self) {
        self.closed();
        self.is_over.store(true, Ordering::Relaxed);
    }

    fn lock(&self) -> MutexGuard<'_, Option<SocketAddr>> {
        self.peer.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// What a client has of a carrier.
#[derive(Debug)]
pub struct CarrierFlow {
    pub lane: u32,
    pub flow: Flow,
    /// The attempt in which the other end has been told of it; 0: it has not.
    announced: u32,
    standing: Arc<Standing>,
}

impl CarrierFlow {
    pub const fn new(lane: u32, flow: Flow, standing: Arc<Standing>) -> Self {
        Self { lane, flow, announced: 0, standing }
    }

    /// The other end, if the carrier is open.
    pub fn leads_to(&self) -> Option<SocketAddr> {
        self.standing.peer()
    }

    /// The same, for those who look later.
    pub fn peer(&self) -> Peer {
        self.standing.peer.clone()
    }

    pub fn is_open(&self) -> bool {
        self.leads_to().is_some()
    }

    /// Whether the other end has been told of it.
    pub fn is_known(&self) -> bool {
        self.announced == self.standing.attempt()
    }

    pub fn announced(&mut self) {
        self.announced = self.standing.attempt();
    }

    /// The other end has forgotten it.
    pub const fn forgotten(&mut self) {
        self.announced = 0;
    }

    /// Whether nothing will get through by it: its carrier is no more, or the other end would not take it in.
    pub fn is_lost(&self) -> bool {
        let Standing { is_over, is_leaving, .. } = &*self.standing;
        is_over.load(Ordering::Relaxed) || (is_leaving.load(Ordering::Relaxed) && !self.is_known())
    }
}
