//! Checksums of whole packets: that of a UDP datagram which came without one, as IPv4 allows (RFC 768) and IPv6 does not
//! (RFC 8200 section 8.1), and those of ICMP errors.

use core::mem::offset_of;

use aya_ebpf::helpers::bpf_csum_diff;
use relay_common::checksum::{fold_wide, pair, pair_v6};

use crate::established::Frame as _;
use crate::maps;
use crate::packet::{self, Ipv6};
use crate::skb::{Failed, Skb};
use crate::slow::Packet;

/// Bytes that are added up at a time, the most that the kernel takes.
pub(crate) const CHUNK: usize = 512;
/// As many as make up the largest packets that links carry.
const CHUNKS: u32 = 18;

/// Where a UDP header has its length and its checksum.
const LENGTH: u32 = 4;
const CHECKSUM: u32 = 6;
/// Where an IPv6 header has its addresses.
const ADDRESSES_V6: u32 = offset_of!(Ipv6, source) as u32;

/// Gives an IPv4 datagram without one its checksum. It fails for fragments, of which nobody here has the whole, and for
/// datagrams that end before their packet does.
#[inline(never)]
pub(crate) fn fill_in(skb: Skb, packet: &Packet) -> Result<(), Failed> {
    if packet.piece.is_marked || skb.segment_size() != 0 {
        return Err(Failed);
    }
    let end = packet.l2 + packet.length;
    let length = end - packet.transport;
    if u32::from(u16::from_be(skb.load::<u16>(packet.transport + LENGTH)?)) != length {
        return Err(Failed);
    }
    let sum = added_up(skb, packet.transport, end)?;
    let pseudo = pair(packet.key.source(), packet.key.destination())
        + u64::from(u32::from(packet.protocol.number()).to_be())
        + u64::from(length.to_be());
    let checksum = match !fold_wide(u64::from(sum) + pseudo) {
        0 => 0xffff,
        checksum => checksum,
    };
    skb.replace(packet.transport + CHECKSUM, &checksum)
}

/// Whether the checksum of an ICMP error about a flow is right.
#[inline(never)]
pub(crate) fn check(skb: Skb, packet: &Packet) -> Result<(), Failed> {
    let (at, end) = (packet.incoming.at(), packet.incoming.end);
    let pseudo = if packet.key.is_v6() {
        let [source, destination] = skb.load::<[[u32; 4]; 2]>(packet.l2 + ADDRESSES_V6)?;
        pair_v6(&source, &destination)
            + u64::from(u32::from(packet::ICMPV6).to_be())
            + u64::from((end - at).to_be())
    } else {
        0
    };
    let sum = added_up(skb, at, end)?;
    if !fold_wide(u64::from(sum) + pseudo) == 0 { Ok(()) } else { Err(Failed) }
}

/// [`add_up`], with a failure for what it is.
#[inline(always)]
fn added_up(skb: Skb, at: u32, end: u32) -> Result<u32, Failed> {
    u32::try_from(add_up(skb, at, end)).map_err(|_below_zero| Failed)
}

/// [`try_to_add_up`] in one register, which is all that functions of BPF return: a failure is below 0.
#[inline(never)]
fn add_up(skb: Skb, at: u32, end: u32) -> i64 {
    try_to_add_up(skb, at, end).map_or(-1, i64::from)
}

/// The sum of the bytes from `at` to `end`, behind which zeros stand for a while: the kernel wants to know beforehand how many
/// bytes are read at once.
#[inline(always)]
fn try_to_add_up(skb: Skb, at: u32, end: u32) -> Result<u32, Failed> {
    let scratch = maps::scratch().ok_or(Failed)?;
    let chunks = (end - at).div_ceil(CHUNK as u32);
    // the link's padding first, which may be of any bytes
    skb.resize(end)?;
    skb.resize(at + chunks * CHUNK as u32)?;
    let mut sum = 0;
    for index in 0..CHUNKS {
        if index >= chunks {
            break;
        }
        skb.load_to(at + index * CHUNK as u32, &raw mut scratch.chunk)?;
        let from = scratch.chunk.as_mut_ptr();
        // SAFETY: the helper reads the chunk, whose size it is told.
        sum = unsafe { bpf_csum_diff(core::ptr::null_mut(), 0, from, CHUNK as u32, sum) } as u32;
    }
    skb.resize(end)?;
    if chunks <= CHUNKS { Ok(sum) } else { Err(Failed) }
}
