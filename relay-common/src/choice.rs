//! A rule's backends as new flows choose among them: a stretch of places, and what is known of each endpoint's flows.

use crate::balance::Method;
use crate::net::Protocol;
use crate::shared::Shared;
use crate::usage::Count;

/// Who gets the new flows of one protocol: which places, and how one of them is chosen (8 bytes, so that a store replaces it
/// whole).
#[repr(transparent)]
#[derive(Clone, Copy, Debug, Default, Eq, PartialEq)]
pub struct Choice(u64);

impl Choice {
    /// Nobody.
    pub const NONE: Self = Self(0);

    /// One endpoint, by its number.
    #[inline(always)]
    pub const fn one(endpoint: u32) -> Self {
        Self::among(Method::One, endpoint, 1)
    }

    /// The places `first..first + count`.
    #[inline(always)]
    pub const fn among(method: Method, first: u32, count: u16) -> Self {
        Self(first as u64 | (count as u64) << 32 | (method as u64) << 48)
    }

    #[inline(always)]
    pub const fn method(self) -> Method {
        Method::from_number((self.0 >> 48) as u32)
    }

    /// The first place; the endpoint itself where there is one.
    #[inline(always)]
    pub const fn first(self) -> u32 {
        self.0 as u32
    }

    /// 0: nobody gets anything.
    #[inline(always)]
    pub const fn count(self) -> u32 {
        (self.0 >> 32) as u16 as u32
    }

    /// The places that it takes; an endpoint alone has none.
    pub const fn stretch(self) -> Option<(u32, u32)> {
        match self.method() {
            Method::One => None,
            Method::Turns | Method::Hash | Method::Least => Some((self.first(), self.count())),
        }
    }

    /// Reads it whole: relayd may write it meanwhile.
    #[inline(always)]
    pub fn load(&self) -> Self {
        // SAFETY: the reference keeps the eight bytes valid and aligned, and any of them are a choice.
        unsafe { core::ptr::from_ref(self).read_volatile() }
    }
}

/// One of the places that new flows choose among: an endpoint, and its weight.
#[repr(transparent)]
#[derive(Clone, Copy, Debug, Default, Eq, PartialEq)]
pub struct Place(u32);

impl Place {
    /// Places in all. Two lie in each entry of their map, whose entries have eight bytes at least.
    pub const ROOM: u32 = 1 << 20;
    const ENDPOINT_BITS: u32 = 20;

    /// `weight`: up to 4,095.
    #[inline(always)]
    pub const fn new(endpoint: u32, weight: u16) -> Self {
        Self(endpoint | (weight as u32) << Self::ENDPOINT_BITS)
    }

    /// The entry of the map that has a place, and how far its bits lie in that.
    #[inline(always)]
    pub const fn lies_in(place: u32) -> (u32, u32) {
        (place >> 1, (place & 1) * u32::BITS)
    }

    #[inline(always)]
    pub const fn from_word(word: u32) -> Self {
        Self(word)
    }

    #[inline(always)]
    pub const fn to_word(self) -> u32 {
        self.0
    }

    #[inline(always)]
    pub const fn endpoint(self) -> u32 {
        self.0 & ((1 << Self::ENDPOINT_BITS) - 1)
    }

    #[inline(always)]
    pub const fn weight(self) -> u32 {
        self.0 >> Self::ENDPOINT_BITS
    }
}

/// What is known of an endpoint's flows. The programs write it; relayd reads it through a mapping of the same memory.
#[repr(C, align(64))]
#[derive(Debug, Default)]
pub struct EndpointUsage {
    active: Count,
    opened: [Shared; 2],
    refused: [Shared; 2],
    unanswered: Shared,
    answered: [Shared; 2],
}

const _: () = assert!(size_of::<EndpointUsage>() == 64);

impl EndpointUsage {
    /// Proven flows, of both protocols.
    #[inline(always)]
    pub const fn active(&self) -> &Count {
        &self.active
    }

    /// Flows opened.
    #[inline(always)]
    pub const fn opened(&self, protocol: Protocol) -> &Shared {
        of(&self.opened, protocol)
    }

    /// SYNs answered with a reset, connections reset before the backend's first byte, and packets answered with ICMP
    /// unreachable, where nothing else had come back (TCP) or whatever had (UDP).
    #[inline(always)]
    pub const fn refused(&self, protocol: Protocol) -> &Shared {
        of(&self.refused, protocol)
    }

    /// SYNs that clients had to repeat, since the backend had not answered.
    #[inline(always)]
    pub const fn unanswered(&self) -> &Shared {
        &self.unanswered
    }

    /// Flows that were answered, and whose client has proven that it got the answer. One that is reset before the backend's
    /// first byte is taken back, so this may go down.
    #[inline(always)]
    pub const fn answered(&self, protocol: Protocol) -> &Shared {
        of(&self.answered, protocol)
    }

    /// Another endpoint begins. Flows of the one before may not all be over, so they go on counting.
    pub fn begin(&self) {
        let counts = self.opened.iter().chain(&self.refused).chain(&self.answered);
        for count in counts.chain([&self.unanswered]) {
            count.set(0);
        }
    }
}

#[inline(always)]
const fn of(counts: &[Shared; 2], protocol: Protocol) -> &Shared {
    let [tcp, udp] = counts;
    match protocol {
        Protocol::Tcp => tcp,
        Protocol::Udp => udp,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_choice_holds_what_is_put_in() {
        let choice = Choice::among(Method::Hash, Place::ROOM - 1, 65_521);
        assert_eq!(
            (choice.method(), choice.first(), choice.count()),
            (Method::Hash, Place::ROOM - 1, 65_521)
        );
        assert_eq!(choice.stretch(), Some((Place::ROOM - 1, 65_521)));
        let one = Choice::one(32_767);
        assert_eq!((one.method(), one.first(), one.count(), one.stretch()), (Method::One, 32_767, 1, None));
        assert_eq!((Choice::NONE.count(), Choice::NONE.method()), (0, Method::One));
    }

    #[test]
    fn a_place_holds_what_is_put_in() {
        let place = Place::new((1 << 20) - 1, 1000);
        assert_eq!((place.endpoint(), place.weight()), ((1 << 20) - 1, 1000));
        assert_eq!(Place::from_word(place.to_word()), place);
        assert_eq!((Place::lies_in(6), Place::lies_in(7)), ((3, 0), (3, 32)));
    }
}
