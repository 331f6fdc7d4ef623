//! What is to be done at which time.

use std::cmp::Reverse;
use std::collections::BinaryHeap;
use std::time::{Duration, Instant};

use super::ProbeId;

/// Things are done together that are due so close together: that many fewer wakings.
const GRAIN: Duration = Duration::from_millis(10);

/// Endpoints by time. What is no longer meant stays in until its time has come: whoever takes it asks the endpoint.
#[derive(Debug, Default)]
pub(super) struct Agenda(BinaryHeap<Reverse<(Instant, ProbeId)>>);

impl Agenda {
    pub fn enter(&mut self, at: Instant, id: ProbeId) {
        self.0.push(Reverse((at, id)));
    }

    /// The next one whose time has come, and the time.
    pub fn take_due(&mut self, now: Instant) -> Option<(Instant, ProbeId)> {
        self.0.peek().filter(|Reverse((at, _))| *at <= now)?;
        self.0.pop().map(|Reverse(entry)| entry)
    }

    /// How long nothing is to be done, and a little longer: what comes soon after is done then too.
    pub fn rest(&self, now: Instant) -> Option<Duration> {
        let Reverse((at, _)) = self.0.peek()?;
        let left = at.saturating_duration_since(now);
        Some(if left.is_zero() { left } else { left + GRAIN })
    }
}
