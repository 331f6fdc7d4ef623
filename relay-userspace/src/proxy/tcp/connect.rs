//! Connecting to a backend: its addresses in their order, each a little after the one before it (RFC 8305), or at once
//! when that one has failed. The first to answer wins.

use std::io;
use std::net::{IpAddr, SocketAddr};
use std::time::Duration;

use nix::errno::Errno;
use tokio::net::TcpStream;
use tokio::task::JoinSet;
use tokio::time::{sleep, timeout};

use super::socket;
use crate::proxy::counters::Refusal;
use crate::proxy::service::Target;
use crate::rule::{Keepalive, Timeouts};

/// RFC 8305's connection attempt delay.
const STAGGER: Duration = Duration::from_millis(250);

/// A connection to the backend, or why there is none.
pub async fn connect(target: &Target, port: u16) -> Result<TcpStream, Refusal> {
    match &target.addresses[..] {
        [] => Err(Refusal::NoBackend),
        [only] => attempt(SocketAddr::new(*only, port), target.timeouts).await,
        several => race(several, port, target.timeouts).await,
    }
}

async fn race(addresses: &[IpAddr], port: u16, timeouts: Timeouts) -> Result<TcpStream, Refusal> {
    let mut failure = Refusal::NoBackend;
    let mut attempts = JoinSet::new();
    let mut waiting = addresses.iter();
    loop {
        match waiting.next() {
            Some(&address) => drop(attempts.spawn(attempt(SocketAddr::new(address, port), timeouts))),
            None if attempts.is_empty() => return Err(failure),
            None => {}
        }
        let next = sleep(if waiting.len() == 0 { Duration::MAX } else { STAGGER });
        tokio::select! {
            Some(Ok(result)) = attempts.join_next() => match result {
                Ok(stream) => return Ok(stream),
                Err(refusal) => failure = refusal,
            },
            () = next => {}
        }
    }
}

async fn attempt(address: SocketAddr, timeouts: Timeouts) -> Result<TcpStream, Refusal> {
    match timeout(timeouts.connect, dial(address, timeouts.keepalive)).await {
        Ok(Ok(stream)) => Ok(stream),
        Ok(Err(error)) => Err(refusal(&error)),
        Err(_) => Err(Refusal::BackendTimeout),
    }
}

async fn dial(address: SocketAddr, keepalive: Keepalive) -> io::Result<TcpStream> {
    let stream = socket::outgoing(address, keepalive)?.connect(address).await?;
    // a connection from a free port of this host to itself: nobody listens there
    if stream.local_addr()? == address {
        return Err(Errno::ECONNREFUSED.into());
    }
    Ok(stream)
}

fn refusal(error: &io::Error) -> Refusal {
    match error.raw_os_error().map(Errno::from_raw) {
        Some(Errno::EMFILE | Errno::ENFILE | Errno::ENOBUFS | Errno::ENOMEM) => Refusal::Descriptors,
        Some(Errno::EADDRNOTAVAIL) => Refusal::PortsExhausted,
        Some(Errno::ETIMEDOUT) => Refusal::BackendTimeout,
        _ => Refusal::BackendRefused,
    }
}
