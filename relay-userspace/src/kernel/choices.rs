//! How new flows choose among a rule's backends. A table is written under places that nobody reads, then the rule's entry
//! leads there, and only then are the old places given back: no packet sees half a table. Where there are no such places, it
//! takes the old one's, if it fits: who sees half of that finds backends of the rule none the less.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::sync::atomic::{AtomicU32, Ordering, fence};
use std::time::Instant;

use relay_common::balance::Method;
use relay_common::choice::{Choice, Place};
use relay_common::names;
use relay_common::net::Protocol;
use relay_common::rule::RuleEntry;

use super::apply::{Applied, map_error};
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
            applied.orphans = self.backends.set(slot, rule.backends.as_ref(), rule.wraps_udp);
            applied.is_short = self.choose(slot, rule, old, old)?;
        }
        let known = self.applied.as_mut().and_then(|desired| desired.rules.get_mut(index));
        if let Some(known) = known.filter(|known| known.name == rule.name) {
            known.clone_from(rule);
        }
        Ok(applied)
    }

    /// Tries again where there was no room for a table. Returns whether there is now.
    pub fn choose_again(&mut self) -> Result<bool, KernelError> {
        let Some(desired) = &self.applied else { return Ok(false) };
        let slots = &self.shadow.slots;
        let slot_of =
            |rule: &DesiredRule| slots.get(&rule.name).filter(|slot| self.shadow.short.contains(slot));
        let short: Vec<_> =
            desired.rules.iter().filter_map(|rule| Some((slot_of(rule)?, rule.clone()))).collect();
        let mut has_room = false;
        for (slot, rule) in short {
            if let Some(&old) = self.shadow.rules.get(&slot) {
                has_room |= !self.choose(slot, &rule, old, old)?;
            }
        }
        Ok(has_room)
    }

    /// Writes a rule's entry, `entry` but for who gets new flows, in the place of `old`. Returns whether there is no room for
    /// one of its tables: those flows go where they went, for now.
    pub(super) fn choose(
        &mut self,
        slot: u32,
        rule: &DesiredRule,
        old: RuleEntry,
        mut entry: RuleEntry,
    ) -> Result<bool, KernelError> {
        let before = [old.tcp, old.udp];
        let (choices, is_short) = self.choices(slot, rule, before);
        [entry.tcp, entry.udp] = choices;
        self.lead_to(slot, old, entry)?;
        if is_short {
            self.shadow.short.insert(slot);
        } else {
            self.shadow.short.remove(&slot);
        }
        self.shortage.tables = self.shadow.short.len();
        self.desert(slot, rule)?;
        Ok(is_short)
    }

    /// Has flows choose anew that wait in vain for a backend which gets no others. By now they find somebody else.
    fn desert(&mut self, slot: u32, rule: &DesiredRule) -> Result<(), KernelError> {
        let Some(carried) = &rule.carried else { return Ok(()) };
        let mut deserted = BTreeMap::<u32, [bool; 2]>::new();
        for (index, end) in self.endpoints_of(slot, carried).into_iter().enumerate() {
            let Some(end) = end else { continue };
            // backends that are the same endpoint are so together
            for (all, protocol) in deserted.entry(end).or_insert([true; 2]).iter_mut().zip(Protocol::ALL) {
                *all &= rule.weights.is_deserted(protocol, index);
            }
        }
        for (end, deserted) in deserted {
            let Some(&old) = self.shadow.endpoint_entries.get(&end) else { continue };
            let of = Protocol::ALL.into_iter().zip(deserted);
            let entry =
                old.deserted_for(of.filter(|(_, is_deserted)| *is_deserted).map(|(protocol, _)| protocol));
            if entry != old {
                self.maps.endpoints.set(end, entry, 0).map_err(map_error(names::ENDPOINTS))?;
                self.shadow.endpoint_entries.insert(end, entry);
            }
        }
        Ok(())
    }

    /// Writes an entry, and gives back the places that nothing leads to any more.
    fn lead_to(&mut self, slot: u32, old: RuleEntry, entry: RuleEntry) -> Result<(), KernelError> {
        let (before, choices) = ([old.tcp, old.udp], [entry.tcp, entry.udp]);
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
    pub(super) fn choose_nobody(&mut self, slot: u32, old: &RuleEntry) {
        self.give_back(&[old.tcp, old.udp], &NOBODY);
        self.shadow.short.remove(&slot);
        self.shortage.tables = self.shadow.short.len();
    }

    /// Places with a table for each protocol, the old ones where they hold it already; and whether one stays as it was, for
    /// want of room.
    fn choices(&mut self, slot: u32, rule: &DesiredRule, old: Choices) -> (Choices, bool) {
        let Some(carried) = &rule.carried else { return (NOBODY, false) };
        let ends = self.endpoints_of(slot, carried);
        let wanted = Protocol::ALL.map(|protocol| {
            let is_carried = carried.kernel.protocols.has(protocol);
            is_carried.then(|| fill(carried, rule.weights.of(protocol), &ends))
        });
        let (mut choices, mut is_short) = (NOBODY, false);
        for (index, filled) in wanted.iter().enumerate() {
            let Some(filled) = filled else { continue };
            let known = old.into_iter().chain(choices).find(|known| self.holds(*known, filled));
            let chosen = known.or_else(|| self.put(filled)).or_else(|| {
                let other = 1 - index;
                let reads_it = [old[other], choices[other]].contains(&old[index]);
                let is_others = reads_it && wanted[other].as_ref().is_some_and(|other| other != filled);
                if is_others { None } else { self.put_over(old[index], filled) }
            });
            is_short |= chosen.is_none();
            choices[index] = chosen.unwrap_or(old[index]);
        }
        (choices, is_short)
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
                let is_there =
                    |(word, place): (&AtomicU32, &Place)| word.load(Ordering::Relaxed) == place.to_word();
                self.words(first, places.len()).is_some_and(|words| words.iter().zip(places).all(is_there))
            }
        }
    }

    /// Puts a table into places of its own; `None`: there is no room.
    fn put(&mut self, filled: &Filled) -> Option<Choice> {
        match (filled.method, filled.places.as_slice()) {
            (_, []) => Some(Choice::NONE),
            (Method::One, [place, ..]) => Some(Choice::one(place.endpoint())),
            (method, places) => {
                let count = u16::try_from(places.len()).ok()?;
                let first = self.shadow.places.take(count.into(), Instant::now())?;
                let written = self.write_places(first, places);
                if written.is_none() {
                    self.shadow.places.give_back(first, count.into(), Instant::now());
                }
                written.map(|()| Choice::among(method, first, count))
            }
        }
    }

    /// Puts a table over the old one, place by place; `None`: it is longer, or chosen from in another way.
    fn put_over(&self, old: Choice, filled: &Filled) -> Option<Choice> {
        let (first, room) = old.stretch()?;
        let count = u16::try_from(filled.places.len()).ok()?;
        if filled.method != old.method() || u32::from(count) > room {
            return None;
        }
        self.write_places(first, &filled.places)?;
        Some(Choice::among(filled.method, first, count))
    }

    /// `None`: there is no memory to map them.
    fn write_places(&self, first: u32, places: &[Place]) -> Option<()> {
        for (word, place) in self.words(first, places.len())?.iter().zip(places) {
            word.store(place.to_word(), Ordering::Relaxed);
        }
        Some(())
    }

    fn words(&self, first: u32, count: usize) -> Option<&[AtomicU32]> {
        self.places.stretch(first as usize, count)
    }

    /// Gives back the places of choices, but for those that others have.
    fn give_back(&mut self, choices: &Choices, but: &Choices) {
        let [tcp, udp] = choices.map(|choice| left_over(choice, but));
        for (first, count) in [tcp, udp.filter(|_| udp != tcp)].into_iter().flatten() {
            self.shadow.places.give_back(first, count, Instant::now());
        }
    }
}

/// The places of a choice behind those that others have of them, which begin where it does.
fn left_over(choice: Choice, others: &Choices) -> Option<(u32, u32)> {
    let (first, count) = choice.stretch()?;
    let others = others.iter().filter_map(|other| other.stretch());
    let kept = others.filter(|(begin, _)| *begin == first).map(|(_, kept)| kept).max().unwrap_or(0);
    (count > kept).then(|| (first + kept, count - kept))
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
