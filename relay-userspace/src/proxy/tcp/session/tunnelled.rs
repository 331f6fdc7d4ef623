//! A session of which a leg is a tunnel: its handshakes, and everything between.

use std::net::SocketAddr;
use std::pin::Pin;

use relay_common::net::Protocol;
use tokio::io::Interest;
use tokio::time::{Instant, Sleep, sleep_until};

use super::{Farewell, Logged, Session, count_client, muxed};
use crate::proxy::complaints::and_others;
use crate::proxy::counters::Refusal;
use crate::proxy::ending::Ending;
use crate::proxy::pool::{Lease, Signal};
use crate::proxy::service::Service;
use crate::proxy::tcp::carry::carry;
use crate::proxy::tcp::failover::{self, Connected, Reached};
use crate::proxy::tunnel::purpose::Purpose;
use crate::proxy::tunnel::{Acceptor, Fault, Layers, Opening, Road, Side, TunnelPump, TunnelStream};

/// Carries a client that has been let in until it is over. `data`: what it has sent already.
pub(super) async fn run(
    session: &Session<'_>,
    data: Vec<u8>,
    logged: &mut Logged<'_>,
    mut timer: Pin<&mut Sleep>,
) -> Farewell {
    let client = match &session.target.acceptor {
        None => plain(data),
        Some(acceptor) => match session.take_in(acceptor, data, logged, timer.as_mut()).await {
            Ok(opening) => opening,
            Err(farewell) => return farewell,
        },
    };
    match client.purpose {
        Purpose::Datagrams => return Farewell::Datagrams(Box::new(client)),
        // boxed, so that sessions with a tunnel of their own need no room for it
        Purpose::Streams => return Box::pin(muxed::take_streams(session, client, logged, timer)).await,
        Purpose::Session => {}
    }
    if is_muxed(session) {
        let road = Road::Leg(Box::new(TunnelStream::new(session.client, client)));
        return Box::pin(muxed::run(session, road, logged, timer)).await;
    }
    let mut again = Again { client, renew: None, tried: Vec::new() };
    let mut round_trip = session.round_trip;
    loop {
        let Again { mut client, renew, tried } = again;
        let reached = match session.reach_with(renew, tried, timer.as_mut()).await {
            Ok(reached) => reached,
            Err(ending) => {
                logged.record.ending = ending;
                return Farewell::Reset;
            }
        };
        count_client(&reached, round_trip.take());
        if let Some(grace) = client.grace.take() {
            let mut byte = [0];
            tokio::select! {
                _ = session.client.peek(&mut byte) => {}
                () = sleep_until(grace) => {}
            }
        }
        logged.reach(reached.to.leg.peer_addr().ok());
        let leads_to = logged.record.backend;
        let over = tokio::select! {
            biased;
            ending = session.service.gate.ended(Protocol::Tcp, session.source, leads_to) => {
                logged.cut_off(ending);
                return Farewell::Reset;
            }
            over = session.relay_tunnel(client, reached, logged.record.client, timer.as_mut()) => over,
        };
        again = match over {
            Over::Again(again) => *again,
            Over::Ended(ending, farewell) => {
                logged.record.ending = ending;
                return farewell;
            }
        };
    }
}

/// A client whose backend has broken off before it had read or said anything.
struct Again {
    client: Opening,
    /// The backend's tunnel had been held open: the same backend by a new one.
    renew: Option<Lease>,
    tried: Vec<usize>,
}

/// How a session with one backend came out.
enum Over {
    Ended(Ending, Farewell),
    /// Boxed, since most end.
    Again(Box<Again>),
}

/// Whether backends get streams of connections that many share.
pub(super) fn is_muxed(session: &Session<'_>) -> bool {
    session.target.connect.tunnel.as_ref().is_some_and(|tunnel| tunnel.mux)
}

/// A leg that is no tunnel.
pub(super) const fn plain(payload: Vec<u8>) -> Opening {
    Opening {
        layers: Layers::new(None, None),
        purpose: Purpose::Session,
        undecoded: Vec::new(),
        payload,
        end: false,
        grace: None,
    }
}

impl Session<'_> {
    /// Opens the client's tunnel.
    async fn take_in(
        &self,
        acceptor: &Acceptor,
        data: Vec<u8>,
        logged: &mut Logged<'_>,
        mut timer: Pin<&mut Sleep>,
    ) -> Result<Opening, Farewell> {
        let timeouts = &self.target.timeouts;
        let Some(_under_way) = self.service.shake_hands() else {
            logged.refuse(Refusal::HandshakesFull);
            return Err(Farewell::Reset);
        };
        timer.as_mut().reset(Instant::now() + timeouts.handshake);
        let accepted = tokio::select! {
            biased;
            ending = self.service.gate.ended(Protocol::Tcp, self.source, None) => {
                logged.cut_off(ending);
                return Err(Farewell::Reset);
            }
            accepted = acceptor.accept(self.client, data) => accepted,
            () = timer.as_mut() => Err(Fault::Late),
        };
        timer.reset(Instant::now() + timeouts.connect);
        accepted.map_err(|fault| {
            if fault.is_silence() {
                // connected to see whether anybody listens, and went
                logged.record.ending = Ending::ClientGone;
                return Farewell::Close;
            }
            blame_client(self.service, logged.record.client, &fault);
            logged.refuse(fault.of_client());
            // it has had its time
            if matches!(fault, Fault::Late) { Farewell::Reset } else { Farewell::Part }
        })
    }

    /// Connects to a backend: to the same one again, or to one that has not been tried.
    async fn reach_with(
        &self,
        renew: Option<Lease>,
        tried: Vec<usize>,
        mut limit: Pin<&mut Sleep>,
    ) -> Result<Reached<Connected>, Ending> {
        let Some(lease) = renew else { return self.reach(tried, limit).await };
        let renewed = tokio::select! {
            biased;
            ending = self.service.gate.ended(Protocol::Tcp, self.source, None) => return Err(ending),
            renewed = failover::renew(self.wanted(), lease, tried, limit.as_mut()) => renewed,
            _ = self.client.ready(Interest::ERROR) => return Err(Ending::ClientGone),
        };
        match renewed {
            Ok(reached) => Ok(reached),
            Err((_, tried)) if self.is_there_another(&tried) => self.reach(tried, limit).await,
            Err((refusal, _)) => {
                self.service.counters.refuse(refusal);
                Err(Ending::Refused(refusal))
            }
        }
    }

    async fn relay_tunnel(
        &self,
        client: Opening,
        mut reached: Reached<Connected>,
        address: SocketAddr,
        timer: Pin<&mut Sleep>,
    ) -> Over {
        let tunnel = reached.to.tunnel.take();
        let is_plain = tunnel.is_none();
        let backend = tunnel.map_or_else(|| plain(Vec::new()), |opening| *opening);
        let legs = [self.client, &reached.to.leg];
        let sides = [
            Side::new(legs[0], client.layers, client.undecoded),
            Side::new(legs[1], backend.layers, backend.undecoded),
        ];
        let mut pump = TunnelPump::new(sides, self.service.payload(), self.live);
        if reached.to.is_spare || self.is_there_another(&reached.tried) {
            pump.keep_unread(!is_plain);
        }
        if reached.to.is_spare {
            pump.try_for(self.target.timeouts.connect);
        }
        pump.watch_over(self.target.timeouts.keepalive);
        if is_plain {
            pump.announce(self.header);
        }
        pump.begin_with(0, &client.payload, client.end);
        pump.begin_with(1, &backend.payload, backend.end);
        let ending = carry(legs, &mut pump, self.live, &self.target.timeouts, timer).await;
        let farewell = match pump.fault() {
            Some((0, fault)) => {
                blame_client(self.service, address, fault);
                Farewell::Part
            }
            Some((_, fault)) => {
                self.service.complain(format_args!("the backend: {fault} ({})", fault.as_str()));
                // what it has got is not all that there was to be
                Farewell::Reset
            }
            None if ending == Ending::Closed => Farewell::Close,
            None => Farewell::Reset,
        };
        let has_broken_off = pump.has_broken_off();
        let unread = pump.into_unread().filter(|_| has_broken_off);
        let signal = signal_of(ending);
        let Reached { to: Connected { leg, is_spare, .. }, lease, tried } = reached;
        if let Some(client) = unread {
            if is_spare {
                return Over::Again(Box::new(Again { client, renew: Some(lease), tried }));
            }
            if self.is_there_another(&tried) {
                lease.fail(signal);
                return Over::Again(Box::new(Again { client, renew: None, tried }));
            }
        }
        if has_broken_off {
            lease.fail(signal);
        }
        if let Ending::Refused(refusal) = ending {
            self.service.counters.refuse(refusal);
        }
        if matches!(farewell, Farewell::Close) {
            leg.close();
        }
        Over::Ended(ending, farewell)
    }
}

/// What a backend that has broken off has done, by how that ended the session.
fn signal_of(ending: Ending) -> Signal {
    match ending {
        Ending::Refused(refusal) => Signal::of(refusal).unwrap_or(Signal::Reset),
        _ => Signal::Reset,
    }
}

pub(super) fn blame_client(service: &Service, client: SocketAddr, fault: &Fault) {
    let reason = fault.as_str();
    tracing::debug!(rule = %service.rule, %client, reason, "refused");
    if let Some(muted) = service.about_clients.admit() {
        let (rule, others) = (&service.rule, and_others(muted));
        tracing::info!(RULE = rule.as_str(), "rule {rule}: client {client}: {fault} ({reason}){others}");
    }
}
