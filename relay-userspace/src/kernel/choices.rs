//! How new flows choose among a rule's backends. A table is written under places that nobody reads, then the rule's entry
//! leads there by one store, and only then are the old places given back: no packet sees half a table.

use std::sync::Arc;
use std::sync::atomic::{AtomicU32, Ordering, fence};
use std::time::Instant;

use relay_common::balance::Method;
use relay_common::choice::{Choice, Place};
use relay_common::net::Protocol;
use relay_common::rule::RuleEntry;

use super::apply::Applied;
use super::load::Dataplane;
use super::ways::rule_ends;
use super::{Carried, DesiredRule, KernelError};
use crate::balance::Table;

/// What new flows of one protocol choose from, as places hold it.
#[derive(Debug, Eq, PartialEq)]
struct Filled {
    method: Method,
    places: Vec<Place>,
}

/// Who gets new flows, of TCP and of UDP.
type Choices = [Choice; 2];

const NOBODY: Choices = [Choice::NONE; 2];

impl Dataplane {
    /// Gives a carried rule's new flows to its backends as their weights are now, without looking at anything else. Everything
    /// but weights and the addresses that flows may go to must be as it was applied. `index`: where the rule is in what
    /// was applied.
    pub fn swap(&mut self, index: usize, rule: &Arc<DesiredRule>) -> Result<Applied, KernelError> {
        let mut applied = Applied::default();
        if let Some(slot) = self.shadow.slots.get(&rule.name)
            && let Some(&old) = self.shadow.rules.get(&slot)
        {
            applied.orphans = self.backends.set(slot, rule.backends.as_ref());
            self.choose(slot, rule, old, old)?;
        }
        let known = self.applied.as_mut().and_then(|desired| desired.rules.get_mut(index));
        if let Some(known) = known.filter(|known| known.name == rule.name) {
            known.clone_from(rule);
        }
        Ok(applied)
    }

    /// Writes a rule's entry, `entry` but for who gets new flows, in the place of `old`.
    pub(super) fn choose(
        &mut self,
        slot: u32,
        rule: &DesiredRule,
        old: RuleEntry,
        mut entry: RuleEntry,
    ) -> Result<(), KernelError> {
        let before = [old.tcp, old.udp];
        let choices = self.choices(slot, rule, before)?;
        [entry.tcp, entry.udp] = choices;
        if entry == old {
            return Ok(());
        }
        // what the entry leads to comes before it
        fence(Ordering::SeqCst);
        let written = self.write_entry(slot, entry);
        let (stay, go) = if written.is_ok() { (choices, before) } else { (before, choices) };
        self.give_back(&go, &stay);
        written
    }

    /// A rule that is gone has no more places.
    pub(super) fn choose_nobody(&mut self, old: &RuleEntry) {
        self.give_back(&[old.tcp, old.udp], &NOBODY);
    }

    /// Places with a table for each protocol, the old ones where they hold it already.
    fn choices(&mut self, slot: u32, rule: &DesiredRule, old: Choices) -> Result<Choices, KernelError> {
        let Some(carried) = &rule.carried else { return Ok(NOBODY) };
        let ends = self.endpoints_of(slot, carried);
        let mut choices = NOBODY;
        for (index, protocol) in Protocol::ALL.into_iter().enumerate() {
            if !carried.kernel.protocols.has(protocol) {
                continue;
            }
            let weights = match protocol {
                Protocol::Tcp => &rule.weights.tcp,
                Protocol::Udp => &rule.weights.udp,
            };
            let filled = fill(carried, weights, &ends);
            let known = old.into_iter().chain(choices).find(|known| self.holds(*known, &filled));
            choices[index] = match known.map_or_else(|| self.put(&filled), Ok) {
                Ok(choice) => choice,
                Err(error) => {
                    self.give_back(&choices, &old);
                    return Err(error);
                }
            };
        }
        Ok(choices)
    }

    /// The numbers of a rule's backends as endpoints, by their index.
    fn endpoints_of(&self, slot: u32, carried: &Carried) -> Vec<Option<u32>> {
        let ends = rule_ends(slot, carried);
        ends.map(|end| end.and_then(|(content, _)| self.shadow.endpoints.get(&content))).collect()
    }

    /// Whether a choice is already what it should be.
    fn holds(&self, choice: Choice, filled: &Filled) -> bool {
        if choice.method() != filled.method || choice.count() as usize != filled.places.len() {
            return false;
        }
        match (choice.stretch(), filled.places.as_slice()) {
            (None, []) => true,
            (None, [place, ..]) => choice.first() == place.endpoint(),
            (Some((first, _)), places) => {
                let words = self.words(first, places.len());
                words.iter().zip(places).all(|(word, place)| word.load(Ordering::Relaxed) == place.to_word())
            }
        }
    }

    /// Puts a table into places of its own.
    fn put(&mut self, filled: &Filled) -> Result<Choice, KernelError> {
        match (filled.method, filled.places.as_slice()) {
            (_, []) => Ok(Choice::NONE),
            (Method::One, [place, ..]) => Ok(Choice::one(place.endpoint())),
            (method, places) => {
                let full = KernelError::TooManyPlaces { most: Place::ROOM };
                let Ok(count) = u16::try_from(places.len()) else { return Err(full) };
                let Some(first) = self.shadow.places.take(count.into(), Instant::now()) else {
                    return Err(full);
                };
                for (word, place) in self.words(first, places.len()).iter().zip(places) {
                    word.store(place.to_word(), Ordering::Relaxed);
                }
                Ok(Choice::among(method, first, count))
            }
        }
    }

    fn words(&self, first: u32, count: usize) -> &[AtomicU32] {
        let first = first as usize;
        self.places.entries().get(first..first + count).unwrap_or_default()
    }

    /// Gives back the places of choices, but for those that others have.
    fn give_back(&mut self, choices: &Choices, but: &Choices) {
        let [tcp, udp] = choices.map(|choice| choice.stretch().filter(|_| !but.contains(&choice)));
        for (first, count) in [tcp, udp.filter(|_| udp != tcp)].into_iter().flatten() {
            self.shadow.places.give_back(first, count, Instant::now());
        }
    }
}

/// The table of a rule's backends with these weights. Who has no address gets nothing. `ends`: their numbers as endpoints.
fn fill(carried: &Carried, weights: &[u16], ends: &[Option<u32>]) -> Filled {
    let kernel = &carried.kernel;
    let weights: Vec<u16> =
        weights.iter().zip(ends).map(|(weight, end)| if end.is_some() { *weight } else { 0 }).collect();
    let table = Table::new(kernel.balance, &weights, |index| kernel.names[index].to_string());
    let place = |index: &u16| {
        let index = usize::from(*index);
        Some(Place::new((*ends.get(index)?)?, weights[index]))
    };
    Filled { method: table.method, places: table.places.iter().filter_map(place).collect() }
}
