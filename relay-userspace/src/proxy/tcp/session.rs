//! One session: a client's connection, the one to the backend, and everything between them.

use std::future::poll_fn;
use std::mem;
use std::net::{IpAddr, SocketAddr};
use std::pin::{Pin, pin};
use std::sync::Arc;
use std::task::{Poll, ready};
use std::time::Duration;

use relay_common::net::Protocol;
use tokio::io::Interest;
use tokio::net::TcpStream;
use tokio::time::{Instant, Sleep, sleep};

use super::arrival::{Arrival, announced};
use super::failover::{self, Reached};
use super::pump::{Preamble, Pump, SIDES};
use super::socket::{Leg, probe};
use crate::proxy::counters::Refusal;
use crate::proxy::ending::{Ending, Record};
use crate::proxy::pool::Signal;
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
    let session = Session { client: &client, service: &service, target: &target, port, source: source.ip() };
    let mut reached = match session.reach(Vec::new(), timer.as_mut()).await {
        Ok(reached) => reached,
        Err(ending) => return logged.record.ending = ending,
    };
    let Arrival { header, mut data } = arrival;
    let header = opening(&client, address, &target, header);
    loop {
        logged.record.backend = reached.leg.peer_addr().ok();
        let leads_to = logged.record.backend.map(|backend| backend.ip());
        let ending = tokio::select! {
            biased;
            ending = service.gate.ended(Protocol::Tcp, session.source, leads_to) => return logged.cut_off(ending),
            ending = session.relay(&reached, &mut logged.record, &header, &mut data, timer.as_mut()) => ending,
        };
        if let Some(ending) = ending {
            logged.record.ending = ending;
            break;
        }
        reached = match session.reach(reached.tried, timer.as_mut()).await {
            Ok(reached) => reached,
            Err(ending) => return logged.record.ending = ending,
        };
    }
    if logged.record.ending == Ending::Closed {
        client.close();
        reached.leg.close();
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

/// A client that has been let in.
struct Session<'a> {
    client: &'a Leg,
    service: &'a Service,
    target: &'a Target,
    port: u16,
    source: IpAddr,
}

impl Session<'_> {
    /// Connects to a backend that has not been tried, unless the session has to end before.
    async fn reach(&self, tried: Vec<usize>, limit: Pin<&mut Sleep>) -> Result<Reached, Ending> {
        tokio::select! {
            biased;
            ending = self.service.gate.ended(Protocol::Tcp, self.source, None) => Err(ending),
            result = failover::reach(self.target, &self.service.gate, self.port, self.source, tried, limit) => {
                result.map_err(|refusal| {
                    self.service.counters.refuse(refusal);
                    Ending::Refused(refusal)
                })
            }
            // the client has given up
            _ = self.client.ready(Interest::ERROR) => Err(Ending::ClientGone),
        }
    }

    /// Carries both ways. `None`: the backend broke off before it had got or sent anything, and what the client has sent
    /// so far is for another one. `header`, `data`: what the backend is sent first.
    async fn relay(
        &self,
        reached: &Reached,
        record: &mut Record,
        header: &[u8],
        data: &mut Vec<u8>,
        timer: Pin<&mut Sleep>,
    ) -> Option<Ending> {
        let legs = [self.client, &reached.leg];
        let preamble = Preamble::new(header, mem::take(data));
        let mut pump = Pump::new(legs, self.service.payload(), &mut record.bytes, preamble);
        let ending = carry(legs, &mut pump, &self.target.timeouts, timer).await;
        if pump.has_broken_off() {
            reached.lease.fail(Signal::Reset);
        }
        let is_there_another =
            || self.target.ends.is_there_another(&reached.tried, Protocol::Tcp, &self.service.gate);
        match pump.unsent() {
            Some(unsent) if is_there_another() => {
                *data = unsent;
                None
            }
            _ => Some(ending),
        }
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

/// The header of ours that the backend is sent first; empty if it wants none. `header`: the one that came with the client.
fn opening(client: &Leg, address: SocketAddr, target: &Target, header: Option<Header>) -> Vec<u8> {
    let Some(version) = target.connect.proxy_protocol else { return Vec::new() };
    let header = header.unwrap_or_else(|| {
        // one that is gone already has none
        let origin = client.local_addr().map_or(Origin::Unknown, |own| Origin::client(address, own));
        Header { origin, tlvs: Vec::new() }
    });
    proxy_protocol::write(&header, version)
}

async fn carry(
    legs: [&Leg; 2],
    pump: &mut Pump<'_>,
    timeouts: &Timeouts,
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
