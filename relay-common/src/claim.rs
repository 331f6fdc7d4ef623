//! Where the search for a free source port begins and how it steps.
//!
//! The same client socket talking to the same endpoint starts at the same port every time: a reconnect finds its
//! old claim again, so the backend sees the same tuple, sequence numbers and timestamps that it would see from the
//! client directly, and its TIME_WAIT rules apply unchanged.

use crate::net::{Address, Port};

/// Ports tried for one flow before it is refused.
pub const TRIES: u32 = 32;

/// A 32-bit mix of a client socket and its endpoint (the finaliser of MurmurHash3, public domain, applied per word).
#[inline(always)]
pub const fn seed(client: Address, client_port: Port, endpoint: Address, endpoint_port: Port) -> u32 {
    let mut h = mix(client.to_wire() ^ 0x9e37_79b9);
    h = mix(h ^ endpoint.to_wire());
    mix(h ^ ((client_port.to_wire() as u32) << 16) ^ endpoint_port.to_wire() as u32)
}

#[inline(always)]
const fn mix(mut h: u32) -> u32 {
    h ^= h >> 16;
    h = h.wrapping_mul(0x85eb_ca6b);
    h ^= h >> 13;
    h = h.wrapping_mul(0xc2b2_ae35);
    h ^ (h >> 16)
}

/// Scales `random` to `first..first + count` without a division (multiply and shift).
#[inline(always)]
pub const fn port_in(random: u32, first: u16, count: u16) -> Port {
    let offset = (random as u64 * count as u64) >> 32;
    Port::new(first.wrapping_add(offset as u16))
}

#[cfg(test)]
mod tests {
    use super::*;
    use core::net::Ipv4Addr;

    #[test]
    fn ports_stay_in_range_and_reach_both_ends() {
        assert_eq!(port_in(0, 1024, 31744).number(), 1024);
        assert_eq!(port_in(u32::MAX, 1024, 31744).number(), 32767);
        assert_eq!(port_in(u32::MAX, 4000, 1).number(), 4000);
    }

    #[test]
    fn seeds_spread_over_the_range() {
        let endpoint = Address::from(Ipv4Addr::new(203, 0, 113, 10));
        let client = Address::from(Ipv4Addr::new(198, 51, 100, 7));
        let mut hits = [0u32; 64];
        for port in 32768..61000 {
            let at = port_in(seed(client, Port::new(port), endpoint, Port::new(443)), 0, 64);
            hits[at.number() as usize] += 1;
        }
        let mean = (61000 - 32768) / 64;
        assert!(hits.iter().all(|&n| n > mean / 2 && n < mean * 2), "{hits:?}");
    }
}
