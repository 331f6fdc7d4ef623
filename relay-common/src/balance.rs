//! How new flows choose among a rule's backends: what both planes must agree on, so that they give the same answer.

/// Which of a table's places a new flow gets.
#[repr(u32)]
#[derive(Clone, Copy, Debug, Default, Eq, PartialEq)]
pub enum Method {
    /// There is one place.
    #[default]
    One = 0,
    /// Each new flow the next one.
    Turns = 1,
    /// By the client's address: the same client always the same one.
    Hash = 2,
    /// The one with the fewest flows for its weight.
    Least = 3,
}

impl Method {
    #[inline(always)]
    pub const fn from_number(number: u32) -> Self {
        match number {
            1 => Self::Turns,
            2 => Self::Hash,
            3 => Self::Least,
            _ => Self::One,
        }
    }
}

/// The place that a client has among `count`. `client`: its address as it lies in a packet, IPv4 as `::ffff:0:0/96`.
#[inline(always)]
pub const fn place_of(client: &[u32; 4], count: u32) -> u32 {
    let high = client[0] as u64 | (client[1] as u64) << 32;
    let low = client[2] as u64 | (client[3] as u64) << 32;
    let hash = mix(mix(high).wrapping_add(low)) >> 32;
    // as a fraction of all hashes, which takes no division
    ((hash * count as u64) >> 32) as u32
}

/// Every bit of the result depends on all of the word (the finaliser of splitmix64, public domain).
#[inline(always)]
pub const fn mix(word: u64) -> u64 {
    let word = (word ^ (word >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
    let word = (word ^ (word >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
    word ^ (word >> 31)
}

#[cfg(test)]
mod tests {
    extern crate std;

    use super::*;
    use crate::net::mapped;
    use std::vec;

    #[test]
    fn neighbours_are_spread_evenly() {
        let mut clients = vec![0u32; 97];
        for last in 0..9700u32 {
            let address = u32::from_be(0x0a00_0000 + last);
            clients[place_of(&mapped(crate::net::Address::from_wire(address)), 97) as usize] += 1;
        }
        assert!(clients.iter().all(|&count| (50..=150).contains(&count)), "{clients:?}");
    }
}
