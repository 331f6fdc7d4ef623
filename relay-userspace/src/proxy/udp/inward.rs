//! A tunnel by which another Relay's UDP clients come in: each of them is one here, as if it had come by itself.

use std::future::poll_fn;
use std::io;
use std::net::IpAddr;
use std::sync::Arc;

use tokio::sync::watch;

use super::relay::tunnels::Inward;
use super::relay::{Left, Relay};
use super::socket::Replies;
use super::{next, register, until};
use crate::proxy::ending::Ending;
use crate::proxy::service::{Phase, Service};
use crate::proxy::tunnel::Acceptor;
use crate::proxy::tunnel::datagrams::{Line, Stop};

/// How a tunnel has come in.
#[derive(Debug)]
pub struct Entered {
    /// Who has been let in.
    pub speaker: IpAddr,
    /// The port that it came in on.
    pub port: u16,
    /// What it was let in by.
    pub by: Option<Arc<Acceptor>>,
}

/// Carries until the other end ends the tunnel, and says how it did. Once the listener lets nobody in any more, or not as
/// it has let the tunnel in, no flow begins in that, and it ends with the last one there is.
pub async fn serve(
    line: Line,
    service: Arc<Service>,
    entered: Entered,
    mut phase: watch::Receiver<Phase>,
) -> io::Result<Stop> {
    let Entered { speaker, port, by } = entered;
    let replies = register(Replies::new()?)?;
    let mut relay = Relay::behind(service.clone(), Inward::new(line, speaker, port));
    let mut current = *phase.borrow_and_update();
    let mut serves = true;
    loop {
        serves &= current == Phase::Serve && service.target().acceptor == by;
        if !serves && relay.leave() {
            relay.end_tunnel().await;
            return Ok(Stop::Ended);
        }
        let due = relay.due();
        let left = tokio::select! {
            left = poll_fn(|cx| relay.poll_tunnels(cx, None, replies.get_ref())) => match left {
                Ok(left) => left,
                Err(stop) => {
                    relay.clear(if matches!(stop, Stop::Ended) { Ending::Closed } else { Ending::Reset });
                    return Ok(stop);
                }
            },
            ready = replies.readable() => {
                let mut ready = ready?;
                let left = relay.egress(None, replies.get_ref());
                if left == Left::Nothing {
                    ready.clear_ready();
                }
                left
            }
            () = until(due) => { relay.expire(); Left::Nothing }
            changed = next(&mut phase) => { current = changed; relay.revoke(); Left::Nothing }
        };
        if left == Left::Perhaps {
            tokio::task::yield_now().await;
        }
    }
}
