//! Laying out what the shared sockets take into the tables that the lookup program reads. Pure.

use std::collections::{HashMap, HashSet};
use std::net::{IpAddr, Ipv4Addr};

use relay_common::lookup::{BLOCK, BLOCKS, Block, Family, Spot, Taken, place};
use relay_common::net::{Address, Protocol};

use super::Stretch;
use crate::rule::PortRange;

/// What is taken on one stretch of ports by single addresses: addresses in order, each with whether it is forced.
type Set = Vec<([u32; 4], bool)>;

/// The tables' contents.
#[derive(Clone, Debug)]
pub struct Layout {
    pub blocks: Vec<Block>,
    pub sets: HashMap<Spot, u32>,
    numbers: HashMap<Set, u16>,
}

impl Default for Layout {
    fn default() -> Self {
        let blocks = vec![Block::EMPTY; BLOCKS as usize];
        Self { blocks, sets: HashMap::new(), numbers: HashMap::new() }
    }
}

/// More different sets of addresses than there are numbers for them.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub struct TooManySets;

impl Layout {
    /// Sets that `before` had keep their number, and no number gets another meaning: packets are looked up meanwhile.
    pub fn of(stretches: &[Stretch], before: &Self) -> Result<Self, TooManySets> {
        let mut layout = Self::default();
        let used: HashSet<u16> = before.numbers.values().copied().collect();
        let mut free = (1..=Taken::MOST_SETS).filter(|number| !used.contains(number));
        for protocol in Protocol::ALL {
            for family in [Family::V4, Family::V6] {
                let of_group: Vec<&Stretch> = stretches
                    .iter()
                    .filter(|stretch| stretch.protocol == protocol && family_of(stretch.address) == family)
                    .collect();
                layout.fill_by_address(&of_group, before, &mut free)?;
                for stretch in of_group.iter().filter(|stretch| stretch.address.is_unspecified()) {
                    layout.fill(stretch, stretch.ports, Taken::everywhere(stretch.forced));
                }
            }
        }
        Ok(layout)
    }

    fn fill(&mut self, stretch: &Stretch, ports: PortRange, taken: Taken) {
        for port in ports.first()..=ports.last() {
            let place = place(stretch.protocol, family_of(stretch.address), port) as usize;
            self.blocks[place / BLOCK].ports[place % BLOCK] = taken;
        }
    }

    fn fill_by_address(
        &mut self,
        stretches: &[&Stretch],
        before: &Self,
        free: &mut impl Iterator<Item = u16>,
    ) -> Result<(), TooManySets> {
        let mut coming: Vec<&Stretch> =
            stretches.iter().copied().filter(|stretch| !stretch.address.is_unspecified()).collect();
        // between two neighbouring bounds the set of addresses does not change
        let mut bounds: Vec<u32> = coming
            .iter()
            .flat_map(|stretch| [u32::from(stretch.ports.first()), u32::from(stretch.ports.last()) + 1])
            .collect();
        bounds.sort_unstable();
        bounds.dedup();
        coming.sort_unstable_by_key(|stretch| std::cmp::Reverse(stretch.ports.first()));
        let mut there: Vec<&Stretch> = Vec::new();
        for pair in bounds.windows(2) {
            let Some(ports) = PortRange::new(pair[0] as u16, (pair[1] - 1) as u16) else { continue };
            there.retain(|stretch| stretch.ports.last() >= ports.first());
            while let Some(stretch) = coming.pop_if(|stretch| stretch.ports.first() <= ports.first()) {
                there.push(stretch);
            }
            let Some(&any) = there.first() else { continue };
            let mut set: Set = there.iter().map(|stretch| (words(stretch.address), stretch.forced)).collect();
            set.sort_unstable();
            let taken = Taken::by_address(self.number(set, before, free)?);
            self.fill(any, ports, taken);
        }
        Ok(())
    }

    fn number(
        &mut self,
        set: Set,
        before: &Self,
        free: &mut impl Iterator<Item = u16>,
    ) -> Result<u16, TooManySets> {
        if let Some(&number) = self.numbers.get(&set) {
            return Ok(number);
        }
        let number = match before.numbers.get(&set) {
            Some(&number) => number,
            None => free.next().ok_or(TooManySets)?,
        };
        for &(address, forced) in &set {
            self.sets.insert(Spot { number: number.into(), address }, forced.into());
        }
        self.numbers.insert(set, number);
        Ok(number)
    }

    /// Whether a program that listens here must get what it listens for, or some of it.
    pub fn yields_at(&self, spot: &Spot) -> bool {
        let place = spot.number as usize;
        let Some(block) = self.blocks.get(place / BLOCK) else { return false };
        let taken = block.ports[place % BLOCK];
        if taken.is_nothing() || taken.is_everywhere() {
            return taken.is_everywhere() && !taken.is_forced();
        }
        let of_set = |address| self.sets.get(&Spot { number: taken.set(), address });
        spot.address == [0; 4] || of_set(spot.address) == Some(&0)
    }
}

pub const fn family_of(address: IpAddr) -> Family {
    match address {
        IpAddr::V4(_) => Family::V4,
        IpAddr::V6(_) => Family::V6,
    }
}

/// An address as it lies in the tables.
pub fn words(address: IpAddr) -> [u32; 4] {
    match address {
        IpAddr::V4(address) => [Address::from(address).to_wire(), 0, 0, 0],
        IpAddr::V6(address) => {
            let octets = address.octets();
            let (words, _) = octets.as_chunks::<4>();
            [words[0], words[1], words[2], words[3]].map(u32::from_ne_bytes)
        }
    }
}

/// Where a socket with this address and port is in the way: one on every IPv6 address may be there for IPv4 too.
pub fn spots(protocol: Protocol, address: IpAddr, port: u16) -> impl Iterator<Item = Spot> {
    let also = match address {
        IpAddr::V6(all) if all.is_unspecified() => Some(IpAddr::V4(Ipv4Addr::UNSPECIFIED)),
        IpAddr::V6(other) => other.to_ipv4_mapped().map(IpAddr::V4),
        IpAddr::V4(_) => None,
    };
    [Some(address), also].into_iter().flatten().map(move |address| Spot {
        number: place(protocol, family_of(address), port),
        address: words(address),
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    fn stretch(address: &str, first: u16, last: u16) -> Stretch {
        let ports = PortRange::new(first, last).expect("range");
        Stretch { protocol: Protocol::Tcp, ports, address: address.parse().expect("address"), forced: false }
    }

    /// Whether the program would take a connection.
    fn takes(layout: &Layout, address: &str, port: u16) -> bool {
        let address: IpAddr = address.parse().expect("address");
        let place = place(Protocol::Tcp, family_of(address), port) as usize;
        let taken = layout.blocks[place / BLOCK].ports[place % BLOCK];
        let spot = Spot { number: taken.set(), address: words(address) };
        taken.is_everywhere() || (!taken.is_nothing() && layout.sets.contains_key(&spot))
    }

    fn layout(stretches: &[Stretch]) -> Layout {
        Layout::of(stretches, &Layout::default()).expect("numbers")
    }

    #[test]
    fn families_and_bounds_are_kept_apart() {
        let layout = layout(&[stretch("0.0.0.0", 100, 60_000), stretch("2001:db8::1", 150, 200)]);
        for (address, port, taken) in [
            ("192.0.2.1", 99, false),
            ("192.0.2.1", 100, true),
            ("192.0.2.1", 60_000, true),
            ("192.0.2.1", 60_001, false),
            ("2001:db8::1", 149, false),
            ("2001:db8::1", 150, true),
            ("2001:db8::1", 200, true),
            ("2001:db8::1", 201, false),
            ("2001:db8::2", 150, false),
        ] {
            assert_eq!(takes(&layout, address, port), taken, "{address} {port}");
        }
    }

    #[test]
    fn sets_keep_their_numbers_and_numbers_their_sets() {
        let (one, two) = (stretch("192.0.2.1", 100, 200), stretch("192.0.2.2", 150, 300));
        let before = layout(std::slice::from_ref(&one));
        let both = Layout::of(&[one.clone(), two.clone()], &before).expect("numbers");
        assert!(takes(&both, "192.0.2.1", 150) && takes(&both, "192.0.2.2", 150));
        assert!(!takes(&both, "192.0.2.2", 100) && !takes(&both, "192.0.2.1", 300));
        let number = |layout: &Layout, port: usize| {
            let place = place(Protocol::Tcp, Family::V4, port as u16) as usize;
            layout.blocks[place / BLOCK].ports[place % BLOCK].set()
        };
        assert_eq!(number(&before, 100), number(&both, 100));
        let after = Layout::of(&[two], &both).expect("numbers");
        assert_eq!(number(&both, 300), number(&after, 300));
        assert_ne!(number(&both, 100), number(&after, 150));
    }

    #[test]
    fn a_program_is_yielded_to_where_it_is_in_the_way() {
        let forced = Stretch { forced: true, ..stretch("0.0.0.0", 1000, 1999) };
        let layout = layout(&[stretch("0.0.0.0", 100, 199), stretch("2001:db8::1", 100, 199), forced]);
        let yields = |address: &str, port| {
            let mut spots = spots(Protocol::Tcp, address.parse().expect("address"), port);
            spots.any(|spot| layout.yields_at(&spot))
        };
        assert!(yields("0.0.0.0", 150) && yields("127.0.0.1", 150) && yields("::", 150));
        assert!(yields("2001:db8::1", 150) && yields("::ffff:192.0.2.1", 150));
        assert!(!yields("2001:db8::2", 150), "nothing is taken there");
        assert!(!yields("0.0.0.0", 99) && !yields("0.0.0.0", 1500));
    }
}
