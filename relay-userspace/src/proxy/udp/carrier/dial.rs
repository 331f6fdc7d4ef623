//! One carrier: opened, used, rested when it cannot be opened, opened again, closed when nobody needs it.

use std::fmt;
use std::mem;
use std::net::SocketAddr;
use std::ops::Range;
use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll};
use std::time::{Duration, Instant};

use relay_common::net::Protocol;
use tokio::runtime::Handle;
use tokio::time::{Sleep, sleep};

use super::super::share::CarrierPlace;
use super::flows::Flows;
use super::standing::{CarrierFlow, Standing};
use crate::proxy::counters::Refusal;
use crate::proxy::pool::Signal;
use crate::proxy::service::{Service, Target};
use crate::proxy::tcp::failover;
use crate::proxy::tcp::socket::probe;
use crate::proxy::tunnel::Fault;
use crate::proxy::tunnel::datagrams::{Frames, Kind, Line, Piece, Stop, Writer, announcement};
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
    failures: u32,
    state: State,
    timer: Pin<Box<Sleep>>,
    standing: Arc<Standing>,
    _place: CarrierPlace,
}

type Dialling = Pin<Box<dyn Future<Output = Result<Box<Line>, Refusal>> + Send>>;

enum State {
    Opening { dialling: Dialling, waiting: Vec<u8>, datagrams: u64 },
    Open { line: Box<Line>, since: Instant, lingers: bool },
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

/// What has become of a carrier.
#[derive(Debug)]
pub enum News {
    /// Frames lie in the piece.
    Heard(Range<usize>),
    /// Nobody needs it any more.
    Over,
}

impl Carrier {
    /// `None`: there are as many as there may be.
    pub fn begin_to(service: &Arc<Service>, way: Way, backend: Arc<str>) -> Option<Self> {
        let mut carrier = Self {
            way,
            backend,
            flows: Flows::default(),
            next: 0,
            failures: 0,
            state: State::Resting,
            timer: Box::pin(sleep(Duration::ZERO)),
            standing: Arc::default(),
            _place: CarrierPlace::take(&service.counters)?,
        };
        carrier.open(service);
        Some(carrier)
    }

    /// Whether a new flow towards a backend may use it.
    pub fn suits(&self, target: &Target, index: usize) -> bool {
        let Some(end) = target.ends.end(index) else { return false };
        let Target { connector, connect, .. } = &*self.way.target;
        let is_same_way = *connector == target.connector && *connect == target.connect;
        let leads_there = |peer: SocketAddr| end.addresses.contains(&peer.ip().to_canonical());
        is_same_way && !self.standing.is_leaving() && self.standing.peer().is_none_or(leads_there)
    }

    /// The other end takes no new flows any more.
    pub fn leave(&self) {
        self.standing.leave();
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
        CarrierFlow::new(lane, self.flows.begin(self.next), self.standing.clone())
    }

    /// Sends a datagram of a flow, or keeps it until the carrier is open.
    pub fn send(
        &mut self,
        writer: &mut Writer<'_>,
        flow: &mut CarrierFlow,
        client: SocketAddr,
        payload: &[u8],
    ) -> Result<(), Refusal> {
        let (number, begins) = (flow.flow.number, !flow.is_known());
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
            flow.announced();
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
            // in every state: clients come and go however long opening takes
            self.flows.wake(cx.waker());
            let over = self.flows.settle(|_client| false);
            let goes_on = match &mut self.state {
                State::Opening { dialling, .. } => match dialling.as_mut().poll(cx) {
                    Poll::Pending => return Poll::Pending,
                    Poll::Ready(Ok(line)) => self.opened(service, line),
                    Poll::Ready(Err(refusal)) => self.failed(service, refusal),
                },
                State::Resting => match self.timer.as_mut().poll(cx) {
                    Poll::Pending => return Poll::Pending,
                    Poll::Ready(()) => self.reopen(service),
                },
                State::Open { .. } => match self.poll_open(cx, &over, piece) {
                    Poll::Pending => return Poll::Pending,
                    Poll::Ready(Ok(news)) => return Poll::Ready(news),
                    Poll::Ready(Err(stop)) => self.broken(service, &stop),
                },
            };
            if !goes_on {
                return Poll::Ready(News::Over);
            }
        }
    }

    /// `over`: flows that the other end has not been told of yet.
    fn poll_open(
        &mut self,
        cx: &mut Context<'_>,
        over: &[u32],
        piece: &mut Piece,
    ) -> Poll<Result<News, Stop>> {
        let State::Open { line, lingers, .. } = &mut self.state else { return Poll::Pending };
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
        if self.standing.is_leaving() {
            return Poll::Ready(Ok(News::Over));
        }
        if !mem::replace(lingers, true) {
            self.timer.as_mut().reset((Instant::now() + LINGER).into());
        }
        self.timer.as_mut().poll(cx).map(|()| Ok(News::Over))
    }

    /// Begins another attempt, by what the rule says now. `false`: nobody needs it, or the rule does not lead there any more.
    fn reopen(&mut self, service: &Arc<Service>) -> bool {
        let latest = service.target();
        let mut ends = (0..).map_while(|index| latest.ends.end(index));
        let index = ends.position(|end| end.name == self.backend);
        let Some(index) = index.filter(|_| latest.connect.sends_datagrams() && !self.flows.is_empty()) else {
            return false;
        };
        (self.way.target, self.way.index) = (latest, index);
        self.open(service);
        true
    }

    fn open(&mut self, service: &Arc<Service>) {
        self.standing.open();
        let dialling = Box::pin(dial(service.clone(), self.way.clone()));
        self.state = State::Opening { dialling, waiting: Vec::new(), datagrams: 0 };
    }

    fn opened(&mut self, service: &Service, line: Box<Line>) -> bool {
        self.standing.opened(line.peer());
        let open = State::Open { line, since: Instant::now(), lingers: false };
        let State::Opening { waiting, .. } = mem::replace(&mut self.state, open) else { return true };
        if let State::Open { line, .. } = &mut self.state {
            let (waiting, lost) = without_ended(&waiting, &self.flows);
            if lost > 0 {
                service.lose(Refusal::FlowOver, lost, None);
            }
            // what cannot be sealed is found again when it is read
            _ = Writer::with(|writer| writer.copy(line, &waiting).and_then(|()| writer.flush(line)));
        }
        true
    }

    fn failed(&mut self, service: &Service, refusal: Refusal) -> bool {
        if let State::Opening { datagrams: lost @ 1.., .. } = &self.state {
            service.lose(Refusal::TunnelDown, *lost, None);
        }
        service.counters.refuse(refusal);
        let Way { target, index, .. } = &self.way;
        let lease = target.ends.lease(Protocol::Udp, *index);
        // no session of it was answered for that
        let signal =
            Signal::of(refusal).map(|signal| if signal == Signal::Reset { Signal::Refused } else { signal });
        signal.into_iter().for_each(|signal| lease.fail(signal));
        self.rest();
        true
    }

    /// Whether it goes on.
    fn broken(&mut self, service: &Arc<Service>, stop: &Stop) -> bool {
        self.standing.closed();
        if let Stop::Fault(fault) = stop {
            self.complain(service, fault);
        }
        let lasted = matches!(&self.state, State::Open { since, .. } if since.elapsed() >= SETTLED);
        if lasted && matches!(stop, Stop::Ended | Stop::Gone) {
            self.failures = 0;
            self.reopen(service)
        } else {
            self.rest();
            true
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
        self.standing.end();
        if let State::Open { mut line, .. } = mem::replace(&mut self.state, State::Resting)
            && !line.end()
            && let Ok(runtime) = Handle::try_current()
        {
            drop(runtime.spawn(async move { line.finish().await }));
        }
    }
}

async fn dial(service: Arc<Service>, way: Way) -> Result<Box<Line>, Refusal> {
    let Way { target, index, port } = &way;
    let (leg, opening) = failover::open_for(Purpose::Datagrams, &service, target, *index, *port).await?;
    // a connection that refuses this is none any more
    _ = probe(&*leg, target.timeouts.keepalive);
    Ok(Box::new(Line::new(leg, opening, target.timeouts.keepalive)))
}

/// `false`: there is no room. What cannot be sealed any more is found again when it is read.
fn push(writer: &mut Writer<'_>, line: &mut Line, kind: Kind, flow: u32, payload: &[u8]) -> bool {
    writer.push(line, kind, flow, payload).unwrap_or(false)
}

/// What waits, but for flows that have ended meanwhile, and how many datagrams those had.
fn without_ended(waiting: &[u8], flows: &Flows) -> (Vec<u8>, u64) {
    let (mut kept, mut lost) = (Vec::with_capacity(waiting.len()), 0);
    for frame in Frames::new(waiting, 0).map_while(Result::ok) {
        if flows.find(frame.flow).is_some() {
            kept.extend_from_slice(&waiting[frame.whole()]);
        } else {
            lost += u64::from(frame.kind == Kind::Data);
        }
    }
    (kept, lost)
}

fn wait(waiting: &mut Vec<u8>, kind: Kind, flow: u32, payload: &[u8]) -> bool {
    let Some(head) = kind.head(flow, payload.len()).filter(|_| waiting.len() < MOST_WAITING) else {
        return false;
    };
    waiting.extend_from_slice(&head);
    waiting.extend_from_slice(payload);
    true
}

#[cfg(test)]
mod tests {
    use super::super::super::clients::Id;
    use super::*;

    #[test]
    fn what_waits_of_flows_that_have_ended_is_not_sent() {
        let (mut flows, mut waiting, mut kept) = (Flows::default(), Vec::new(), Vec::new());
        let client = "192.0.2.7:4660".parse().expect("an address");
        let [ends, stays] = [1, 2].map(|number| {
            flows.assign(number, Id::from_number(number.into()));
            flows.begin(number)
        });
        for number in [1, 2, 1] {
            for into in [&mut waiting].into_iter().chain((number == 2).then_some(&mut kept)) {
                assert!(wait(into, Kind::Begin, number, &announcement(client)));
                assert!(wait(into, Kind::Data, number, b"question"));
            }
        }
        drop(ends);
        assert_eq!(flows.settle(|_client| false), [1]);
        assert_eq!(without_ended(&waiting, &flows), (kept, 2));
        drop(stays);
    }
}
