//! Who is let in: a rule's allow list and limits, as its sessions meet them.

use std::fmt;
use std::net::{IpAddr, SocketAddr};
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, OnceLock, PoisonError, RwLock};

use relay_common::net::Protocol;
use relay_common::usage::{Pace, Usage};
use tokio::sync::Notify;

use super::counters::Refusal;
use super::ending::Ending;
use super::pool::End;
use super::sources::{Source, Sources};
use crate::boot::monotonic;
use crate::rule::{AllowList, Destination, Limits, Staying};

/// One rule's gate, for all its listeners and workers.
#[derive(Debug, Default)]
pub struct Gate {
    policy: RwLock<Arc<Policy>>,
    /// Grows with every change of the policy.
    revision: AtomicU64,
    changed: Notify,
    /// From the first client on that a limit of its own concerns.
    sources: OnceLock<Box<Mutex<Sources>>>,
}

/// What a rule asks of its clients.
#[derive(Clone, Debug, Default)]
pub struct Policy {
    /// `None`: everybody is let in.
    pub allow: Option<Arc<AllowList>>,
    pub limits: Limits,
    pub gauge: Gauge,
    /// Where sessions may go; `None`: they go on wherever they go.
    pub backends: Option<Arc<Staying>>,
}

impl Policy {
    /// Why a session may not go on; `None`: it may. `backend`: where it goes, if it is connected.
    pub(super) fn ends(
        &self,
        protocol: Protocol,
        client: IpAddr,
        backend: impl FnOnce() -> Option<SocketAddr>,
    ) -> Option<Ending> {
        if self.allow.as_ref().is_some_and(|list| !list.allows(client)) {
            return Some(Ending::Refused(Refusal::NotAllowed));
        }
        let backends = self.backends.as_ref()?;
        backend().filter(|to| !backends.contains(protocol, *to)).map(|_gone| Ending::BackendGone)
    }
}

/// What the rule has used of its limits; where there is a kernel plane it writes there too.
#[derive(Clone)]
pub struct Gauge(Arc<dyn AsRef<Usage> + Send + Sync>);

/// For rules that only sessions count for.
#[derive(Default)]
struct Own(Usage);

impl AsRef<Usage> for Own {
    fn as_ref(&self) -> &Usage {
        &self.0
    }
}

impl Gauge {
    pub fn new(usage: impl AsRef<Usage> + Send + Sync + 'static) -> Self {
        Self(Arc::new(usage))
    }

    fn usage(&self) -> &Usage {
        (*self.0).as_ref()
    }
}

impl Default for Gauge {
    fn default() -> Self {
        Self::new(Own::default())
    }
}

impl fmt::Debug for Gauge {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.usage().fmt(f)
    }
}

impl Gate {
    /// Changes what is asked. Sessions end whose clients are not let in any more, or whose backends are none any more.
    pub fn set(&self, policy: Policy) {
        *self.policy.write().unwrap_or_else(PoisonError::into_inner) = Arc::new(policy);
        self.revision.fetch_add(1, Ordering::Release);
        self.changed.notify_waiters();
    }

    /// The same for where sessions may go to alone.
    pub fn lead_to(&self, backends: Option<Arc<Staying>>) {
        let policy = self.policy();
        if policy.backends != backends {
            self.set(Policy { backends, ..(*policy).clone() });
        }
    }

    pub fn policy(&self) -> Arc<Policy> {
        self.policy.read().unwrap_or_else(PoisonError::into_inner).clone()
    }

    /// Whether sessions may go to a backend, whichever of its addresses they get.
    pub(super) fn leads_to(&self, protocol: Protocol, end: &End) -> bool {
        let policy = self.policy();
        let Some(backends) = &policy.backends else { return true };
        let has = |to: &Destination, address| {
            to.address == address && end.first_port.is_none_or(|port| to.ports.contains(port))
        };
        end.addresses.iter().all(|&address| backends.of(protocol).iter().any(|to| has(to, address)))
    }

    /// Another number after every change.
    pub fn revision(&self) -> u64 {
        self.revision.load(Ordering::Acquire)
    }

    /// Returns when a session may not go on, and why. `backend`: where it goes, if it is connected.
    pub(super) async fn ended(
        &self,
        protocol: Protocol,
        client: IpAddr,
        backend: Option<SocketAddr>,
    ) -> Ending {
        loop {
            let changed = self.changed.notified();
            if let Some(ending) = self.policy().ends(protocol, client, || backend) {
                return ending;
            }
            changed.await;
        }
    }

    /// Whether a client may begin something new, which takes no place until [`Gate::enter`].
    pub fn admit(&self, client: IpAddr) -> Result<(), Refusal> {
        self.admit_by(client, client)
    }

    /// The same for a client that somebody speaks for, who is the one that has to be on the list.
    pub fn admit_by(&self, speaker: IpAddr, client: IpAddr) -> Result<(), Refusal> {
        let policy = self.policy();
        if policy.allow.as_ref().is_some_and(|list| !list.allows(speaker)) {
            return Err(Refusal::NotAllowed);
        }
        let limits = policy.limits;
        if limits == Limits::default() {
            return Ok(());
        }
        let now = monotonic();
        let usage = policy.gauge.usage();
        if usage.is_full(limits.connections, now) {
            return Err(Refusal::LimitConnections);
        }
        self.sources().admit(Source::of(client), limits, now)?;
        if !usage.pace.admits(Pace::interval(limits.new_flows), now) {
            return Err(Refusal::LimitNewFlows);
        }
        Ok(())
    }

    /// Takes a place for a client that has proven to be there; it is given back when the seat is dropped.
    pub fn enter(self: &Arc<Self>, client: IpAddr) -> Result<Seat, Refusal> {
        let policy = self.policy();
        let limits = policy.limits;
        if !policy.gauge.usage().take_session(limits.connections, monotonic()) {
            return Err(Refusal::LimitConnections);
        }
        let mut seat = Seat { gate: self.clone(), gauge: policy.gauge.clone(), source: None };
        if limits.connections_per_ip > 0 {
            let source = Source::of(client);
            self.sources().enter(source, limits.connections_per_ip)?;
            seat.source = Some(source);
        }
        Ok(seat)
    }

    fn sources(&self) -> std::sync::MutexGuard<'_, Sources> {
        self.sources.get_or_init(Box::default).lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// A client's place.
#[derive(Debug)]
pub struct Seat {
    gate: Arc<Gate>,
    gauge: Gauge,
    source: Option<Source>,
}

impl Drop for Seat {
    fn drop(&mut self) {
        self.gauge.usage().give_session_back();
        if let Some(source) = self.source {
            self.gate.sources().leave(source);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::rule::Network;
    use std::future::poll_fn;
    use std::pin::pin;
    use std::task::Poll;

    fn address(text: &str) -> IpAddr {
        text.parse().expect(text)
    }

    fn gate(limits: Limits) -> Arc<Gate> {
        let gate = Arc::new(Gate::default());
        gate.set(Policy { limits, ..Policy::default() });
        gate
    }

    #[test]
    fn seats_are_given_back() {
        let gate = gate(Limits { connections: 2, connections_per_ip: 1, ..Limits::default() });
        let first = gate.enter(address("192.0.2.1")).expect("a seat");
        assert_eq!(gate.enter(address("192.0.2.1")).err(), Some(Refusal::LimitConnectionsPerIp));
        assert_eq!(gate.admit(address("192.0.2.1")), Err(Refusal::LimitConnectionsPerIp));
        let second = gate.enter(address("192.0.2.2")).expect("a refused one takes no place");
        assert_eq!(gate.admit(address("192.0.2.3")), Err(Refusal::LimitConnections));
        assert_eq!(gate.enter(address("192.0.2.3")).err(), Some(Refusal::LimitConnections));
        drop(first);
        gate.enter(address("192.0.2.1")).expect("a seat again");
        drop(second);
        assert_eq!(gate.policy().gauge.usage().sessions(), 0);
    }

    #[test]
    fn a_pace_is_kept() {
        let gate = gate(Limits { new_flows: 3, new_flows_per_ip: 2, ..Limits::default() });
        let admit = |client| gate.admit(address(client));
        assert_eq!([admit("192.0.2.1"), admit("192.0.2.1")], [Ok(()); 2]);
        assert_eq!(admit("192.0.2.1"), Err(Refusal::LimitNewFlowsPerIp));
        assert_eq!(admit("192.0.2.2"), Ok(()), "a client's own limit does not use up the rule's");
        assert_eq!(admit("192.0.2.3"), Err(Refusal::LimitNewFlows));
    }

    #[tokio::test]
    async fn who_is_not_on_the_list_any_more_has_to_go() {
        let gate = gate(Limits::default());
        let list = |text| Some(Arc::new(AllowList::new(vec![Network::parse(text).expect(text)])));
        let client = address("192.0.2.7");
        let mut ended = pin!(gate.ended(Protocol::Tcp, client, None));
        let mut ending = async || poll_fn(|cx| Poll::Ready(ended.as_mut().poll(cx))).await;
        assert!(ending().await.is_pending());
        gate.set(Policy { allow: list("192.0.2.0/24"), ..Policy::default() });
        assert!(ending().await.is_pending() && gate.admit(client).is_ok());
        gate.set(Policy { allow: list("198.51.100.0/24"), ..Policy::default() });
        assert_eq!(ending().await, Poll::Ready(Ending::Refused(Refusal::NotAllowed)));
        assert_eq!(gate.admit(client), Err(Refusal::NotAllowed));
    }

    #[tokio::test]
    async fn who_is_connected_to_a_backend_that_is_none_any_more_has_to_go() {
        let gate = gate(Limits::default());
        let backends = |list: &[&str]| {
            let to = |text: &&str| Destination::at(text.parse().expect(text));
            Some(Arc::new(Staying { tcp: list.iter().map(to).collect(), udp: Box::default() }))
        };
        let client = address("192.0.2.7");
        // two endpoints at one address
        let both: [SocketAddr; 2] =
            ["203.0.113.2:80", "203.0.113.2:81"].map(|text| text.parse().expect(text));
        let mut connecting = pin!(gate.ended(Protocol::Tcp, client, None));
        let mut connected = both.map(|backend| Box::pin(gate.ended(Protocol::Tcp, client, Some(backend))));
        let mut endings = async || {
            let mut polled = Vec::new();
            polled.push(poll_fn(|cx| Poll::Ready(connecting.as_mut().poll(cx))).await);
            for session in &mut connected {
                polled.push(poll_fn(|cx| Poll::Ready(session.as_mut().poll(cx))).await);
            }
            polled
        };
        assert_eq!(endings().await, [Poll::Pending; 3]);
        gate.set(Policy { backends: backends(&["203.0.113.2:81", "203.0.113.2:80"]), ..Policy::default() });
        assert_eq!(endings().await, [Poll::Pending; 3]);
        gate.set(Policy { backends: backends(&["203.0.113.2:81"]), ..Policy::default() });
        assert_eq!(endings().await, [Poll::Pending, Poll::Ready(Ending::BackendGone), Poll::Pending]);
    }
}
