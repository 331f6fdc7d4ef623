//! Tunnels of a rule that are open and wait for clients, so that a new one need not wait for any handshake. All workers
//! take from the same ones; the rule's keeper (`proxy::tcp::keeper`) renews them.

use std::collections::{HashMap, HashSet, VecDeque};
use std::iter;
use std::mem;
use std::net::{IpAddr, TcpStream};
use std::os::fd::AsRawFd;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

use nix::errno::Errno;
use nix::sys::socket::{MsgFlags, recv, send};
use tokio::sync::Notify;

use super::buffer::{self, HEADROOM, PIECE};
use super::handshake::{Connector, Opening};
use crate::rule::{Connect, Usual};

/// After this another one is opened in its place. Servers that wait for a client's first word give up after a minute
/// (nginx), two (OpenSSH) or 50 seconds (HAProxy as Debian has it).
const RENEWED_AFTER: Duration = Duration::from_secs(40);
/// What is older is not used any more.
const OLDEST: Duration = Duration::from_secs(45);
/// For so long after its last client an end has as many as it may; then one, if any.
const QUIET: Duration = Duration::from_secs(300);
/// A backend has as many as so many ports of the rule may have, which the ports that clients come for share.
const SHARED_BY: usize = 4;
/// One that did not even last so long counts as a failure.
const YOUNG: Duration = Duration::from_secs(5);
/// The first pause after a failure, which doubles, and the longest.
const PAUSES: [Duration; 2] = [Duration::from_secs(1), Duration::from_secs(30)];
/// How much of what a server says first is taken in before it has a client. The rest waits in the socket.
const MOST_EARLY: usize = 64 * 1024;

/// What a tunnel was opened by. One that was opened by something else is not what the rule says now.
#[derive(Clone, Debug, PartialEq)]
pub struct By {
    pub connector: Arc<Connector>,
    pub connect: Usual<Connect>,
}

/// A tunnel that waits.
#[derive(Debug)]
pub struct Spare {
    socket: TcpStream,
    opening: Opening,
    by: By,
    peer: IpAddr,
    opened: Instant,
}

/// A backend by its text in the rule, and the port that it is reached at.
pub type Place = (Arc<str>, u16);

/// What is to be held open.
#[derive(Debug)]
pub struct Wanted {
    pub by: By,
    /// The most at each place. A backend with many places has [`SHARED_BY`] times as many.
    pub count: usize,
    /// Backends that get clients.
    pub ends: HashMap<Arc<str>, Open>,
    /// How many may be opened at once.
    pub room: usize,
}

/// A backend that gets clients.
#[derive(Debug)]
pub struct Open {
    pub addresses: Arc<[IpAddr]>,
    /// Where one is held always.
    pub ports: Vec<u16>,
}

/// What has to be done.
#[derive(Debug, Default, Eq, PartialEq)]
pub struct Due {
    /// Where one is to be opened, each of which ends in [`Spares::put`] or [`Spares::fail`].
    pub lacking: Vec<Place>,
    /// Backends that have ended what they had just begun.
    pub broken: Vec<Arc<str>>,
}

/// A backend's at a moment.
#[derive(Clone, Copy, Debug, Default, Eq, PartialEq)]
pub struct Held {
    /// Tunnels that wait.
    pub open: u64,
    /// Clients that got one.
    pub taken: u64,
    /// Clients that had to wait for their own.
    pub missed: u64,
}

/// The tunnels of one rule.
#[derive(Debug, Default)]
pub struct Spares {
    shelves: Mutex<Shelves>,
    asked: Notify,
}

#[derive(Debug, Default)]
struct Shelves {
    at: HashMap<Place, Shelf>,
    /// Clients by backend: those that got one, and those that did not.
    clients: HashMap<Arc<str>, [u64; 2]>,
    /// What each backend's places come to.
    demands: HashMap<Arc<str>, Demand>,
    /// Where something has happened since it was looked.
    changed: HashSet<Place>,
    /// Backends that have ended what they had just begun, and have not been told of.
    broken: Vec<Arc<str>>,
}

#[derive(Debug, Default)]
struct Shelf {
    /// The oldest first.
    spares: VecDeque<Spare>,
    /// How many are being opened.
    opening: usize,
    /// When the last client came.
    asked: Option<Instant>,
    /// In a row.
    failures: u32,
    /// Nothing is opened before.
    rests_until: Option<Instant>,
    /// What the backend's sums have of it.
    counted: Demand,
}

/// Of a place or of all places of a backend.
#[derive(Clone, Copy, Debug, Default)]
struct Demand {
    /// Those that clients come for.
    places: usize,
    /// Tunnels that wait there or are being opened, without those that are to be renewed.
    stock: usize,
}

impl Spare {
    pub fn new(socket: TcpStream, opening: Opening, by: By, peer: IpAddr) -> Self {
        Self { socket, opening, by, peer, opened: Instant::now() }
    }

    fn is_for(&self, by: &By, addresses: &[IpAddr], now: Instant) -> bool {
        now.duration_since(self.opened) < OLDEST && self.by == *by && addresses.contains(&self.peer)
    }

    fn is_young(&self, now: Instant) -> bool {
        now.duration_since(self.opened) < YOUNG
    }

    /// Takes apart what has come while nobody listened: tickets, pings, what a server says first. Whether the tunnel is
    /// still there. One that has ended is not, whatever it has said before: that was for no client.
    fn is_there(&mut self) -> bool {
        while self.opening.payload.len() < MOST_EARLY {
            match self.look() {
                Ok(true) => {}
                Ok(false) => return true,
                Err(_gone) => return false,
            }
        }
        true
    }

    /// Whether there was anything.
    fn look(&mut self) -> Result<bool, Errno> {
        let Self { socket, opening: Opening { layers, undecoded, payload, .. }, .. } = self;
        buffer::with(|buffers| {
            let kept = undecoded.len();
            let place = &mut buffers.opened[HEADROOM..];
            place[..kept].copy_from_slice(undecoded);
            let new = match recv(socket.as_raw_fd(), &mut place[kept..kept + PIECE], MsgFlags::MSG_DONTWAIT) {
                Err(Errno::EAGAIN | Errno::EINTR) => return Ok(false),
                Ok(0) => return Err(Errno::ECONNRESET),
                result => result?,
            };
            let data = &mut place[..kept + new];
            let opened = layers.open(data, &mut buffers.answers).map_err(|_fault| Errno::EPROTO)?;
            answer(socket, &buffers.answers)?;
            payload.extend_from_slice(&data[..opened.payload]);
            undecoded.clear();
            undecoded.extend_from_slice(&data[opened.rest..]);
            if opened.end { Err(Errno::ECONNRESET) } else { Ok(true) }
        })
    }

    /// Takes leave.
    fn close(mut self) {
        let mut last = Vec::new();
        if self.opening.layers.end(&mut last).is_ok() {
            // who does not take it will see the connection end
            _ = answer(&self.socket, &last);
        }
    }
}

/// Sends something small to who has been sent next to nothing.
fn answer(socket: &TcpStream, bytes: &[u8]) -> Result<(), Errno> {
    if bytes.is_empty() {
        return Ok(());
    }
    let sent = send(socket.as_raw_fd(), bytes, MsgFlags::MSG_NOSIGNAL | MsgFlags::MSG_DONTWAIT)?;
    if sent == bytes.len() { Ok(()) } else { Err(Errno::ENOBUFS) }
}

impl Shelf {
    fn fail(&mut self, now: Instant) {
        let [first, longest] = PAUSES;
        let pause = first.saturating_mul(1 << self.failures.min(8)).min(longest);
        self.failures = self.failures.saturating_add(1);
        self.rests_until = Some(now + pause);
    }

    /// Keeps those that can still be used. Whether there were some that have ended young.
    fn look_through(&mut self, by: &By, addresses: &[IpAddr], now: Instant) -> bool {
        let mut ended_young = false;
        for mut spare in mem::take(&mut self.spares) {
            if !spare.is_for(by, addresses, now) {
                spare.close();
                continue;
            }
            let is_young = spare.is_young(now);
            if spare.is_there() {
                if !is_young {
                    self.failures = 0;
                }
                self.spares.push_back(spare);
            } else {
                ended_young |= is_young;
            }
        }
        if ended_young {
            // they have ended together as a rule, and for one reason
            self.fail(now);
        }
        ended_young
    }

    /// How many there are, without those that are to be renewed.
    fn stock(&self, now: Instant) -> usize {
        let is_fresh = |spare: &&Spare| now.duration_since(spare.opened) < RENEWED_AFTER;
        self.spares.iter().filter(is_fresh).count() + self.opening
    }

    /// Brings its part of the backend's sums up to date.
    fn recount(&mut self, sums: &mut Demand, now: Instant) {
        let new = Demand { places: self.is_in_demand(now).into(), stock: self.stock(now) };
        sums.places = sums.places.saturating_sub(self.counted.places) + new.places;
        sums.stock = sums.stock.saturating_sub(self.counted.stock) + new.stock;
        self.counted = new;
    }

    /// How many to open. `standing`: one is held also while no clients come.
    fn lacks(&self, count: usize, standing: bool, now: Instant) -> usize {
        if self.rests_until.is_some_and(|until| now < until) {
            return 0;
        }
        let wanted = if self.is_in_demand(now) { count } else { count.min(standing.into()) };
        let there = self.stock(now);
        // after a failure one is enough to see
        let most = if self.failures > 0 { 1_usize.saturating_sub(self.opening) } else { usize::MAX };
        wanted.saturating_sub(there).min(most)
    }

    fn is_in_demand(&self, now: Instant) -> bool {
        self.asked.is_some_and(|asked| now.duration_since(asked) < QUIET)
    }

    fn close(self) {
        self.spares.into_iter().for_each(Spare::close);
    }
}

impl Wanted {
    /// Whether one is held there always.
    fn is_standing(&self, (name, port): &Place) -> bool {
        self.ends.get(name).is_some_and(|open| open.ports.contains(port))
    }
}

impl Shelves {
    /// Looks at what has changed. What there is no room for yet is looked at again.
    fn tend(&mut self, wanted: &Wanted, now: Instant) -> Due {
        let mut lacking = Vec::new();
        for place in mem::take(&mut self.changed) {
            let Some(open) = wanted.ends.get(&place.0) else { continue };
            let Some(shelf) = self.at.get_mut(&place) else { continue };
            let demand = self.demands.entry(place.0.clone()).or_default();
            if shelf.look_through(&wanted.by, &open.addresses, now) {
                self.broken.push(place.0.clone());
            }
            shelf.recount(demand, now);
            let is_standing = wanted.is_standing(&place);
            let (share, mut left) = demand.allotment(wanted.count);
            if is_standing && shelf.counted.stock == 0 {
                left = left.max(1);
            }
            let room = wanted.room.saturating_sub(lacking.len());
            let lacks = shelf.lacks(share, is_standing, now).min(left);
            if lacks > room {
                self.changed.insert(place.clone());
            }
            shelf.opening += lacks.min(room);
            shelf.recount(demand, now);
            lacking.extend(iter::repeat_n(place, lacks.min(room)));
        }
        Due { lacking, broken: mem::take(&mut self.broken) }
    }
}

impl Demand {
    /// How many a place may have that clients come for, and how many more all places together.
    fn allotment(&self, count: usize) -> (usize, usize) {
        let most = count * SHARED_BY;
        ((most / self.places.max(1)).clamp(count.min(1), count), most.saturating_sub(self.stock))
    }
}

impl Spares {
    fn shelves(&self) -> MutexGuard<'_, Shelves> {
        self.shelves.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// One for a client, with what has come by it already. `addresses`: the backend's.
    pub(in crate::proxy) fn take(
        &self,
        place: Place,
        by: &By,
        addresses: &[IpAddr],
    ) -> Option<(TcpStream, Opening)> {
        let now = Instant::now();
        let mut shelves = self.shelves();
        let shelves = &mut *shelves;
        let name = place.0.clone();
        shelves.changed.insert(place.clone());
        let shelf = shelves.at.entry(place).or_default();
        shelf.asked = Some(now);
        let mut ended_young = false;
        let found = loop {
            let Some(mut spare) = shelf.spares.pop_front() else { break None };
            if !spare.is_for(by, addresses, now) {
                continue;
            }
            if spare.is_there() {
                break Some(spare);
            }
            ended_young |= spare.is_young(now);
        };
        if ended_young {
            shelf.fail(now);
            shelves.broken.push(name.clone());
        }
        let [taken, missed] = shelves.clients.entry(name).or_default();
        *(if found.is_some() { taken } else { missed }) += 1;
        self.asked.notify_one();
        found.map(|spare| (spare.socket, spare.opening))
    }

    /// Returns when a client has come since the last time.
    pub(in crate::proxy) async fn asked(&self) {
        self.asked.notified().await;
    }

    /// Gives up what is not wanted any more, and what has ended, everywhere.
    pub(in crate::proxy) fn tend(&self, wanted: &Wanted) -> Due {
        let now = Instant::now();
        let mut shelves = self.shelves();
        let shelves = &mut *shelves;
        let at = &mut shelves.at;
        for (name, open) in &wanted.ends {
            for port in &open.ports {
                at.entry((name.clone(), *port)).or_default();
            }
        }
        let gone = at.extract_if(|place, shelf| {
            !wanted.ends.contains_key(&place.0) || !(wanted.is_standing(place) || shelf.is_in_demand(now))
        });
        gone.for_each(|(_, shelf)| shelf.close());
        shelves.demands.clear();
        for ((name, _), shelf) in &mut shelves.at {
            shelf.counted = Demand::default();
            shelf.recount(shelves.demands.entry(name.clone()).or_default(), now);
        }
        shelves.changed = shelves.at.keys().cloned().collect();
        shelves.tend(wanted, now)
    }

    /// The same where something has happened since the last time.
    pub(in crate::proxy) fn tend_changed(&self, wanted: &Wanted) -> Due {
        self.shelves().tend(wanted, Instant::now())
    }

    /// One has been opened.
    pub(in crate::proxy) fn put(&self, place: &Place, spare: Spare) {
        let mut shelves = self.shelves();
        shelves.changed.insert(place.clone());
        match shelves.at.get_mut(place) {
            Some(shelf) => {
                shelf.opening = shelf.opening.saturating_sub(1);
                shelf.spares.push_back(spare);
            }
            None => spare.close(),
        }
    }

    /// One could not be opened.
    pub(in crate::proxy) fn fail(&self, place: &Place) {
        let mut shelves = self.shelves();
        shelves.changed.insert(place.clone());
        if let Some(shelf) = shelves.at.get_mut(place) {
            shelf.opening = shelf.opening.saturating_sub(1);
            shelf.fail(Instant::now());
        }
    }

    /// Gives all up.
    pub fn clear(&self) {
        let all = mem::take(&mut self.shelves().at);
        all.into_values().for_each(Shelf::close);
    }

    /// What a backend has.
    pub fn of(&self, backend: &str) -> Held {
        let shelves = self.shelves();
        let its = shelves.at.iter().filter(|((name, _), _)| **name == *backend);
        let open = its.map(|(_, shelf)| shelf.spares.len() as u64).sum();
        let [taken, missed] = shelves.clients.get(backend).copied().unwrap_or_default();
        Held { open, taken, missed }
    }
}

#[cfg(test)]
mod tests;
