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
use crate::proxy::tunnel::datagrams::{Line, Stop};

/// Carries until the other end ends the tunnel; what it did wrong, if it did. `speaker`: who has been let in. `port`: that
/// it came in on.
pub async fn serve(
    line: Line,
    service: Arc<Service>,
    speaker: IpAddr,
    port: u16,
    mut phase: watch::Receiver<Phase>,
) -> io::Result<Stop> {
    let replies = register(Replies::new()?)?;
    let mut relay = Relay::behind(service, Inward::new(line, speaker, port));
    let mut current = *phase.borrow_and_update();
    loop {
        relay.accept(current == Phase::Serve);
        let due = relay.due();
        let left = tokio::select! {
            left = poll_fn(|cx| relay.poll_tunnels(cx, None, replies.get_ref())) => match left {
                Ok(left) => left,
                Err(stop) => {
                    relay.clear(Ending::Reset);
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
