//! Setting the programs' counts of proven flows right. They are exact but for flows that changed hands at the very moment
//! that two CPUs removed them, or whose program was another version's.

use std::collections::HashMap;

use relay_common::usage::Count;

/// A difference that as many rounds find alike is no flow that came or went meanwhile.
const ROUNDS: u32 = 3;

/// What rounds have found so far: by slot, the difference and how often it was found.
#[derive(Debug, Default)]
pub struct Recount(HashMap<u32, (i64, u32)>);

impl Recount {
    /// One round has met `counted` flows that count for each slot. `counts`: the programs' of all slots, in order.
    pub fn compare<'a>(&mut self, counted: &HashMap<u32, i64>, counts: impl Iterator<Item = &'a Count>) {
        let before = std::mem::take(&mut self.0);
        for (slot, count) in (0..).zip(counts) {
            let difference = counted.get(&slot).copied().unwrap_or(0) - count.get();
            if difference == 0 {
                continue;
            }
            let found = match before.get(&slot) {
                Some(&(same, found)) if same == difference => found + 1,
                _ => 1,
            };
            if found < ROUNDS {
                self.0.insert(slot, (difference, found));
            } else {
                count.add(difference);
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_lasting_difference_is_put_right_and_a_passing_one_left_alone() {
        let slots = [Count::default(), Count::default()];
        let mut recount = Recount::default();
        slots[0].add(5);
        slots[1].add(2);
        for passing in [1, 2, 1, 2] {
            recount.compare(&HashMap::from([(0, 3), (1, passing)]), slots.iter());
        }
        assert_eq!((slots[0].get(), slots[1].get()), (3, 2));
        for _ in 0..ROUNDS {
            recount.compare(&HashMap::new(), slots.iter());
        }
        assert_eq!((slots[0].get(), slots[1].get()), (0, 0));
    }
}
