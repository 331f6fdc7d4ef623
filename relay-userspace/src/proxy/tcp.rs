//! TCP sessions: accept, connect, carry both ways.

mod accept;
mod arrival;
pub(super) mod carry;
mod connect;
pub(super) mod failover;
mod keeper;
mod pipe;
mod ports;
mod pump;
pub(super) mod remainder;
mod session;
mod shared;
pub(super) mod socket;
pub(super) mod transfer;
mod way;

#[cfg(test)]
mod tests;

use std::net::TcpListener;
use std::pin::pin;
use std::sync::Arc;

use tokio::sync::watch;
use tokio::task::JoinSet;

use self::accept::{Acceptor, Front};
pub(super) use self::connect::dial;
pub use self::keeper::{Entrance, keep};
pub use self::ports::bind_by as bind_ports_by;
pub use self::shared::serve as serve_shared;
use super::service::{Phase, Service};

/// Accepts and carries until `phase` says otherwise, or nobody is left who could. A drain closes the listening socket,
/// after taking in who has been waiting, and lets sessions go on; the end resets them. Returns when all is over.
///
/// `listener` is bound, listening and non-blocking. Meant for a runtime of one thread: sessions are its tasks.
pub async fn serve(listener: TcpListener, service: Arc<Service>, mut phase: watch::Receiver<Phase>) {
    let mut sessions = JoinSet::new();
    match Acceptor::new(listener, Front::Rule(service.clone())) {
        Ok(acceptor) => accept(acceptor, &service, &mut phase, &mut sessions).await,
        Err(error) => tracing::error!(rule = %service.rule, %error, "cannot use the listening socket"),
    }
    service.closes();
    finish(sessions, phase).await;
}

/// Lets sessions go on until they have ended, or are to end.
async fn finish(mut sessions: JoinSet<()>, mut phase: watch::Receiver<Phase>) {
    let mut end = pin!(phase.wait_for(|phase| *phase == Phase::End));
    loop {
        tokio::select! {
            _ = &mut end => break,
            session = sessions.join_next() => if session.is_none() { break },
        }
    }
    sessions.shutdown().await;
}

/// Takes clients in as long as the phase is to serve.
async fn accept(
    mut acceptor: Acceptor,
    service: &Arc<Service>,
    phase: &mut watch::Receiver<Phase>,
    sessions: &mut JoinSet<()>,
) {
    let (port, inherited) = (acceptor.port(), acceptor.keepalive());
    let orders = phase.clone();
    let begin = |sessions: &mut JoinSet<()>, (client, address)| {
        // the rule may say something else since its listener was opened
        socket::probe_anew(&client, inherited, service.target().timeouts.keepalive);
        drop(sessions.spawn(session::run(client, address, port, service.clone(), orders.clone())))
    };
    let mut over = pin!(phase.wait_for(|phase| *phase != Phase::Serve));
    let next = loop {
        tokio::select! {
            biased;
            next = &mut over => break next.map_or(Phase::End, |next| *next),
            client = acceptor.accept() => begin(sessions, client),
            Some(_) = sessions.join_next() => {}
        }
    };
    if next == Phase::HandOver {
        return;
    }
    for client in acceptor.close() {
        begin(sessions, client);
    }
}
