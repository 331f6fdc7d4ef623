//! Datagrams of shared listeners: sorted by the rule that has the port, each rule with clients of its own.

use std::collections::HashMap;
use std::future::poll_fn;
use std::io;
use std::net::UdpSocket;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

use nix::errno::Errno;
use relay_common::net::Protocol;
use tokio::io::unix::AsyncFd;
use tokio::sync::watch;
use tokio::task::JoinSet;

use super::inbox::SLOTS;
use super::relay::{BUFFERS, Left, Relay};
use super::share;
use super::socket::{Replies, prepare_shared};
use super::{next, register, until};
use crate::proxy::counters::Refusal;
use crate::proxy::ending::Ending;
use crate::proxy::service::Phase;
use crate::proxy::shared::{Entry, Shared};

/// How long a rule without clients and tunnels keeps what it needs to have some.
const LINGER: Duration = Duration::from_secs(2);

/// The clients of one rule's listener at one worker.
struct Branch {
    state: Mutex<State>,
    replies: AsyncFd<Replies>,
}

struct State {
    relay: Relay,
    /// Nobody waits for answers any more.
    over: bool,
}

/// Branches by their services: a listener that was opened anew is another one.
type Branches = HashMap<usize, Arc<Branch>>;

/// Carries what comes to a shared listener until the phase is [`Phase::End`].
pub async fn serve(listener: UdpSocket, shared: Arc<Shared>, mut phase: watch::Receiver<Phase>) {
    if let Err(error) = prepare_shared(&listener) {
        tracing::error!("cannot use the shared UDP socket: {error}");
        return;
    }
    // Only an ended runtime fails to register.
    let Ok(listener) = register(listener) else { return };
    let mut sorter = Sorter { shared, branches: Branches::new(), tasks: JoinSet::new(), slots: Vec::new() };
    let mut current = *phase.borrow_and_update();
    while current != Phase::End {
        let left = tokio::select! {
            ready = listener.readable() => {
                let Ok(mut ready) = ready else { return };
                let left = sorter.ingress(listener.get_ref());
                if left == Left::Nothing {
                    ready.clear_ready();
                }
                left
            }
            Some(_) = sorter.tasks.join_next() => {
                sorter.branches.retain(|_, branch| !branch.state().over);
                Left::Nothing
            }
            next = next(&mut phase) => { current = next; Left::Nothing }
        };
        if left == Left::Perhaps {
            tokio::task::yield_now().await;
        }
    }
}

struct Sorter {
    shared: Arc<Shared>,
    branches: Branches,
    tasks: JoinSet<()>,
    /// Whose datagram is in which slot.
    slots: Vec<(usize, usize)>,
}

impl Sorter {
    /// One batch from clients of any rule.
    fn ingress(&mut self, listener: &UdpSocket) -> Left {
        BUFFERS.with_borrow_mut(|buffers| {
            let received = match buffers.inbox.receive(listener, 0, SLOTS) {
                Ok(received) => received,
                Err(Errno::EAGAIN) => return Left::Nothing,
                Err(_) => return Left::Perhaps,
            };
            let table = self.shared.table();
            self.slots.clear();
            let mut last = None;
            for slot in 0..received {
                let Some(local) = buffers.inbox.control(slot).local() else { continue };
                let branch = match last {
                    Some((same, branch)) if same == local => branch,
                    // none: the rule may have gone while this was on its way
                    _ => {
                        table.find(Protocol::Udp, local.socket_address()).and_then(|entry| self.branch(entry))
                    }
                };
                last = Some((local, branch));
                self.slots.extend(branch.map(|branch| (branch, slot)));
            }
            self.slots.sort_unstable();
            for run in self.slots.chunk_by(|(one, _), (other, _)| one == other) {
                let Some(branch) = self.branches.get(&run[0].0) else { continue };
                let slots = run.iter().map(|&(_, slot)| slot);
                branch.state().relay.take(buffers, slots, branch.replies.get_ref());
            }
            if received < SLOTS { Left::Nothing } else { Left::Perhaps }
        })
    }

    /// The branch of an entry, begun if there is none.
    fn branch(&mut self, entry: &Arc<Entry>) -> Option<usize> {
        let number = Arc::as_ptr(&entry.service).addr();
        if self.branches.get(&number).is_some_and(|branch| !branch.state().over) {
            return Some(number);
        }
        let mut relay = Relay::shared(entry.service.clone(), self.shared.clone());
        relay.accept(entry.phase() == Phase::Serve);
        match Branch::new(relay) {
            Ok(branch) => {
                let branch = Arc::new(branch);
                self.branches.insert(number, branch.clone());
                self.tasks.spawn(branch.tend(entry.follow()));
                Some(number)
            }
            Err(error) => {
                entry.service.counters.refuse(Refusal::Descriptors);
                if share::may_log() {
                    tracing::warn!("rule {}: cannot serve UDP: {error}", entry.service.rule);
                }
                None
            }
        }
    }
}

impl Branch {
    fn new(relay: Relay) -> io::Result<Self> {
        let replies = register(Replies::new()?)?;
        Ok(Self { state: Mutex::new(State { relay, over: false }), replies })
    }

    fn state(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Brings answers back until the rule ends, or has had no client and no tunnel for a while.
    async fn tend(self: Arc<Self>, mut phase: watch::Receiver<Phase>) {
        let mut current = *phase.borrow_and_update();
        let mut idle = false;
        loop {
            let Some(due) = self.settle(current, idle) else { return };
            idle = false;
            let left = tokio::select! {
                ready = self.replies.readable() => {
                    let Ok(mut ready) = ready else { return };
                    let left = self.state().relay.egress(None, self.replies.get_ref());
                    if left == Left::Nothing {
                        ready.clear_ready();
                    }
                    left
                }
                // fails only where clients come in by a tunnel
                left = poll_fn(|cx| self.state().relay.poll_tunnels(cx, None, self.replies.get_ref())) => {
                    left.unwrap_or(Left::Nothing)
                }
                () = until(Some(due)) => { self.state().relay.expire(); idle = true; Left::Nothing }
                next = next(&mut phase) => { current = next; Left::Nothing }
            };
            if left == Left::Perhaps {
                tokio::task::yield_now().await;
            }
        }
    }

    /// Follows the phase, and says when to look again; `None`: it is over.
    fn settle(&self, phase: Phase, idle: bool) -> Option<Instant> {
        let mut state = self.state();
        state.relay.accept(phase == Phase::Serve);
        // whatever has changed, the list of who is let in may have
        state.relay.revoke();
        let due = state.relay.due();
        state.over = phase == Phase::End || (idle && due.is_none() && state.relay.has_no_carriers());
        if state.over {
            state.relay.clear(Ending::RuleEnded);
            return None;
        }
        Some(due.unwrap_or_else(|| Instant::now() + LINGER))
    }
}
