//! One session: a client's connection, the one to the backend, and everything between them.

mod datagrams;
mod muxed;
mod tunnelled;

use std::mem;
use std::net::{IpAddr, SocketAddr};
use std::pin::{Pin, pin};
use std::sync::Arc;

use relay_common::net::Protocol;
use tokio::io::Interest;
use tokio::net::TcpStream;
use tokio::sync::watch;
use tokio::time::{Instant, Sleep, sleep};

use super::arrival::{Arrival, announced};
use super::carry::carry;
use super::failover::{self, Connected, Dial, Reached, Wanted};
use super::pump::{Preamble, Pump};
use super::socket::{Leg, round_trip};
use crate::proxy::counters::Refusal;
use crate::proxy::ending::{Ending, Record};
use crate::proxy::pool::Signal;
use crate::proxy::proxy_protocol::{self, Header, Origin};
use crate::proxy::roster::Live;
use crate::proxy::service::{Phase, Service, Target};
use crate::proxy::tunnel::purpose::Purpose;
use crate::proxy::tunnel::{Opening, part};
use crate::proxy::udp::Entered;

/// Carries a client that has come in on `port` until it is over. Dropped before that, it resets both connections. `phase`:
/// its listener's.
pub async fn run(
    client: TcpStream,
    address: SocketAddr,
    port: u16,
    service: Arc<Service>,
    phase: watch::Receiver<Phase>,
) {
    let client = Leg::new(client);
    let target = service.target();
    let mut logged = Logged { service: &service, record: Record::new(address), live: None };
    // one timer for everything that may take too long: it is cheap as long as it is left alone
    let mut timer = pin!(sleep(target.timeouts.connect));
    let round_trip = round_trip(&*client);
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
    let active = service.counters.begin(Live::new(Protocol::Tcp, source, client.local_addr().ok()));
    logged.let_in(active.live());
    let Arrival { header, data } = arrival;
    let announced = header;
    let header = opening(&client, address, &target, announced.as_ref());
    let session = Session {
        client: &client,
        service: &service,
        target: &target,
        port,
        source: source.ip(),
        header: &header,
        round_trip,
        live: active.live(),
        arrived: Arrived { address, announced: announced.as_ref(), phase: &phase },
    };
    let farewell = if target.acceptor.is_none() && target.connector.is_none() {
        session.run(data, &mut logged, timer).await
    } else {
        // boxed, so that sessions of other rules need no room for it
        Box::pin(tunnelled::run(&session, data, &mut logged, timer)).await
    };
    match farewell {
        Farewell::Reset => {}
        Farewell::Close => client.close(),
        // boxed, so that sessions that end otherwise need no room for it
        Farewell::Part => Box::pin(part(client)).await,
        Farewell::Datagrams(opening) => {
            active.live().has_flows();
            let entered = Entered { speaker: source.ip(), port, by: target.acceptor.clone() };
            Box::pin(datagrams::run(client, *opening, entered, &service, phase, &mut logged)).await;
        }
    }
}

/// What the client is owed at the end.
#[derive(Debug)]
enum Farewell {
    Reset,
    Close,
    /// What was said last is to reach it.
    Part,
    /// None yet: its tunnel is for datagrams of many.
    Datagrams(Box<Opening>),
}

/// A session that is logged when it is over, however that comes about.
struct Logged<'a> {
    service: &'a Service,
    record: Record,
    /// From when it was let in.
    live: Option<Arc<Live>>,
}

impl Logged<'_> {
    fn let_in(&mut self, live: &Arc<Live>) {
        self.live = Some(live.clone());
        self.service.tell_opened(live);
    }

    /// It has a backend.
    fn reach(&mut self, backend: Option<SocketAddr>) {
        self.record.backend = backend;
        if let Some(live) = &self.live {
            live.set_backend(backend);
            self.service.tell_proven(live);
        }
    }

    fn refuse(&mut self, refusal: Refusal) {
        self.service.counters.refuse(refusal);
        self.record.ending = Ending::Refused(refusal);
    }

    /// The rule does not want it any more.
    fn cut_off(&mut self, ending: Ending) {
        let Self { service, record, .. } = self;
        tracing::debug!(rule = %service.rule, client = %record.client, reason = ending.as_str(), "cut off");
        if ending == Ending::BackendGone {
            service.counters.lose();
        }
        record.ending = ending;
    }
}

impl Drop for Logged<'_> {
    fn drop(&mut self) {
        let Some(live) = &self.live else {
            return self.record.log_refused(self.service, Protocol::Tcp);
        };
        self.record.bytes = live.bytes();
        self.record.log(self.service, Protocol::Tcp);
    }
}

/// A client that has been let in.
struct Session<'a> {
    client: &'a Leg,
    service: &'a Arc<Service>,
    target: &'a Arc<Target>,
    port: u16,
    source: IpAddr,
    /// The header of ours that the backend is sent first.
    header: &'a [u8],
    /// Of the handshake with the client, in microseconds.
    round_trip: Option<u32>,
    /// What others see of it.
    live: &'a Live,
    arrived: Arrived<'a>,
}

/// How a client has come in, for those who come in with it.
#[derive(Clone, Copy, Debug)]
struct Arrived<'a> {
    /// The other end of its connection.
    address: SocketAddr,
    announced: Option<&'a Header>,
    /// Of the listener.
    phase: &'a watch::Receiver<Phase>,
}

impl Session<'_> {
    const fn wanted(&self) -> Wanted<'_> {
        let &Self { service, target, port, source, header, .. } = self;
        Wanted { service, target, port, client: source, header, purpose: Purpose::Session }
    }

    /// Whether another backend may do in place of those that have been tried.
    fn is_there_another(&self, tried: &[usize]) -> bool {
        self.target.ends.is_there_another(tried, Protocol::Tcp, &self.service.gate)
    }

    /// Carries between plain legs until it is over. `data`: what the client has sent already.
    async fn run(&self, mut data: Vec<u8>, logged: &mut Logged<'_>, mut timer: Pin<&mut Sleep>) -> Farewell {
        let mut tried = Vec::new();
        let mut round_trip = self.round_trip;
        loop {
            let reached: Reached<Connected> = match self.reach(tried, timer.as_mut()).await {
                Ok(reached) => reached,
                Err(ending) => {
                    logged.record.ending = ending;
                    return Farewell::Reset;
                }
            };
            count_client(&reached, round_trip.take());
            logged.reach(reached.to.leg.peer_addr().ok());
            let leads_to = logged.record.backend;
            let ending = tokio::select! {
                biased;
                ending = self.service.gate.ended(Protocol::Tcp, self.source, leads_to) => {
                    logged.cut_off(ending);
                    return Farewell::Reset;
                }
                ending = self.relay(&reached, &mut data, timer.as_mut()) => ending,
            };
            let Some(ending) = ending else {
                tried = reached.tried;
                continue;
            };
            logged.record.ending = ending;
            if ending != Ending::Closed {
                return Farewell::Reset;
            }
            reached.to.leg.close();
            return Farewell::Close;
        }
    }

    /// Connects to a backend that has not been tried, unless the session has to end before.
    async fn reach<T: Dial>(&self, tried: Vec<usize>, limit: Pin<&mut Sleep>) -> Result<Reached<T>, Ending> {
        tokio::select! {
            biased;
            ending = self.service.gate.ended(Protocol::Tcp, self.source, None) => Err(ending),
            result = failover::reach(self.wanted(), tried, limit) => {
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
    /// so far is for another one. `data`: what the backend is sent behind the header.
    async fn relay(
        &self,
        reached: &Reached<Connected>,
        data: &mut Vec<u8>,
        timer: Pin<&mut Sleep>,
    ) -> Option<Ending> {
        let legs = [self.client, &reached.to.leg];
        let preamble = Preamble::new(self.header, mem::take(data));
        let mut pump = Pump::new(legs, self.service.payload(), self.live, preamble);
        let ending = carry(legs, &mut pump, self.live, &self.target.timeouts, timer).await;
        if pump.has_broken_off() {
            reached.lease.fail(Signal::Reset);
        }
        match pump.unsent() {
            Some(unsent) if self.is_there_another(&reached.tried) => {
                *data = unsent;
                None
            }
            _ => Some(ending),
        }
    }
}

/// Counts a client's round trip with those of the backend that it has got.
fn count_client<T>(reached: &Reached<T>, round_trip: Option<u32>) {
    if let Some(micros) = round_trip {
        reached.lease.round_trips().client.count(micros);
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
fn opening(client: &Leg, address: SocketAddr, target: &Target, header: Option<&Header>) -> Vec<u8> {
    let Some(version) = target.connect.proxy_protocol else { return Vec::new() };
    let own = || {
        // one that is gone already has none
        let origin = client.local_addr().map_or(Origin::Unknown, |own| Origin::client(address, own));
        Header { origin, tlvs: Vec::new() }
    };
    header.map_or_else(
        || proxy_protocol::write(&own(), version),
        |header| proxy_protocol::write(header, version),
    )
}
