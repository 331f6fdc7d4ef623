//! From listeners to the port table: a pure function.
//!
//! A port is held by one rule everywhere, or by several on single addresses. In the second case each stretch of ports
//! with the same listeners is a segment, found in the listener table under the segment's number.

use std::collections::{HashMap, HashSet};
use std::hash::Hash;
use std::net::{Ipv4Addr, Ipv6Addr};

use relay_common::net::{Address, Port, Protocol, ipv6_to_wire};
use relay_common::rule::{ListenerEntry, ListenerKey, PORT_TABLE, PortEntry, port_index};

use crate::plan::{KernelListener, KernelOn};
use crate::rule::{PortRange, Protocols};

/// An address of one of the two families.
pub trait Family: Copy {
    /// How it lies in the listener table; the default stands for "any".
    type Wire: Copy + Default + Ord + Hash;

    fn wire(self) -> Self::Wire;
}

impl Family for Ipv4Addr {
    type Wire = u32;

    fn wire(self) -> u32 {
        Address::from(self).to_wire()
    }
}

impl Family for Ipv6Addr {
    type Wire = [u32; 4];

    fn wire(self) -> [u32; 4] {
        ipv6_to_wire(self)
    }
}

/// The listener table of a family.
pub type Listeners<F> = HashMap<ListenerKey<<F as Family>::Wire>, ListenerEntry>;

/// The port table and the listener table that go with each other.
pub struct PortTables<F: Family> {
    pub ports: Vec<PortEntry>,
    pub listeners: Listeners<F>,
}

impl<F: Family> Default for PortTables<F> {
    fn default() -> Self {
        Self { ports: vec![PortEntry::NONE; PORT_TABLE as usize], listeners: HashMap::new() }
    }
}

/// Listeners of one rule slot.
pub struct Listening<'a, F> {
    pub slot: u32,
    pub protocols: Protocols,
    pub listeners: &'a [KernelListener<F>],
}

/// Numbers of segments by what listens there, so that a segment which stays keeps its number.
pub struct Segments<F: Family> {
    known: HashMap<Segment<F>, u32>,
    next: u32,
}

/// Who listens on a stretch of ports, sorted.
type Segment<F> = Vec<Member<F>>;
/// Address, interface, rule slot, first port of the listener's range.
type Member<F> = (<F as Family>::Wire, u32, u32, u16);
/// A listener that does not take every address, with its rule slot.
type Particular<F> = (Protocol, PortRange, KernelOn<F>, u32);

impl<F: Family> Default for Segments<F> {
    fn default() -> Self {
        Self { known: HashMap::new(), next: 0 }
    }
}

impl<F: Family> Segments<F> {
    /// The numbers in use, read back from a listener table.
    pub fn adopt(listeners: &Listeners<F>) -> Self {
        let mut segments: HashMap<u32, Segment<F>> = HashMap::new();
        for (key, entry) in listeners {
            let member = (key.address, key.interface, entry.rule, entry.first);
            segments.entry(key.segment).or_default().push(member);
        }
        let next = segments.keys().max().map_or(0, |last| last.wrapping_add(1));
        let known = segments
            .into_iter()
            .map(|(number, mut segment)| {
                segment.sort_unstable();
                (segment, number)
            })
            .collect();
        Self { known, next }
    }

    fn number(&mut self, segment: &Segment<F>) -> u32 {
        if let Some(&number) = self.known.get(segment) {
            return number;
        }
        let number = self.next;
        self.next = self.next.wrapping_add(1);
        self.known.insert(segment.clone(), number);
        number
    }

    /// Forgets segments that nothing refers to.
    fn retain(&mut self, used: &Listeners<F>) {
        let used: HashSet<u32> = used.keys().map(|key| key.segment).collect();
        self.known.retain(|_, number| used.contains(number));
    }
}

/// Lays out all listeners. Overlaps have been refused before; of two that slip through, the later rule wins.
pub fn lay_out<'a, F: Family + 'a>(
    rules: impl IntoIterator<Item = Listening<'a, F>>,
    segments: &mut Segments<F>,
) -> PortTables<F> {
    let mut tables = PortTables::default();
    let mut by_address: Vec<Particular<F>> = Vec::new();
    for rule in rules {
        for protocol in rule.protocols.iter() {
            for listener in rule.listeners {
                if matches!(listener.on, KernelOn::Everywhere) {
                    let entry = PortEntry::everywhere(rule.slot, listener.ports.first());
                    tables.fill(protocol, listener.ports, entry);
                } else {
                    by_address.push((protocol, listener.ports, listener.on, rule.slot));
                }
            }
        }
    }
    for protocol in Protocol::ALL {
        let listeners: Vec<_> = by_address.iter().filter(|(of, ..)| *of == protocol).collect();
        lay_out_segments(&mut tables, segments, protocol, &listeners);
    }
    segments.retain(&tables.listeners);
    tables
}

fn lay_out_segments<F: Family>(
    tables: &mut PortTables<F>,
    segments: &mut Segments<F>,
    protocol: Protocol,
    listeners: &[&Particular<F>],
) {
    // between two neighbouring bounds the set of listeners does not change
    let mut bounds: Vec<u32> = listeners
        .iter()
        .flat_map(|(_, ports, ..)| [u32::from(ports.first()), u32::from(ports.last()) + 1])
        .collect();
    bounds.sort_unstable();
    bounds.dedup();
    let mut coming: Vec<_> = listeners.to_vec();
    coming.sort_unstable_by_key(|(_, range, ..)| std::cmp::Reverse(range.first()));
    let mut there: Vec<&Particular<F>> = Vec::new();
    for pair in bounds.windows(2) {
        let ports = PortRange::new(pair[0] as u16, (pair[1] - 1) as u16);
        let Some(ports) = ports else { continue };
        there.retain(|(_, range, ..)| range.last() >= ports.first());
        while let Some(listener) = coming.pop_if(|(_, range, ..)| range.first() <= ports.first()) {
            there.push(listener);
        }
        let mut segment: Segment<F> =
            there.iter().map(|&&(_, range, on, slot)| member(on, slot, range.first())).collect();
        if segment.is_empty() {
            continue;
        }
        segment.sort_unstable();
        let number = segments.number(&segment);
        tables.fill(protocol, ports, PortEntry::by_address(number));
        for (address, interface, rule, first) in segment {
            let key = ListenerKey { segment: number, address, interface };
            tables.listeners.insert(key, ListenerEntry { rule, first, _reserved: 0 });
        }
    }
}

fn member<F: Family>(on: KernelOn<F>, slot: u32, first: u16) -> Member<F> {
    let any = F::Wire::default();
    match on {
        KernelOn::Address(address) => (address.wire(), 0, slot, first),
        KernelOn::Interface(index) => (any, index, slot, first),
        KernelOn::Everywhere => (any, 0, slot, first),
    }
}

impl<F: Family> PortTables<F> {
    fn fill(&mut self, protocol: Protocol, ports: PortRange, entry: PortEntry) {
        let first = port_index(protocol, Port::new(ports.first())) as usize;
        let last = port_index(protocol, Port::new(ports.last())) as usize;
        self.ports[first..=last].fill(entry);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn on(address: u8, first: u16, last: u16) -> KernelListener {
        let on = match address {
            0 => KernelOn::Everywhere,
            last => KernelOn::Address(Ipv4Addr::new(10, 0, 0, last)),
        };
        KernelListener { on, ports: PortRange::new(first, last).expect("range") }
    }

    fn tables(rules: &[Vec<KernelListener>], segments: &mut Segments<Ipv4Addr>) -> PortTables<Ipv4Addr> {
        let listening = rules.iter().enumerate().map(|(slot, listeners)| Listening {
            slot: slot as u32,
            protocols: Protocols::Tcp,
            listeners,
        });
        lay_out(listening, segments)
    }

    /// The rules that listen on an address and port, as the program would find them.
    fn rule_at(tables: &PortTables<Ipv4Addr>, address: u8, port: u16) -> Option<u32> {
        use relay_common::rule::PortKind;
        let entry = tables.ports[port_index(Protocol::Tcp, Port::new(port)) as usize];
        match entry.kind() {
            PortKind::None => None,
            PortKind::Everywhere => Some(entry.id()),
            PortKind::ByAddress => {
                let address = Address::from(Ipv4Addr::new(10, 0, 0, address)).to_wire();
                let key = ListenerKey { segment: entry.id(), address, interface: 0 };
                tables.listeners.get(&key).map(|entry| entry.rule)
            }
        }
    }

    #[test]
    fn a_range_is_filled_and_nothing_else() {
        let tables = tables(&[vec![on(0, 100, 200)]], &mut Segments::default());
        assert_eq!(rule_at(&tables, 1, 99), None);
        assert_eq!(rule_at(&tables, 1, 100), Some(0));
        assert_eq!(rule_at(&tables, 1, 200), Some(0));
        assert_eq!(rule_at(&tables, 1, 201), None);
        assert_eq!(tables.ports.iter().filter(|&&entry| entry != PortEntry::NONE).count(), 101);
        assert!(tables.listeners.is_empty());
    }

    #[test]
    fn overlapping_ranges_on_different_addresses_are_told_apart() {
        let rules = [vec![on(1, 100, 200)], vec![on(2, 150, 300)], vec![on(1, 250, 260)]];
        let tables = tables(&rules, &mut Segments::default());
        for (address, port, rule) in [
            (1, 100, Some(0)),
            (2, 100, None),
            (1, 150, Some(0)),
            (2, 150, Some(1)),
            (1, 201, None),
            (2, 201, Some(1)),
            (1, 255, Some(2)),
            (2, 255, Some(1)),
            (2, 301, None),
        ] {
            assert_eq!(rule_at(&tables, address, port), rule, "{address} {port}");
        }
    }

    #[test]
    fn segments_that_stay_keep_their_number() {
        let mut segments = Segments::default();
        let one = vec![on(1, 100, 100)];
        let before = tables(std::slice::from_ref(&one), &mut segments);
        let after = tables(&[one.clone(), vec![on(2, 50, 60)]], &mut segments);
        let index = port_index(Protocol::Tcp, Port::new(100)) as usize;
        assert_eq!(before.ports[index], after.ports[index]);
        let adopted = tables(&[one], &mut Segments::adopt(&before.listeners));
        assert_eq!(before.ports[index], adopted.ports[index]);
    }

    #[test]
    fn ipv6_is_laid_out_by_itself() {
        let address = Ipv6Addr::new(0x2001, 0xdb8, 0, 0, 0, 0, 0, 1);
        let listener =
            KernelListener { on: KernelOn::Address(address), ports: PortRange::new(80, 89).expect("range") };
        let rule = Listening { slot: 7, protocols: Protocols::Udp, listeners: &[listener] };
        let tables = lay_out([rule], &mut Segments::default());
        let entry = tables.ports[port_index(Protocol::Udp, Port::new(85)) as usize];
        let key = ListenerKey { segment: entry.id(), address: address.wire(), interface: 0 };
        assert_eq!(tables.listeners.get(&key), Some(&ListenerEntry { rule: 7, first: 80, _reserved: 0 }));
        assert_eq!(tables.ports[port_index(Protocol::Tcp, Port::new(85)) as usize], PortEntry::NONE);
    }

    #[test]
    fn a_range_is_one_listener_entry_however_wide() {
        let tables = tables(&[vec![on(1, 1, 60000)]], &mut Segments::default());
        assert_eq!(tables.listeners.len(), 1);
    }
}
