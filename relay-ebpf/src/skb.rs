//! A socket buffer at tc: fields, byte access at any offset, checksum helpers, and the way out.

use core::mem::MaybeUninit;

use aya_ebpf::bindings::{
    __sk_buff, BPF_F_CURRENT_NETNS, BPF_F_MARK_MANGLED_0, BPF_F_PSEUDO_HDR, bpf_redir_neigh,
    bpf_redir_neigh__bindgen_ty_1, bpf_sock_tuple, bpf_sock_tuple__bindgen_ty_1,
    bpf_sock_tuple__bindgen_ty_1__bindgen_ty_1,
};
use aya_ebpf::helpers::{
    bpf_csum_update, bpf_l4_csum_replace, bpf_redirect_neigh, bpf_sk_lookup_tcp, bpf_sk_lookup_udp,
    bpf_sk_release, bpf_skb_change_head, bpf_skb_change_tail, bpf_skb_load_bytes, bpf_skb_store_bytes,
};
use relay_common::checksum::Delta;
use relay_common::flow::{FlowEntry, FlowKey};
use relay_common::net::{Address, Protocol};
use relay_common::route::{Gateway, NextHop};

use crate::established::Frame;
use crate::packet::{self, Bytes, Ethernet};
use crate::{Outcome, maps};

const PACKET_HOST: u32 = 0;
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

    /// Whether a socket of this host wants a packet with this key: one that listens there, or a connection. `shared`:
    /// the shared sockets of the user plane too, which are there on every port.
    #[inline(always)]
    pub(crate) fn has_local_socket(self, key: &FlowKey, protocol: Protocol, shared: bool) -> bool {
        let ports = key.ports();
        let mut tuple = bpf_sock_tuple {
            __bindgen_anon_1: bpf_sock_tuple__bindgen_ty_1 {
                ipv4: bpf_sock_tuple__bindgen_ty_1__bindgen_ty_1 {
                    saddr: key.source().to_wire(),
                    daddr: key.destination().to_wire(),
                    sport: ports.source().to_wire(),
                    dport: ports.destination().to_wire(),
                },
            },
        };
        let size = size_of::<bpf_sock_tuple__bindgen_ty_1__bindgen_ty_1>() as u32;
        let (context, this_namespace) = (self.raw.cast(), BPF_F_CURRENT_NETNS as u64);
        // it is always there; said so, this is the shorter way for the verifier
        let Some(aside) = maps::aside() else { return true };
        *aside = u32::from(!shared);
        let socket = match protocol {
            // SAFETY: the helper reads `size` bytes of the live `tuple`.
            Protocol::Tcp => unsafe { bpf_sk_lookup_tcp(context, &mut tuple, size, this_namespace, 0) },
            // SAFETY: as above.
            Protocol::Udp => unsafe { bpf_sk_lookup_udp(context, &mut tuple, size, this_namespace, 0) },
        };
        *aside = 0;
        if socket.is_null() {
            return false;
        }
        // SAFETY: a socket that the helper has just handed out, released once.
        unsafe { bpf_sk_release(socket.cast()) };
        true
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

    /// Writes a `T` into the packet.
    #[inline(always)]
    pub(crate) fn store<T>(self, offset: u32, value: &T) -> Result<(), Failed> {
        let from = core::ptr::from_ref(value).cast();
        // SAFETY: the helper reads `size_of::<T>()` bytes from a live reference.
        done(unsafe { bpf_skb_store_bytes(self.raw, offset, from, size_of::<T>() as u32, 0) })
    }

    /// Cuts or zero-extends the packet to `length` bytes; a cut super-packet becomes a plain one.
    #[inline(always)]
    pub(crate) fn resize(self, length: u32) -> Result<(), Failed> {
        // SAFETY: the helper works on the program's own context.
        done(unsafe { bpf_skb_change_tail(self.raw, length, 0) })
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
        self.store(12, &packet::IPV4)
    }

    /// Hands the packet to its next hop. The kernel resolves the neighbour and writes the link header.
    #[inline(always)]
    pub(crate) fn redirect(self, next_hop: &NextHop, destination: Address) -> Outcome {
        let (family, gateway) = if next_hop.family() == Gateway::OnLink as u32 {
            (Gateway::V4 as u32, [destination.to_wire(), 0, 0, 0])
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
