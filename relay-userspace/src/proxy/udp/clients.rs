//! The clients of one listener: who they are, how long they have been silent, who goes first. Pure; time is an argument.

use std::collections::HashMap;
use std::hash::Hash;

/// Coarse time: no client is moved more than once in a tick, however many datagrams it sends.
pub type Tick = u32;

/// Names a client. When it is removed the name means nobody, though another client may take its place.
#[derive(Clone, Copy, Debug, Eq, Ord, PartialEq, PartialOrd)]
pub struct Id {
    place: u32,
    generation: u32,
}

impl Id {
    pub const fn from_number(number: u64) -> Self {
        Self { place: number as u32, generation: (number >> 32) as u32 }
    }

    pub fn number(self) -> u64 {
        u64::from(self.generation) << 32 | u64::from(self.place)
    }
}

/// In place of an entry's place.
const NONE: u32 = u32::MAX;

/// Two queues, longest silent first: those that got an answer, and those that never did.
#[derive(Debug)]
pub struct Clients<K, V> {
    entries: Vec<Entry<K, V>>,
    places: HashMap<K, u32>,
    free: u32,
    generation: u32,
    queues: [Queue; 2],
}

#[derive(Debug)]
struct Entry<K, V> {
    generation: u32,
    seen: Tick,
    answered: bool,
    before: u32,
    after: u32,
    client: Option<(K, V)>,
}

#[derive(Clone, Copy, Debug)]
struct Queue {
    first: u32,
    last: u32,
}

impl Queue {
    const EMPTY: Self = Self { first: NONE, last: NONE };
}

impl<K: Copy + Eq + Hash, V> Clients<K, V> {
    pub fn new() -> Self {
        let (entries, places) = (Vec::new(), HashMap::new());
        Self { entries, places, free: NONE, generation: 0, queues: [Queue::EMPTY; 2] }
    }

    pub fn len(&self) -> usize {
        self.places.len()
    }

    pub fn find(&self, key: &K) -> Option<Id> {
        let place = *self.places.get(key)?;
        Some(Id { place, generation: self.entries[place as usize].generation })
    }

    pub fn get_mut(&mut self, id: Id) -> Option<(&K, &mut V)> {
        let (key, value) = self.entry(id)?.client.as_mut()?;
        Some((key, value))
    }

    /// Adds a client that is not there yet.
    pub fn insert(&mut self, key: K, value: V, now: Tick) -> Id {
        self.generation = self.generation.wrapping_add(1);
        let generation = self.generation;
        let client = Some((key, value));
        let entry = Entry { generation, seen: now, answered: false, before: NONE, after: NONE, client };
        let place = if self.free == NONE {
            self.entries.push(entry);
            self.entries.len() as u32 - 1
        } else {
            let place = self.free;
            let room = &mut self.entries[place as usize];
            self.free = room.after;
            *room = entry;
            place
        };
        self.places.insert(key, place);
        self.append(place);
        Id { place, generation }
    }

    /// The client sent something.
    pub fn heard(&mut self, id: Id, now: Tick) {
        if let Some(entry) = self.entry(id)
            && entry.seen != now
        {
            let answered = entry.answered;
            self.renew(id.place, now, answered);
        }
    }

    /// The client was sent something.
    pub fn answered(&mut self, id: Id, now: Tick) {
        if let Some(entry) = self.entry(id)
            && (entry.seen != now || !entry.answered)
        {
            self.renew(id.place, now, true);
        }
    }

    pub fn remove(&mut self, id: Id) -> Option<(K, V)> {
        self.entry(id)?;
        self.take(id.place)
    }

    /// Removes one client that has been silent since before `since`.
    pub fn expire(&mut self, since: Tick) -> Option<(K, V)> {
        let firsts = self.queues.map(|queue| queue.first);
        let place = firsts.into_iter().find(|&place| self.silent_since(place) < since)?;
        self.take(place)
    }

    /// When the longest silent client was last heard.
    pub fn oldest(&self) -> Option<Tick> {
        let firsts = self.queues.iter().map(|queue| queue.first).filter(|&place| place != NONE);
        firsts.map(|place| self.silent_since(place)).min()
    }

    /// Removes the longest silent client of those that never got an answer.
    pub fn evict(&mut self) -> Option<(K, V)> {
        self.take(self.queues[usize::from(false)].first)
    }

    /// Removes the clients that are not to stay.
    pub fn retain(&mut self, stays: impl Fn(&K, &V) -> bool) -> Vec<(K, V)> {
        let goes = |place: &u32| {
            let client = self.entries[*place as usize].client.as_ref();
            client.is_some_and(|(key, value)| !stays(key, value))
        };
        let gone: Vec<u32> = self.places.values().copied().filter(goes).collect();
        gone.into_iter().filter_map(|place| self.take(place)).collect()
    }

    fn entry(&mut self, id: Id) -> Option<&mut Entry<K, V>> {
        let entry = self.entries.get_mut(id.place as usize)?;
        (entry.generation == id.generation && entry.client.is_some()).then_some(entry)
    }

    fn silent_since(&self, place: u32) -> Tick {
        self.entries.get(place as usize).map_or(Tick::MAX, |entry| entry.seen)
    }

    fn take(&mut self, place: u32) -> Option<(K, V)> {
        let client = self.entries.get_mut(place as usize)?.client.take()?;
        self.unlink(place);
        self.entries[place as usize].after = self.free;
        self.free = place;
        self.places.remove(&client.0);
        if self.places.is_empty() {
            // What a flood has grown is given back.
            (self.entries, self.places, self.free) = (Vec::new(), HashMap::new(), NONE);
        }
        Some(client)
    }

    fn renew(&mut self, place: u32, now: Tick, answered: bool) {
        self.unlink(place);
        let entry = &mut self.entries[place as usize];
        entry.seen = now;
        entry.answered = answered;
        self.append(place);
    }

    fn append(&mut self, place: u32) {
        let queue = &mut self.queues[usize::from(self.entries[place as usize].answered)];
        let before = std::mem::replace(&mut queue.last, place);
        if before == NONE {
            queue.first = place;
        } else {
            self.entries[before as usize].after = place;
        }
        let entry = &mut self.entries[place as usize];
        entry.before = before;
        entry.after = NONE;
    }

    fn unlink(&mut self, place: u32) {
        let Entry { before, after, answered, .. } = self.entries[place as usize];
        let queue = &mut self.queues[usize::from(answered)];
        match before {
            NONE => queue.first = after,
            before => self.entries[before as usize].after = after,
        }
        match after {
            NONE => queue.last = before,
            after => self.entries[after as usize].before = before,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn expired(clients: &mut Clients<&'static str, ()>, since: Tick) -> Vec<&'static str> {
        std::iter::from_fn(|| clients.expire(since)).map(|(key, ())| key).collect()
    }

    #[test]
    fn the_silent_go_and_either_direction_keeps_a_client() {
        let mut clients = Clients::new();
        let [sends, gets, silent] = ["sends", "gets", "silent"].map(|key| clients.insert(key, (), 10));
        assert_eq!(clients.len(), 3);
        clients.heard(sends, 14);
        clients.answered(gets, 15);
        assert_eq!(clients.oldest(), Some(10));
        assert_eq!(expired(&mut clients, 10), Vec::<&str>::new());
        assert_eq!(expired(&mut clients, 11), ["silent"]);
        assert!(clients.get_mut(silent).is_none());
        let other = clients.insert("other", (), 12);
        assert_eq!(other.place, silent.place);
        assert!(clients.get_mut(silent).is_none(), "the name of who was there before");
        assert_eq!(Id::from_number(other.number()), other);
        assert_eq!(clients.remove(silent), None);
        assert_eq!(clients.remove(other), Some(("other", ())));
        assert_eq!(clients.oldest(), Some(14));
        assert_eq!(expired(&mut clients, 16), ["sends", "gets"]);
        assert!(clients.places.is_empty());
        assert_eq!(clients.oldest(), None);
    }

    #[test]
    fn room_is_made_by_who_never_got_an_answer_longest_silent_first() {
        let mut clients = Clients::new();
        let [first, answered, _] = ["first", "answered", "last"].map(|key| clients.insert(key, (), 1));
        clients.answered(answered, 1);
        clients.heard(first, 2);
        assert_eq!(clients.evict(), Some(("last", ())));
        assert_eq!(clients.evict(), Some(("first", ())));
        assert_eq!(clients.evict(), None, "who got an answer stays");
        assert_eq!(clients.find(&"answered"), Some(answered));
        assert_eq!(clients.find(&"first"), None);
    }

    #[test]
    fn some_may_have_to_go() {
        let mut clients = Clients::new();
        let [goes, stays] = ["goes", "stays"].map(|key| clients.insert(key, (), 1));
        clients.answered(goes, 1);
        assert_eq!(clients.retain(|key, ()| *key == "stays"), [("goes", ())]);
        assert!(clients.get_mut(goes).is_none() && clients.get_mut(stays).is_some());
        assert_eq!((clients.len(), clients.oldest()), (1, Some(1)));
        assert_eq!(clients.retain(|_, ()| false), [("stays", ())]);
        assert_eq!(clients.oldest(), None);
    }

    #[test]
    fn places_are_used_again() {
        let mut clients = Clients::new();
        for round in 0..100 {
            for key in 0..10 {
                clients.insert((round, key), (), round);
            }
            while clients.len() > 5 {
                assert!(clients.evict().is_some());
            }
        }
        assert_eq!(clients.entries.len(), 15);
        assert_eq!(clients.oldest(), Some(99));
    }

    proptest::proptest! {
        /// Against a list that is searched from end to end.
        #[test]
        fn agrees_with_a_plain_list(steps in proptest::collection::vec((0..5_u8, 0..8_u8), 0..200)) {
            let mut clients = Clients::new();
            let mut list: Vec<(u8, Tick, bool)> = Vec::new();
            for (now, (what, key)) in (10..).zip(steps) {
                let place = list.iter().position(|&(there, ..)| there == key);
                proptest::prop_assert_eq!(clients.find(&key).is_some(), place.is_some());
                match (what, place) {
                    (0, None) => { clients.insert(key, (), now); list.push((key, now, false)); }
                    (1, Some(place)) => {
                        clients.heard(clients.find(&key).unwrap(), now);
                        list[place].1 = now;
                    }
                    (2, Some(place)) => {
                        clients.answered(clients.find(&key).unwrap(), now);
                        list[place] = (key, now, true);
                    }
                    (3, _) => {
                        let oldest = list.iter().filter(|client| !client.2).min_by_key(|client| client.1).copied();
                        proptest::prop_assert_eq!(clients.evict().map(|(key, ())| key), oldest.map(|client| client.0));
                        list.retain(|&client| Some(client) != oldest);
                    }
                    (4, _) => {
                        while clients.expire(now - 3).is_some() {}
                        list.retain(|client| client.1 >= now - 3);
                    }
                    _ => {}
                }
                proptest::prop_assert_eq!(clients.len(), list.len());
                proptest::prop_assert_eq!(clients.oldest(), list.iter().map(|client| client.1).min());
            }
        }
    }
}
