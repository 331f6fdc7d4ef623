//! Which connections and datagrams relayd's shared sockets take: what the socket lookup program reads, and the programs
//! that notice who else begins to listen.

use crate::net::Protocol;

/// Ports of one entry of the block table.
pub const BLOCK: usize = 64;
/// Entries of the block table: all ports of two protocols and two families.
pub const BLOCKS: u32 = (4 << 16) / BLOCK as u32;

/// The families of IP, numbered for tables.
#[repr(u32)]
#[derive(Clone, Copy, Debug, Eq, Hash, Ord, PartialEq, PartialOrd)]
pub enum Family {
    V4 = 0,
    V6 = 1,
}

/// Which group of shared sockets takes a protocol of a family: 0 to 3.
#[inline(always)]
pub const fn group(protocol: Protocol, family: Family) -> u32 {
    protocol.index() << 1 | family as u32
}

/// A port of a protocol and family as a number, which its group comes first in.
#[inline(always)]
pub const fn place(protocol: Protocol, family: Family, port: u16) -> u32 {
    group(protocol, family) << 16 | port as u32
}

/// What is taken on one port.
#[repr(transparent)]
#[derive(Clone, Copy, Debug, Default, Eq, Hash, PartialEq)]
pub struct Taken(u16);

impl Taken {
    pub const NOTHING: Self = Self(0);
    /// What comes to any address.
    const EVERYWHERE: u16 = 0x8000;
    /// What a program listens for, too.
    const FORCED: u16 = 0x4000;
    /// Sets of addresses are numbered from 1 to this.
    pub const MOST_SETS: u16 = 0x3fff;

    #[inline(always)]
    pub const fn everywhere(forced: bool) -> Self {
        Self(Self::EVERYWHERE | if forced { Self::FORCED } else { 0 })
    }

    /// What comes to one of a set of addresses.
    #[inline(always)]
    pub const fn by_address(set: u16) -> Self {
        Self(set & Self::MOST_SETS)
    }

    #[inline(always)]
    pub const fn is_nothing(self) -> bool {
        self.0 == 0
    }

    #[inline(always)]
    pub const fn is_everywhere(self) -> bool {
        self.0 & Self::EVERYWHERE != 0
    }

    #[inline(always)]
    pub const fn is_forced(self) -> bool {
        self.0 & Self::FORCED != 0
    }

    #[inline(always)]
    pub const fn set(self) -> u32 {
        (self.0 & Self::MOST_SETS) as u32
    }
}

/// An entry of the block table (128 bytes).
#[repr(C)]
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub struct Block {
    pub ports: [Taken; BLOCK],
}

impl Block {
    pub const EMPTY: Self = Self { ports: [Taken::NOTHING; BLOCK] };
}

/// An address together with a number: of a set of addresses, or a [`place`]. IPv4 has the first word, every address is
/// all zero (20 bytes).
#[repr(C)]
#[derive(Clone, Copy, Debug, Eq, Hash, PartialEq)]
pub struct Spot {
    pub number: u32,
    pub address: [u32; 4],
}

/// How relayd finds out which network namespace it is in: a socket's cookie goes in, the namespace's comes out when that
/// socket is bound.
#[repr(C)]
#[derive(Clone, Copy, Debug, Default, Eq, PartialEq)]
pub struct Home {
    pub socket: u64,
    pub namespace: u64,
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_port_has_a_place_of_its_own() {
        assert_eq!(place(Protocol::Tcp, Family::V4, 65535) + 1, place(Protocol::Tcp, Family::V6, 0));
        let last = place(Protocol::Udp, Family::V6, 65535);
        assert_eq!(last / BLOCK as u32 + 1, BLOCKS);
    }

    #[test]
    fn what_is_taken_says_how() {
        let (all, forced, some) =
            (Taken::everywhere(false), Taken::everywhere(true), Taken::by_address(Taken::MOST_SETS));
        assert!(all.is_everywhere() && !all.is_forced() && forced.is_everywhere() && forced.is_forced());
        assert!(!some.is_everywhere() && !some.is_forced() && some.set() == u32::from(Taken::MOST_SETS));
        assert!(Taken::NOTHING.is_nothing() && !all.is_nothing());
    }
}
