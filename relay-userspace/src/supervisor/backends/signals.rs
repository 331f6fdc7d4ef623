//! What becomes of clients' flows and sessions at backends, told to the judges.

use std::sync::Arc;
use std::time::Duration;

use relay_common::choice::EndpointUsage;
use relay_common::net::Protocol;

use super::{Backends, End, Roll, Rolled, Watched};
use crate::health::judge::{Signal, State as EndState};
use crate::health::weigh::RuleHealth;
use crate::kernel::usage::BackendUsage;
use crate::kernel::{Dataplane, DesiredRule};
use crate::proxy::pool::Tallied;
use crate::rule::{CheckKind, RuleName};
use crate::supervisor::state::State;

/// How often what has been counted is looked at.
pub(super) const LOOK: Duration = Duration::from_millis(250);

/// What has been seen of an endpoint so far.
#[derive(Clone, Copy, Debug, Default)]
pub(super) struct Seen {
    /// At the last look; `None`: there is nothing yet that later counts follow from.
    counts: Option<Counts>,
    /// An answer has been told since the last failure. What an earlier relayd was told is not known.
    is_settled: bool,
}

#[derive(Clone, Copy, Debug, Default, Eq, PartialEq)]
struct Counts {
    refused: u64,
    unanswered: u64,
    /// Flows that were proven, and sessions of the user plane, without those that broke off before their first byte; kept is
    /// the most that there were, so that who takes back every answer has given one at most.
    answered: u64,
}

/// What has become of flows and sessions between two looks.
#[derive(Clone, Copy, Debug, Default, Eq, PartialEq)]
struct Outcome {
    failed: Option<Signal>,
    answered: bool,
}

impl Seen {
    /// Takes note of a failure.
    pub const fn fail(&mut self) {
        self.is_settled = false;
    }

    /// Takes note of what is counted now. Returns what is new; nothing is if there is nothing to compare with.
    fn look(&mut self, now: Counts) -> Outcome {
        let Some(before) = self.counts.replace(now) else { return Outcome::default() };
        // an answer of before the first look may be taken back too
        let answered = now.answered.wrapping_sub(before.answered).cast_signed() > 0;
        if let Some(kept) = self.counts.as_mut().filter(|_| !answered) {
            kept.answered = before.answered;
        }
        let failed = if now.refused > before.refused {
            Some(Signal::Refused)
        } else {
            (now.unanswered > before.unanswered).then_some(Signal::SynUnanswered)
        };
        Outcome { failed, answered }
    }
}

/// Where a rule's flows are counted, and the rule as it was applied when that was asked.
pub(super) type Counted = (Arc<DesiredRule>, BackendUsage);

impl Backends {
    /// Has flows looked at where the kernel plane counts them now. `rules`: what was applied.
    pub fn count_by(&mut self, kernel: Option<&Dataplane>, rules: &[Arc<DesiredRule>]) {
        let mut changed = false;
        for (name, watched) in &mut self.watched {
            let rule = rules.get(watched.place).filter(|rule| rule.name == *name);
            let is_known = match (&watched.counted, rule) {
                (Some((known, _)), Some(rule)) => Arc::ptr_eq(known, rule),
                (None, None) => true,
                _ => false,
            };
            if !is_known {
                let usage = |rule: &Arc<DesiredRule>| Some((rule.clone(), kernel?.backend_usage(rule)?));
                watched.counted = rule.and_then(usage);
                // others are counted from here on, or the same ones elsewhere
                watched.ends.values_mut().for_each(|end| end.seen.counts = None);
                changed = true;
            }
        }
        if changed {
            self.write_roll();
        }
    }

    pub(super) fn write_roll(&mut self) {
        let rolled = |watched: &Watched| Rolled {
            ends: watched.ends.iter().map(|(end, it)| (end.clone(), it.id)).collect(),
            flows: watched.counted.as_ref().map(|(_, usage)| usage.clone()),
        };
        let roll: Roll = self.watched.iter().map(|(name, watched)| (name.clone(), rolled(watched))).collect();
        self.roll = Arc::new(roll);
    }

    /// Looks at what has been counted since the last time.
    fn look(&mut self, tallies: impl Fn(&RuleName) -> Vec<Tallied>) {
        let Some(prober) = &self.prober else { return };
        for (name, watched) in &mut self.watched {
            let health = self.health.get(name);
            let tallies = tallies(name);
            let Watched { ends, counted, .. } = watched;
            for ((protocol, backend), end) in ends {
                let flows = counted.as_ref().and_then(|(_, usage)| usage.of(end.place));
                let sessions = tallies.get(end.place).filter(|tally| *tally.name == **backend);
                let outcome = end.seen.look(counts(*protocol, flows, sessions));
                if let Some(signal) = outcome.failed {
                    end.seen.fail();
                    prober.signal(end.id, signal);
                }
                // after the failure: of those that came together one was answered, so they are not in a row
                if outcome.answered && is_worth_telling(end, health, *protocol, backend) {
                    end.seen.is_settled = true;
                    prober.answered(end.id);
                }
            }
        }
    }
}

fn counts(protocol: Protocol, flows: Option<&EndpointUsage>, sessions: Option<&Tallied>) -> Counts {
    let answered = sessions.map_or(0, |tally| tally.of(protocol).answered);
    let Some(flows) = flows else { return Counts { answered, ..Counts::default() } };
    Counts {
        refused: flows.refused(protocol).get(),
        unanswered: if protocol == Protocol::Tcp { flows.unanswered().get() } else { 0 },
        answered: answered.wrapping_add(flows.answered(protocol).get()),
    }
}

/// Clients count where no probes are made. They say nothing new of who is up and has not failed since.
fn is_worth_telling(end: &End, health: Option<&RuleHealth>, protocol: Protocol, backend: &str) -> bool {
    let verdict = health.and_then(|health| health.endpoints.get(&(protocol, backend.into())));
    let is_up = verdict.is_some_and(|verdict| verdict.state == EndState::Up);
    end.probe.check.kind == CheckKind::Passive && !(is_up && end.seen.is_settled)
}

impl State {
    pub(super) fn look_at_flows(&mut self) {
        let pools = self.serving.as_ref().map(crate::supervisor::serving::Serving::pools).unwrap_or_default();
        self.backends.look(|name| pools.get(name).map(|pool| pool.tallies()).unwrap_or_default());
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const NOTHING: Outcome = Outcome { failed: None, answered: false };

    #[test]
    fn the_first_look_only_records() {
        let mut seen = Seen::default();
        let now = Counts { refused: 7, unanswered: 5, answered: 4 };
        assert_eq!([seen.look(now), seen.look(now)], [NOTHING; 2]);
        let refused = Outcome { failed: Some(Signal::Refused), answered: false };
        assert_eq!(seen.look(Counts { refused: 8, ..now }), refused);
    }

    #[test]
    fn one_look_may_have_a_failure_and_an_answer() {
        let counts = Counts { unanswered: 1, answered: 1, ..Counts::default() };
        let both = Outcome { failed: Some(Signal::SynUnanswered), answered: true };
        let mut seen = Seen::default();
        assert_eq!(
            [seen.look(Counts::default()), seen.look(counts), seen.look(counts)],
            [NOTHING, both, NOTHING]
        );
    }

    #[test]
    fn an_answer_that_is_taken_back_is_told_once() {
        let counts = |answered, refused| Counts { answered, refused, ..Counts::default() };
        let mut seen = Seen::default();
        // taken back right away, which was before the first look
        assert_eq!([seen.look(counts(0, 0)), seen.look(counts(u64::MAX, 0))], [NOTHING; 2]);
        let told = [(1, 0), (0, 1), (1, 1), (0, 2), (1, 2), (2, 2)].map(|(answered, refused)| {
            let outcome = seen.look(counts(answered, refused));
            (outcome.answered, outcome.failed.is_some())
        });
        let (nothing, failed, answered) = ((false, false), (false, true), (true, false));
        assert_eq!(told, [answered, failed, nothing, failed, nothing, answered]);
    }
}
