//! What is made of an endpoint's answers and failures. Pure: whoever calls says what time it is.

use std::fmt;
use std::time::{Duration, Instant};

use super::probe::ProbeError;
use super::tiers::Fitness;
use crate::rule::{Check, CheckKind};

/// What is known of an endpoint.
///
/// One that never answered is shown as `unknown` all the same, but flows go elsewhere once it has failed often enough: its
/// probe may ask for something that it never had, so it is still preferred to what is known to have gone down.
#[derive(Clone, Copy, Debug, Default, Eq, Hash, PartialEq)]
pub enum State {
    /// There is no verdict yet: it gets flows.
    #[default]
    Untried,
    /// It failed as often as `fall` says and never answered: it gets flows if nobody else does.
    Unanswered,
    Up,
    Down,
}

impl State {
    pub const ALL: [Self; 4] = [Self::Untried, Self::Unanswered, Self::Up, Self::Down];

    /// How it is shown.
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Untried | Self::Unanswered => "unknown",
            Self::Up => "up",
            Self::Down => "down",
        }
    }

    pub const fn fitness(self) -> Fitness {
        match self {
            Self::Untried | Self::Up => Fitness::Good,
            Self::Unanswered => Fitness::Doubtful,
            Self::Down => Fitness::Bad,
        }
    }
}

impl fmt::Display for State {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.as_str())
    }
}

/// What became of somebody's flow or session at an endpoint.
#[derive(Clone, Copy, Debug, Eq, PartialEq, thiserror::Error)]
pub enum Signal {
    #[error("a client's connection was refused")]
    Refused,
    #[error("a client's connection was not answered in time")]
    TimedOut,
    #[error("a client's connection was reset before the first byte")]
    Reset,
    #[error("a client's packets were answered with ICMP unreachable")]
    Unreachable,
    #[error("clients' SYNs are not answered")]
    SynUnanswered,
}

/// Why a state is another one now.
#[derive(Clone, Debug, Eq, PartialEq, thiserror::Error)]
pub enum Reason {
    #[error("it answers")]
    Answers,
    #[error("{0}")]
    Probe(ProbeError),
    #[error("{0}")]
    Signal(Signal),
    #[error("the cooldown is over and clients try it again")]
    CooledDown,
    #[error("by order")]
    Order,
}

/// A state that is another one now.
#[derive(Clone, Debug, Eq, PartialEq)]
pub struct Change {
    pub from: State,
    pub to: State,
    pub reason: Reason,
}

/// How an endpoint stands, for display and across restarts.
#[derive(Clone, Debug, Eq, PartialEq)]
pub struct Standing {
    pub state: State,
    pub since: Instant,
    /// Whether it ever answered.
    pub answered: bool,
    /// In a row, up to now. One of both is 0.
    pub successes: u32,
    pub failures: u32,
    pub last_failure: Option<Instant>,
    /// What the last failure was; kept when it answers again.
    pub last_error: Option<Box<str>>,
    /// Of the last probe that was answered.
    pub latency: Option<Duration>,
    /// Since relayd has started.
    pub totals: Totals,
}

/// How often what has happened.
#[derive(Clone, Copy, Debug, Default, Eq, PartialEq)]
pub struct Totals {
    pub successes: u64,
    pub failures: u64,
    pub signals: u64,
}

/// Who judges one endpoint.
#[derive(Clone, Debug)]
pub struct Judge {
    standing: Standing,
}

impl Standing {
    pub const fn new(now: Instant) -> Self {
        Self {
            state: State::Untried,
            since: now,
            answered: false,
            successes: 0,
            failures: 0,
            last_failure: None,
            last_error: None,
            latency: None,
            totals: Totals { successes: 0, failures: 0, signals: 0 },
        }
    }

    /// Since when it is up, if it is.
    pub fn up_since(&self) -> Option<Instant> {
        (self.state == State::Up).then_some(self.since)
    }
}

impl Judge {
    pub const fn new(now: Instant) -> Self {
        Self::resume(Standing::new(now))
    }

    /// Goes on from what was known.
    pub const fn resume(standing: Standing) -> Self {
        Self { standing }
    }

    pub const fn standing(&self) -> &Standing {
        &self.standing
    }

    /// A probe is over: how long the answer took, or why there was none.
    pub fn probed(
        &mut self,
        outcome: Result<Duration, ProbeError>,
        check: &Check,
        now: Instant,
    ) -> Option<Change> {
        match outcome {
            Ok(latency) => {
                self.standing.latency = Some(latency);
                self.succeed(check, now)
            }
            Err(error) => self.fail(Reason::Probe(error), check, now),
        }
    }

    /// A client fared badly. Where probes are made they decide, and this only brings the next one forward.
    pub fn signalled(&mut self, signal: Signal, check: &Check, now: Instant) -> Option<Change> {
        self.standing.totals.signals += 1;
        (check.kind == CheckKind::Passive).then(|| self.fail(Reason::Signal(signal), check, now))?
    }

    /// A client was answered. That counts where no probes are made.
    pub fn answered(&mut self, check: &Check, now: Instant) -> Option<Change> {
        (check.kind == CheckKind::Passive).then(|| self.succeed(check, now))?
    }

    /// When time alone changes something: without probes only clients can find out whether an endpoint answers again.
    pub fn tries_again_at(&self, check: &Check) -> Option<Instant> {
        let is_out = matches!(self.standing.state, State::Down | State::Unanswered);
        let is_passive = check.kind == CheckKind::Passive;
        self.standing.last_failure.filter(|_| is_out && is_passive).map(|failed| failed + check.cooldown)
    }

    /// Lets clients try an endpoint whose time has come. One failure more, and it is out again.
    pub fn try_again(&mut self, check: &Check, now: Instant) -> Option<Change> {
        self.tries_again_at(check).filter(|&at| at <= now)?;
        self.standing.failures = check.fall.saturating_sub(1);
        self.become_state(State::Untried, Reason::CooledDown, now)
    }

    /// Forgets its failures, by order.
    pub fn pardon(&mut self, now: Instant) -> Option<Change> {
        self.standing.failures = 0;
        self.standing.last_failure = None;
        match self.standing.state {
            State::Untried | State::Up => None,
            State::Unanswered | State::Down => self.become_state(State::Untried, Reason::Order, now),
        }
    }

    fn succeed(&mut self, check: &Check, now: Instant) -> Option<Change> {
        let standing = &mut self.standing;
        standing.answered = true;
        standing.failures = 0;
        standing.successes = standing.successes.saturating_add(1);
        standing.totals.successes += 1;
        let has_risen = standing.successes >= check.rise;
        let has_cooled = standing.last_failure.is_none_or(|failed| now >= failed + check.cooldown);
        let is_up = match standing.state {
            State::Untried | State::Up => true,
            // it does not come and go: it has come
            State::Unanswered => has_risen,
            State::Down => has_risen && has_cooled,
        };
        is_up.then(|| self.become_state(State::Up, Reason::Answers, now))?
    }

    fn fail(&mut self, reason: Reason, check: &Check, now: Instant) -> Option<Change> {
        let standing = &mut self.standing;
        standing.successes = 0;
        standing.failures = standing.failures.saturating_add(1);
        standing.totals.failures += 1;
        standing.last_failure = Some(now);
        standing.last_error = Some(reason.to_string().into());
        let has_fallen = standing.failures >= check.fall;
        let verdict = if standing.answered { State::Down } else { State::Unanswered };
        has_fallen.then(|| self.become_state(verdict, reason, now))?
    }

    fn become_state(&mut self, to: State, reason: Reason, now: Instant) -> Option<Change> {
        let from = std::mem::replace(&mut self.standing.state, to);
        (from != to).then(|| {
            self.standing.since = now;
            Change { from, to, reason }
        })
    }
}

#[cfg(test)]
mod tests;
