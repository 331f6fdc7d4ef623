//! One listener's traffic: datagrams of clients to their sockets, datagrams of those sockets to the clients.

use std::cell::RefCell;
use std::net::{Ipv4Addr, SocketAddr, UdpSocket};
use std::os::fd::AsFd;
use std::sync::Arc;
use std::time::{Duration, Instant};

use nix::errno::Errno;
use nix::sys::epoll::EpollEvent;
use relay_common::net::Protocol;

use super::clients::{Clients, Id, Tick};
use super::envelope::{Control, Local, Name};
use super::inbox::{Inbox, SLOTS};
use super::open::{Opened, open_any};
use super::outbox::{Outbox, Sent};
use super::sender::{Sender, Senders};
use super::session::{Key, Session, lacks_descriptors, refusal};
use super::share::{self, Place};
use super::socket::Replies;
use crate::proxy::counters::{Carried, Counters, Refusal};
use crate::proxy::ending::Ending;
use crate::proxy::kept::Ends;
use crate::proxy::pool::Signal;
use crate::proxy::service::{Service, UdpNat};
use crate::proxy::shared::Shared;

/// Answers sent at once. They come client by client, so that more would not travel together.
const REPLIES: usize = 256;
/// Datagrams taken from one client's socket before others get their turn.
const TURN: usize = 32;
/// How often a socket is read again that reports what became of something sent.
const MOST_ERRORS: usize = 4;
/// How many clients go for one: each has a descriptor, which another worker may be quicker to take.
const MOST_EVICTED: usize = 4;
/// See [`Tick`].
const TICK: Duration = Duration::from_millis(250);

/// What a thread needs to carry datagrams; its listeners use it in turn.
pub struct Buffers {
    pub inbox: Inbox,
    outbox: Outbox,
    /// Whose datagram is in which slot.
    order: Vec<(Id, usize)>,
    events: Vec<EpollEvent>,
    ready: Vec<Id>,
}

thread_local! {
    pub static BUFFERS: RefCell<Buffers> = RefCell::new(Buffers {
        inbox: Inbox::new(),
        outbox: Outbox::default(),
        order: Vec::with_capacity(SLOTS),
        events: vec![EpollEvent::empty(); REPLIES],
        ready: Vec::with_capacity(REPLIES),
    });
}

/// Whether a descriptor has more.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub enum Left {
    Nothing,
    Perhaps,
}

/// The clients of one listener.
#[derive(Debug)]
pub struct Relay {
    service: Arc<Service>,
    clients: Clients<Key, Session>,
    /// Clients whose sockets had more than a turn takes.
    unfinished: Vec<Id>,
    way: Way,
    accepts: bool,
    started: Instant,
    /// The state of the gate that all clients are let in by.
    revision: u64,
}

/// How clients come in and answers go out.
#[derive(Debug)]
enum Way {
    /// By a listener that has one port, and perhaps every address.
    Port(SocketAddr),
    /// By a listener for many ports, and a socket for answers from each of them.
    Shared(Senders),
}

impl Way {
    /// The most that a client needs.
    const fn descriptors(&self) -> usize {
        match self {
            Self::Port(_) => 1,
            Self::Shared(_) => 2,
        }
    }
}

impl Relay {
    pub fn new(service: Arc<Service>, listener: SocketAddr) -> Self {
        Self::with(service, Way::Port(listener))
    }

    /// For clients that come in by a shared listener.
    pub fn shared(service: Arc<Service>, shared: Arc<Shared>) -> Self {
        Self::with(service, Way::Shared(Senders::new(shared)))
    }

    fn with(service: Arc<Service>, way: Way) -> Self {
        // now: there may be no memory for them when the first datagram comes
        BUFFERS.with(|_there| ());
        let revision = service.gate.revision();
        let (clients, unfinished, started) = (Clients::new(), Vec::new(), Instant::now());
        Self { service, clients, unfinished, way, accepts: true, started, revision }
    }

    /// Ends the sessions of clients that are not let in any more, or whose backends are none any more.
    pub fn revoke(&mut self) {
        let revision = self.service.gate.revision();
        if revision != self.revision {
            self.revision = revision;
            let policy = self.service.gate.policy();
            if policy.allow.is_none() && policy.backends.is_none() {
                return;
            }
            let ends = |key: &Key, session: &Session| {
                policy.ends(Protocol::Udp, key.client.ip(), || session.leads_to().map(|to| to.ip()))
            };
            for gone in self.clients.retain(|key, session| ends(key, session).is_none()) {
                let Some(ending) = ends(&gone.0, &gone.1) else { continue };
                if ending == Ending::BackendGone {
                    self.service.counters.lose();
                }
                self.log(&gone, ending);
            }
        }
    }

    fn log(&self, (key, session): &(Key, Session), ending: Ending) {
        session.log(key, &self.service, ending);
    }

    /// Whether new clients are let in.
    pub const fn accept(&mut self, accepts: bool) {
        self.accepts = accepts;
    }

    /// One batch from clients to their backends.
    pub fn ingress(&mut self, listener: &UdpSocket, replies: &Replies) -> Left {
        BUFFERS.with_borrow_mut(|buffers| {
            let received = match buffers.inbox.receive(listener, 0, SLOTS) {
                Ok(received) => received,
                Err(Errno::EAGAIN) => return Left::Nothing,
                Err(_) => return Left::Perhaps,
            };
            self.take(buffers, 0..received, replies);
            if received < SLOTS { Left::Nothing } else { Left::Perhaps }
        })
    }

    /// Passes on what lies in these slots.
    pub fn take(&mut self, buffers: &mut Buffers, slots: impl Iterator<Item = usize>, replies: &Replies) {
        self.revoke();
        self.sort(buffers, slots, replies);
        self.forward(buffers);
    }

    /// Finds out whose every datagram is, and puts those of a client side by side.
    fn sort(&mut self, buffers: &mut Buffers, slots: impl Iterator<Item = usize>, replies: &Replies) {
        let Buffers { inbox, order, .. } = buffers;
        let now = self.now();
        let mut last = None;
        order.clear();
        for slot in slots {
            let Some(client) = inbox.sender(slot).address() else { continue };
            let key = Key { client, local: inbox.control(slot).local() };
            let known = match last {
                Some((same, id)) if same == key => Some(id),
                _ => self.find(&key).or_else(|| self.admit(key, replies, now)),
            };
            last = known.map(|id| (key, id));
            if let Some(id) = known {
                order.push((id, slot));
            }
        }
        order.sort_unstable();
    }

    /// A client that is known, unless its session is in vain: then that ends, and another one begins.
    fn find(&mut self, key: &Key) -> Option<Id> {
        let id = self.clients.find(key)?;
        let (_, session) = self.clients.get_mut(id)?;
        if self.accepts && session.is_in_vain() {
            drop(self.clients.remove(id));
            return None;
        }
        Some(id)
    }

    fn forward(&mut self, buffers: &mut Buffers) {
        let Buffers { inbox, outbox, order, .. } = buffers;
        let moment = Instant::now();
        let now = self.tick(moment);
        let mut total = Sent::default();
        for run in order.chunk_by(|(one, _), (other, _)| one == other) {
            let id = run[0].0;
            let Some((key, session)) = self.clients.get_mut(id) else {
                // It has made room for another one of this very batch.
                self.service.counters.refuse_many(Refusal::TableFull, run.len() as u64);
                continue;
            };
            if let Err(refusal) = session.prove(key.client.ip(), &self.service.gate) {
                self.service.counters.refuse_many(refusal, run.len() as u64);
                continue;
            }
            let name = session.backend.map(Name::from).unwrap_or_default();
            for &(_, slot) in run {
                let train = inbox.train(slot);
                outbox.push(id, train, session.ingress_limit, || (name, Control::default()));
            }
            let limit = &mut session.ingress_limit;
            let sent = outbox.send(&session.socket, inbox.memory(), |_, size| *limit = size);
            session.live.add(0, sent.bytes);
            session.live.touch(moment);
            if sent.refused > 0 {
                session.fail(Signal::Refused);
            }
            total += sent;
            self.clients.heard(id, now);
        }
        count(&self.service.counters, self.service.payload()[0], total);
    }

    /// One batch from backends to their clients, by the listener or by the ports' own sockets.
    pub fn egress(&mut self, listener: Option<&UdpSocket>, replies: &Replies) -> Left {
        self.revoke();
        BUFFERS.with_borrow_mut(|buffers| {
            buffers.ready.clear();
            buffers.ready.append(&mut self.unfinished);
            let reported = replies.reported(&mut buffers.events);
            buffers
                .ready
                .extend(buffers.events[..reported].iter().map(|event| Id::from_number(event.data())));
            self.collect(buffers, listener);
            let left = reported == buffers.events.len() || !self.unfinished.is_empty();
            if left { Left::Perhaps } else { Left::Nothing }
        })
    }

    fn collect(&mut self, buffers: &mut Buffers, listener: Option<&UdpSocket>) {
        let Buffers { inbox, outbox, ready, .. } = buffers;
        let moment = Instant::now();
        let now = self.tick(moment);
        let mut total = Sent::default();
        let mut used = 0;
        let mut sender: Option<Arc<Sender>> = None;
        if listener.is_none() {
            // those of one port side by side, so that their answers leave together
            ready.sort_by_cached_key(|&id| self.clients.get_mut(id).and_then(|(key, _)| key.local));
        }
        for &id in &*ready {
            let Some((&key, session)) = self.clients.get_mut(id) else { continue };
            let next = session.sender.clone();
            if used + TURN > REPLIES || !is_same(sender.as_ref(), next.as_ref()) {
                total += self.reply(inbox, outbox, listener, sender.as_deref());
                used = 0;
            }
            sender = next;
            let Some((_, session)) = self.clients.get_mut(id) else { continue };
            let received = receive(inbox, session, used, &self.service.counters);
            for slot in used..used + received {
                let train = inbox.train(slot);
                session.live.add(1, train.length as u64);
                outbox.push(id, train, session.egress_limit, || key.envelope());
            }
            used += received;
            if received > 0 {
                session.answer();
                session.live.touch(moment);
                self.clients.answered(id, now);
            }
            if received == TURN {
                self.unfinished.push(id);
            }
        }
        total += self.reply(inbox, outbox, listener, sender.as_deref());
        count(&self.service.counters, self.service.payload()[1], total);
    }

    fn reply(
        &mut self,
        inbox: &Inbox,
        outbox: &mut Outbox,
        listener: Option<&UdpSocket>,
        sender: Option<&Sender>,
    ) -> Sent {
        let clients = &mut self.clients;
        let Some(socket) = sender.map(AsFd::as_fd).or_else(|| listener.map(AsFd::as_fd)) else {
            return Sent::default();
        };
        outbox.send(socket, inbox.memory(), |id, size| {
            if let Some((_, session)) = clients.get_mut(id) {
                session.egress_limit = size;
            }
        })
    }

    /// A new client, unless there is a reason against it, which is counted.
    fn admit(&mut self, key: Key, replies: &Replies, now: Tick) -> Option<Id> {
        if !key.is_for_us() {
            return None;
        }
        match self.open(key, replies, now) {
            Ok(id) => Some(id),
            Err((reason, detail)) => {
                self.service.counters.refuse(reason);
                if !reason.is_policy() && share::may_log() {
                    tracing::warn!("rule {}: no session for {}: {detail}", self.service.rule, key.client);
                }
                None
            }
        }
    }

    fn open(&mut self, key: Key, replies: &Replies, now: Tick) -> Result<Id, (Refusal, String)> {
        if !self.accepts {
            return Err((Refusal::Draining, String::new()));
        }
        self.service.gate.admit(key.client.ip()).map_err(|refusal| (refusal, String::new()))?;
        let target = self.service.target();
        let asked = self.asked(&key);
        let place = self.make_room()?;
        let sender = self.sender(key)?;
        let gate = &self.service.gate;
        let opened = open_any(&target, gate, &key, asked.port(), || self.clients.evict().is_some());
        let Opened { socket, backend, lease } = opened.map_err(|failure| match failure {
            Some((error, backend)) => refusal(&error, backend),
            None => (Refusal::NoBackend, "its backend has no address".to_owned()),
        })?;
        let unconnected = (target.udp_nat == UdpNat::FullCone).then_some(backend);
        let ends = Ends { client: key.client, asked };
        let session = Session::new(&self.service, socket, sender, unconnected, lease, place, ends);
        session.live.set_backend(Some(backend));
        let id = self.clients.insert(key, session, now);
        let watched =
            self.clients.get_mut(id).map_or(Ok(()), |(_, session)| replies.add(&session.socket, id));
        watched.map_err(|error| {
            drop(self.clients.remove(id));
            refusal(&error, backend)
        })?;
        Ok(id)
    }

    /// The address and port that a client sends to.
    fn asked(&self, key: &Key) -> SocketAddr {
        match (&self.way, key.local) {
            (Way::Port(listener), None) => *listener,
            (Way::Port(listener), Some(local)) => (local.address, listener.port()).into(),
            (Way::Shared(_), local) => local.map_or((Ipv4Addr::UNSPECIFIED, 0).into(), Local::socket_address),
        }
    }

    /// What a client of a shared listener is answered by. Where there is no descriptor for it, clients go that never got
    /// an answer.
    fn sender(&mut self, key: Key) -> Result<Option<Arc<Sender>>, (Refusal, String)> {
        let (Way::Shared(senders), Some(local)) = (&mut self.way, key.local) else { return Ok(None) };
        let mut sender = senders.for_answers_from(local);
        for _ in 0..MOST_EVICTED {
            match &sender {
                Err(error) if lacks_descriptors(error) && self.clients.evict().is_some() => {}
                _ => break,
            }
            sender = senders.for_answers_from(local);
        }
        let from = local.socket_address();
        sender.map(Some).map_err(|error| refusal(&error, format_args!("clients from {from}")))
    }

    /// Room for one more; where there is none, the longest silent client goes that never got an answer.
    fn make_room(&mut self) -> Result<Place, (Refusal, String)> {
        let most = share::most_of_a_listener(self.way.descriptors());
        let (own, all) = (self.clients.len(), self.service.clients());
        let is_full = own >= share::MOST_CLIENTS || (own >= most / share::OWN_PART && all >= most as u64);
        if is_full && self.clients.evict().is_none() {
            let most = most.min(share::MOST_CLIENTS);
            return Err((Refusal::TableFull, format!("all of its {most} clients are in use")));
        }
        let place = Place::take().or_else(|| self.clients.evict().and_then(|_| Place::take()));
        place.ok_or_else(|| {
            let why = "UDP clients have their share of the file descriptors; raise LimitNOFILE=";
            (Refusal::Descriptors, why.to_owned())
        })
    }

    /// When somebody may have been silent for too long.
    pub fn due(&self) -> Option<Instant> {
        let oldest = self.clients.oldest()?;
        Some(self.started + TICK.saturating_mul(oldest.saturating_add(self.patience()).saturating_add(1)))
    }

    /// Ends the sessions that were silent for too long.
    pub fn expire(&mut self) {
        self.revoke();
        let since = self.now().saturating_sub(self.patience());
        while let Some(gone) = self.clients.expire(since) {
            self.log(&gone, Ending::Idle);
        }
    }

    /// Ends all sessions.
    pub fn clear(&mut self) {
        while let Some(gone) = self.clients.expire(Tick::MAX) {
            self.log(&gone, Ending::RuleEnded);
        }
    }

    /// In ticks: never less than the timeout, and at most two more.
    fn patience(&self) -> Tick {
        let ticks = self.service.target().timeouts.udp.as_millis().div_ceil(TICK.as_millis()) + 1;
        Tick::try_from(ticks).unwrap_or(Tick::MAX)
    }

    fn now(&self) -> Tick {
        self.tick(Instant::now())
    }

    fn tick(&self, moment: Instant) -> Tick {
        let passed = moment.saturating_duration_since(self.started);
        Tick::try_from(passed.as_millis() / TICK.as_millis()).unwrap_or(Tick::MAX)
    }
}

impl Drop for Relay {
    fn drop(&mut self) {
        self.clear();
    }
}

fn is_same(one: Option<&Arc<Sender>>, other: Option<&Arc<Sender>>) -> bool {
    match (one, other) {
        (None, None) => true,
        (Some(one), Some(other)) => Arc::ptr_eq(one, other),
        _ => false,
    }
}

/// Datagrams of the client's backend into the slots from `first` on.
fn receive(inbox: &mut Inbox, session: &mut Session, first: usize, counters: &Counters) -> usize {
    for _ in 0..MOST_ERRORS {
        match inbox.receive(&session.socket, first, TURN) {
            Ok(received) => return received,
            Err(Errno::ECONNREFUSED) => {
                counters.refuse(Refusal::BackendRefused);
                session.fail(Signal::Refused);
            }
            Err(Errno::EHOSTUNREACH | Errno::ENETUNREACH) => session.fail(Signal::Unreachable),
            Err(Errno::EAGAIN) => return 0,
            Err(_) => {}
        }
    }
    0
}

fn count(counters: &Counters, way: &Carried, sent: Sent) {
    if sent.datagrams > 0 {
        way.add_packets(sent.datagrams, sent.bytes);
    }
    for (reason, count) in [(Refusal::Unsendable, sent.lost), (Refusal::BackendRefused, sent.refused)] {
        if count > 0 {
            counters.refuse_many(reason, count);
        }
    }
}
