//! A rule as the workers see it.

use std::fmt;
use std::net::SocketAddr;
use std::sync::atomic::{AtomicU64, AtomicUsize, Ordering};
use std::sync::{Arc, PoisonError, RwLock};
use std::thread;
use std::time::{Duration, Instant};

use relay_common::net::Protocol;

use super::complaints::{Complaints, and_others};
use super::counters::{Carried, Counters, Refusal};
use super::gate::Gate;
use super::kept::Kept;
use super::pool::Ends;
use super::roster::Live;
use super::tunnel::{Acceptor, Connector};
use crate::connections::ConnectionLog;
use crate::observe::{Event, Observatory, What, canonical};
pub use crate::rule::UdpNat;
use crate::rule::{Accept, Connect, RuleName, Timeouts, Usual};

/// A listener of a rule, as far as it can change while it is served.
#[derive(Debug)]
pub struct Service {
    pub rule: RuleName,
    pub counters: Arc<Counters>,
    pub gate: Arc<Gate>,
    pub log: Arc<ConnectionLog>,
    /// Where all that happens to its sessions is told.
    pub observatory: Arc<Observatory>,
    /// Where its UDP sessions are told of.
    pub kept: Arc<Kept>,
    target: RwLock<Arc<Target>>,
    /// Grows with every change of that.
    edition: AtomicU64,
    /// UDP sessions under way, of all workers.
    clients: AtomicU64,
    /// Sockets that connections are accepted from.
    open: AtomicUsize,
    /// Clients in the middle of a tunnel's handshake, of all workers.
    handshakes: AtomicUsize,
    /// Log lines about tunnels.
    pub about_clients: Complaints,
    about_backends: Complaints,
}

/// How often somebody who waits for the workers looks.
const LOOK: Duration = Duration::from_micros(200);

/// How many clients of a listener may be in the middle of a tunnel's handshake: the slow ones of an attack have their
/// time, and those who are quick still get in between.
const HANDSHAKES: usize = 4096;

/// One that is under way.
#[derive(Debug)]
pub struct Handshake<'a>(&'a AtomicUsize);

impl Drop for Handshake<'_> {
    fn drop(&mut self) {
        self.0.fetch_sub(1, Ordering::Relaxed);
    }
}

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
    /// What clients' connections are wrapped in.
    pub acceptor: Option<Arc<Acceptor>>,
    /// What the backends' are.
    pub connector: Option<Arc<Connector>>,
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
        Self {
            rule,
            counters,
            gate,
            log,
            observatory: Arc::default(),
            kept: Arc::default(),
            target: RwLock::new(Arc::new(target)),
            edition: AtomicU64::new(0),
            clients: AtomicU64::new(0),
            open: AtomicUsize::new(0),
            handshakes: AtomicUsize::new(0),
            about_clients: Complaints::default(),
            about_backends: Complaints::default(),
        }
    }

    /// The same, with its UDP sessions told of there.
    pub fn keeping(self, kept: Arc<Kept>) -> Self {
        Self { kept, ..self }
    }

    /// The same, with all that happens to its sessions told there.
    pub fn watched_by(self, observatory: Arc<Observatory>) -> Self {
        Self { observatory, ..self }
    }

    /// A session has been let in.
    pub fn tell_opened(&self, live: &Live) {
        self.tell(live, What::Opened);
    }

    /// One has its backend, and its client is there.
    pub fn tell_proven(&self, live: &Live) {
        self.tell(live, What::Proven);
    }

    fn tell(&self, live: &Live, what: What) {
        self.observatory.tell(|| {
            let event = Event::of_session(&self.rule, live.protocol, Some(live.client), what);
            let (listen, backend) = (live.asked.map(canonical), live.backend().map(canonical));
            Event { listen, backend, ..event }
        });
    }

    /// A client of datagrams is not let in.
    pub fn turn_away(&self, reason: Refusal, client: SocketAddr, asked: Option<SocketAddr>) {
        self.counters.refuse(reason);
        self.observatory.tell(|| {
            let what = What::Refused { reason: reason.as_str() };
            let event = Event::of_session(&self.rule, Protocol::Udp, Some(client), what);
            Event { listen: asked.map(canonical), ..event }
        });
    }

    /// Datagrams have gone nowhere. `client`: whose they were, if that is known.
    pub fn lose(&self, reason: Refusal, datagrams: u64, client: Option<SocketAddr>) {
        self.counters.refuse_many(reason, datagrams);
        self.observatory.tell(|| {
            let what = What::Dropped { reason: reason.as_str(), packets: datagrams };
            Event::of_session(&self.rule, Protocol::Udp, client, what)
        });
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

    /// Something about a backend's tunnel is not as the rule says.
    pub fn complain(&self, what: fmt::Arguments<'_>) {
        if let Some(muted) = self.about_backends.admit() {
            let (rule, others) = (&self.rule, and_others(muted));
            tracing::warn!(RULE = rule.as_str(), "rule {rule}: {what}{others}");
        }
    }

    /// A client begins a tunnel's handshake, unless as many are in the middle of theirs as may be.
    pub fn shake_hands(&self) -> Option<Handshake<'_>> {
        let handshake = Handshake(&self.handshakes);
        (self.handshakes.fetch_add(1, Ordering::Relaxed) < HANDSHAKES).then_some(handshake)
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
        self.edition.fetch_add(1, Ordering::Release);
    }

    /// Another number after every change of the target.
    pub fn edition(&self) -> u64 {
        self.edition.load(Ordering::Acquire)
    }
}
