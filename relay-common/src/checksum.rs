//! Incremental updates of the Internet checksum (RFC 1071, RFC 1624 equation 3).
//!
//! One's complement sums do not care about byte order as long as all words are read alike, so everything here
//! works on words as they lie in the packet.

use crate::net::{Address, Port};

/// The difference that a rewrite makes to a one's complement sum, folded to 16 bits.
#[repr(transparent)]
#[derive(Clone, Copy, Debug, Default, Eq, PartialEq)]
pub struct Delta(u16);

impl Delta {
    pub const NONE: Self = Self(0);

    #[inline(always)]
    pub const fn from_raw(raw: u16) -> Self {
        Self(raw)
    }

    /// The folded difference, as `bpf_l4_csum_replace` takes it with `from` 0 and size 0.
    #[inline(always)]
    pub const fn raw(self) -> u16 {
        self.0
    }

    /// One 16-bit word replaced by another.
    #[inline(always)]
    pub const fn word(old: u16, new: u16) -> Self {
        Self(fold(!old as u32 + new as u32))
    }

    #[inline(always)]
    pub const fn address(old: Address, new: Address) -> Self {
        Self(fold_wide(!old.to_wire() as u64 + new.to_wire() as u64))
    }

    /// A pair of addresses replaced by another pair, of either family: the pseudo-headers of both (RFC 9293 section 3.1,
    /// RFC 8200 section 8.1) hold the same besides. `old`, `new`: see [`pair`] and [`pair_v6`].
    #[inline(always)]
    pub const fn pairs(old: u64, new: u64) -> Self {
        Self::word(fold_wide(old), fold_wide(new))
    }

    #[inline(always)]
    pub const fn port(old: Port, new: Port) -> Self {
        Self::word(old.to_wire(), new.to_wire())
    }

    /// Two rewrites, one after the other.
    #[inline(always)]
    pub const fn and(self, other: Self) -> Self {
        Self(fold(self.0 as u32 + other.0 as u32))
    }

    /// The rewrite back.
    #[inline(always)]
    pub const fn inverse(self) -> Self {
        Self(!self.0)
    }

    /// The checksum field after this rewrite: `~(~field + delta)`.
    #[inline(always)]
    pub const fn apply(self, field: u16) -> u16 {
        !fold(!field as u32 + self.0 as u32)
    }

    /// The UDP checksum field after this rewrite. 0 means "none" (RFC 768) and stays; a result of 0 is sent as
    /// 0xffff, its other form.
    #[inline(always)]
    pub const fn apply_udp(self, field: u16) -> u16 {
        if field == 0 {
            return 0;
        }
        match self.apply(field) {
            0 => 0xffff,
            sum => sum,
        }
    }
}

/// Adds the carries of a 32-bit sum of 16-bit words back in.
#[inline(always)]
pub const fn fold(sum: u32) -> u16 {
    let once = (sum & 0xffff) + (sum >> 16);
    ((once & 0xffff) + (once >> 16)) as u16
}

/// [`fold`] for sums of 32-bit words.
#[inline(always)]
pub const fn fold_wide(sum: u64) -> u16 {
    fold(((sum & 0xffff) + ((sum >> 16) & 0xffff) + ((sum >> 32) & 0xffff) + (sum >> 48)) as u32)
}

/// The sum of two addresses, not folded.
#[inline(always)]
pub const fn pair(one: Address, other: Address) -> u64 {
    one.to_wire() as u64 + other.to_wire() as u64
}

/// The same of IPv6 addresses as they lie in a packet.
#[inline(always)]
pub const fn pair_v6(one: &[u32; 4], other: &[u32; 4]) -> u64 {
    words(one) + words(other)
}

#[inline(always)]
const fn words(address: &[u32; 4]) -> u64 {
    address[0] as u64 + address[1] as u64 + address[2] as u64 + address[3] as u64
}

/// The one's complement sum of `bytes` as 16-bit words in packet order, an odd last byte padded with 0.
/// Its complement is the checksum. For tests and tools; the programs use the kernel's helper.
pub fn sum(bytes: &[u8]) -> u16 {
    let mut total = 0u32;
    for pair in bytes.chunks(2) {
        let word = u16::from_ne_bytes([pair[0], pair.get(1).copied().unwrap_or(0)]);
        total = u32::from(fold(total + u32::from(word)));
    }
    fold(total)
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    /// Folded sums have two zeros (0 and 0xffff); both mean the same.
    fn same(a: u16, b: u16) -> bool {
        a == b || (a == 0 && b == 0xffff) || (a == 0xffff && b == 0)
    }

    proptest! {
        #[test]
        fn incremental_equals_recomputed(mut packet in proptest::collection::vec(any::<u8>(), 24..64usize), new in any::<u32>(), port in any::<u16>()) {
            packet.truncate(packet.len() & !1);
            packet[0..2].fill(0);
            let before = !sum(&packet);
            let old = Address::from_wire(u32::from_ne_bytes([packet[12], packet[13], packet[14], packet[15]]));
            let old_port = Port::from_wire(u16::from_ne_bytes([packet[20], packet[21]]));
            packet[12..16].copy_from_slice(&new.to_ne_bytes());
            packet[20..22].copy_from_slice(&port.to_ne_bytes());
            let delta = Delta::address(old, Address::from_wire(new)).and(Delta::port(old_port, Port::from_wire(port)));
            prop_assert!(same(delta.apply(before), !sum(&packet)));
        }

        #[test]
        fn a_udp_checksum_never_becomes_none(field in 1u16.., old in any::<u16>(), new in any::<u16>()) {
            prop_assert_ne!(Delta::word(old, new).apply_udp(field), 0);
        }
    }

    #[test]
    fn no_udp_checksum_stays_none() {
        assert_eq!(Delta::word(1, 2).apply_udp(0), 0);
    }

    #[test]
    fn rfc1624_example() {
        // RFC 1624 section 4: HC = 0xDD2F, m = 0x5555, m' = 0x3285 gives 0x0000
        assert_eq!(Delta::word(0x5555, 0x3285).apply(0xdd2f), 0x0000);
    }
}
