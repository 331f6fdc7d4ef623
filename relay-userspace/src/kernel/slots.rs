//! Which slot of the rule table each rule has. A rule keeps its slot, and with it its counters, for as long as it
//! exists; a slot that is given up rests until no flow of its old rule is left.

use std::collections::{BTreeSet, HashMap, HashSet, VecDeque};

use super::maps::{NameBytes, RULE_SLOTS};
use crate::rule::RuleName;

#[derive(Clone, Debug)]
pub struct Slots {
    by_name: HashMap<RuleName, u32>,
    free: BTreeSet<u32>,
    /// Given up, and not yet swept.
    resting: VecDeque<u32>,
}

impl Default for Slots {
    fn default() -> Self {
        Self { by_name: HashMap::new(), free: (0..RULE_SLOTS).collect(), resting: VecDeque::new() }
    }
}

impl Slots {
    /// After a restart: slots that rules have, and slots that have been used at all. One that was given up before may
    /// still have flows, so it rests.
    pub fn adopt(
        names: impl IntoIterator<Item = (u32, RuleName)>,
        used: impl IntoIterator<Item = u32>,
    ) -> Self {
        let mut slots = Self::default();
        for (slot, name) in names {
            if slots.free.remove(&slot) {
                slots.by_name.insert(name, slot);
            }
        }
        for slot in used {
            if slots.free.remove(&slot) {
                slots.resting.push_back(slot);
            }
        }
        slots
    }

    pub fn get(&self, name: &RuleName) -> Option<u32> {
        self.by_name.get(name).copied()
    }

    pub fn iter(&self) -> impl Iterator<Item = (&RuleName, u32)> {
        self.by_name.iter().map(|(name, &slot)| (name, slot))
    }

    /// A fresh slot for a rule that has none; `None` if there are no more. When all others are in use, the one that
    /// has rested longest: late packets of its old rule may then be counted for the new one.
    pub fn take(&mut self, name: &RuleName) -> Option<u32> {
        let slot = self.free.pop_first().or_else(|| self.resting.pop_front())?;
        self.by_name.insert(name.clone(), slot);
        Some(slot)
    }

    /// A slot that no rule will get soon.
    pub fn spare(&self) -> Option<u32> {
        self.free.last().or(self.resting.back()).copied()
    }

    /// Gives a rule a certain slot, if it has none and no other rule has that one.
    pub fn reserve(&mut self, name: &RuleName, slot: u32) {
        if self.by_name.contains_key(name) {
            return;
        }
        let before = self.resting.len();
        self.resting.retain(|&resting| resting != slot);
        if self.free.remove(&slot) || self.resting.len() < before {
            self.by_name.insert(name.clone(), slot);
        }
    }

    /// Gives a rule's slot up.
    pub fn release(&mut self, name: &RuleName) -> Option<u32> {
        let slot = self.by_name.remove(name)?;
        self.resting.push_back(slot);
        Some(slot)
    }

    /// Slots given up so far; pass them to [`Slots::swept`] once no flow of theirs is left.
    pub fn resting(&self) -> Vec<u32> {
        self.resting.iter().copied().collect()
    }

    /// Returns those that are free now; another rule may have got one meanwhile.
    pub fn swept(&mut self, slots: &[u32]) -> Vec<u32> {
        let slots: HashSet<u32> = slots.iter().copied().collect();
        let (rested, resting) = self.resting.drain(..).partition::<Vec<_>, _>(|slot| slots.contains(slot));
        self.resting = resting.into();
        self.free.extend(&rested);
        rested
    }
}

/// A name and its drain mark, as kept in the kernel.
pub fn encode_name(name: &RuleName, draining: bool) -> NameBytes {
    let mut bytes = [0; 72];
    let text = name.as_str().as_bytes();
    bytes[0] = text.len() as u8;
    bytes[1..=text.len()].copy_from_slice(text);
    bytes[71] = u8::from(draining);
    bytes
}

/// `None` for bytes that are no name.
pub fn decode_name(bytes: &NameBytes) -> Option<(RuleName, bool)> {
    let text = bytes.get(1..=usize::from(bytes[0]))?;
    let name = RuleName::parse(std::str::from_utf8(text).ok()?)?;
    Some((name, bytes[71] != 0))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn name(text: &str) -> RuleName {
        RuleName::parse(text).expect(text)
    }

    #[test]
    fn names_survive_the_kernel() {
        for text in ["a", &"n".repeat(64)] {
            for draining in [false, true] {
                assert_eq!(decode_name(&encode_name(&name(text), draining)), Some((name(text), draining)));
            }
        }
        assert_eq!(decode_name(&[0; 72]), None);
        assert_eq!(decode_name(&[255; 72]), None);
    }

    #[test]
    fn a_slot_rests_before_it_is_used_again() {
        let mut slots = Slots::adopt([(3, name("old"))], []);
        assert_eq!(slots.get(&name("old")), Some(3));
        assert_eq!(slots.take(&name("new")), Some(0));
        assert_eq!(slots.release(&name("new")), Some(0));
        assert_eq!(slots.take(&name("newer")), Some(1));
        assert_eq!(slots.resting(), [0]);
        slots.swept(&[0]);
        assert_eq!(slots.take(&name("newest")), Some(0));
    }

    #[test]
    fn a_slot_given_up_before_a_restart_rests_too() {
        let mut slots = Slots::adopt([(3, name("old"))], [0, 1, 3, 5]);
        assert_eq!(slots.get(&name("old")), Some(3));
        assert_eq!(slots.resting(), [0, 1, 5]);
        assert_eq!(slots.take(&name("new")), Some(2));
        assert_eq!(slots.take(&name("newer")), Some(4));
        assert_eq!(slots.swept(&[0, 1, 3, 5]), [0, 1, 5]);
        assert_eq!(slots.take(&name("newest")), Some(0));
    }

    #[test]
    fn rules_of_a_restart_do_not_wait_for_slots() {
        let mut slots = Slots::adopt([], 0..RULE_SLOTS);
        for index in 0..10_000 {
            assert_eq!(slots.take(&name(&index.to_string())), Some(index));
        }
        let rested: Vec<u32> = (0..RULE_SLOTS).collect();
        assert_eq!(slots.swept(&rested).len(), RULE_SLOTS as usize - 10_000, "those in use are not freed");
    }

    #[test]
    fn a_certain_slot_is_to_be_had_while_no_other_rule_has_it() {
        let mut slots = Slots::adopt([(3, name("old"))], 0..RULE_SLOTS);
        let spare = slots.spare().expect("a slot");
        slots.reserve(&name("traced"), spare);
        assert_eq!(slots.get(&name("traced")), Some(spare));
        assert!(!slots.resting().contains(&spare));
        slots.reserve(&name("other"), 3);
        assert_eq!(slots.get(&name("other")), None);
        slots.reserve(&name("old"), 7);
        assert_eq!((slots.get(&name("old")), slots.resting().contains(&7)), (Some(3), true));
        assert_eq!(Slots::default().spare(), Some(RULE_SLOTS - 1));
    }

    #[test]
    fn a_resting_slot_is_better_than_none() {
        let mut slots = Slots::default();
        for index in 0..RULE_SLOTS {
            assert_eq!(slots.take(&name(&index.to_string())), Some(index));
        }
        assert_eq!(slots.take(&name("more")), None);
        assert_eq!(slots.release(&name("7")), Some(7));
        assert_eq!(slots.take(&name("more")), Some(7));
        slots.swept(&[7]);
        assert_eq!(slots.take(&name("and-more")), None, "it is in use");
    }
}
