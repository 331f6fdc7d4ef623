//! Following the host's links, addresses, routes and rules as they change.

use std::time::Duration;

use futures_util::StreamExt as _;
use rtnetlink::{Handle, MulticastGroup};
use tokio::sync::mpsc;
use tokio::task::JoinSet;
use tokio::time::sleep;

/// Changes come in bursts: a link that comes up brings addresses and routes. The first one is told at once, since a new
/// interface without the programs resets the connections that come in on it; the rest together.
const SETTLE: Duration = Duration::from_millis(20);

/// Asks netlink questions and says when the answers may have changed.
pub struct Monitor {
    pub handle: Handle,
    /// Gets a word at the start of every burst of changes, and one after it.
    pub changes: mpsc::Receiver<()>,
    _tasks: JoinSet<()>,
}

impl Monitor {
    pub fn start() -> std::io::Result<Self> {
        let (questions, handle, _) = rtnetlink::new_connection()?;
        let (events, _, mut messages) = rtnetlink::new_multicast_connection(&[
            MulticastGroup::Link,
            MulticastGroup::Ipv4Ifaddr,
            MulticastGroup::Ipv6Ifaddr,
            MulticastGroup::Ipv4Route,
            MulticastGroup::Ipv4Rule,
            MulticastGroup::Ipv6Route,
            MulticastGroup::Ipv6Rule,
            // what a router advertisement changes of an interface
            MulticastGroup::Ipv6Ifinfo,
            // whose queue keeps packets until they are due
            MulticastGroup::Tc,
        ])?;
        let (sender, changes) = mpsc::channel(1);
        let mut tasks = JoinSet::new();
        tasks.spawn(questions);
        tasks.spawn(events);
        tasks.spawn(async move {
            // one word in the queue is enough: it makes the reader look at everything
            let tell = || !matches!(sender.try_send(()), Err(mpsc::error::TrySendError::Closed(())));
            while messages.next().await.is_some() && tell() {
                sleep(SETTLE).await;
                let mut more = false;
                while messages.try_recv().is_ok() {
                    more = true;
                }
                if more && !tell() {
                    return;
                }
            }
        });
        Ok(Self { handle, changes, _tasks: tasks })
    }
}
