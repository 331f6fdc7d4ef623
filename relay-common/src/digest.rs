//! IPv6 addresses in flow keys: short enough for the keys of IPv4, and nobody outside can make two of them meet.
//!
//! A key has 55 bits for the address of the other end, a keyed digest (NH of RFC 4418 section 5.2.2, twice): two given
//! addresses with the same ports share a key once in 2^55. The other end cannot look for such an address, because it does not
//! know the secret.

/// Random words, the same as long as there are flows.
#[repr(C)]
#[derive(Clone, Copy, Debug, Default, Eq, PartialEq)]
pub struct Secret {
    pub words: [u32; 8],
}

/// What a key holds of one address.
#[repr(C)]
#[derive(Clone, Copy, Debug, Default, Eq, PartialEq)]
pub struct Digest {
    pub low: u32,
    /// 23 bits.
    pub high: u32,
}

impl Digest {
    const HIGH_BITS: u32 = 23;

    /// `address`: as it lies in a packet.
    #[inline(always)]
    pub const fn new(address: &[u32; 4], secret: &Secret) -> Self {
        let [a, b, c, d, e, f, g, h] = secret.words;
        let one = pair(address[0], address[1], a, b).wrapping_add(pair(address[2], address[3], c, d));
        let other = pair(address[0], address[1], e, f).wrapping_add(pair(address[2], address[3], g, h));
        Self { low: half(one), high: half(other) >> (32 - Self::HIGH_BITS) }
    }
}

#[inline(always)]
const fn pair(one: u32, other: u32, first: u32, second: u32) -> u64 {
    (one.wrapping_add(first) as u64).wrapping_mul(other.wrapping_add(second) as u64)
}

/// 32 bits of a sum, every one of which depends on all of it (the finaliser of splitmix64, public domain).
#[inline(always)]
const fn half(sum: u64) -> u32 {
    let mixed = (sum ^ (sum >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
    (mixed >> 32) as u32
}

#[cfg(test)]
mod tests {
    extern crate std;

    use super::*;
    use std::collections::HashSet;

    const SECRET: Secret = Secret {
        words: [
            0x9e37_79b9,
            0x7f4a_7c15,
            0xf39c_c060,
            0x5ced_c834,
            0x1082_276b,
            0xf3a2_7251,
            0xf86c_6a11,
            0xd0c1_8e95,
        ],
    };

    #[test]
    fn neighbours_do_not_meet() {
        let addresses = (0..200_000u32).map(|host| [0x0db8_0120, 0, (host >> 16).to_be(), host.to_be()]);
        let digests: HashSet<_> = addresses
            .map(|address| {
                let digest = Digest::new(&address, &SECRET);
                assert!(digest.high < 1 << Digest::HIGH_BITS);
                (digest.low, digest.high)
            })
            .collect();
        assert_eq!(digests.len(), 200_000);
    }

    #[test]
    fn every_word_and_the_secret_count() {
        let address = [1, 2, 3, 4];
        let digest = Digest::new(&address, &SECRET);
        for at in 0..4 {
            let mut other = address;
            other[at] ^= 1 << 31;
            assert_ne!(Digest::new(&other, &SECRET), digest, "word {at}");
        }
        for at in 0..8 {
            let mut secret = SECRET;
            secret.words[at] ^= 1;
            assert_ne!(Digest::new(&address, &secret), digest, "secret {at}");
        }
    }
}
