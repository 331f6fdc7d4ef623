//! What judges say, brought into both planes: a new table for a rule's new flows, and nothing else touched.

use std::collections::BTreeSet;
use std::sync::Arc;
use std::time::Instant;

use relay_common::choice::Place;
use relay_common::net::Protocol;

use super::{Backends, Told};
use crate::health::judge::{self, Change};
use crate::health::tiers::Basis;
use crate::health::weigh::Verdict;
use crate::health::{News, State as EndState};
use crate::kernel::{DesiredRule, KernelError};
use crate::plan::{self, PlannedRule};
use crate::proxy::pool::{Failure, Signal};
use crate::rule::RuleName;
use crate::supervisor::state::State;

impl Backends {
    /// Takes note of a change. Returns whose it is, with words for it; `None`: nobody's any more.
    fn note(&mut self, news: &News) -> Option<(RuleName, Protocol, Box<str>)> {
        let (rule, (protocol, backend)) = self.whose.get(&news.id)?.clone();
        let verdict = Verdict { state: news.change.to, since: news.at };
        let health = self.health.get_mut(&rule)?;
        health.endpoints.insert((protocol, backend.clone()), verdict);
        self.is_unsaved = true;
        Some((rule, protocol, backend))
    }

    /// A session fared badly.
    fn signal(&mut self, failure: &Failure) {
        let (Some(prober), Some(watched)) = (&self.prober, self.watched.get_mut(&failure.rule)) else {
            return;
        };
        let end = (failure.protocol, failure.backend.as_ref().into());
        if let Some(end) = watched.ends.get_mut(&end) {
            end.seen.fail();
            prober.signal(end.id, signal(failure.signal));
        }
    }
}

const fn signal(signal: Signal) -> judge::Signal {
    match signal {
        Signal::Refused => judge::Signal::Refused,
        Signal::Silent => judge::Signal::TimedOut,
        Signal::Reset => judge::Signal::Reset,
        Signal::Unreachable => judge::Signal::Unreachable,
    }
}

impl State {
    pub fn backends_told(&mut self, told: Told) {
        match told {
            Told::Failure(failure) => self.backends.signal(&failure),
            Told::Look => self.look_at_flows(),
            Told::Show => self.publish(),
            Told::Due(names) => {
                names.iter().for_each(|name| self.reweigh(name, None));
                self.backends.show_soon();
            }
            Told::News(news) => self.judged(&news),
        }
    }

    fn judged(&mut self, all: &[News]) {
        let mut names = BTreeSet::new();
        for news in all {
            let Some((name, protocol, backend)) = self.backends.note(news) else { continue };
            self.tell_judged(&name, protocol, &backend, &news.change);
            names.insert(name);
        }
        let known = all.iter().map(|news| news.at).min();
        for name in &names {
            self.reweigh(name, known);
        }
        if !names.is_empty() {
            self.backends.show_soon();
        }
    }

    fn tell_judged(&self, name: &RuleName, protocol: Protocol, backend: &str, change: &Change) {
        let text =
            format!("rule {name}: backend {backend} is {} for {protocol}: {}", change.to, change.reason);
        if change.to == EndState::Up || change.to == EndState::Untried {
            tracing::info!(RULE = name.as_str(), "{text}");
        } else {
            tracing::warn!(RULE = name.as_str(), "{text}");
        }
        self.shared.tell(&format!("backend.{}", change.to), Some(name), text);
    }

    /// Chooses among a rule's backends by what is known now. `since`: when it has been known, to tell how long it took.
    pub fn reweigh(&mut self, name: &RuleName, since: Option<Instant>) {
        let is_it = |planned: &Arc<PlannedRule>| planned.rule.name == *name;
        let place = self.backends.place(name).filter(|place| self.planned.get(*place).is_some_and(is_it));
        let Some(index) = place.or_else(|| self.planned.iter().position(is_it)) else { return };
        let before = &self.planned[index];
        let (health, paths) = (self.backends.health(), &self.facts.paths);
        let after = plan::reweighed(before, plan::Known { health, paths, now: Instant::now() });
        let is_swapped = !self.backends.unswapped.remove(name);
        if is_swapped
            && (&after.weights, &after.outlook, &after.backends)
                == (&before.weights, &before.outlook, &before.backends)
        {
            // it has been looked at
            self.backends.remember(&before.clone());
            return;
        }
        self.tell_basis(before, &after);
        self.tell_tier(before, &after);
        let after = Arc::new(after);
        self.backends.remember(&after);
        self.planned[index] = after.clone();
        self.swap(index, &after);
        if let Some(serving) = &mut self.serving {
            serving.reweigh(&after);
        }
        self.shared.respread(&after);
        if let Some(since) = since {
            let took = since.elapsed().as_micros();
            tracing::debug!(
                RULE = name.as_str(),
                "rule {name}: new flows chosen by that {took} us after it was known"
            );
        }
    }

    fn swap(&mut self, index: usize, planned: &PlannedRule) {
        let Some(desired) = self.desired.rules.get_mut(index).filter(|rule| rule.name == planned.rule.name)
        else {
            return;
        };
        let (weights, backends) = (planned.weights.clone(), planned.backends.clone());
        *desired = Arc::new(DesiredRule { weights, backends, ..(**desired).clone() });
        let Ok(kernel) = &mut self.kernel else { return };
        if self.down {
            return;
        }
        match kernel.swap(index, desired) {
            Ok(applied) => {
                if applied.is_short {
                    let name = &planned.rule.name;
                    let error = KernelError::TooManyPlaces { most: Place::ROOM };
                    tracing::error!("rule {name}: {error}; its new flows go as before until there is room");
                }
                self.swept_later(applied);
                self.tell_shortage();
            }
            Err(error) => {
                let name = &planned.rule.name;
                tracing::error!("rule {name}: {error}; its new flows go as before until that works");
                self.backends.swap_again(name);
            }
        }
    }

    fn tell_basis(&self, before: &PlannedRule, after: &PlannedRule) {
        let name = &after.rule.name;
        let Some(outlook) = &after.outlook else { return };
        for (protocol, basis) in &outlook.basis {
            let old = before.outlook.as_ref().and_then(|outlook| outlook.basis.get(protocol));
            if old == Some(basis) {
                continue;
            }
            let text = match basis {
                Basis::Good if old.is_none() => continue,
                Basis::Good => format!("rule {name}: there are backends for {protocol} again"),
                Basis::Doubtful => {
                    format!(
                        "rule {name}: of all backends for {protocol} none is up; new flows go to some that never answered"
                    )
                }
                Basis::AllDown => {
                    format!(
                        "rule {name}: all backends are down for {protocol}; new flows still go to the first ones"
                    )
                }
                Basis::AllBarred => {
                    format!(
                        "rule {name}: no backend takes new flows for {protocol}, by order or without weight"
                    )
                }
            };
            tracing::warn!(RULE = name.as_str(), "{text}");
            self.shared.tell("rule.backends", Some(name), text);
        }
    }
}
