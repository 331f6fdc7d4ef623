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

/// What was counted of an endpoint when it was last looked at.
#[derive(Clone, Copy, Debug, Default, Eq, PartialEq)]
pub(super) struct Seen {
    refused: u64,
    unanswered: u64,
    opened: u64,
    /// Sessions of the user plane that have reached it.
    reached: u64,
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
                let before = std::mem::replace(&mut end.seen, seen(*protocol, flows, sessions));
                match verdict(&before, &end.seen) {
                    Verdict::Failed(signal) => prober.signal(end.id, signal),
                    Verdict::Answered if is_worth_telling(end, health, *protocol, backend) => {
                        prober.answered(end.id)
                    }
                    Verdict::Answered | Verdict::Nothing => {}
                }
            }
        }
    }
}

enum Verdict {
    Nothing,
    Answered,
    Failed(Signal),
}

fn verdict(before: &Seen, now: &Seen) -> Verdict {
    if now.refused > before.refused {
        Verdict::Failed(Signal::Refused)
    } else if now.unanswered > before.unanswered {
        Verdict::Failed(Signal::SynUnanswered)
    } else if now.reached > before.reached || now.opened > before.opened {
        Verdict::Answered
    } else {
        Verdict::Nothing
    }
}

fn seen(protocol: Protocol, flows: Option<&EndpointUsage>, sessions: Option<&Tallied>) -> Seen {
    let reached = sessions.map_or(0, |tally| tally.of(protocol).total);
    let Some(flows) = flows else { return Seen { reached, ..Seen::default() } };
    Seen {
        refused: flows.refused(protocol).get(),
        unanswered: if protocol == Protocol::Tcp { flows.unanswered().get() } else { 0 },
        // one that is open has been answered, but perhaps not this one
        opened: if flows.active().get() > 0 { flows.opened(protocol).get() } else { 0 },
        reached,
    }
}

/// Clients count where no probes are made, and say nothing new of who is up.
fn is_worth_telling(end: &End, health: Option<&RuleHealth>, protocol: Protocol, backend: &str) -> bool {
    let verdict = health.and_then(|health| health.endpoints.get(&(protocol, backend.into())));
    let is_up = verdict.is_some_and(|verdict| verdict.state == EndState::Up);
    end.probe.check.kind == CheckKind::Passive && !is_up
}

impl State {
    pub(super) fn look_at_flows(&mut self) {
        let pools = self.serving.as_ref().map(crate::supervisor::serving::Serving::pools).unwrap_or_default();
        self.backends.look(|name| pools.get(name).map(|pool| pool.tallies()).unwrap_or_default());
    }
}
