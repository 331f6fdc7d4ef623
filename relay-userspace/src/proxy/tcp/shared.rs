//! Connections of shared listeners: each goes to the rule that has its port.

use std::net::{SocketAddr, TcpListener};
use std::pin::pin;
use std::sync::Arc;

use relay_common::net::Protocol;
use tokio::net::TcpStream;
use tokio::sync::watch;
use tokio::task::JoinSet;

use super::accept::{Acceptor, Front};
use super::socket::{Leg, probe_anew};
use super::{finish, session};
use crate::proxy::service::Phase;
use crate::proxy::shared::Shared;
use crate::rule::Keepalive;

/// Accepts for all rules of the table until the phase says otherwise. A rule's own phase ends its sessions.
pub async fn serve(listener: TcpListener, shared: Arc<Shared>, mut phase: watch::Receiver<Phase>) {
    let mut sessions = JoinSet::new();
    match Acceptor::new(listener, Front::Shared(shared.clone())) {
        Ok(acceptor) => accept(acceptor, &shared, &mut phase, &mut sessions).await,
        Err(error) => tracing::error!("cannot use the shared listening socket: {error}"),
    }
    finish(sessions, phase).await;
}

async fn accept(
    mut acceptor: Acceptor,
    shared: &Shared,
    phase: &mut watch::Receiver<Phase>,
    sessions: &mut JoinSet<()>,
) {
    let inherited = acceptor.keepalive();
    let mut over = pin!(phase.wait_for(|phase| *phase != Phase::Serve));
    loop {
        tokio::select! {
            biased;
            _ = &mut over => break,
            client = acceptor.accept() => begin(client, inherited, shared, sessions),
            Some(_) = sessions.join_next() => {}
        }
    }
    for client in acceptor.close() {
        begin(client, inherited, shared, sessions);
    }
}

/// Begins the session of a client that has come in on some port.
fn begin(
    (client, address): (TcpStream, SocketAddr),
    inherited: Keepalive,
    shared: &Shared,
    sessions: &mut JoinSet<()>,
) {
    let table = shared.table();
    let found = client.local_addr().ok().and_then(|to| Some((to.port(), table.find(Protocol::Tcp, to)?)));
    let Some((port, entry)) = found else {
        // its rule has gone meanwhile
        return drop(Leg::new(client));
    };
    probe_anew(&client, inherited, entry.service.target().timeouts.keepalive);
    let session = session::run(client, address, port, entry.service.clone(), entry.follow());
    sessions.spawn(until_the_end(session, entry.follow()));
}

async fn until_the_end(session: impl Future<Output = ()>, mut phase: watch::Receiver<Phase>) {
    tokio::select! {
        () = session => {}
        _ = phase.wait_for(|phase| *phase == Phase::End) => {}
    }
}
