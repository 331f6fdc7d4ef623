//! Minutes that the database does not know yet.

use std::collections::{BTreeMap, HashMap};
use std::hash::Hash;

use super::amounts::Amounts;

/// Minutes of an account that wait for a database which cannot be written. More are made fewer, none is lost.
pub const MOST_WAITING: usize = 60;

/// By account, and by minute since 1970.
#[derive(Debug)]
pub struct Waiting<K>(HashMap<K, BTreeMap<u64, Amounts>>);

impl<K> Default for Waiting<K> {
    fn default() -> Self {
        Self(HashMap::new())
    }
}

impl<K: Clone + Eq + Hash> Waiting<K> {
    pub fn add(&mut self, name: &K, minute: u64, came: Amounts) {
        let minutes = self.0.entry(name.clone()).or_default();
        *minutes.entry(minute).or_default() += came;
        if minutes.len() > MOST_WAITING
            && let Some((_, oldest)) = minutes.pop_first()
            && let Some(mut next) = minutes.first_entry()
        {
            *next.get_mut() += oldest;
        }
    }

    /// What is to be written.
    pub fn entries(&self) -> Vec<(K, u64, Amounts)> {
        let of_one = |(name, minutes): (&K, &BTreeMap<u64, Amounts>)| {
            let rows = minutes.iter().map(|(minute, amounts)| (name.clone(), *minute, *amounts));
            rows.collect::<Vec<_>>()
        };
        self.0.iter().flat_map(of_one).collect()
    }

    /// What [`Self::entries`] gave is in the database; what has come since is not.
    pub fn written(&mut self, entries: &[(K, u64, Amounts)]) {
        for (name, minute, amounts) in entries {
            let Some(minutes) = self.0.get_mut(name) else { continue };
            let more =
                minutes.remove(minute).and_then(|now| now.since(amounts)).filter(|more| !more.is_zero());
            minutes.extend(more.map(|more| (*minute, more)));
            if minutes.is_empty() {
                self.0.remove(name);
            }
        }
    }
}
