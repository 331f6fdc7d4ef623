//! Asks many endpoints how they are, from one thread that has no task, no timer and no descriptor for one that is not
//! being asked, and tells what changes.

mod agenda;
mod engine;
mod flights;
mod pool;

use std::collections::HashMap;
use std::io;
use std::net::SocketAddr;
use std::os::fd::AsFd as _;
use std::sync::mpsc::{self, Receiver, Sender};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::thread::{self, JoinHandle};
use std::time::Instant;

use nix::sys::eventfd::{EfdFlags, EventFd};
use rustls::RootCertStore;
use tokio::sync::mpsc::UnboundedSender;

use self::engine::Engine;
use super::judge::{Change, Judge, Signal, Standing};
use super::probe::Tls;
use crate::proxy::tunnel::Connector;
use crate::proxy::tunnel::tls::public_roots;
use crate::rule::{Check, Connect};

/// What the prober calls an endpoint. Whoever adds one says which; an endpoint at another address is another one.
#[derive(Clone, Copy, Debug, Eq, Hash, Ord, PartialEq, PartialOrd)]
pub struct ProbeId(pub u64);

/// Whom to ask, and what.
#[derive(Clone, Debug, Eq, PartialEq)]
pub struct Probe {
    /// Where flows go; `check.port` may name another port to ask at.
    pub address: SocketAddr,
    /// The backend's name, if it has one: for TLS and HTTP, where the check itself names none.
    pub name: Option<Arc<str>>,
    pub check: Arc<Check>,
    /// Probes leave as the rule's sessions do.
    pub connect: Arc<Connect>,
    /// What a connection has to be wrapped in for a `tcp` check; `None`: being connected is enough.
    pub connector: Option<Arc<Connector>>,
}

/// An endpoint's state is another one now.
#[derive(Clone, Debug, Eq, PartialEq)]
pub struct News {
    pub id: ProbeId,
    pub change: Change,
    pub at: Instant,
}

/// The prober's handle. Dropped, it ends its thread.
#[derive(Debug)]
pub struct Prober {
    orders: Orders,
    judges: Arc<Judges>,
    thread: Option<JoinHandle<()>>,
}

/// The judges of all endpoints: the prober's thread has them decide, others look.
#[derive(Debug, Default)]
struct Judges(Mutex<HashMap<ProbeId, Judge>>);

/// What the thread is told.
#[derive(Debug)]
enum Order {
    Follow(ProbeId, Probe),
    Forget(ProbeId),
    Signal(ProbeId, Signal),
    Answered(ProbeId),
    Pardon(ProbeId),
}

/// Where orders go in.
#[derive(Debug)]
struct Orders {
    /// `None`: there are no more.
    queue: Option<Sender<Order>>,
    bell: Arc<EventFd>,
}

impl Prober {
    /// Starts the thread. Changes go to `news` at once, those of one moment together.
    ///
    /// # Errors
    ///
    /// No thread or no descriptors are to be had.
    pub fn start(news: UnboundedSender<Vec<News>>) -> io::Result<Self> {
        Self::start_with(news, public_roots())
    }

    fn start_with(news: UnboundedSender<Vec<News>>, roots: RootCertStore) -> io::Result<Self> {
        let bell = EventFd::from_value_and_flags(0, EfdFlags::EFD_CLOEXEC | EfdFlags::EFD_NONBLOCK)?;
        let bell = Arc::new(bell);
        let (queue, inbox): (_, Receiver<Order>) = mpsc::channel();
        let judges = Arc::<Judges>::default();
        let tls = Tls::new(roots).map_err(io::Error::other)?;
        let engine = Engine::new(inbox, bell.clone(), judges.clone(), tls, news)?;
        let thread = thread::Builder::new().name("prober".into()).spawn(move || engine.run())?;
        Ok(Self { orders: Orders { queue: Some(queue), bell }, judges, thread: Some(thread) })
    }

    /// Asks an endpoint from now on, or asks it something else from now on: what is known of it stays. `known` is what was
    /// known of one that is new here.
    pub fn set(&self, id: ProbeId, probe: Probe, known: Option<Standing>) {
        let judge = || known.map_or_else(|| Judge::new(Instant::now()), Judge::resume);
        self.judges.lock().entry(id).or_insert_with(judge);
        self.orders.give(Order::Follow(id, probe));
    }

    /// Asks it no more, and forgets what is known of it.
    pub fn remove(&self, id: ProbeId) {
        self.judges.lock().remove(&id);
        self.orders.give(Order::Forget(id));
    }

    /// A client fared badly: that counts where no probes are made, and brings the next one forward where they are:
    /// however often that is said, there are at most five a second.
    pub fn signal(&self, id: ProbeId, signal: Signal) {
        self.orders.give(Order::Signal(id, signal));
    }

    /// A client was answered. That counts where no probes are made, and is worth telling only of one that is not up, or
    /// has failed since it last was told of.
    pub fn answered(&self, id: ProbeId) {
        self.orders.give(Order::Answered(id));
    }

    /// Forgets its failures and its cooldown, by order, and asks it now.
    pub fn pardon(&self, id: ProbeId) {
        self.orders.give(Order::Pardon(id));
    }

    /// For readers.
    pub fn board(&self) -> Board {
        Board(self.judges.clone())
    }

    /// How all of them stand.
    pub fn standings(&self) -> HashMap<ProbeId, Standing> {
        self.judges.lock().iter().map(|(&id, judge)| (id, judge.standing().clone())).collect()
    }
}

/// For readers who have no say.
#[derive(Clone, Debug)]
pub struct Board(Arc<Judges>);

impl Board {
    /// How an endpoint stands.
    pub fn standing(&self, id: ProbeId) -> Option<Standing> {
        self.0.lock().get(&id).map(|judge| judge.standing().clone())
    }
}

impl Drop for Prober {
    fn drop(&mut self) {
        self.orders.queue = None;
        self.orders.ring();
        if let Some(thread) = self.thread.take() {
            // it has said what went wrong with it
            _ = thread.join();
        }
    }
}

impl Orders {
    fn give(&self, order: Order) {
        // nobody is there after a fault that was logged
        if self.queue.as_ref().is_some_and(|queue| queue.send(order).is_ok()) {
            self.ring();
        }
    }

    fn ring(&self) {
        // a bell that cannot be rung once more rings already
        _ = nix::unistd::write(self.bell.as_fd(), &1_u64.to_ne_bytes());
    }
}

impl Judges {
    fn lock(&self) -> MutexGuard<'_, HashMap<ProbeId, Judge>> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Has an endpoint's judge decide.
    fn ask(&self, id: ProbeId, decide: impl FnOnce(&mut Judge) -> Option<Change>) -> Option<Change> {
        self.lock().get_mut(&id).and_then(decide)
    }
}

#[cfg(test)]
mod tests;
