//! Who has which of the places that new flows choose among: stretches of a table, handed out and given back. Pure.

use std::collections::{BTreeMap, VecDeque};
use std::time::{Duration, Instant};

/// A packet that has read where its rule's places lie may still read them.
const REST: Duration = Duration::from_millis(100);

/// The free stretches of a table. One that is given back rests before it is handed out again, as long as there are others.
#[derive(Clone, Debug)]
pub struct Stretches {
    /// Lengths, by where they begin. No two of them touch.
    free: BTreeMap<u32, u32>,
    /// With the time they were given back at, longest ago first.
    resting: VecDeque<(Instant, u32, u32)>,
}

impl Stretches {
    /// All of a table of so many places.
    pub fn new(count: u32) -> Self {
        Self { free: BTreeMap::from([(0, count)]), resting: VecDeque::new() }
    }

    /// So many places in a row, the first that there are; `None`: there is no room.
    pub fn take(&mut self, count: u32, now: Instant) -> Option<u32> {
        while let Some(&(since, first, length)) = self.resting.front()
            && now.duration_since(since) >= REST
        {
            self.resting.pop_front();
            self.free(first, length);
        }
        loop {
            let found = self.free.iter().find(|(_, length)| **length >= count);
            if let Some((&first, &length)) = found {
                self.free.remove(&first);
                self.free(first + count, length - count);
                return Some(first);
            }
            let (_, first, length) = self.resting.pop_front()?;
            self.free(first, length);
        }
    }

    /// Takes note of a stretch that is in use. Whatever of it is so already stays so.
    pub fn adopt(&mut self, first: u32, count: u32) {
        let end = first.saturating_add(count);
        let touched: Vec<(u32, u32)> = self
            .free
            .range(..end)
            .rev()
            .take_while(|(start, length)| **start + **length > first)
            .map(|(&start, &length)| (start, length))
            .collect();
        for (start, length) in touched {
            self.free.remove(&start);
            self.free(start, first.saturating_sub(start));
            self.free(end, (start + length).saturating_sub(end));
        }
    }

    pub fn give_back(&mut self, first: u32, count: u32, now: Instant) {
        self.resting.push_back((now, first, count));
    }

    fn free(&mut self, mut first: u32, mut length: u32) {
        if length == 0 {
            return;
        }
        if let Some((&before, &its_length)) = self.free.range(..first).next_back()
            && before + its_length == first
        {
            (first, length) = (before, length + its_length);
        }
        if let Some(behind) = self.free.remove(&(first + length)) {
            length += behind;
        }
        self.free.insert(first, length);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn later(now: Instant) -> Instant {
        now + REST
    }

    #[test]
    fn stretches_join_again_whatever_their_order() {
        for order in [[0, 1, 2], [0, 2, 1], [1, 0, 2], [1, 2, 0], [2, 0, 1], [2, 1, 0]] {
            let (mut places, now) = (Stretches::new(30), Instant::now());
            let taken: Vec<u32> = (0..3).filter_map(|_| places.take(10, now)).collect();
            assert_eq!((taken.as_slice(), places.take(1, now)), ([0, 10, 20].as_slice(), None));
            for index in order {
                places.give_back(taken[index], 10, now);
            }
            assert_eq!((places.take(30, later(now)), places.free.len()), (Some(0), 0), "{order:?}");
        }
    }

    #[test]
    fn what_is_given_back_rests_as_long_as_there_is_room() {
        let (mut places, now) = (Stretches::new(10), Instant::now());
        assert_eq!(places.take(4, now), Some(0));
        places.give_back(0, 4, now);
        assert_eq!(places.take(4, now), Some(4), "it rests");
        assert_eq!(places.take(4, now), Some(0), "better than none");
        places.give_back(4, 4, now);
        assert_eq!(places.take(6, later(now)), Some(4), "rested");
        assert_eq!(places.take(1, later(now)), None);
    }

    #[test]
    fn the_first_that_fits() {
        let (mut places, now) = (Stretches::new(100), Instant::now());
        for count in [5, 20, 5, 10] {
            places.take(count, now);
        }
        places.give_back(5, 20, now);
        places.give_back(30, 10, now);
        assert_eq!(places.take(21, later(now)), Some(30), "with all behind it");
        assert_eq!(places.take(8, later(now)), Some(5));
        assert_eq!(places.take(12, later(now)), Some(13));
        assert_eq!(places.take(1, later(now)), Some(51));
    }

    #[test]
    fn adopted_stretches_are_not_handed_out() {
        let (mut places, now) = (Stretches::new(100), Instant::now());
        places.adopt(10, 20);
        places.adopt(10, 20);
        places.adopt(25, 10);
        places.adopt(90, 20);
        places.adopt(200, 5);
        assert_eq!((places.take(10, now), places.take(56, now)), (Some(0), None));
        assert_eq!((places.take(55, now), places.take(1, now)), (Some(35), None));
        places.give_back(10, 25, now);
        assert_eq!(places.take(25, later(now)), Some(10));
    }
}
