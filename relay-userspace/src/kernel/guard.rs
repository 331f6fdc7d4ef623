//! Allow lists in the maps. What a rule's list gains is written before the rule says so, and what it loses goes after.

use std::collections::{HashMap, HashSet};

use aya::maps::lpm_trie::Key;
use relay_common::names;
use relay_common::net::{MAPPED_BITS, ipv6_to_wire, mapped};
use relay_common::rule::SourceKey;

use super::apply::{absent_is_fine, map_error};
use super::load::Dataplane;
use super::{Desired, KernelError};
use crate::rule::AllowList;

/// A network of a list: where it begins, and its length.
#[derive(Clone, Copy, Debug, Eq, Hash, PartialEq)]
pub struct AllowedPrefix {
    pub address: [u32; 4],
    pub bits: u32,
}

/// The allow lists of all slots, as the map holds them.
#[derive(Debug, Default)]
pub struct Guards {
    pub lists: HashMap<u32, HashSet<AllowedPrefix>>,
    /// The highest number that any list has had.
    pub number: u32,
}

/// Networks of all lists together. The map takes twice as many, since a list and its successor are in it at once.
pub const MOST_NETWORKS: usize = 32_768;

/// Whether all lists have room.
pub(super) fn check_room(desired: &Desired) -> Result<(), KernelError> {
    let lists = desired.rules.iter().filter_map(|rule| rule.allow.as_deref());
    let wanted: usize = lists.map(AllowList::len).sum();
    if wanted > MOST_NETWORKS {
        return Err(KernelError::TooManyNetworks { wanted, most: MOST_NETWORKS });
    }
    Ok(())
}

impl Dataplane {
    /// Lets in who is new on a rule's list. Returns the number that stands for the list: `current` if it has not changed.
    pub(super) fn widen(&mut self, slot: u32, list: &AllowList, current: u32) -> Result<u32, KernelError> {
        let wanted = prefixes(list);
        let held = self.shadow.guards.lists.entry(slot).or_default();
        if current != 0 && wanted == *held {
            return Ok(current);
        }
        for prefix in wanted.iter().filter(|prefix| !held.contains(prefix)).copied().collect::<Vec<_>>() {
            self.maps.allowed.insert(&key(slot, prefix), 1, 0).map_err(map_error(names::ALLOWED))?;
            held.insert(prefix);
        }
        let number = &mut self.shadow.guards.number;
        *number = number.wrapping_add(1).max(1);
        Ok(*number)
    }

    /// Keeps out who is on a rule's list no more; `None`: the rule has none.
    pub(super) fn narrow(&mut self, slot: u32, list: Option<&AllowList>) -> Result<(), KernelError> {
        let Some(held) = self.shadow.guards.lists.get_mut(&slot) else { return Ok(()) };
        let wanted = list.map(prefixes).unwrap_or_default();
        for prefix in held.iter().filter(|prefix| !wanted.contains(prefix)).copied().collect::<Vec<_>>() {
            absent_is_fine(self.maps.allowed.remove(&key(slot, prefix)))
                .map_err(map_error(names::ALLOWED))?;
            held.remove(&prefix);
        }
        if held.is_empty() {
            self.shadow.guards.lists.remove(&slot);
        }
        Ok(())
    }
}

fn prefixes(list: &AllowList) -> HashSet<AllowedPrefix> {
    list.ipv4()
        .map(|(network, length)| AllowedPrefix {
            address: mapped(network.into()),
            bits: MAPPED_BITS + u32::from(length),
        })
        .chain(
            list.ipv6().map(|(network, length)| AllowedPrefix {
                address: ipv6_to_wire(network),
                bits: length.into(),
            }),
        )
        .collect()
}

fn key(slot: u32, prefix: AllowedPrefix) -> Key<SourceKey> {
    Key::new(SourceKey::RULE_BITS + prefix.bits, SourceKey::new(slot, prefix.address))
}
