//! What a backend has had of a rule's sessions.

use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::{Arc, OnceLock};

use relay_common::net::Protocol;
use relay_common::round_trip::RoundTrips;
use relay_common::shared::Shared;

use super::place;
use super::signal::{Alarm, Failure, Signal, Told};

/// One backend's numbers, for as long as the rule has it.
#[derive(Debug)]
pub(super) struct Tally {
    name: Arc<str>,
    alarm: Arc<Alarm>,
    counts: [Counts; 2],
    /// Made for the first TCP session: many rules never have one.
    round_trips: OnceLock<Box<RoundTrips<Shared>>>,
}

#[derive(Debug, Default)]
struct Counts {
    active: AtomicU64,
    total: AtomicU64,
    answered: AtomicU64,
    failed: AtomicU64,
    told: Told,
    is_deserted: AtomicBool,
}

/// A backend's numbers at a moment.
#[derive(Clone, Debug, Eq, PartialEq)]
pub struct Tallied {
    /// The backend's text in the rule.
    pub name: Arc<str>,
    pub tcp: Numbers,
    pub udp: Numbers,
}

impl Tallied {
    pub const fn of(&self, protocol: Protocol) -> Numbers {
        match protocol {
            Protocol::Tcp => self.tcp,
            Protocol::Udp => self.udp,
        }
    }

    pub const fn active(&self) -> u64 {
        self.tcp.active + self.udp.active
    }

    pub const fn total(&self) -> u64 {
        self.tcp.total + self.udp.total
    }

    pub const fn failed(&self) -> u64 {
        self.tcp.failed + self.udp.failed
    }
}

#[derive(Clone, Copy, Debug, Default, Eq, PartialEq)]
pub struct Numbers {
    /// Sessions under way, those that are being connected included.
    pub active: u64,
    /// Sessions that have reached it.
    pub total: u64,
    /// Sessions that it has answered: TCP, those that were connected and not broken off at once; UDP, those that got a
    /// datagram back, anew after a failure.
    pub answered: u64,
    /// How often it failed one. UDP: how often it refused what it was sent.
    pub failed: u64,
}

impl Tally {
    pub fn new(name: Arc<str>, alarm: Arc<Alarm>) -> Self {
        Self { name, alarm, counts: Default::default(), round_trips: OnceLock::new() }
    }

    pub fn name(&self) -> &str {
        &self.name
    }

    /// Sessions under way, of both protocols, as the kernel plane counts flows.
    pub fn active(&self) -> u64 {
        self.counts.iter().map(|counts| counts.active.load(Ordering::Relaxed)).sum()
    }

    /// Whether sessions that it never answered are to choose anew.
    pub fn desert(&self, protocol: Protocol, is_deserted: bool) {
        self.counts[place(protocol)].is_deserted.store(is_deserted, Ordering::Relaxed);
    }

    /// Tells of a failure.
    pub fn alarm(&self, protocol: Protocol, signal: Signal) {
        let backend = self.name.clone();
        let failure = |rule| Failure { rule, backend, protocol, signal };
        self.alarm.sound(&self.counts[place(protocol)].told, failure);
    }

    pub fn read(&self) -> Tallied {
        let [tcp, udp] = [Protocol::Tcp, Protocol::Udp].map(|protocol| self.counts[place(protocol)].read());
        Tallied { name: self.name.clone(), tcp, udp }
    }

    /// How long its sessions' round trips have taken.
    pub fn round_trips(&self) -> RoundTrips {
        self.round_trips.get().map(|trips| trips.read()).unwrap_or_default()
    }
}

impl Counts {
    fn read(&self) -> Numbers {
        let [active, total, answered, failed] = [&self.active, &self.total, &self.answered, &self.failed]
            .map(|count| count.load(Ordering::Relaxed));
        Numbers { active, total, answered, failed }
    }
}

/// A session at a backend, or on its way there. It counts as active until this is dropped.
#[derive(Debug)]
pub struct Lease {
    tally: Arc<Tally>,
    protocol: Protocol,
    index: u16,
    /// The backend has answered, and has not taken it back.
    has_answered: AtomicBool,
}

impl Lease {
    pub(super) fn new(tally: Arc<Tally>, protocol: Protocol, index: usize) -> Self {
        // there are as many backends as a table can name
        let index = u16::try_from(index).unwrap_or(u16::MAX);
        let lease = Self { tally, protocol, index, has_answered: AtomicBool::new(false) };
        lease.counts().active.fetch_add(1, Ordering::Relaxed);
        lease
    }

    /// The backend's place in the plan that the session began with.
    pub fn index(&self) -> usize {
        self.index.into()
    }

    /// The backend is reached.
    pub fn begin(&self) {
        self.counts().total.fetch_add(1, Ordering::Relaxed);
    }

    /// Whether the backend does not answer, and gets no new session for that.
    pub fn is_deserted(&self) -> bool {
        self.counts().is_deserted.load(Ordering::Relaxed)
    }

    /// Where round trips of its sessions are counted.
    pub fn round_trips(&self) -> &RoundTrips<Shared> {
        self.tally.round_trips.get_or_init(Box::default)
    }

    /// The backend answers.
    pub fn answer(&self) {
        self.counts().answered.fetch_add(1, Ordering::Relaxed);
        self.has_answered.store(true, Ordering::Relaxed);
    }

    /// The backend failed the session.
    pub fn fail(&self, signal: Signal) {
        if signal == Signal::Reset && self.has_answered.swap(false, Ordering::Relaxed) {
            // it was connected, which is all the answer there was
            self.counts().answered.fetch_sub(1, Ordering::Relaxed);
        }
        self.counts().failed.fetch_add(1, Ordering::Relaxed);
        self.tally.alarm(self.protocol, signal);
    }

    fn counts(&self) -> &Counts {
        &self.tally.counts[place(self.protocol)]
    }
}

impl Drop for Lease {
    fn drop(&mut self) {
        self.counts().active.fetch_sub(1, Ordering::Relaxed);
    }
}
