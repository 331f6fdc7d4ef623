//! Sessions of which a leg is a stream in a connection that many share, and the connections of those who come in so.

use std::net::SocketAddr;
use std::pin::{Pin, pin};

use futures_util::StreamExt as _;
use futures_util::stream::FuturesUnordered;
use relay_common::net::Protocol;
use tokio::time::{Instant, Sleep, sleep, sleep_until};

use super::tunnelled::{blame_client, is_muxed, plain};
use super::{Arrived, Farewell, Logged, Session, count_client, opening};
use crate::proxy::counters::Refusal;
use crate::proxy::ending::{Ending, Record};
use crate::proxy::pool::{Lease, Signal};
use crate::proxy::roster::Live;
use crate::proxy::service::Phase;
use crate::proxy::tcp::failover::{Connected, Dial, Reached};
use crate::proxy::tunnel::{Exchange, Exit, MuxStream, Opening, Road, TunnelStream};

/// Takes the streams of a client's connection: each is a session as any other, of that client.
pub(super) async fn take_streams(
    session: &Session<'_>,
    opened: Opening,
    logged: &mut Logged<'_>,
    mut timer: Pin<&mut Sleep>,
) -> Farewell {
    let timeouts = &session.target.timeouts;
    let (gate, client) = (&session.service.gate, logged.record.client);
    timer.as_mut().reset(Instant::now() + timeouts.handshake);
    let begun = tokio::select! {
        begun = Exit::begin(session.client, opened, client) => begun.ok(),
        () = timer.as_mut() => None,
    };
    let Some(mut exit) = begun else {
        logged.refuse(Refusal::HandshakeBroken);
        return Farewell::Reset;
    };
    session.live.has_flows();
    let mut phase = session.arrived.phase.clone();
    let (mut drains, mut over) = (false, None);
    let mut sessions = FuturesUnordered::new();
    let mut used = Instant::now();
    loop {
        if let (Some(ending), true) = (over, sessions.is_empty()) {
            logged.record.ending = ending;
            return if ending == Ending::Closed { Farewell::Close } else { Farewell::Reset };
        }
        tokio::select! {
            biased;
            ending = gate.ended(Protocol::Tcp, session.source, None) => {
                logged.cut_off(ending);
                return Farewell::Reset;
            }
            _ = phase.wait_for(|phase| *phase != Phase::Serve), if !drains && over.is_none() => {
                drains = true;
                exit.drain();
            }
            stream = exit.accept(), if over.is_none() => match stream {
                Some(Ok(stream)) => sessions.push(carry_stream(session, client, stream)),
                // those that are under way meet it themselves
                Some(Err(_)) if !sessions.is_empty() => over = Some(Ending::Reset),
                _ => over = Some(Ending::Closed),
            },
            Some(()) = sessions.next() => used = Instant::now(),
            // who opens none has no use for it
            () = sleep_until(used + timeouts.tcp_idle), if sessions.is_empty() => {
                logged.record.ending = Ending::Idle;
                return Farewell::Reset;
            }
        }
    }
}

/// Carries one stream until it is over. Dropped before that, it is reset.
async fn carry_stream(connection: &Session<'_>, client: SocketAddr, stream: MuxStream) {
    let service = connection.service;
    let target = service.target();
    let mut logged = Logged { service, record: Record::new(client), live: None };
    let gate = &service.gate;
    let _seat = match gate.admit(client.ip()).and_then(|()| gate.enter(client.ip())) {
        Ok(seat) => seat,
        Err(refusal) => return logged.refuse(refusal),
    };
    let active =
        service.counters.begin(Live::new(Protocol::Tcp, client, connection.client.local_addr().ok()));
    logged.let_in(active.live());
    let Arrived { address, announced, .. } = connection.arrived;
    let header = opening(connection.client, address, &target, announced);
    let session = Session {
        target: &target,
        header: &header,
        round_trip: None,
        live: active.live(),
        arrived: connection.arrived,
        ..*connection
    };
    let timer = pin!(sleep(target.timeouts.connect));
    run(&session, Road::Stream(Box::new(stream)), &mut logged, timer).await;
}

/// Carries a client that has been let in until it is over.
pub(super) async fn run(
    session: &Session<'_>,
    mut client: Road<'_>,
    logged: &mut Logged<'_>,
    mut timer: Pin<&mut Sleep>,
) -> Farewell {
    if is_muxed(session) {
        let reached = match reach::<MuxStream>(session, &mut client, timer.as_mut()).await {
            Ok(reached) => reached,
            Err(ending) => return unreached(logged, ending),
        };
        count_client(&reached, session.round_trip);
        let Reached { to, lease, .. } = reached;
        logged.reach(Some(to.peer));
        let sides = [client, Road::Stream(Box::new(to))];
        return session.exchange(sides, &[], &lease, logged, timer).await;
    }
    let reached = match reach::<Connected>(session, &mut client, timer.as_mut()).await {
        Ok(reached) => reached,
        Err(ending) => return unreached(logged, ending),
    };
    count_client(&reached, session.round_trip);
    let Reached { to: Connected { leg, tunnel, .. }, lease, .. } = reached;
    logged.reach(leg.peer_addr().ok());
    // a tunnel has been sent the header
    let first = if tunnel.is_none() { session.header } else { &[] };
    let opening = tunnel.map_or_else(|| plain(Vec::new()), |opening| *opening);
    let sides = [client, Road::Leg(Box::new(TunnelStream::new(&leg, opening)))];
    let farewell = session.exchange(sides, first, &lease, logged, timer).await;
    if matches!(farewell, Farewell::Close) {
        leg.close();
    }
    farewell
}

/// Connects to a backend, unless the client goes before.
async fn reach<T: Dial>(
    session: &Session<'_>,
    client: &mut Road<'_>,
    limit: Pin<&mut Sleep>,
) -> Result<Reached<T>, Ending> {
    tokio::select! {
        biased;
        reached = session.reach(Vec::new(), limit) => reached,
        () = client.gone() => Err(Ending::ClientGone),
    }
}

fn unreached(logged: &mut Logged<'_>, ending: Ending) -> Farewell {
    logged.record.ending = ending;
    Farewell::Reset
}

impl Session<'_> {
    async fn exchange(
        &self,
        sides: [Road<'_>; 2],
        first: &[u8],
        lease: &Lease,
        logged: &mut Logged<'_>,
        timer: Pin<&mut Sleep>,
    ) -> Farewell {
        let leads_to = logged.record.backend;
        let address = logged.record.client;
        let mut exchange = Exchange::new(sides, first, self.service.payload(), self.live);
        let ending = tokio::select! {
            biased;
            ending = self.service.gate.ended(Protocol::Tcp, self.source, leads_to) => {
                drop(exchange);
                logged.cut_off(ending);
                return Farewell::Reset;
            }
            ending = exchange.run(&self.target.timeouts, timer) => ending,
        };
        let farewell = match exchange.fault() {
            Some((0, fault)) => {
                blame_client(self.service, address, fault);
                Farewell::Part
            }
            Some((_, fault)) => {
                self.service.complain(format_args!("the backend: {fault} ({})", fault.as_str()));
                Farewell::Reset
            }
            None if ending == Ending::Closed => Farewell::Close,
            None => Farewell::Reset,
        };
        if exchange.has_broken_off() {
            lease.fail(Signal::Reset);
        }
        drop(exchange);
        if let Ending::Refused(refusal) = ending {
            self.service.counters.refuse(refusal);
        }
        logged.record.ending = ending;
        farewell
    }
}
