//! What is to be done at which time.

use std::collections::BTreeSet;
use std::time::{Duration, Instant};

use super::ProbeId;

/// Things are done together that are due so close together: that many fewer wakings.
const GRAIN: Duration = Duration::from_millis(10);

/// Endpoints by time.
#[derive(Debug, Default)]
pub(super) struct Agenda(BTreeSet<(Instant, ProbeId)>);

impl Agenda {
    pub fn enter(&mut self, at: Instant, id: ProbeId) {
        self.0.insert((at, id));
    }

    /// Takes one out whose time has not come.
    pub fn leave(&mut self, at: Instant, id: ProbeId) {
        self.0.remove(&(at, id));
    }

    /// The next one whose time has come.
    pub fn take_due(&mut self, now: Instant) -> Option<ProbeId> {
        self.0.first().filter(|(at, _)| *at <= now)?;
        self.0.pop_first().map(|(_, id)| id)
    }

    /// How long nothing is to be done, and a little longer: what comes soon after is done then too.
    pub fn rest(&self, now: Instant) -> Option<Duration> {
        let (at, _) = self.0.first()?;
        let left = at.saturating_duration_since(now);
        Some(if left.is_zero() { left } else { left + GRAIN })
    }
}
