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
    /// The one with the fewest flows for its weight, of those that a flow looks at: see [`Load`].
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

/// The place whose turn it is.
#[inline(always)]
pub const fn place_at(turn: u64, count: u32) -> u32 {
    // there is no panicking in programs
    match turn.checked_rem(count as u64) {
        Some(place) => place as u32,
        None => 0,
    }
}

/// Another one, as if by chance.
#[inline(always)]
pub const fn place_beside(turn: u64, count: u32) -> u32 {
    (((mix(turn) >> 32) * count as u64) >> 32) as u32
}

/// So many places are few: each is another endpoint's, and a flow looks at all of them, from the one whose turn it is.
///
/// Of more places (each endpoint has as many as its weight says) it looks at two, the one whose turn it is and another one:
/// that costs the same however many there are, and is nearly as even as looking at all (Mitzenmacher, "The Power of Two Choices
/// in Randomized Load Balancing").
pub const FEW: u32 = 4;

/// What an endpoint has to do, as [`Method::Least`] compares it.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub struct Load {
    flows: i64,
    weight: u32,
}

impl Load {
    /// `flows`: below zero for a moment where a flow's end overtakes its beginning. `count`: of the places that a flow chooses
    /// among.
    #[inline(always)]
    pub const fn new(flows: i64, weight: u32, count: u32) -> Self {
        // of few the new flow is counted in, so that of idle ones the heaviest comes first; of more, turns see to that already
        Self { flows: flows + (count <= FEW) as i64, weight }
    }

    /// Below zero where it is the smaller one for its weight.
    #[inline(always)]
    pub const fn against(self, other: Self) -> i64 {
        // without a division
        self.flows * other.weight as i64 - other.flows * self.weight as i64
    }
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

    /// What two choices are worth: flows that stay are spread by weight, and who is behind catches up.
    #[test]
    fn two_choices_keep_flows_in_proportion() {
        let weights = [1, 1, 2, 4, 8, 16, 1, 1, 2, 4];
        let places: vec::Vec<usize> =
            weights.iter().enumerate().flat_map(|(index, weight)| vec![index; *weight as usize]).collect();
        let count = u32::try_from(places.len()).expect("places");
        let mut flows = [0i64; 10];
        let go = |flows: &mut [i64; 10], turns: std::ops::Range<u64>| {
            for turn in turns {
                let one = places[place_at(turn, count) as usize];
                let other = places[place_beside(turn, count) as usize];
                let load = |index: usize| Load::new(flows[index], weights[index], count);
                let chosen = if load(other).against(load(one)) < 0 { other } else { one };
                flows[chosen] += 1;
            }
        };
        go(&mut flows, 0..10_000);
        let is_even = |flows: &[i64; 10]| {
            flows.iter().zip(weights).all(|(flows, weight)| {
                let meant = 10_000 * i64::from(weight) / i64::from(count);
                (flows - meant).abs() <= meant * 3 / 100 + 2
            })
        };
        assert!(is_even(&flows), "{flows:?}");
        // one loses all that it has, and gets nearly twice its share
        let lost = core::mem::take(&mut flows[4]);
        go(&mut flows, 10_000..10_000 + lost as u64);
        assert!(flows[4] > lost / 3, "{flows:?}");
    }

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
