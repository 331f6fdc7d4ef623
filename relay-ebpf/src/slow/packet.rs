//! What the slow path knows of a packet.

use relay_common::checksum::{pair, pair_v6};
use relay_common::flow::FlowKey;
use relay_common::net::Protocol;

use crate::across::Incoming;
use crate::established::Frame as _;
use crate::packet::tcp;
use crate::skb::Skb;
use crate::translate::{self, Piece};

/// What the slow path needs to know of a TCP or UDP packet. Lies in a per-CPU map: the stack is needed elsewhere.
#[repr(C)]
pub(crate) struct Packet {
    pub(crate) key: FlowKey,
    /// The address of who sent it, an IPv4 one as IPv6.
    pub(crate) sender: [u32; 4],
    /// Of an IPv6 packet only, as is the next.
    pub(crate) destination_v6: [u32; 4],
    /// The number of the own address that it is for, once known.
    pub(crate) own_number: u32,
    pub(crate) protocol: Protocol,
    /// Bytes of link header.
    pub(crate) l2: u32,
    /// Offset of the transport header.
    pub(crate) transport: u32,
    /// IP bytes.
    pub(crate) length: u32,
    /// IP and transport header bytes.
    pub(crate) header_length: u32,
    pub(crate) sequence: u32,
    pub(crate) acknowledgment: u32,
    pub(crate) now: u32,
    /// Slot of the rule, once known.
    pub(crate) rule: u32,
    /// Of a new flow, the number of the endpoint that it gets.
    pub(crate) endpoint: u32,
    /// What the way out takes of packets as they come in, once known.
    pub(crate) mtu: u32,
    /// What a sender of larger ones is told: fragments of IPv6 have one more header.
    pub(crate) told_mtu: u32,
    /// It has options, and leaves as IPv6, where they have no place.
    pub(super) is_untranslatable: bool,
    /// It came without a checksum, and must not leave without one.
    pub(crate) lacks_sum: bool,
    pub(super) is_unsummed: bool,
    pub(crate) ip_checksum: u16,
    /// As it lies in the header.
    pub(crate) identification: u32,
    /// IPv4's bits, of IPv6 the one for more alone.
    pub(crate) fragment: u16,
    pub(crate) piece: Piece,
    pub(crate) ttl: u8,
    /// Of an error about a flow: what it says, and the family that it is passed on in.
    pub(crate) incoming: Incoming,
    pub(crate) leaves_as_v6: bool,
    /// Type of service, or IPv6's traffic class.
    pub(crate) service: u8,
    /// TCP control bits.
    pub(crate) flags: u8,
}

impl Packet {
    /// The sum of its addresses.
    #[inline(always)]
    pub(crate) const fn outside(&self) -> u64 {
        if self.key.is_v6() {
            pair_v6(&self.sender, &self.destination_v6)
        } else {
            pair(self.key.source(), self.key.destination())
        }
    }

    /// Takes note of a way out that takes so many bytes.
    #[inline(always)]
    pub(crate) fn leave_by(&mut self, mtu: u32, to_v6: bool) {
        let becomes_v6 = to_v6 && !self.key.is_v6();
        self.is_untranslatable = becomes_v6 && self.transport - self.l2 != translate::IPV4_HEADER;
        self.lacks_sum = becomes_v6 && self.is_unsummed;
        (self.mtu, self.told_mtu) = match (self.key.is_v6(), to_v6) {
            (true, false) => (mtu + self.piece.growth(), mtu + translate::GROWTH),
            (false, true) => {
                let told = match self.protocol {
                    Protocol::Tcp => translate::GROWTH,
                    Protocol::Udp => translate::GROWTH_OF_FRAGMENTS,
                };
                (mtu - self.piece.growth(), mtu - told)
            }
            _ => (mtu, mtu),
        };
    }

    /// The first packet of a TCP connection.
    #[inline(always)]
    pub(crate) const fn is_syn(&self) -> bool {
        self.flags & (tcp::SYN | tcp::ACK | tcp::RST | tcp::FIN) == tcp::SYN
    }

    #[inline(always)]
    pub(crate) const fn has(&self, flag: u8) -> bool {
        self.flags & flag != 0
    }

    /// TCP: the sequence number behind the segment, a FIN included.
    #[inline(always)]
    pub(crate) const fn end(&self) -> u32 {
        let payload = self.length - self.header_length;
        self.sequence.wrapping_add(payload).wrapping_add(self.has(tcp::FIN) as u32)
    }

    /// TCP: whether the segment carries data from `sequence` on or later.
    #[inline(always)]
    pub(crate) const fn is_beyond(&self, sequence: u32) -> bool {
        self.length > self.header_length && self.end().wrapping_sub(sequence) as i32 > 0
    }

    /// What the packet needs of a link, as one segment.
    #[inline(always)]
    pub(crate) fn on_wire(&self, skb: Skb) -> u32 {
        match skb.segment_size() {
            0 => self.length,
            size => size + self.header_length,
        }
    }
}
