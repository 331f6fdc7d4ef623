//! Slots of the next hop and endpoint tables, shared by content.
//!
//! A slot in use never changes its content, so no packet sees half of a change: another way gets another slot, and the
//! old one's generation is raised, which sends its flows to look their way up again.

use std::collections::{BTreeSet, HashMap};
use std::hash::Hash;
use std::ops::Range;

/// Hands out slots by content. Slots whose content is no longer wanted are used again, longest unused first.
#[derive(Clone, Debug)]
pub struct Interner<T> {
    slots: HashMap<T, u32>,
    /// Slots from here on have never been used.
    fresh: Range<u32>,
    /// Other free slots by the round in which they became free.
    free: BTreeSet<(u64, u32)>,
    round: u64,
}

impl<T: Clone + Eq + Hash> Interner<T> {
    /// Slots `first..count` to hand out.
    pub fn new(first: u32, count: u32) -> Self {
        Self { slots: HashMap::new(), fresh: first..count, free: BTreeSet::new(), round: 0 }
    }

    /// Takes note of what a slot already holds. Of several with one content the last is as good as any.
    pub fn adopt(&mut self, slot: u32, content: T) {
        if self.fresh.contains(&slot) {
            self.free.extend((self.fresh.start..slot).map(|slot| (0, slot)));
            self.fresh.start = slot + 1;
        } else if !self.free.remove(&(0, slot)) {
            return;
        }
        if let Some(other) = self.slots.insert(content, slot) {
            self.free.insert((0, other));
        }
    }

    pub fn get(&self, content: &T) -> Option<u32> {
        self.slots.get(content).copied()
    }

    /// The slot of a content, and whether it is new and must be written. `None` if there are no more.
    pub fn slot(&mut self, content: &T) -> Option<(u32, bool)> {
        if let Some(slot) = self.get(content) {
            return Some((slot, false));
        }
        let slot = self.take()?;
        self.slots.insert(content.clone(), slot);
        Some((slot, true))
    }

    fn take(&mut self) -> Option<u32> {
        // what lies between adopted ones has never been used either
        let is_fresh_first = self.free.first().is_none_or(|(round, _)| *round > 0);
        let fresh = if is_fresh_first { self.fresh.next() } else { None };
        fresh.or_else(|| self.free.pop_first().map(|(_, slot)| slot))
    }

    /// Frees every slot whose content is not wanted any more; returns them.
    pub fn retain(&mut self, wanted: impl Fn(&T) -> bool) -> Vec<u32> {
        self.round += 1;
        let mut freed = Vec::new();
        self.slots.retain(|content, slot| {
            let keep = wanted(content);
            if !keep {
                freed.push(*slot);
            }
            keep
        });
        self.free.extend(freed.iter().map(|&slot| (self.round, slot)));
        freed
    }

    pub fn iter(&self) -> impl Iterator<Item = (&T, u32)> {
        self.slots.iter().map(|(content, &slot)| (content, slot))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn equal_contents_share_a_slot() {
        let mut interner = Interner::new(1, 4);
        assert_eq!(interner.slot(&"a"), Some((1, true)));
        assert_eq!(interner.slot(&"b"), Some((2, true)));
        assert_eq!(interner.slot(&"a"), Some((1, false)));
        assert_eq!(interner.slot(&"c"), Some((3, true)));
        assert_eq!(interner.slot(&"d"), None);
    }

    #[test]
    fn the_longest_unused_slot_comes_first() {
        let mut interner = Interner::new(0, 3);
        for content in ["a", "b", "c"] {
            interner.slot(&content);
        }
        assert_eq!(interner.retain(|content| *content != "b"), [1]);
        assert_eq!(interner.retain(|content| *content != "a"), [0]);
        assert_eq!(interner.slot(&"d"), Some((1, true)));
        assert_eq!(interner.slot(&"e"), Some((0, true)));
    }

    #[test]
    fn adopted_slots_are_not_handed_out() {
        let mut interner = Interner::new(0, 2);
        interner.adopt(0, "a");
        assert_eq!(interner.slot(&"b"), Some((1, true)));
        assert_eq!(interner.slot(&"a"), Some((0, false)));
    }

    #[test]
    fn slots_between_adopted_ones_come_before_those_that_were_freed() {
        let mut interner = Interner::new(0, 5);
        interner.adopt(3, "d");
        interner.adopt(1, "b");
        interner.adopt(9, "there is no such slot");
        assert_eq!(interner.retain(|content| *content != "b"), [1]);
        let slots: Vec<_> = ["a", "c", "e", "f", "g"].map(|content| interner.slot(&content)).into();
        assert_eq!(slots, [Some((0, true)), Some((2, true)), Some((4, true)), Some((1, true)), None]);
    }

    #[test]
    fn a_content_found_twice_keeps_one_slot() {
        let mut interner = Interner::new(0, 2);
        interner.adopt(0, "a");
        interner.adopt(1, "a");
        assert_eq!(interner.slot(&"a"), Some((1, false)));
        assert_eq!(interner.slot(&"b"), Some((0, true)));
    }
}
