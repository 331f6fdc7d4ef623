//! The clients of one listener: who they are, how long they have been silent, who goes first. Pure; time is an argument.

use std::collections::HashMap;
use std::hash::Hash;

/// Coarse time: no client is moved more than once in a tick, however many datagrams it sends.
pub type Tick = u32;

/// Names a client until it is removed.
pub type Id = u32;

/// In place of an [`Id`].
const NONE: Id = Id::MAX;

/// Two queues, longest silent first: those that got an answer, and those that never did.
#[derive(Debug)]
pub struct Clients<K, V> {
    entries: Vec<Entry<K, V>>,
    ids: HashMap<K, Id>,
    free: Id,
    queues: [Queue; 2],
}

#[derive(Debug)]
struct Entry<K, V> {
    seen: Tick,
    answered: bool,
    before: Id,
    after: Id,
    client: Option<(K, V)>,
}

#[derive(Clone, Copy, Debug)]
struct Queue {
    first: Id,
    last: Id,
}

impl Queue {
    const EMPTY: Self = Self { first: NONE, last: NONE };
}

impl<K: Copy + Eq + Hash, V> Clients<K, V> {
    pub fn new() -> Self {
        Self { entries: Vec::new(), ids: HashMap::new(), free: NONE, queues: [Queue::EMPTY; 2] }
    }

    pub fn len(&self) -> usize {
        self.ids.len()
    }

    pub fn is_empty(&self) -> bool {
        self.ids.is_empty()
    }

    pub fn find(&self, key: &K) -> Option<Id> {
        self.ids.get(key).copied()
    }

    pub fn get_mut(&mut self, id: Id) -> Option<(&K, &mut V)> {
        let (key, value) = self.entries.get_mut(id as usize)?.client.as_mut()?;
        Some((key, value))
    }

    /// Adds a client that is not there yet.
    pub fn insert(&mut self, key: K, value: V, now: Tick) -> Id {
        let entry =
            Entry { seen: now, answered: false, before: NONE, after: NONE, client: Some((key, value)) };
        let id = if self.free == NONE {
            self.entries.push(entry);
            Id::try_from(self.entries.len() - 1).unwrap_or(NONE)
        } else {
            let id = self.free;
            let place = &mut self.entries[id as usize];
            self.free = place.after;
            *place = entry;
            id
        };
        self.ids.insert(key, id);
        self.append(id);
        id
    }

    /// The client sent something.
    pub fn heard(&mut self, id: Id, now: Tick) {
        let entry = &self.entries[id as usize];
        if entry.seen != now {
            self.renew(id, now, entry.answered);
        }
    }

    /// The client was sent something.
    pub fn answered(&mut self, id: Id, now: Tick) {
        let entry = &self.entries[id as usize];
        if entry.seen != now || !entry.answered {
            self.renew(id, now, true);
        }
    }

    /// Removes one client that has been silent since before `since`.
    pub fn expire(&mut self, since: Tick) -> Option<(K, V)> {
        let id = self.queues.iter().map(|queue| queue.first).find(|&id| self.silent_since(id) < since)?;
        self.remove(id)
    }

    /// When the longest silent client was last heard.
    pub fn oldest(&self) -> Option<Tick> {
        let firsts = self.queues.iter().map(|queue| queue.first).filter(|&id| id != NONE);
        firsts.map(|id| self.silent_since(id)).min()
    }

    /// Removes the longest silent client of those that never got an answer.
    pub fn evict(&mut self) -> Option<(K, V)> {
        self.remove(self.queues[usize::from(false)].first)
    }

    fn silent_since(&self, id: Id) -> Tick {
        self.entries.get(id as usize).map_or(Tick::MAX, |entry| entry.seen)
    }

    fn remove(&mut self, id: Id) -> Option<(K, V)> {
        let client = self.entries.get_mut(id as usize)?.client.take()?;
        self.unlink(id);
        self.entries[id as usize].after = self.free;
        self.free = id;
        self.ids.remove(&client.0);
        if self.ids.is_empty() {
            // What a flood has grown is given back.
            *self = Self::new();
        }
        Some(client)
    }

    fn renew(&mut self, id: Id, now: Tick, answered: bool) {
        self.unlink(id);
        let entry = &mut self.entries[id as usize];
        entry.seen = now;
        entry.answered = answered;
        self.append(id);
    }

    fn append(&mut self, id: Id) {
        let queue = &mut self.queues[usize::from(self.entries[id as usize].answered)];
        let before = std::mem::replace(&mut queue.last, id);
        if before == NONE {
            queue.first = id;
        } else {
            self.entries[before as usize].after = id;
        }
        let entry = &mut self.entries[id as usize];
        entry.before = before;
        entry.after = NONE;
    }

    fn unlink(&mut self, id: Id) {
        let Entry { before, after, answered, .. } = self.entries[id as usize];
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
        assert_eq!(clients.oldest(), Some(14));
        assert_eq!(expired(&mut clients, 16), ["sends", "gets"]);
        assert!(clients.is_empty());
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
