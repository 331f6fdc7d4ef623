//! One carrier: opened, used, rested when it cannot be opened, opened again, closed when nobody needs it.

use std::fmt;
use std::mem;
use std::net::SocketAddr;
use std::ops::Range;
use std::pin::Pin;
use std::sync::{Arc, Mutex, PoisonError};
use std::task::{Context, Poll};
use std::time::{Duration, Instant};

use relay_common::net::Protocol;
use tokio::time::{Sleep, sleep};

use super::flows::{Flow, Flows};
use crate::proxy::counters::Refusal;
use crate::proxy::pool::Signal;
use crate::proxy::service::{Service, Target};
use crate::proxy::tcp::failover;
use crate::proxy::tcp::socket::probe;
use crate::proxy::tunnel::Fault;
use crate::proxy::tunnel::datagrams::{Kind, Line, Piece, Stop, Writer, announcement};
use crate::proxy::tunnel::purpose::Purpose;

/// How long a carrier without flows is kept.
const LINGER: Duration = Duration::from_secs(30);
/// Before the second attempt; twice as long before each further one, up to the longest.
const FIRST_REST: Duration = Duration::from_millis(250);
const LONGEST_REST: Duration = Duration::from_secs(5);
/// One that breaks sooner is opened again like one that could not be opened.
const SETTLED: Duration = Duration::from_secs(1);
/// What may wait until a carrier is open.
const MOST_WAITING: usize = 256 * 1024;

/// Where a carrier leads.
#[derive(Clone, Debug)]
pub struct Way {
    pub target: Arc<Target>,
    /// The backend, by its place there.
    pub index: usize,
    /// That clients ask; it leads to one of the backend's.
    pub port: u16,
}

pub struct Carrier {
    way: Way,
    backend: Arc<str>,
    flows: Flows,
    next: u32,
    /// Another one for each attempt: flows that were announced in an earlier one are not known to the other end.
    attempt: u32,
    failures: u32,
    state: State,
    timer: Pin<Box<Sleep>>,
    peer: Peer,
}

/// The other end, as long as the carrier is open.
type Peer = Arc<Mutex<Option<SocketAddr>>>;

type Dialling = Pin<Box<dyn Future<Output = Result<Line, Refusal>> + Send>>;

enum State {
    Opening { dialling: Dialling, waiting: Vec<u8>, datagrams: u64 },
    Open { line: Line, since: Instant, lingers: bool },
    Resting,
}

impl fmt::Debug for Carrier {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let state = match self.state {
            State::Opening { .. } => "opening",
            State::Open { .. } => "open",
            State::Resting => "resting",
        };
        f.debug_struct("Carrier")
            .field("backend", &self.backend)
            .field("state", &state)
            .finish_non_exhaustive()
    }
}

/// What a client has of a carrier.
#[derive(Debug)]
pub struct CarrierFlow {
    pub lane: u32,
    pub flow: Flow,
    /// The attempt in which the other end has been told of it; 0: it has not.
    announced: u32,
    peer: Peer,
}

impl CarrierFlow {
    /// The other end, if the carrier is open.
    pub fn leads_to(&self) -> Option<SocketAddr> {
        *self.peer.lock().unwrap_or_else(PoisonError::into_inner)
    }

    pub fn is_open(&self) -> bool {
        self.leads_to().is_some()
    }

    /// The other end has forgotten it.
    pub const fn forgotten(&mut self) {
        self.announced = 0;
    }
}

/// What has become of a carrier.
#[derive(Debug)]
pub enum News {
    /// Frames lie in the piece.
    Heard(Range<usize>),
    /// Nobody needs it any more.
    Over,
}

impl Carrier {
    pub fn new(service: &Arc<Service>, way: Way, backend: Arc<str>) -> Self {
        let mut carrier = Self {
            way,
            backend,
            flows: Flows::default(),
            next: 0,
            attempt: 0,
            failures: 0,
            state: State::Resting,
            timer: Box::pin(sleep(Duration::ZERO)),
            peer: Peer::default(),
        };
        carrier.open(service);
        carrier
    }

    /// Whether a new flow towards a backend may use it.
    pub fn suits(&self, target: &Target, index: usize) -> bool {
        let Some(end) = target.ends.end(index) else { return false };
        let is_same_tunnel = self.way.target.connector == target.connector;
        is_same_tunnel && self.peer().is_none_or(|peer| end.addresses.contains(&peer.ip().to_canonical()))
    }

    fn peer(&self) -> Option<SocketAddr> {
        *self.peer.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Whether the last attempt to open it came to nothing, and no later one has done better yet.
    pub const fn is_failing(&self) -> bool {
        self.failures > 0 && !matches!(self.state, State::Open { .. })
    }

    pub const fn flows(&mut self) -> &mut Flows {
        &mut self.flows
    }

    /// A new client's flow.
    pub fn begin(&mut self, lane: u32) -> CarrierFlow {
        loop {
            self.next = self.next.wrapping_add(1);
            if self.flows.find(self.next).is_none() {
                break;
            }
        }
        CarrierFlow { lane, flow: self.flows.begin(self.next), announced: 0, peer: self.peer.clone() }
    }

    /// Sends a datagram of a flow, or keeps it until the carrier is open.
    pub fn send(
        &mut self,
        writer: &mut Writer<'_>,
        flow: &mut CarrierFlow,
        client: SocketAddr,
        payload: &[u8],
    ) -> Result<(), Refusal> {
        let (number, begins) = (flow.flow.number, flow.announced != self.attempt);
        let sent = match &mut self.state {
            State::Resting => return Err(Refusal::TunnelDown),
            State::Open { line, .. } => {
                let begun = !begins || push(writer, line, Kind::Begin, number, &announcement(client));
                begun && push(writer, line, Kind::Data, number, payload)
            }
            State::Opening { waiting, datagrams, .. } => {
                let begun = !begins || wait(waiting, Kind::Begin, number, &announcement(client));
                let kept = begun && wait(waiting, Kind::Data, number, payload);
                *datagrams += u64::from(kept);
                kept
            }
        };
        if sent {
            flow.announced = self.attempt;
            Ok(())
        } else {
            Err(Refusal::TunnelFull)
        }
    }

    /// Sends what has been put together. Says whether there is something left to do.
    pub fn flush(&mut self, writer: &mut Writer<'_>) -> bool {
        match &mut self.state {
            // what cannot be sealed any more is found again when it is read
            State::Open { line, .. } => writer.flush(line).is_err() || line.is_waiting(),
            State::Opening { .. } => true,
            State::Resting => false,
        }
    }

    /// What has been left of a piece.
    pub fn keep(&mut self, rest: &[u8]) {
        if let State::Open { line, .. } = &mut self.state {
            line.keep(rest);
        }
    }

    pub fn poll(&mut self, cx: &mut Context<'_>, service: &Arc<Service>, piece: &mut Piece) -> Poll<News> {
        loop {
            match &mut self.state {
                State::Opening { dialling, .. } => match dialling.as_mut().poll(cx) {
                    Poll::Pending => return Poll::Pending,
                    Poll::Ready(Ok(line)) => self.opened(line),
                    Poll::Ready(Err(refusal)) => self.failed(service, refusal),
                },
                State::Resting => match self.timer.as_mut().poll(cx) {
                    Poll::Pending => return Poll::Pending,
                    Poll::Ready(()) => {
                        self.flows.settle(|_client| false);
                        if self.flows.is_empty() {
                            return Poll::Ready(News::Over);
                        }
                        self.open(service);
                    }
                },
                State::Open { .. } => match self.poll_open(cx, piece) {
                    Poll::Pending => return Poll::Pending,
                    Poll::Ready(Ok(news)) => return Poll::Ready(news),
                    Poll::Ready(Err(stop)) => self.broken(service, &stop),
                },
            }
        }
    }

    fn poll_open(&mut self, cx: &mut Context<'_>, piece: &mut Piece) -> Poll<Result<News, Stop>> {
        let State::Open { line, lingers, .. } = &mut self.state else { return Poll::Pending };
        self.flows.wake(cx.waker());
        let over = self.flows.settle(|_client| false);
        if !over.is_empty() {
            Writer::with(|writer| {
                over.iter().for_each(|flow| _ = push(writer, line, Kind::End, *flow, &[]));
                writer.flush(line)
            })?;
        }
        if let Poll::Ready(Err(stop)) = line.poll_flush(cx) {
            return Poll::Ready(Err(stop));
        }
        if let Poll::Ready(heard) = line.poll_read(cx, piece) {
            return Poll::Ready(heard.map(News::Heard));
        }
        if !self.flows.is_empty() {
            *lingers = false;
            return Poll::Pending;
        }
        if !mem::replace(lingers, true) {
            self.timer.as_mut().reset((Instant::now() + LINGER).into());
        }
        self.timer.as_mut().poll(cx).map(|()| Ok(News::Over))
    }

    /// Begins an attempt, by what the rule says now.
    fn open(&mut self, service: &Arc<Service>) {
        let latest = service.target();
        let index = (0..).map_while(|index| latest.ends.end(index)).position(|end| end.name == self.backend);
        if let Some(index) = index.filter(|_| latest.connect.sends_datagrams()) {
            (self.way.target, self.way.index) = (latest, index);
        }
        // 0 is for flows that have not been announced
        self.attempt = self.attempt.wrapping_add(1).max(1);
        let dialling = Box::pin(dial(service.clone(), self.way.clone()));
        self.state = State::Opening { dialling, waiting: Vec::new(), datagrams: 0 };
    }

    fn opened(&mut self, line: Line) {
        *self.peer.lock().unwrap_or_else(PoisonError::into_inner) = line.peer();
        let open = State::Open { line, since: Instant::now(), lingers: false };
        let State::Opening { waiting, .. } = mem::replace(&mut self.state, open) else { return };
        if let State::Open { line, .. } = &mut self.state {
            // what cannot be sealed is found again when it is read
            _ = Writer::with(|writer| writer.copy(line, &waiting).and_then(|()| writer.flush(line)));
        }
    }

    fn failed(&mut self, service: &Service, refusal: Refusal) {
        if let State::Opening { datagrams: lost @ 1.., .. } = &self.state {
            service.counters.refuse_many(Refusal::TunnelDown, *lost);
        }
        service.counters.refuse(refusal);
        let Way { target, index, .. } = &self.way;
        let lease = target.ends.lease(Protocol::Udp, *index);
        // no session of it was answered for that
        let signal =
            Signal::of(refusal).map(|signal| if signal == Signal::Reset { Signal::Refused } else { signal });
        signal.into_iter().for_each(|signal| lease.fail(signal));
        self.rest();
    }

    fn broken(&mut self, service: &Arc<Service>, stop: &Stop) {
        *self.peer.lock().unwrap_or_else(PoisonError::into_inner) = None;
        if let Stop::Fault(fault) = stop {
            self.complain(service, fault);
        }
        let lasted = matches!(&self.state, State::Open { since, .. } if since.elapsed() >= SETTLED);
        if lasted && matches!(stop, Stop::Gone) {
            self.failures = 0;
            self.open(service);
        } else {
            self.rest();
        }
    }

    /// The other end has sent what is no frame.
    pub fn blame(&mut self, service: &Arc<Service>, fault: Fault) {
        self.broken(service, &Stop::Fault(fault));
    }

    fn complain(&self, service: &Service, fault: &Fault) {
        service.counters.refuse(fault.of_backend());
        service.complain(format_args!("backend {}: {fault} ({})", self.backend, fault.as_str()));
    }

    fn rest(&mut self) {
        let rest = FIRST_REST.saturating_mul(1 << self.failures.min(16)).min(LONGEST_REST);
        self.failures = self.failures.saturating_add(1);
        self.timer.as_mut().reset((Instant::now() + rest).into());
        self.state = State::Resting;
    }
}

/// Nobody needs it any more.
impl Drop for Carrier {
    fn drop(&mut self) {
        if let State::Open { line, .. } = mem::replace(&mut self.state, State::Resting) {
            line.close();
        }
    }
}

async fn dial(service: Arc<Service>, way: Way) -> Result<Line, Refusal> {
    let Way { target, index, port } = &way;
    let (leg, opening) = failover::open_for(Purpose::Datagrams, &service, target, *index, *port).await?;
    // a connection that refuses this is none any more
    _ = probe(&*leg, target.timeouts.keepalive);
    Ok(Line::new(leg, opening))
}

/// `false`: there is no room. What cannot be sealed any more is found again when it is read.
fn push(writer: &mut Writer<'_>, line: &mut Line, kind: Kind, flow: u32, payload: &[u8]) -> bool {
    writer.push(line, kind, flow, payload).unwrap_or(false)
}

fn wait(waiting: &mut Vec<u8>, kind: Kind, flow: u32, payload: &[u8]) -> bool {
    let Some(head) = kind.head(flow, payload.len()).filter(|_| waiting.len() < MOST_WAITING) else {
        return false;
    };
    waiting.extend_from_slice(&head);
    waiting.extend_from_slice(payload);
    true
}
