//! One session: a client's connection, the one to the backend, and everything between them.

use std::future::{Future, poll_fn};
use std::net::SocketAddr;
use std::pin::{Pin, pin};
use std::sync::Arc;
use std::task::{Poll, ready};
use std::time::Duration;

use relay_common::net::Protocol;
use tokio::io::Interest;
use tokio::net::TcpStream;
use tokio::time::{Instant, Sleep, sleep};

use super::arrival::{Arrival, announced};
use super::connect::connect;
use super::pump::{Preamble, Pump, SIDES};
use super::socket::{Leg, probe};
use crate::proxy::counters::{Counters, Refusal};
use crate::proxy::ending::{Ending, Record};
use crate::proxy::proxy_protocol::{self, Header, Origin};
use crate::proxy::service::{Service, Target};
use crate::rule::Timeouts;

/// How often to look whether a side has everything, before it is reset.
const DELIVERY: Duration = Duration::from_millis(50);

/// Carries a client that has come in on `port` until it is over. Dropped before that, it resets both connections.
pub async fn run(client: TcpStream, address: SocketAddr, port: u16, service: Arc<Service>) {
    let client = Leg::new(client);
    let target = service.target();
    let mut logged = Logged { service: &service, record: Record::new(address) };
    // one timer for everything that may take too long: it is cheap as long as it is left alone
    let mut timer = pin!(sleep(target.timeouts.connect));
    let arrival = match arrive(&client, address, &target, timer.as_mut()).await {
        Ok(arrival) => arrival,
        Err(None) => return logged.record.ending = Ending::ClientGone,
        Err(Some(refusal)) => {
            tracing::debug!(rule = %service.rule, client = %address, reason = refusal.as_str(), "refused");
            return logged.refuse(refusal);
        }
    };
    let source = arrival.client(address);
    logged.record.client = source;
    let _seat = match service.gate.admit(source.ip()).and_then(|()| service.gate.enter(source.ip())) {
        Ok(seat) => seat,
        Err(refusal) => return logged.refuse(refusal),
    };
    let _active = service.counters.begin();
    let reached = tokio::select! {
        biased;
        ending = service.gate.ended(source.ip(), None) => Err(ending),
        reached = reach(&client, &target, port, &service.counters, timer.as_mut()) => reached,
    };
    let backend = match reached {
        Ok(backend) => backend,
        Err(ending) => return logged.record.ending = ending,
    };
    logged.record.backend = backend.peer_addr().ok();
    let leads_to = logged.record.backend.map(|backend| backend.ip());
    let legs = [client, backend];
    tokio::select! {
        biased;
        ending = service.gate.ended(source.ip(), leads_to) => logged.cut_off(ending),
        () = relay(legs, address, arrival, &mut logged, &target, timer) => {}
    }
}

/// A session that is logged when it is over, however that comes about.
struct Logged<'a> {
    service: &'a Service,
    record: Record,
}

impl Logged<'_> {
    fn refuse(&mut self, refusal: Refusal) {
        self.service.counters.refuse(refusal);
        self.record.ending = Ending::Refused(refusal);
    }

    /// The rule does not want it any more.
    fn cut_off(&mut self, ending: Ending) {
        let Self { service, record } = self;
        tracing::debug!(rule = %service.rule, client = %record.client, reason = ending.as_str(), "cut off");
        if ending == Ending::BackendGone {
            service.counters.lose();
        }
        record.ending = ending;
    }
}

impl Drop for Logged<'_> {
    fn drop(&mut self) {
        self.record.log(self.service, Protocol::Tcp);
    }
}

/// Connects to the backend.
async fn reach(
    client: &Leg,
    target: &Target,
    port: u16,
    counters: &Counters,
    timer: Pin<&mut Sleep>,
) -> Result<Leg, Ending> {
    tokio::select! {
        biased;
        result = connect(target, target.ports.of(port), timer) => match result {
            Ok(stream) => Ok(Leg::new(stream)),
            Err(refusal) => {
                counters.refuse(refusal);
                Err(Ending::Refused(refusal))
            }
        },
        // the client has given up
        _ = client.ready(Interest::ERROR) => Err(Ending::ClientGone),
    }
}

/// Carries both ways.
async fn relay(
    [client, backend]: [Leg; 2],
    address: SocketAddr,
    arrival: Arrival,
    logged: &mut Logged<'_>,
    target: &Target,
    timer: Pin<&mut Sleep>,
) {
    let Logged { service, record } = logged;
    let preamble = preamble(&client, address, target, arrival);
    let pump = Pump::new([&client, &backend], service.payload(), &mut record.bytes, preamble);
    record.ending = carry([&client, &backend], pump, target.timeouts, timer).await;
    if record.ending == Ending::Closed {
        client.close();
        backend.close();
    }
}

/// Whose connection it is. `None` as the error: the client has gone.
async fn arrive(
    client: &Leg,
    address: SocketAddr,
    target: &Target,
    mut timer: Pin<&mut Sleep>,
) -> Result<Arrival, Option<Refusal>> {
    if !target.accept.proxy_protocol {
        return Ok(Arrival::PLAIN);
    }
    if !target.accept.trusts(address.ip()) {
        return Err(Some(Refusal::ProxyUntrusted));
    }
    timer.as_mut().reset(Instant::now() + target.timeouts.handshake);
    // boxed, so that sessions of other rules need no room for it
    let arrival = Box::pin(announced(client, timer.as_mut())).await?;
    timer.reset(Instant::now() + target.timeouts.connect);
    Ok(arrival)
}

/// What the backend is sent first: a header of ours if it wants one, and what the client has sent already.
fn preamble(client: &Leg, address: SocketAddr, target: &Target, arrival: Arrival) -> Preamble {
    let Arrival { header, data } = arrival;
    let Some(version) = target.connect.proxy_protocol else { return Preamble { data, overhead: 0 } };
    let header = header.unwrap_or_else(|| {
        // one that is gone already has none
        let origin = client.local_addr().map_or(Origin::Unknown, |own| Origin::client(address, own));
        Header { origin, tlvs: Vec::new() }
    });
    let mut bytes = proxy_protocol::write(&header, version);
    let overhead = bytes.len();
    bytes.extend_from_slice(&data);
    Preamble { data: bytes, overhead }
}

async fn carry(
    legs: [&Leg; 2],
    mut pump: Pump<'_>,
    timeouts: Timeouts,
    mut timer: Pin<&mut Sleep>,
) -> Ending {
    let mut failures = [pin!(legs[0].ready(Interest::ERROR)), pin!(legs[1].ready(Interest::ERROR))];
    let mut noticed = [false; 2];
    let mut last = Instant::now();
    let mut probed = false;
    poll_fn(|cx| {
        let mut moved = false;
        loop {
            if let Poll::Ready(end) = pump.poll(cx, &mut moved) {
                return Poll::Ready(end);
            }
            let new = |&side: &usize| {
                !noticed[side] && pump.is_unwatched(side) && failures[side].as_mut().poll(cx).is_ready()
            };
            let Some(side) = SIDES.into_iter().find(new) else { break };
            noticed[side] = true;
            let error = legs[side].take_error().ok().flatten();
            if let Poll::Ready(end) = pump.fail(side, error.as_ref()) {
                return Poll::Ready(end);
            }
        }
        if moved {
            last = Instant::now();
        }
        let silence = if pump.is_half_closed() { timeouts.half_close } else { timeouts.tcp_idle };
        let due = if pump.is_lingering() { Instant::now() + DELIVERY } else { last + silence };
        if timer.deadline() > due {
            timer.as_mut().reset(due);
        }
        loop {
            ready!(timer.as_mut().poll(cx));
            if last.elapsed() >= silence {
                return Poll::Ready(if pump.is_half_closed() { Ending::HalfClosed } else { Ending::Idle });
            }
            timer.as_mut().reset(due);
            if !probed {
                // not before, since most sessions are short; a connection that refuses this is none any more
                probed = true;
                _ = probe(&**legs[1], timeouts.keepalive);
            }
        }
    })
    .await
}
