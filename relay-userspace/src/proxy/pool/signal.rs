//! Failures that sessions meet at backends, told to whoever judges those: often enough to act on, never in a flood.

use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, OnceLock};
use std::time::{Duration, Instant};

use relay_common::net::Protocol;
use tokio::sync::mpsc::UnboundedSender;

use crate::proxy::counters::Refusal;
use crate::rule::RuleName;

/// What a session met at a backend.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub enum Signal {
    /// It does not accept the connection, or has no program on the UDP port.
    Refused,
    /// It does not answer a connection in time.
    Silent,
    /// It broke a connection off before it had sent anything.
    Reset,
    /// There is no way to it.
    Unreachable,
}

impl Signal {
    /// What a connection that came to nothing says of the backend; `None`: it is not the backend's doing.
    pub const fn of(refusal: Refusal) -> Option<Self> {
        match refusal {
            Refusal::BackendRefused | Refusal::BackendTls | Refusal::BackendWs => Some(Self::Refused),
            Refusal::BackendTunnel => Some(Self::Reset),
            Refusal::BackendTimeout => Some(Self::Silent),
            Refusal::NoRoute => Some(Self::Unreachable),
            _ => None,
        }
    }
}

/// A failure at a backend.
#[derive(Clone, Debug, Eq, PartialEq)]
pub struct Failure {
    pub rule: RuleName,
    /// The backend's text in the rule.
    pub backend: Arc<str>,
    pub protocol: Protocol,
    pub signal: Signal,
}

/// No backend is told of more often, each protocol for itself.
const PAUSE: Duration = Duration::from_millis(100);

/// Where a rule's failures are told.
#[derive(Debug)]
pub(super) struct Alarm {
    rule: RuleName,
    begun: Instant,
    failures: OnceLock<UnboundedSender<Failure>>,
}

/// When somebody was told of a backend last.
#[derive(Debug, Default)]
pub(super) struct Told {
    /// In milliseconds of the alarm, from 1 on; 0: never.
    at: AtomicU64,
}

impl Alarm {
    pub fn new(rule: RuleName) -> Self {
        Self { rule, begun: Instant::now(), failures: OnceLock::new() }
    }

    pub fn tell(&self, failures: UnboundedSender<Failure>) {
        // a second one is for the same listener
        _ = self.failures.set(failures);
    }

    /// Tells of a failure, unless its backend has just been told of.
    pub fn sound(&self, told: &Told, failure: impl FnOnce(RuleName) -> Failure) {
        let Some(failures) = self.failures.get() else { return };
        let now = u64::try_from(self.begun.elapsed().as_millis()).unwrap_or(u64::MAX).saturating_add(1);
        let last = told.at.load(Ordering::Relaxed);
        let is_soon = last > 0 && u128::from(now.saturating_sub(last)) < PAUSE.as_millis();
        // of several workers one tells
        let is_ours = || told.at.compare_exchange(last, now, Ordering::Relaxed, Ordering::Relaxed).is_ok();
        if !is_soon && is_ours() {
            // nobody listens any more when relayd ends
            _ = failures.send(failure(self.rule.clone()));
        }
    }
}
