//! A client whose tunnel is for datagrams: another Relay, for many clients of its own.

use std::sync::Arc;

use relay_common::net::Protocol;
use tokio::sync::watch;

use super::Logged;
use super::tunnelled::blame_client;
use crate::proxy::counters::Refusal;
use crate::proxy::ending::Ending;
use crate::proxy::service::{Phase, Service};
use crate::proxy::tcp::socket::Leg;
use crate::proxy::tunnel::Opening;
use crate::proxy::tunnel::datagrams::{Line, Stop};
use crate::proxy::udp::{self, Entered};

/// Carries until the other Relay ends its tunnel.
pub(super) async fn run(
    client: Leg,
    opening: Opening,
    entered: Entered,
    service: &Arc<Service>,
    phase: watch::Receiver<Phase>,
    logged: &mut Logged<'_>,
) {
    let line = Line::new(client, opening, service.target().timeouts.keepalive);
    let over = tokio::select! {
        biased;
        ending = service.gate.ended(Protocol::Tcp, entered.speaker, None) => return logged.cut_off(ending),
        over = udp::serve_tunnel(line, service.clone(), entered, phase) => over,
    };
    match over {
        Ok(Stop::Ended) => logged.record.ending = Ending::Closed,
        Ok(Stop::Gone) => logged.record.ending = Ending::Reset,
        Ok(Stop::Fault(fault)) => {
            blame_client(service, logged.record.client, &fault);
            logged.refuse(fault.of_client());
        }
        Err(error) => {
            tracing::debug!(rule = %service.rule, %error, "cannot carry datagrams");
            logged.refuse(Refusal::Descriptors);
        }
    }
}
