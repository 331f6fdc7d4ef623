//! The prober's thread: waits for sockets, orders and times, and has the judges decide.

use std::collections::HashMap;
use std::hash::{BuildHasher as _, RandomState};
use std::io;
use std::sync::Arc;
use std::sync::mpsc::{Receiver, TryRecvError};
use std::time::{Duration, Instant};

use nix::errno::Errno;
use nix::sys::epoll::{Epoll, EpollCreateFlags, EpollEvent, EpollFlags, EpollTimeout};
use nix::sys::eventfd::EventFd;
use tokio::sync::mpsc::UnboundedSender;

use super::agenda::Agenda;
use super::flights::{FlightId, Flights, Landed};
use super::{Judges, News, Order, Probe, ProbeId};
use crate::health::judge::{Change, Judge};
use crate::health::probe::{ProbeError, Tls};
use crate::rule::CheckKind;

/// What epoll calls the bell: no socket has that number.
const BELL: u64 = u64::MAX;
/// What is asked out of turn is not asked again within this.
const SHORTEST: Duration = Duration::from_millis(200);
/// An interval is divided by this for the first probes of those that are added at once.
const CROWD: u32 = 10_000;
/// Events that are taken at once.
const BATCH: usize = 256;
/// How often it is said that this host has no room for probes.
const SAID_EVERY: Duration = Duration::from_secs(60);

pub(super) struct Engine {
    inbox: Receiver<Order>,
    bell: Arc<EventFd>,
    judges: Arc<Judges>,
    out: UnboundedSender<Vec<News>>,
    poller: Epoll,
    flights: Flights,
    followed: HashMap<ProbeId, Followed>,
    starts: Agenda,
    deadlines: Agenda,
    /// When the next one that is added has its first turn.
    next_first: Instant,
    news: Vec<News>,
    jitter: RandomState,
    lack_said: Option<Instant>,
}

/// An endpoint that is asked.
struct Followed {
    probe: Probe,
    /// When it has its turn, as it is entered; `None`: while it is being asked, or if time does nothing.
    due: Option<Instant>,
    flight: Option<(FlightId, Deadline)>,
    began: Option<Instant>,
    /// It is to be asked again as soon as it has been asked.
    hurried: bool,
}

type Deadline = Instant;

impl Engine {
    pub fn new(
        inbox: Receiver<Order>,
        bell: Arc<EventFd>,
        judges: Arc<Judges>,
        tls: Tls,
        out: UnboundedSender<Vec<News>>,
    ) -> io::Result<Self> {
        let poller = Epoll::new(EpollCreateFlags::EPOLL_CLOEXEC)?;
        poller.add(&*bell, EpollEvent::new(EpollFlags::EPOLLIN, BELL))?;
        Ok(Self {
            inbox,
            bell,
            judges,
            out,
            poller,
            flights: Flights::new(tls),
            followed: HashMap::new(),
            starts: Agenda::default(),
            deadlines: Agenda::default(),
            next_first: Instant::now(),
            news: Vec::new(),
            jitter: RandomState::new(),
            lack_said: None,
        })
    }

    /// Goes on until there are no more orders to come.
    pub fn run(mut self) {
        let mut events = [EpollEvent::empty(); BATCH];
        loop {
            let count = match self.poller.wait(&mut events, self.rest()) {
                Ok(count) => count,
                Err(Errno::EINTR) => 0,
                Err(error) => return tracing::error!("endpoints are not probed any more: {error}"),
            };
            let mut is_called = false;
            for event in &events[..count] {
                is_called |= event.data() == BELL;
                if let Some(landed) = self.flights.advance(FlightId(event.data()), event.events()) {
                    self.land(landed);
                }
            }
            self.tell();
            if is_called && !self.obey() {
                return;
            }
            // sockets begin only when all events of others with their numbers are gone
            self.give_up();
            self.begin();
            self.tell();
        }
    }

    fn rest(&self) -> EpollTimeout {
        let now = Instant::now();
        let starts = if self.flights.are_full() { None } else { self.starts.rest(now) };
        let rest = [starts, self.deadlines.rest(now)].into_iter().flatten().min();
        rest.map_or(EpollTimeout::NONE, |rest| EpollTimeout::try_from(rest).unwrap_or(EpollTimeout::MAX))
    }

    /// Takes what there is to do. `false`: there will be no more.
    fn obey(&mut self) -> bool {
        // read before the orders, so that one that comes meanwhile rings again
        _ = self.bell.read();
        loop {
            match self.inbox.try_recv() {
                Ok(Order::Follow(id, probe)) => self.follow(id, probe),
                Ok(Order::Forget(id)) => self.forget(id),
                Ok(Order::Signal(id, signal)) => {
                    self.decide(id, |judge, probe, now| judge.signalled(signal, &probe.check, now));
                    self.hurry(id);
                }
                Ok(Order::Answered(id)) => {
                    self.decide(id, |judge, probe, now| judge.answered(&probe.check, now));
                }
                Ok(Order::Pardon(id)) => {
                    self.decide(id, |judge, _, now| judge.pardon(now));
                    self.hurry(id);
                }
                Err(TryRecvError::Empty) => return true,
                Err(TryRecvError::Disconnected) => return false,
            }
        }
    }

    fn follow(&mut self, id: ProbeId, probe: Probe) {
        let now = Instant::now();
        if self.followed.get(&id).is_some_and(|old| old.probe == probe) {
            return;
        }
        let old = self.followed.remove(&id);
        let at = if old.is_some() { now } else { self.first_turn(now, probe.check.interval) };
        self.end(id, old);
        let is_passive = probe.check.kind == CheckKind::Passive;
        self.followed.insert(id, Followed { probe, due: None, flight: None, began: None, hurried: false });
        if is_passive { self.await_trial(id) } else { self.plan(id, at) }
    }

    /// Those that are added at once have their first turns one after the other.
    fn first_turn(&mut self, now: Instant, interval: Duration) -> Instant {
        let at = self.next_first.max(now);
        let at = if at - now > interval { now } else { at };
        self.next_first = at + interval / CROWD;
        at
    }

    fn forget(&mut self, id: ProbeId) {
        let gone = self.followed.remove(&id);
        self.end(id, gone);
    }

    fn end(&mut self, id: ProbeId, gone: Option<Followed>) {
        let Some(Followed { due, flight, .. }) = gone else { return };
        if let Some(due) = due {
            self.starts.leave(due, id);
        }
        if let Some((flight, deadline)) = flight {
            self.flights.end(flight);
            self.deadlines.leave(deadline, id);
        }
    }

    /// Brings the next probe forward. However often that is said, there are at most five a second.
    fn hurry(&mut self, id: ProbeId) {
        let Some(followed) = self.followed.get_mut(&id) else { return };
        if followed.probe.check.kind == CheckKind::Passive {
            return;
        }
        if followed.flight.is_some() {
            followed.hurried = true;
            return;
        }
        let soonest = followed.soonest(Instant::now());
        if followed.due.is_none_or(|due| due > soonest) {
            self.plan(id, soonest);
        }
    }

    fn plan(&mut self, id: ProbeId, at: Instant) {
        if let Some(followed) = self.followed.get_mut(&id) {
            if let Some(before) = followed.due.replace(at) {
                self.starts.leave(before, id);
            }
            self.starts.enter(at, id);
        }
    }

    /// Without probes an endpoint has its turn when clients may try it again.
    fn await_trial(&mut self, id: ProbeId) {
        let Some(followed) = self.followed.get(&id) else { return };
        let check = followed.probe.check.clone();
        let at = self.judges.lock().get(&id).and_then(|judge| judge.tries_again_at(&check));
        if let Some(at) = at.filter(|_| check.kind == CheckKind::Passive) {
            self.plan(id, at);
        }
    }

    /// Begins what is due, as far as there is room.
    fn begin(&mut self) {
        let now = Instant::now();
        while !self.flights.are_full() {
            let Some(id) = self.starts.take_due(now) else { return };
            let Some(followed) = self.followed.get_mut(&id) else { continue };
            followed.due = None;
            if followed.probe.check.kind == CheckKind::Passive {
                self.decide(id, |judge, probe, now| judge.try_again(&probe.check, now));
                continue;
            }
            followed.began = Some(now);
            match self.flights.begin(id, &followed.probe, &self.poller) {
                Ok(flight) => {
                    let deadline = now + followed.probe.check.timeout;
                    followed.flight = Some((flight, deadline));
                    self.deadlines.enter(deadline, id);
                }
                Err(error) => self.conclude(id, now, Err(error)),
            }
        }
    }

    /// Ends what has taken too long.
    fn give_up(&mut self) {
        let now = Instant::now();
        while let Some(id) = self.deadlines.take_due(now) {
            if let Some((flight, _)) = self.followed.get(&id).and_then(|followed| followed.flight) {
                self.flights.end(flight);
                self.conclude(id, now, Err(ProbeError::TimedOut));
            }
        }
    }

    fn land(&mut self, Landed { id, began, outcome }: Landed) {
        let latency = began.elapsed();
        self.conclude(id, Instant::now(), outcome.map(|()| latency));
    }

    /// A probe is over.
    fn conclude(&mut self, id: ProbeId, now: Instant, outcome: Result<Duration, ProbeError>) {
        match outcome {
            Err(error) if error.is_ours() => self.say_lack(&error, now),
            outcome => self.decide(id, |judge, probe, now| judge.probed(outcome, &probe.check, now)),
        }
        let early = self.early();
        let Some(followed) = self.followed.get_mut(&id) else { return };
        if let Some((_, deadline)) = followed.flight.take() {
            self.deadlines.leave(deadline, id);
        }
        let began = followed.began.unwrap_or(now);
        let next = if std::mem::take(&mut followed.hurried) {
            followed.soonest(now)
        } else {
            (began + followed.probe.check.interval.mul_f64(early)).max(now)
        };
        self.plan(id, next);
    }

    fn decide(&mut self, id: ProbeId, decide: impl FnOnce(&mut Judge, &Probe, Instant) -> Option<Change>) {
        let Some(followed) = self.followed.get(&id) else { return };
        let at = Instant::now();
        if let Some(change) = self.judges.ask(id, |judge| decide(judge, &followed.probe, at)) {
            self.news.push(News { id, change, at });
        }
        self.await_trial(id);
    }

    /// Between 90 and 99 % of an interval: probes spread, and none is later than it was to be.
    fn early(&self) -> f64 {
        let random = self.jitter.hash_one(Instant::now()) % 1000;
        0.90 + random as f64 * 0.000_09
    }

    fn say_lack(&mut self, error: &ProbeError, now: Instant) {
        if self.lack_said.is_none_or(|said| now - said >= SAID_EVERY) {
            self.lack_said = Some(now);
            tracing::warn!("endpoints are not probed as often as they should be: {error}");
        }
    }

    fn tell(&mut self) {
        if !self.news.is_empty() {
            // whoever does not listen any more is about to drop the prober
            _ = self.out.send(std::mem::take(&mut self.news));
        }
    }
}

impl Followed {
    fn soonest(&self, now: Instant) -> Instant {
        self.began.map_or(now, |began| now.max(began + SHORTEST))
    }
}
