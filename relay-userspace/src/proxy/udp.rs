//! UDP sessions: one socket towards the backend for each client, datagrams carried in batches.

mod carrier;
mod clients;
mod envelope;
mod inbox;
mod inward;
mod open;
mod outbox;
mod relay;
mod sender;
mod session;
mod share;
mod shared;
mod socket;
#[cfg(test)]
mod tests;

use std::future::poll_fn;
use std::io;
use std::net::{SocketAddr, UdpSocket};
use std::os::fd::AsRawFd;
use std::sync::Arc;
use std::time::{Duration, Instant};

use tokio::io::Interest;
use tokio::io::unix::{AsyncFd, AsyncFdRegisterError};
use tokio::sync::watch;

pub(super) use self::inward::{Entered, serve as serve_tunnel};
use self::relay::{Left, Relay};
pub use self::shared::serve as serve_shared;
use self::socket::Replies;
pub use self::socket::use_trains;
use super::counters::Refusal;
use super::service::{Phase, Service};

/// Between attempts to begin, when there is no descriptor left.
const PAUSE: Duration = Duration::from_secs(1);

/// Carries what comes to `listener`, a bound socket, until `phase` says otherwise: [`Phase::Drain`] lets nobody new in
/// and goes on with the clients there are, [`Phase::End`] stops at once, and so does the loss of the sender. A drain may
/// be called off. It does not end by itself: which socket of a port a client's datagrams come to depends on all of them,
/// so they must go together. [`Service::clients`] says when there is nobody left.
///
/// Every worker calls this with a socket of its own on the same port (`SO_REUSEPORT`); the kernel keeps a client on
/// one of them.
pub async fn serve(listener: UdpSocket, service: Arc<Service>, mut phase: watch::Receiver<Phase>) {
    let (address, replies) = loop {
        match begin(&listener) {
            Ok(begun) => break begun,
            Err(error) => {
                service.counters.refuse(Refusal::Descriptors);
                tracing::warn!("rule {}: cannot serve UDP, trying again: {error}", service.rule);
            }
        }
        tokio::select! {
            () = tokio::time::sleep(PAUSE) => {}
            phase = next(&mut phase) => if phase == Phase::End { return },
        }
    };
    // Only an ended runtime fails to register.
    let Ok(listener) = register(listener) else { return };
    let Ok(replies) = register(replies) else { return };
    run(&listener, &replies, Relay::new(service, address), phase).await;
}

/// Woken for reading only: a socket also becomes writable whenever something it sent has left.
fn register<T: AsRawFd>(owner: T) -> Result<AsyncFd<T>, AsyncFdRegisterError<T>> {
    // SAFETY: a `UdpSocket` or `Replies` owns one descriptor, open as long as it lives, and always names that one.
    unsafe { AsyncFd::register_with_interest(owner, Interest::READABLE) }
}

fn begin(listener: &UdpSocket) -> io::Result<(SocketAddr, Replies)> {
    socket::prepare_listener(listener)?;
    Ok((listener.local_addr()?, Replies::new()?))
}

async fn run(
    listener: &AsyncFd<UdpSocket>,
    replies: &AsyncFd<Replies>,
    mut relay: Relay,
    mut phase: watch::Receiver<Phase>,
) {
    let mut current = *phase.borrow_and_update();
    loop {
        match current {
            Phase::Serve => relay.accept(true),
            Phase::Drain => relay.accept(false),
            Phase::HandOver | Phase::End => return,
        }
        let due = relay.due();
        let left = tokio::select! {
            ready = listener.readable() => {
                let Ok(mut ready) = ready else { return };
                let left = relay.ingress(listener.get_ref(), replies.get_ref());
                if left == Left::Nothing {
                    ready.clear_ready();
                }
                left
            }
            ready = replies.readable() => {
                let Ok(mut ready) = ready else { return };
                let left = relay.egress(Some(listener.get_ref()), replies.get_ref());
                if left == Left::Nothing {
                    ready.clear_ready();
                }
                left
            }
            // fails only where clients come in by a tunnel
            left = poll_fn(|cx| relay.poll_tunnels(cx, Some(listener.get_ref()), replies.get_ref())) => {
                left.unwrap_or(Left::Nothing)
            }
            () = until(due) => { relay.expire(); Left::Nothing }
            // whatever has changed, the list of who is let in may have
            next = next(&mut phase) => { current = next; relay.revoke(); Left::Nothing }
        };
        if left == Left::Perhaps {
            // Other listeners of this worker get their turn.
            tokio::task::yield_now().await;
        }
    }
}

/// The next phase; nobody left to tell is the end.
async fn next(phase: &mut watch::Receiver<Phase>) -> Phase {
    match phase.changed().await {
        Ok(()) => *phase.borrow_and_update(),
        Err(_) => Phase::End,
    }
}

async fn until(due: Option<Instant>) {
    match due {
        Some(due) => tokio::time::sleep_until(due.into()).await,
        None => std::future::pending().await,
    }
}
