//! IPv6 addresses of this host and of backends in the maps. Flows know them by numbers, which keep their meaning for as long
//! as numbers last: an address that goes leaves its number behind, and the one longest left behind is given out first.

use std::collections::{BTreeMap, HashSet};
use std::fs::File;
use std::io::Read as _;
use std::net::Ipv6Addr;

use relay_common::digest::{Digest, Secret};
use relay_common::names;
use relay_common::net::ipv6_to_wire;
use relay_common::rule::{Numbered, OwnAddress};

use super::apply::{absent_is_fine, map_error};
use super::load::Dataplane;
use super::{Desired, KernelError, Unavailable, maps};

/// The secret of the flows that there are, or a new one.
pub(super) fn secret(maps: &maps::Maps) -> Result<Secret, Unavailable> {
    let known =
        maps.settings.get(&0, 0).map_err(|error| Unavailable(format!("map {}: {error}", names::SETTINGS)))?;
    if known.secret != Secret::default() {
        return Ok(known.secret);
    }
    let mut bytes = [0; size_of::<Secret>()];
    let read = File::open("/dev/urandom").and_then(|mut random| random.read_exact(&mut bytes));
    read.map_err(|error| Unavailable(format!("/dev/urandom: {error}")))?;
    let mut secret = Secret::default();
    for (word, bytes) in secret.words.iter_mut().zip(bytes.as_chunks().0) {
        *word = u32::from_ne_bytes(*bytes);
    }
    Ok(secret)
}

impl Dataplane {
    pub(super) fn add_addresses_v6(&mut self, desired: &Desired) -> Result<(), KernelError> {
        for (address, interface) in chosen(&desired.addresses_v6) {
            // no flow is sent from an address of one link; it is known so that what comes there for relayd is counted
            let number = if address.is_unicast_link_local() { 0 } else { self.number(address)? };
            let (own, address) = (OwnAddress { interface, number }, ipv6_to_wire(address));
            if self.shadow.addresses_v6.get(&address) == Some(&own) {
                continue;
            }
            let inserted = self.maps.addresses_v6.insert(address, own, 0);
            if self.shortage.has_room(inserted).map_err(map_error(names::ADDRESSES_V6))? {
                self.shadow.addresses_v6.insert(address, own);
            } else {
                self.shortage.addresses += 1;
            }
        }
        self.shortage.addresses += desired.addresses_v6.len().saturating_sub(maps::ADDRESSES);
        Ok(())
    }

    /// The number of an address, one that it gets now if it has none.
    pub(super) fn number(&mut self, address: Ipv6Addr) -> Result<u32, KernelError> {
        let address = ipv6_to_wire(address);
        let most = maps::NUMBERS as usize - 1;
        let slot = self.shadow.numbered.slot(&address);
        let (number, new) = slot.ok_or(KernelError::TooManyAddresses { most })?;
        if new {
            let entry = Numbered { address, digest: Digest::new(&address, &self.secret) };
            self.maps.numbered.set(number, entry, 0).map_err(map_error(names::NUMBERED))?;
        }
        Ok(number)
    }

    pub(super) fn remove_addresses_v6(&mut self, desired: &Desired) -> Result<(), KernelError> {
        let wanted: HashSet<[u32; 4]> =
            chosen(&desired.addresses_v6).map(|(address, _)| ipv6_to_wire(address)).collect();
        let gone = self.shadow.addresses_v6.keys().filter(|address| !wanted.contains(*address));
        for address in gone.copied().collect::<Vec<_>>() {
            absent_is_fine(self.maps.addresses_v6.remove(&address))
                .map_err(map_error(names::ADDRESSES_V6))?;
            self.shadow.addresses_v6.remove(&address);
        }
        self.shadow.free_numbers();
        Ok(())
    }
}

/// Own addresses that there is room for, those that flows may be sent from first.
fn chosen(addresses: &BTreeMap<Ipv6Addr, u32>) -> impl Iterator<Item = (Ipv6Addr, u32)> {
    let of = |link_local| {
        let addresses = addresses.iter().map(|(&address, &interface)| (address, interface));
        addresses.filter(move |(address, _)| address.is_unicast_link_local() == link_local)
    };
    of(false).chain(of(true)).take(maps::ADDRESSES)
}
