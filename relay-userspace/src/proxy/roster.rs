//! Sessions under way, for those who want to see them. A session is entered once and leaves once; what it carries it notes
//! in its own entry, where nobody else writes.

use std::net::SocketAddr;
use std::ops::Deref;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

use relay_common::net::Protocol;

use super::counters::Counters;

/// The sessions of a rule.
#[derive(Debug, Default)]
pub struct Roster(Mutex<Places>);

#[derive(Debug, Default)]
struct Places {
    sessions: Vec<Option<Arc<Live>>>,
    free: Vec<u32>,
}

/// A session under way.
#[derive(Debug)]
pub struct Live {
    pub protocol: Protocol,
    pub client: SocketAddr,
    /// The address and port that the client asked.
    pub asked: Option<SocketAddr>,
    pub begun: Instant,
    backend: Backend,
    /// It is a tunnel, whose flows are sessions of their own.
    has_flows: AtomicBool,
    /// Payload: client to backend, backend to client.
    bytes: [AtomicU64; 2],
    /// Seconds from the beginning until something moved last.
    moved: AtomicU64,
}

/// Where a session leads; nowhere while it has no backend.
#[derive(Debug)]
pub enum Backend {
    Own(Mutex<Option<SocketAddr>>),
    /// The other end of a tunnel with flows of many.
    Shared(Peer),
}

/// The other end of a tunnel, as long as that is open.
pub type Peer = Arc<Mutex<Option<SocketAddr>>>;

/// Sessions that are looked at in one go: workers who enter or leave wait for no more.
const GO: usize = 1024;

impl Live {
    pub fn new(protocol: Protocol, client: SocketAddr, asked: Option<SocketAddr>) -> Self {
        Self {
            protocol,
            client,
            asked,
            begun: Instant::now(),
            backend: Backend::Own(Mutex::default()),
            has_flows: AtomicBool::new(false),
            bytes: Default::default(),
            moved: AtomicU64::new(0),
        }
    }

    /// Only the session's own worker adds.
    pub fn add(&self, way: usize, bytes: u64) {
        let now = self.bytes[way].load(Ordering::Relaxed) + bytes;
        self.bytes[way].store(now, Ordering::Relaxed);
    }

    /// Something moves.
    pub fn touch(&self, now: Instant) {
        self.moved.store(now.saturating_duration_since(self.begun).as_secs(), Ordering::Relaxed);
    }

    pub fn bytes(&self) -> [u64; 2] {
        [0, 1].map(|way| self.bytes[way].load(Ordering::Relaxed))
    }

    /// How long nothing has moved.
    pub fn idle(&self, now: Instant) -> Duration {
        let moved = Duration::from_secs(self.moved.load(Ordering::Relaxed));
        now.saturating_duration_since(self.begun).saturating_sub(moved)
    }

    pub fn towards(self, backend: Backend) -> Self {
        Self { backend, ..self }
    }

    /// For a session that leads to its own backend only.
    pub fn set_backend(&self, backend: Option<SocketAddr>) {
        if let Backend::Own(own) = &self.backend {
            *own.lock().unwrap_or_else(PoisonError::into_inner) = backend;
        }
    }

    pub fn backend(&self) -> Option<SocketAddr> {
        let backend = match &self.backend {
            Backend::Own(own) => own,
            Backend::Shared(peer) => &**peer,
        };
        *backend.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// It turns out to be a tunnel with flows of many.
    pub fn has_flows(&self) {
        self.has_flows.store(true, Ordering::Relaxed);
    }

    /// Whether it is as far as it can be.
    pub fn is_open(&self) -> bool {
        self.has_flows.load(Ordering::Relaxed) || self.backend().is_some()
    }
}

impl From<SocketAddr> for Backend {
    fn from(backend: SocketAddr) -> Self {
        Self::Own(Mutex::new(Some(backend)))
    }
}

impl Roster {
    fn enter(&self, live: &Arc<Live>) -> usize {
        let mut places = self.places();
        let entry = Some(live.clone());
        if let Some(free) = places.free.pop() {
            places.sessions[free as usize] = entry;
            return free as usize;
        }
        places.sessions.push(entry);
        places.sessions.len() - 1
    }

    fn leave(&self, place: usize) {
        let mut places = self.places();
        let Places { sessions, free } = &mut *places;
        sessions[place] = None;
        free.push(place as u32);
        if free.len() == sessions.len() {
            // what a flood has grown is given back
            *places = Places::default();
        }
    }

    /// Shows all of them, some at a time: those that come or go meanwhile may or may not be seen.
    pub fn each(&self, mut look: impl FnMut(&Live)) {
        let mut from = 0;
        loop {
            let some: Vec<Arc<Live>> = {
                let places = self.places();
                let Some(rest) = places.sessions.get(from..).filter(|rest| !rest.is_empty()) else { return };
                rest.iter().take(GO).flatten().cloned().collect()
            };
            some.iter().for_each(|live| look(live));
            from += GO;
        }
    }

    fn places(&self) -> MutexGuard<'_, Places> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// A session's place in its rule's roster, for as long as it is under way.
#[derive(Debug)]
pub struct Entry {
    of: Arc<Counters>,
    place: usize,
    live: Arc<Live>,
}

impl Entry {
    pub fn new(of: &Arc<Counters>, live: Live) -> Self {
        let live = Arc::new(live);
        let place = of.roster().enter(&live);
        Self { of: of.clone(), place, live }
    }

    pub const fn live(&self) -> &Arc<Live> {
        &self.live
    }
}

impl Deref for Entry {
    type Target = Live;

    fn deref(&self) -> &Live {
        &self.live
    }
}

impl Drop for Entry {
    fn drop(&mut self) {
        self.of.roster().leave(self.place);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn enter(counters: &Arc<Counters>, port: u16) -> Entry {
        Entry::new(counters, Live::new(Protocol::Tcp, ([198, 51, 100, 7], port).into(), None))
    }

    fn ports(counters: &Counters) -> Vec<u16> {
        let mut ports = Vec::new();
        counters.roster().each(|live| ports.push(live.client.port()));
        ports.sort_unstable();
        ports
    }

    #[test]
    fn sessions_are_seen_from_their_beginning_to_their_end() {
        let counters = Arc::new(Counters::default());
        let all: Vec<_> = (0..3000).map(|port| enter(&counters, port)).collect();
        assert_eq!(ports(&counters), (0..3000).collect::<Vec<_>>());
        let odd: Vec<_> = all.into_iter().filter(|entry| entry.client.port() % 2 == 1).collect();
        let again = enter(&counters, 7000);
        assert_eq!((ports(&counters).len(), ports(&counters).last()), (1501, Some(&7000)));
        assert_eq!(counters.roster().places().sessions.len(), 3000, "places are used again");
        drop((odd, again));
        assert_eq!((ports(&counters).len(), counters.roster().places().sessions.capacity()), (0, 0));
    }

    #[test]
    fn an_entry_says_what_its_session_has_carried() {
        let live = Live::new(Protocol::Udp, ([198, 51, 100, 7], 1).into(), None);
        live.add(0, 5);
        live.add(0, 6);
        live.add(1, 7);
        assert_eq!(live.bytes(), [11, 7]);
        let later = |seconds| live.begun + Duration::from_secs(seconds);
        live.touch(later(10));
        assert_eq!(live.idle(later(13)), Duration::from_secs(3));
        assert_eq!(live.idle(later(9)), Duration::ZERO);
    }
}
