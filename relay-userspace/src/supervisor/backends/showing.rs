//! Backends as readers of the API see them.

use std::collections::BTreeMap;
use std::time::Instant;

use relay_common::net::Protocol;
use relay_common::round_trip::RoundTrips;

use crate::api::round_trips::RoundTripsView;
use crate::api::view::{BackendView, FlowsView, JudgedView, LookupView, PoolView};
use crate::health::saved::BackendOrder;
use crate::health::{ProbeId, Standing};
use crate::kernel::round_trips::RoundTripsByEnd;
use crate::plan::{KernelEnd, PlannedRule};
use crate::proxy::tunnel::Held;
use crate::rule::{Backend, CheckKind, Host};
use crate::supervisor::names::Kept;
use crate::supervisor::shared::{Shared, Snapshot};

use super::EndName;

impl Shared {
    /// All backends of a rule.
    pub(in crate::supervisor) fn backend_views(
        &self,
        snapshot: &Snapshot,
        planned: &PlannedRule,
        round_trips: &RoundTripsByEnd,
    ) -> Vec<BackendView> {
        let name = &planned.rule.name;
        let known = snapshot.roll.get(name);
        let pool = snapshot.pools.get(name);
        let tallies = pool.map(|pool| pool.tallies()).unwrap_or_default();
        let of_kernel = |place: usize| {
            let ends = &planned.kernel.as_ref()?.ends;
            let end = ends.get(place)?.as_ref()?;
            let is_it = |other: &KernelEnd| {
                (other.way.backend, other.first_port) == (end.way.backend, end.first_port)
            };
            // what backends share is told with the first of them
            let is_told = ends[..place].iter().flatten().any(is_it);
            round_trips.of(*snapshot.slots.get(name)?, end).filter(|_| !is_told)
        };
        let flows = known.and_then(|known| known.flows.as_ref());
        let view = |(place, to): (usize, &Backend)| {
            let mut view = plain_view(snapshot, to);
            view.order = snapshot.orders.get(name).and_then(|orders| orders.get(&*view.addr)).copied();
            if let Some(known) = known {
                self.add_verdicts(&mut view, planned, &known.ends);
            }
            match view.order {
                Some(BackendOrder::Drain) => view.state = "draining".into(),
                Some(BackendOrder::Down) => view.state = "down".into(),
                None => {}
            }
            if let Some(tally) = tallies.iter().find(|tally| *tally.name == *view.addr) {
                view.flows = FlowsView { active: tally.active(), total: tally.total() };
                view.failed = tally.failed();
            }
            let held = pool.filter(|_| planned.rule.connect.pool > 0).and_then(|pool| pool.held(&view.addr));
            view.pool = held.map(|Held { open, taken, missed }| PoolView { open, taken, missed });
            if let Some(counted) = flows.and_then(|flows| flows.own(place)) {
                view.flows.active += u64::try_from(counted.active().get()).unwrap_or(0);
                view.flows.total +=
                    Protocol::ALL.map(|protocol| counted.opened(protocol).get()).iter().sum::<u64>();
            }
            let mut taken = pool.and_then(|pool| pool.round_trips(&view.addr)).unwrap_or_default();
            taken.add(of_kernel(place).unwrap_or(&RoundTrips::default()));
            view.rtt = RoundTripsView::new(&taken);
            view
        };
        planned.rule.to.iter().enumerate().map(view).collect()
    }

    fn add_verdicts(&self, view: &mut BackendView, planned: &PlannedRule, ends: &BTreeMap<EndName, ProbeId>) {
        let kind = planned.rule.check().kind;
        let asked = if matches!(kind, CheckKind::Udp { .. }) { Protocol::Udp } else { Protocol::Tcp };
        let judged = |protocol: Protocol| {
            let id = ends.get(&(protocol, view.addr.as_str().into()))?;
            Some(judged_view(&self.standing(*id)?))
        };
        let (tcp, udp) = (judged(Protocol::Tcp), judged(Protocol::Udp));
        let [first, second] = if asked == Protocol::Tcp { [&tcp, &udp] } else { [&udp, &tcp] };
        if let (Some(chief), false) = (first.as_ref().or(second.as_ref()), view.state == "unresolved") {
            view.state.clone_from(&chief.state);
        }
        (view.tcp, view.udp) = (tcp, udp);
    }
}

fn judged_view(standing: &Standing) -> JudgedView {
    let age = |at: Instant| at.elapsed().as_secs();
    JudgedView {
        state: standing.state.as_str().into(),
        since_seconds: age(standing.since),
        latency_ms: standing.latency.map(|latency| latency.as_secs_f64() * 1000.0),
        last_error: standing.last_error.as_ref().map(ToString::to_string),
        last_failure_seconds: standing.last_failure.map(age),
        successes: standing.totals.successes,
        failures: standing.totals.failures,
    }
}

/// What there is to say of any backend.
fn plain_view(snapshot: &Snapshot, backend: &Backend) -> BackendView {
    let name = Some(&backend.host).filter(|host| matches!(host, Host::Name(_)));
    let known = name.and_then(|name| snapshot.resolved.get(name));
    let addresses = known.and_then(|known| known.as_deref().ok()).unwrap_or_default();
    let addresses: Vec<String> = addresses.iter().map(ToString::to_string).collect();
    let state = if name.is_some() && addresses.is_empty() { "unresolved" } else { "unknown" };
    BackendView {
        addr: backend.to_string(),
        weight: backend.weight,
        priority: backend.priority,
        state: state.into(),
        resolved: addresses.first().cloned(),
        addresses,
        lookup: name.and_then(|name| snapshot.upkeep.of(name)).map(lookup_view),
        ..BackendView::default()
    }
}

fn lookup_view(kept: Kept) -> LookupView {
    let now = tokio::time::Instant::now();
    LookupView {
        age_seconds: kept.learned.map(|learned| now.duration_since(learned).as_secs()),
        next_seconds: kept.due.map(|due| due.duration_since(now).as_secs()),
        error: kept.error,
    }
}
