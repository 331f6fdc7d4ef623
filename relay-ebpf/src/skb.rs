//! A socket buffer at tc: fields, byte access at any offset, checksum helpers, and the way out.

use core::ffi::c_void;
use core::mem::MaybeUninit;

use aya_ebpf::bindings::{
    __sk_buff, BPF_F_ADJ_ROOM_DECAP_L3_IPV4, BPF_F_ADJ_ROOM_DECAP_L3_IPV6, BPF_F_ADJ_ROOM_FIXED_GSO,
    BPF_F_MARK_MANGLED_0, BPF_F_PSEUDO_HDR, BPF_F_RECOMPUTE_CSUM, bpf_adj_room_mode, bpf_redir_neigh,
    bpf_redir_neigh__bindgen_ty_1,
};
use aya_ebpf::helpers::{
    bpf_csum_update, bpf_l4_csum_replace, bpf_redirect_neigh, bpf_skb_adjust_room, bpf_skb_change_head,
    bpf_skb_change_proto, bpf_skb_change_tail, bpf_skb_load_bytes, bpf_skb_store_bytes,
};
use relay_common::checksum::Delta;
use relay_common::flow::FlowEntry;
use relay_common::net::Address;
use relay_common::route::{Gateway, NextHop};

use crate::Outcome;
use crate::established::Frame;
use crate::packet::{self, Bytes, Ethernet};
use crate::translate::GROWTH;

const PACKET_HOST: u32 = 0;
/// What the control block begins with of a packet whose payment has been noted. It spells RELY.
const NOTED: u32 = 0x5245_4c59;
const REDIRECT: i64 = aya_ebpf::bindings::TC_ACT_REDIRECT as i64;

/// The kernel refused to read or change the packet.
pub(crate) struct Failed;

#[derive(Clone, Copy)]
pub(crate) struct Skb {
    raw: *mut __sk_buff,
}

macro_rules! field {
    ($skb:expr, $field:ident) => {
        // SAFETY: the context pointer of the running program; the verifier turns field reads into loads from the skb.
        unsafe { (*$skb.raw).$field }
    };
}

fn done(code: i64) -> Result<(), Failed> {
    if code == 0 { Ok(()) } else { Err(Failed) }
}

impl Frame for Skb {
    #[inline(always)]
    fn bytes(&self) -> Bytes {
        Bytes::new(field!(self, data) as usize, field!(self, data_end) as usize)
    }

    #[inline(always)]
    fn length(&self) -> u32 {
        field!(self, len)
    }

    #[inline(always)]
    fn interface(&self) -> u32 {
        field!(self, ifindex)
    }

    #[inline(always)]
    fn segment_size(&self) -> u32 {
        field!(self, gso_size)
    }

    /// The stack has sorted packets by their link address before tc sees them.
    #[inline(always)]
    fn is_addressed(&self, _flow: &FlowEntry) -> bool {
        true
    }

    #[inline(always)]
    fn refresh<const L2: usize>(&self, flow: &mut FlowEntry) {
        if L2 != 0
            && let Some(ethernet) = self.bytes().at::<Ethernet>(0)
        {
            flow.link = ethernet.link();
        }
    }
}

impl Skb {
    #[inline(always)]
    pub(crate) const fn new(raw: *mut __sk_buff) -> Self {
        Self { raw }
    }

    /// Segments of a super-packet, as far as the driver said.
    #[inline(always)]
    pub(crate) fn segments(self) -> u32 {
        field!(self, gso_segs)
    }

    /// IP bytes of a packet whose header states so many; of a super-packet what there is. It fails where there is less
    /// than stated: the stack drops what contradicts itself, and counts it.
    #[inline(always)]
    pub(crate) fn ip_length(self, l2: u32, stated: u32) -> Result<u32, Failed> {
        let there = self.length() - l2;
        match self.segment_size() {
            0 if stated > there => Err(Failed),
            0 => Ok(stated),
            _ => Ok(there),
        }
    }

    /// Whether the packet was received: what is forwarded was, and what the host itself sends was not.
    #[inline(always)]
    pub(crate) fn was_received(self) -> bool {
        field!(self, ingress_ifindex) != 0
    }

    /// EtherType as it lies in the frame.
    #[inline(always)]
    pub(crate) fn protocol(self) -> u16 {
        field!(self, protocol) as u16
    }

    /// Not overheard, not broadcast, not multicast.
    #[inline(always)]
    pub(crate) fn is_for_this_host(self) -> bool {
        field!(self, pkt_type) == PACKET_HOST
    }

    #[inline(always)]
    pub(crate) fn is_vlan_tagged(self) -> bool {
        field!(self, vlan_present) != 0
    }

    /// What helpers take the packet by.
    #[inline(always)]
    pub(crate) const fn context(self) -> *mut c_void {
        self.raw.cast()
    }

    /// Copies a `T` out of the packet, linear part or not.
    #[inline(always)]
    pub(crate) fn load<T: Copy>(self, offset: u32) -> Result<T, Failed> {
        let mut value = MaybeUninit::<T>::uninit();
        let (to, size) = (value.as_mut_ptr().cast(), size_of::<T>() as u32);
        // SAFETY: the helper writes exactly `size` bytes to `to`, or zeroes them and fails.
        done(unsafe { bpf_skb_load_bytes(self.raw.cast(), offset, to, size) })?;
        // SAFETY: all bytes were written, and `T` is plain integers.
        Ok(unsafe { value.assume_init() })
    }

    /// The same to a place in scratch space.
    #[inline(always)]
    pub(crate) fn load_to<T: Copy>(self, offset: u32, to: *mut T) -> Result<(), Failed> {
        // SAFETY: the helper writes exactly `T`'s size, or zeroes and fails; the verifier sees that there is room.
        done(unsafe { bpf_skb_load_bytes(self.raw.cast(), offset, to.cast(), size_of::<T>() as u32) })
    }

    /// Writes a `T` into the packet.
    #[inline(always)]
    pub(crate) fn store<T>(self, offset: u32, value: &T) -> Result<(), Failed> {
        let from = core::ptr::from_ref(value).cast();
        // SAFETY: the helper reads `size_of::<T>()` bytes from a live reference.
        done(unsafe { bpf_skb_store_bytes(self.raw, offset, from, size_of::<T>() as u32, 0) })
    }

    /// Makes room for the header of the other family, or takes away what is too much for it. What is there then is not a
    /// header yet. The kernel does it for TCP super-packets, and for no others.
    #[inline(always)]
    pub(crate) fn change_protocol(self, protocol: u16) -> Result<(), Failed> {
        // SAFETY: the helper works on the program's own context.
        done(unsafe { bpf_skb_change_proto(self.raw, protocol, 0) })
    }

    /// The same for a UDP super-packet, since Linux 6.3: what is taken away may be said to have hidden a header of the other
    /// family. The size of the datagrams in it stays.
    #[inline(always)]
    pub(crate) fn change_protocol_of_datagrams(self, protocol: u16) -> Result<(), Failed> {
        let (shorter, kept) = (-(GROWTH as i32), BPF_F_ADJ_ROOM_FIXED_GSO);
        if protocol == packet::IPV4 {
            return self.adjust_room(shorter, kept | BPF_F_ADJ_ROOM_DECAP_L3_IPV4);
        }
        self.adjust_room(-2 * shorter, kept)?;
        self.adjust_room(shorter, kept | BPF_F_ADJ_ROOM_DECAP_L3_IPV6)
    }

    /// Makes room behind the link header, or takes it away there.
    #[inline(always)]
    pub(crate) fn adjust_room(self, difference: i32, flags: u32) -> Result<(), Failed> {
        let mode = bpf_adj_room_mode::BPF_ADJ_ROOM_MAC;
        // SAFETY: the helper works on the program's own context.
        done(unsafe { bpf_skb_adjust_room(self.raw, difference, mode, flags.into()) })
    }

    /// Writes a `T` over what has not been a header, whatever sum of the packet the device has made.
    #[inline(always)]
    pub(crate) fn replace<T>(self, offset: u32, value: &T) -> Result<(), Failed> {
        let from = core::ptr::from_ref(value).cast();
        let (size, flags) = (size_of::<T>() as u32, BPF_F_RECOMPUTE_CSUM.into());
        // SAFETY: the helper reads `size` bytes from a live reference.
        done(unsafe { bpf_skb_store_bytes(self.raw, offset, from, size, flags) })
    }

    /// Cuts or zero-extends the packet to `length` bytes; a cut super-packet becomes a plain one.
    #[inline(always)]
    pub(crate) fn resize(self, length: u32) -> Result<(), Failed> {
        // SAFETY: the helper works on the program's own context.
        done(unsafe { bpf_skb_change_tail(self.raw, length, 0) })
    }

    /// Makes the packet a frame of so many bytes, to be written whole.
    #[inline(always)]
    pub(crate) fn become_frame(self, l2: u32, length: u32) -> Result<(), Failed> {
        if l2 == 0 {
            self.grow_head(packet::ETHERNET as u32)?;
        }
        self.resize(length)
    }

    /// Adds `length` zero bytes in front.
    #[inline(always)]
    pub(crate) fn grow_head(self, length: u32) -> Result<(), Failed> {
        // SAFETY: the helper works on the program's own context.
        done(unsafe { bpf_skb_change_head(self.raw, length, 0) })
    }

    /// Adds a difference to the checksum at `offset`. With `pseudo` it also reaches checksums that the kernel has only
    /// begun (`CHECKSUM_PARTIAL`: pseudo-header alone), so addresses go with it and everything else without.
    #[inline(always)]
    pub(crate) fn fix_checksum(self, offset: u32, delta: Delta, flags: u32) -> Result<(), Failed> {
        // SAFETY: the helper works on the program's own context.
        done(unsafe { bpf_l4_csum_replace(self.raw, offset, 0, delta.raw().into(), flags.into()) })
    }

    /// Tells the kernel that a complete transport checksum was changed for other addresses: where the device has summed
    /// the whole packet (`CHECKSUM_COMPLETE`) that sum changes too, by what the checksum field made up for.
    #[inline(always)]
    pub(crate) fn note_checksum_change(self, addresses: Delta) {
        // SAFETY: the helper works on the program's own context; it fails for packets without such a sum.
        let _no_such_sum = unsafe { bpf_csum_update(self.raw, u32::from(!addresses.raw())) };
    }

    #[inline(always)]
    pub(crate) fn fix_tcp_checksum(
        self,
        transport: u32,
        addresses: Delta,
        rest: Delta,
    ) -> Result<(), Failed> {
        self.fix_checksum(transport + 16, addresses, BPF_F_PSEUDO_HDR)?;
        self.fix_checksum(transport + 16, rest, 0)
    }

    /// Leaves "no checksum" alone and never makes one.
    #[inline(always)]
    pub(crate) fn fix_udp_checksum(
        self,
        transport: u32,
        addresses: Delta,
        rest: Delta,
    ) -> Result<(), Failed> {
        self.fix_checksum(transport + 6, addresses, BPF_F_PSEUDO_HDR | BPF_F_MARK_MANGLED_0)?;
        self.fix_checksum(transport + 6, rest, BPF_F_MARK_MANGLED_0)
    }

    /// bpf_redirect_neigh takes 14 bytes off and silently drops what does not have them.
    #[inline(always)]
    pub(crate) fn push_ethernet(self) -> Result<(), Failed> {
        self.grow_head(packet::ETHERNET as u32)?;
        self.store(12, &self.protocol())
    }

    /// Notes that the packet has been paid for by a rule's meter: for our program at tc egress, which asks when it is due. A packet's
    /// control block goes with it from one to the other; its time does not, that of a packet that is redirected is cleared.
    #[inline(always)]
    pub(crate) fn note_payment(self, rule: u32, egress: bool) {
        for (index, word) in [(0, NOTED), (1, rule << 1 | u32::from(egress))] {
            // SAFETY: a word of the control block of the program's own context, which it may write.
            unsafe { self.control(index).write_volatile(word) };
        }
    }

    /// What has been noted, at tc egress: the rule, and whether it goes to the client.
    #[inline(always)]
    pub(crate) fn payment(self) -> Option<(u32, bool)> {
        // SAFETY: a word of the control block of the program's own context, which it may read.
        let word = |index| unsafe { self.control(index).read_volatile() };
        let noted = (word(0) == NOTED).then(|| word(1))?;
        Some((noted >> 1, noted & 1 != 0))
    }

    /// A word of the five that programs may use as they like.
    #[inline(always)]
    fn control(self, index: usize) -> *mut u32 {
        // SAFETY: the context pointer of the running program; nothing is read, and the index is a constant below five.
        unsafe { &raw mut (*self.raw).cb[index] }
    }

    /// At tc egress: fq keeps the packet until then, or longer if that was so before.
    #[inline(always)]
    pub(crate) fn depart_at(self, due: u64) {
        if field!(self, tstamp) < due {
            // SAFETY: the context pointer of the running program, which may write the time at egress.
            unsafe { (*self.raw).tstamp = due };
        }
    }

    /// Hands the packet to its next hop. The kernel resolves the neighbour and writes the link header.
    #[inline(always)]
    pub(crate) fn redirect(self, next_hop: &NextHop, destination: Address) -> Outcome {
        let on_link = [destination.to_wire(), 0, 0, 0];
        self.redirect_to(next_hop, Gateway::V4, on_link)
    }

    /// The same for an IPv6 packet.
    #[inline(always)]
    pub(crate) fn redirect_v6(self, next_hop: &NextHop, destination: &[u32; 4]) -> Outcome {
        self.redirect_to(next_hop, Gateway::V6, *destination)
    }

    #[inline(always)]
    fn redirect_to(self, next_hop: &NextHop, family: Gateway, on_link: [u32; 4]) -> Outcome {
        let (family, gateway) = if next_hop.family() == Gateway::OnLink as u32 {
            (family as u32, on_link)
        } else {
            (next_hop.family(), next_hop.gateway())
        };
        let mut params = bpf_redir_neigh {
            nh_family: family,
            __bindgen_anon_1: bpf_redir_neigh__bindgen_ty_1 { ipv6_nh: gateway },
        };
        let size = size_of::<bpf_redir_neigh>() as i32;
        // SAFETY: the helper reads `size` bytes from the live `params`.
        let code = unsafe { bpf_redirect_neigh(next_hop.interface, &mut params, size, 0) };
        if code == REDIRECT { Outcome::Sent } else { Outcome::Dropped }
    }
}
