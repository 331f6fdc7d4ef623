//! A session of which a leg is a tunnel: its handshakes, and everything between.

use std::net::SocketAddr;
use std::pin::Pin;

use relay_common::net::Protocol;
use tokio::time::{Instant, Sleep, sleep_until};

use super::{Farewell, Logged, Session, count_client, muxed};
use crate::proxy::complaints::and_others;
use crate::proxy::counters::Refusal;
use crate::proxy::ending::{Ending, Record};
use crate::proxy::pool::Signal;
use crate::proxy::service::Service;
use crate::proxy::tcp::carry::carry;
use crate::proxy::tcp::failover::{Connected, Reached};
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
    if client.purpose == Purpose::Streams {
        return muxed::take_streams(session, client, logged, timer).await;
    }
    if is_muxed(session) {
        let road = Road::Leg(Box::new(TunnelStream::new(session.client, client)));
        return muxed::run(session, road, logged, timer).await;
    }
    let reached: Reached<Connected> = match session.reach(Vec::new(), timer.as_mut()).await {
        Ok(reached) => reached,
        Err(ending) => {
            logged.record.ending = ending;
            return Farewell::Reset;
        }
    };
    count_client(&reached, session.round_trip);
    if let Some(grace) = client.grace {
        let mut byte = [0];
        tokio::select! {
            _ = session.client.peek(&mut byte) => {}
            () = sleep_until(grace) => {}
        }
    }
    logged.record.backend = reached.to.leg.peer_addr().ok();
    let leads_to = logged.record.backend.map(|backend| backend.ip());
    let gate = &session.service.gate;
    let (ending, farewell) = tokio::select! {
        biased;
        ending = gate.ended(Protocol::Tcp, session.source, leads_to) => {
            logged.cut_off(ending);
            return Farewell::Reset;
        }
        over = session.relay_tunnel(client, reached, &mut logged.record, timer) => over,
    };
    logged.record.ending = ending;
    farewell
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

    async fn relay_tunnel(
        &self,
        client: Opening,
        mut reached: Reached<Connected>,
        record: &mut Record,
        timer: Pin<&mut Sleep>,
    ) -> (Ending, Farewell) {
        let tunnel = reached.to.tunnel.take();
        let is_plain = tunnel.is_none();
        let backend = tunnel.map_or_else(|| plain(Vec::new()), |opening| *opening);
        let legs = [self.client, &reached.to.leg];
        let sides = [
            Side::new(legs[0], client.layers, client.undecoded),
            Side::new(legs[1], backend.layers, backend.undecoded),
        ];
        let address = record.client;
        let mut pump = TunnelPump::new(sides, self.service.payload(), &mut record.bytes);
        if is_plain {
            pump.announce(self.header);
        }
        pump.begin_with(0, &client.payload, client.end);
        pump.begin_with(1, &backend.payload, backend.end);
        let ending = carry(legs, &mut pump, &self.target.timeouts, timer).await;
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
        if pump.has_broken_off() {
            reached.lease.fail(Signal::Reset);
        }
        if let Ending::Refused(refusal) = ending {
            self.service.counters.refuse(refusal);
        }
        drop(pump);
        if farewell == Farewell::Close {
            reached.to.leg.close();
        }
        (ending, farewell)
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
