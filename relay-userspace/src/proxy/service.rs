//! A rule as the workers see it.

use std::sync::atomic::{AtomicU64, AtomicUsize, Ordering};
use std::sync::{Arc, PoisonError, RwLock};
use std::thread;
use std::time::{Duration, Instant};

use super::counters::{Carried, Counters};
use super::gate::Gate;
use super::kept::Kept;
use super::pool::Ends;
use crate::connections::ConnectionLog;
pub use crate::rule::UdpNat;
use crate::rule::{Accept, Connect, RuleName, Timeouts, Usual};

/// A listener of a rule, as far as it can change while it is served.
#[derive(Debug)]
pub struct Service {
    pub rule: RuleName,
    pub counters: Arc<Counters>,
    pub gate: Arc<Gate>,
    pub log: Arc<ConnectionLog>,
    /// Where its UDP sessions are told of.
    pub kept: Arc<Kept>,
    target: RwLock<Arc<Target>>,
    /// UDP sessions under way, of all workers.
    clients: AtomicU64,
    /// Sockets that connections are accepted from.
    open: AtomicUsize,
}

/// How often somebody who waits for the workers looks.
const LOOK: Duration = Duration::from_micros(200);

/// Where sessions go. New sessions take the latest; old ones keep what they began with.
#[derive(Clone, Debug)]
pub struct Target {
    /// The backends to choose among.
    pub ends: Arc<Ends>,
    /// Where the listener begins.
    pub first_port: u16,
    pub timeouts: Usual<Timeouts>,
    /// Who may answer a UDP client.
    pub udp_nat: UdpNat,
    pub accept: Usual<Accept>,
    pub connect: Usual<Connect>,
}

/// What a listener's sessions should be doing.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub enum Phase {
    Serve,
    /// Accept nothing more; end when the last session has ended.
    Drain,
    /// The same, and leave who waits to be accepted to somebody else, who has the socket too.
    HandOver,
    /// End now.
    End,
}

impl Service {
    pub fn new(
        rule: RuleName,
        counters: Arc<Counters>,
        gate: Arc<Gate>,
        log: Arc<ConnectionLog>,
        target: Target,
    ) -> Self {
        let (target, clients, open) = (RwLock::new(Arc::new(target)), AtomicU64::new(0), AtomicUsize::new(0));
        Self { rule, counters, gate, log, kept: Arc::default(), target, clients, open }
    }

    /// The same, with its UDP sessions told of there.
    pub fn keeping(self, kept: Arc<Kept>) -> Self {
        Self { kept, ..self }
    }

    /// Where its payload is counted: client to backend, and back.
    pub fn payload(&self) -> [&Carried; 2] {
        self.counters.payload()
    }

    pub fn target(&self) -> Arc<Target> {
        self.target.read().unwrap_or_else(PoisonError::into_inner).clone()
    }

    /// UDP sessions under way.
    pub fn clients(&self) -> u64 {
        self.clients.load(Ordering::Relaxed)
    }

    /// A UDP session begins.
    pub fn enter(&self) {
        self.clients.fetch_add(1, Ordering::Relaxed);
        self.counters.enter();
    }

    /// A UDP session ends.
    pub fn leave(&self) {
        self.clients.fetch_sub(1, Ordering::Relaxed);
        self.counters.leave();
    }

    /// A worker is given one more socket to accept from.
    pub fn opens(&self) {
        self.open.fetch_add(1, Ordering::Relaxed);
    }

    /// It has closed it.
    pub fn closes(&self) {
        self.open.fetch_sub(1, Ordering::Release);
    }

    /// Waits until all workers have closed theirs.
    pub fn await_closed(&self, until: Instant) {
        while self.open.load(Ordering::Acquire) > 0 && Instant::now() < until {
            thread::sleep(LOOK);
        }
    }

    pub fn retarget(&self, target: Target) {
        *self.target.write().unwrap_or_else(PoisonError::into_inner) = Arc::new(target);
    }
}
