//! One listener's traffic: datagrams of clients to their sockets, datagrams of those sockets to the clients.

mod admission;
pub mod tunnels;

use std::cell::RefCell;
use std::net::{IpAddr, SocketAddr, UdpSocket};
use std::os::fd::AsFd;
use std::sync::Arc;
use std::time::{Duration, Instant};

use nix::errno::Errno;
use nix::sys::epoll::EpollEvent;
use relay_common::net::Protocol;

use self::tunnels::Inward;
use super::carrier::Carriers;
use super::clients::{Clients, Id, Tick};
use super::envelope::{Control, Name};
use super::inbox::{Inbox, SLOTS, Train};
use super::outbox::{Outbox, Sent};
use super::sender::{Sender, Senders};
use super::session::{Key, Out, Proof, Session, Via};
use super::socket::Replies;
use crate::proxy::counters::{Carried, Refusal};
use crate::proxy::ending::Ending;
use crate::proxy::pool::Signal;
use crate::proxy::service::Service;
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
    order: Vec<Item>,
    events: Vec<EpollEvent>,
    ready: Vec<Id>,
}

/// Datagrams of a client on their way to its backend.
#[derive(Clone, Copy, Debug)]
struct Item {
    /// See [`Out::lane`].
    lane: u32,
    client: Id,
    train: Train,
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
    carriers: Carriers,
    accepts: bool,
    started: Instant,
    /// The state of the gate that all clients are let in by.
    revision: u64,
    /// The state of the target that all of them go out by.
    edition: u64,
}

/// How clients come in and answers go out.
#[derive(Debug)]
enum Way {
    /// By a listener that has one port, and perhaps every address.
    Port(SocketAddr),
    /// By a listener for many ports, and a socket for answers from each of them.
    Shared(Senders),
    /// By a tunnel, and out by it again.
    Tunnel(Box<Inward>),
}

impl Way {
    /// The most that a client needs.
    const fn descriptors(&self) -> usize {
        match self {
            Self::Port(_) | Self::Tunnel(_) => 1,
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
        let (revision, edition) = (service.gate.revision(), service.edition());
        let (clients, unfinished, started) = (Clients::new(), Vec::new(), Instant::now());
        let carriers = Carriers::default();
        Self { service, clients, unfinished, way, carriers, accepts: true, started, revision, edition }
    }

    /// For clients that come in by a tunnel.
    pub fn behind(service: Arc<Service>, inward: Inward) -> Self {
        Self::with(service, Way::Tunnel(Box::new(inward)))
    }

    /// Who has to be on the allow list for a client to be let in.
    fn speaker(&self, client: IpAddr) -> IpAddr {
        match &self.way {
            Way::Port(_) | Way::Shared(_) => client,
            Way::Tunnel(inward) => inward.speaker(),
        }
    }

    /// Ends the sessions of clients that are not let in any more, whose backends are none any more, or that go out in clear
    /// where the rule has a tunnel now, and the other way round.
    pub fn revoke(&mut self) {
        let edition = self.service.edition();
        if edition != self.edition {
            self.edition = edition;
            let is_tunnel = self.service.target().connect.sends_datagrams();
            for gone in self.clients.retain(|_, session| session.out.socket().is_none() == is_tunnel) {
                self.log(&gone, Ending::RuleEnded);
            }
        }
        let revision = self.service.gate.revision();
        if revision != self.revision {
            self.revision = revision;
            let policy = self.service.gate.policy();
            if policy.allow.is_none() && policy.backends.is_none() {
                return;
            }
            let spoken_for = match &self.way {
                Way::Port(_) | Way::Shared(_) => None,
                Way::Tunnel(inward) => Some(inward.speaker()),
            };
            let ends = |key: &Key, session: &Session| {
                let speaker = spoken_for.unwrap_or(key.client.ip());
                policy.ends(Protocol::Udp, speaker, || session.leads_to())
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
        let Buffers { inbox, outbox, order, .. } = buffers;
        self.forward(order, inbox.memory(), outbox);
    }

    /// Finds out whose every datagram is.
    fn sort(&mut self, buffers: &mut Buffers, slots: impl Iterator<Item = usize>, replies: &Replies) {
        let Buffers { inbox, order, .. } = buffers;
        let now = self.now();
        let mut last = None;
        order.clear();
        for slot in slots {
            let Some(address) = inbox.sender(slot).address() else { continue };
            let via = inbox.control(slot).local().map_or(Via::Listener, Via::Local);
            let key = Key { client: address, via };
            let known = match last {
                Some((same, known)) if same == key => Some(known),
                _ => self
                    .clients
                    .find(&key)
                    .and_then(|id| self.still(id))
                    .or_else(|| self.admit(key, replies, now).and_then(|id| self.still(id))),
            };
            last = known.map(|known| (key, known));
            if let Some((client, lane)) = known {
                order.push(Item { lane, client, train: inbox.train(slot) });
            }
        }
    }

    /// A client that is known and where it goes, unless its session is in vain or lost: then that ends, and another one begins.
    fn still(&mut self, id: Id) -> Option<(Id, u32)> {
        let (_, session) = self.clients.get_mut(id)?;
        let lane = session.out.lane();
        if self.accepts && (session.is_lost() || session.is_in_vain()) {
            let gone = self.clients.remove(id)?;
            self.log(&gone, Ending::Reset);
            return None;
        }
        Some((id, lane))
    }

    /// Sends datagrams on, those of a client and a carrier side by side.
    fn forward(&mut self, order: &mut [Item], memory: &[u8], outbox: &mut Outbox) {
        order.sort_unstable_by_key(|item| (item.lane, item.client, item.train.start));
        let (direct, carried) = order.split_at(order.partition_point(|item| item.lane == 0));
        let mut total = Sent::default();
        for run in direct.chunk_by(|one, other| one.client == other.client) {
            total += self.send(run, memory, outbox);
        }
        if !carried.is_empty() {
            total += self.send_by_carriers(carried, memory);
        }
        count(&self.service, self.service.payload()[0], total);
    }

    /// Sends a client's datagrams by its socket.
    fn send(&mut self, run: &[Item], memory: &[u8], outbox: &mut Outbox) -> Sent {
        let moment = Instant::now();
        let now = self.tick(moment);
        let id = run[0].client;
        let Some(session) = proven(&mut self.clients, &self.service, run) else { return Sent::default() };
        let Out::Socket { socket, backend, is_connected } = &session.out else { return Sent::default() };
        let name = if *is_connected { Name::default() } else { Name::from(*backend) };
        for item in run {
            outbox.push(id, item.train, session.ingress_limit, || (name, Control::default()));
        }
        let limit = &mut session.ingress_limit;
        let sent = outbox.send(socket, memory, |_, size| *limit = size);
        session.live.add(0, sent.bytes);
        session.live.touch(moment);
        if sent.refused > 0 {
            session.fail(Signal::Refused);
        }
        self.clients.heard(id, now);
        sent
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
            match &self.way {
                Way::Port(_) | Way::Shared(_) => self.collect(buffers, listener),
                Way::Tunnel(_) => self.collect_frames(buffers),
            }
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
            ready.sort_by_cached_key(|&id| self.clients.get_mut(id).and_then(|(key, _)| key.local()));
        }
        for &id in &*ready {
            let Some((&key, session)) = self.clients.get_mut(id) else { continue };
            let next = session.sender.clone();
            if used + TURN > REPLIES || !is_same(sender.as_ref(), next.as_ref()) {
                total += self.reply(inbox.memory(), outbox, listener, sender.as_deref());
                used = 0;
            }
            sender = next;
            let Some((_, session)) = self.clients.get_mut(id) else { continue };
            let received = receive(inbox, session, used, &self.service);
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
        total += self.reply(inbox.memory(), outbox, listener, sender.as_deref());
        count(&self.service, self.service.payload()[1], total);
    }

    /// Sends answers that lie in the outbox, out of `memory`.
    fn reply(
        &mut self,
        memory: &[u8],
        outbox: &mut Outbox,
        listener: Option<&UdpSocket>,
        sender: Option<&Sender>,
    ) -> Sent {
        let clients = &mut self.clients;
        let Some(socket) = sender.map(AsFd::as_fd).or_else(|| listener.map(AsFd::as_fd)) else {
            return Sent::default();
        };
        outbox.send(socket, memory, |id, size| {
            if let Some((_, session)) = clients.get_mut(id) {
                session.egress_limit = size;
            }
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
    pub fn clear(&mut self, ending: Ending) {
        while let Some(gone) = self.clients.expire(Tick::MAX) {
            self.log(&gone, ending);
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
        self.clear(Ending::RuleEnded);
    }
}

/// The session of a client that has sent this, if it may go on; otherwise the reason is counted.
fn proven<'a>(
    clients: &'a mut Clients<Key, Session>,
    service: &Service,
    run: &[Item],
) -> Option<&'a mut Session> {
    let Some((key, session)) = clients.get_mut(run[0].client) else {
        // it has made room for another one of this very batch
        service.lose(Refusal::TableFull, run.len() as u64, None);
        return None;
    };
    match session.prove(key.client.ip(), &service.gate) {
        Ok(Proof::None) => {}
        Ok(Proof::Now) => service.tell_proven(&session.live),
        Err(refusal) => {
            service.lose(refusal, run.len() as u64, Some(key.client));
            return None;
        }
    }
    Some(session)
}

fn is_same(one: Option<&Arc<Sender>>, other: Option<&Arc<Sender>>) -> bool {
    match (one, other) {
        (None, None) => true,
        (Some(one), Some(other)) => Arc::ptr_eq(one, other),
        _ => false,
    }
}

/// Datagrams of the client's backend into the slots from `first` on.
fn receive(inbox: &mut Inbox, session: &mut Session, first: usize, service: &Service) -> usize {
    for _ in 0..MOST_ERRORS {
        let Some(socket) = session.out.socket() else { return 0 };
        match inbox.receive(socket, first, TURN) {
            Ok(received) => return received,
            Err(Errno::ECONNREFUSED) => {
                service.lose(Refusal::BackendRefused, 1, Some(session.live.client));
                session.fail(Signal::Refused);
            }
            Err(Errno::EHOSTUNREACH | Errno::ENETUNREACH) => session.fail(Signal::Unreachable),
            Err(Errno::EAGAIN) => return 0,
            Err(_) => {}
        }
    }
    0
}

fn count(service: &Service, way: &Carried, sent: Sent) {
    if sent.datagrams > 0 {
        way.add_packets(sent.datagrams, sent.bytes);
    }
    for (reason, count) in [(Refusal::Unsendable, sent.lost), (Refusal::BackendRefused, sent.refused)] {
        if count > 0 {
            service.lose(reason, count, None);
        }
    }
}
