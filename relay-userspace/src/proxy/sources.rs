//! What each client address has open, and how fast it may come. An IPv6 client has a network of 2^64 addresses to itself
//! (RFC 6177), which counts as one.

use std::collections::HashMap;
use std::net::{IpAddr, Ipv6Addr};

use relay_common::usage::Pace;

use super::counters::Refusal;
use crate::rule::Limits;

/// An IPv4 address, or the IPv6 network that an address is of.
#[derive(Clone, Copy, Debug, Eq, Hash, PartialEq)]
pub struct Source(IpAddr);

impl Source {
    pub fn of(client: IpAddr) -> Self {
        Self(match client.to_canonical() {
            IpAddr::V4(address) => address.into(),
            IpAddr::V6(address) => Ipv6Addr::from_bits(address.to_bits() & !u128::from(u64::MAX)).into(),
        })
    }
}

/// Addresses whose pace is known.
const MOST_PACES: usize = 16_384;
/// Nanoseconds between two looks for those that need not be known any more.
const BETWEEN_LOOKS: u64 = 100_000_000;

/// The client addresses of one rule.
#[derive(Debug, Default)]
pub struct Sources {
    /// Never more than there are sessions.
    open: HashMap<Source, u32>,
    paces: HashMap<Source, Pace>,
    looked: u64,
}

impl Sources {
    /// Whether something new may begin, which counts for the pace.
    pub fn admit(&mut self, source: Source, limits: Limits, now: u64) -> Result<(), Refusal> {
        let open = self.open.get(&source).copied().unwrap_or(0);
        if limits.connections_per_ip > 0 && open >= limits.connections_per_ip {
            return Err(Refusal::LimitConnectionsPerIp);
        }
        if limits.new_flows_per_ip == 0 {
            self.paces = HashMap::new();
            return Ok(());
        }
        if self.paces.len() >= MOST_PACES && !self.paces.contains_key(&source) && !self.make_room(now) {
            // so many at once are no clients: the rule's own pace is what holds them
            return Ok(());
        }
        let pace = self.paces.entry(source).or_default();
        let admits = pace.admits(Pace::interval(limits.new_flows_per_ip), now);
        if admits { Ok(()) } else { Err(Refusal::LimitNewFlowsPerIp) }
    }

    /// Forgets who has been silent for so long that it has all its pace to itself again.
    fn make_room(&mut self, now: u64) -> bool {
        if now.saturating_sub(self.looked) < BETWEEN_LOOKS {
            return false;
        }
        self.looked = now;
        self.paces.retain(|_, pace| !pace.is_rested(now));
        self.paces.len() < MOST_PACES
    }

    /// One more is open, unless that is too many.
    pub fn enter(&mut self, source: Source, most: u32) -> Result<(), Refusal> {
        let open = self.open.entry(source).or_default();
        if *open >= most {
            return Err(Refusal::LimitConnectionsPerIp);
        }
        *open += 1;
        Ok(())
    }

    /// One less is open.
    pub fn leave(&mut self, source: Source) {
        if let Some(open) = self.open.get_mut(&source) {
            *open -= 1;
            if *open == 0 {
                self.open.remove(&source);
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::net::Ipv4Addr;

    const SECOND: u64 = 1_000_000_000;

    fn source(text: &str) -> Source {
        Source::of(text.parse().expect(text))
    }

    #[test]
    fn a_network_of_ipv6_is_one_client() {
        assert_eq!(source("2001:db8:0:1::1"), source("2001:db8:0:1:ffff::2"));
        assert_ne!(source("2001:db8:0:1::1"), source("2001:db8:0:2::1"));
        assert_ne!(source("192.0.2.1"), source("192.0.2.2"));
        assert_eq!(source("::ffff:192.0.2.1"), source("192.0.2.1"));
    }

    #[test]
    fn nothing_stays_of_who_has_left() {
        let mut sources = Sources::default();
        let client = source("192.0.2.1");
        assert_eq!([sources.enter(client, 2), sources.enter(client, 2)], [Ok(()); 2]);
        assert!(sources.enter(client, 2).is_err());
        sources.leave(client);
        assert_eq!(sources.enter(client, 2), Ok(()));
        sources.leave(client);
        sources.leave(client);
        assert!(sources.open.is_empty());
    }

    #[test]
    fn a_flood_of_addresses_stays_within_bounds() {
        let mut sources = Sources::default();
        let limits = Limits { new_flows_per_ip: 1, ..Limits::default() };
        let mut admit =
            |number: u32, now| sources.admit(Source::of(Ipv4Addr::from(number).into()), limits, now);
        let start = 1000 * SECOND;
        for number in 0..2 * MOST_PACES as u32 {
            assert_eq!(admit(number, start), Ok(()));
        }
        assert_eq!(admit(7, start), Err(Refusal::LimitNewFlowsPerIp), "who was known stays known");
        assert_eq!(admit(7, start + SECOND), Ok(()));
        let late = start + 2 * SECOND;
        assert_eq!([admit(1 << 20, late), admit(1 << 20, late)], [Ok(()), Err(Refusal::LimitNewFlowsPerIp)]);
        assert_eq!(sources.paces.len(), 1, "the others have been forgotten");
    }
}
