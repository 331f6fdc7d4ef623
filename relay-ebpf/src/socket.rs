//! Sockets of this host: whether one of them wants a packet, and whether it is one that relayd's rules share.

use core::ptr;

use aya_ebpf::bindings::{
    BPF_F_CURRENT_NETNS, bpf_sock, bpf_sock_tuple, bpf_sock_tuple__bindgen_ty_1,
    bpf_sock_tuple__bindgen_ty_1__bindgen_ty_1, bpf_sock_tuple__bindgen_ty_1__bindgen_ty_2,
};
use aya_ebpf::helpers::{bpf_sk_lookup_tcp, bpf_sk_lookup_udp, bpf_sk_release};
use relay_common::net::{Port, Ports, Protocol};

use crate::maps;
use crate::skb::Skb;
use crate::slow::Packet;

/// Both ends of a connection as the socket tables have them. How long it is says of which family it is.
pub(crate) struct Ends {
    tuple: bpf_sock_tuple,
    size: u32,
}

impl Ends {
    /// Written whole, since Linux 5.10 lets nobody read what has not been: the addresses and ports of IPv4 lie in its first
    /// twelve bytes.
    #[inline(always)]
    pub(crate) const fn v4(remote: u32, local: u32, ports: Ports) -> Self {
        let saddr = [remote, local, ports.to_wire(), 0];
        let ipv6 = bpf_sock_tuple__bindgen_ty_1__bindgen_ty_2 { saddr, daddr: [0; 4], sport: 0, dport: 0 };
        let size = size_of::<bpf_sock_tuple__bindgen_ty_1__bindgen_ty_1>() as u32;
        Self { tuple: bpf_sock_tuple { __bindgen_anon_1: bpf_sock_tuple__bindgen_ty_1 { ipv6 } }, size }
    }

    #[inline(always)]
    pub(crate) const fn v6(remote: [u32; 4], local: [u32; 4], ports: Ports) -> Self {
        let (sport, dport) = (ports.source().to_wire(), ports.destination().to_wire());
        let ipv6 = bpf_sock_tuple__bindgen_ty_1__bindgen_ty_2 { saddr: remote, daddr: local, sport, dport };
        let size = size_of::<bpf_sock_tuple__bindgen_ty_1__bindgen_ty_2>() as u32;
        Self { tuple: bpf_sock_tuple { __bindgen_anon_1: bpf_sock_tuple__bindgen_ty_1 { ipv6 } }, size }
    }

    /// Of a packet that comes in.
    #[inline(always)]
    fn of(packet: &Packet) -> Self {
        let ports = packet.key.ports();
        if packet.key.is_v6() {
            return Self::v6(packet.sender, packet.destination_v6, ports);
        }
        Self::v4(packet.key.source().to_wire(), packet.key.destination().to_wire(), ports)
    }

    /// Of a packet to the same local end, from a remote one that nobody has.
    #[inline(always)]
    fn of_nobody(packet: &Packet) -> Self {
        let ports = Ports::new(Port::new(0), packet.key.ports().destination());
        if packet.key.is_v6() {
            return Self::v6([0; 4], packet.destination_v6, ports);
        }
        Self::v4(0, packet.key.destination().to_wire(), ports)
    }
}

/// Whether any socket wants a packet: one that listens there, or a connection. `shared`: the shared sockets of the user
/// plane too, which are there on every port.
#[inline(never)]
pub(crate) fn is_there(skb: Skb, packet: &Packet, shared: bool) -> bool {
    // it is always there; said so, this is the shorter way for the verifier
    let Some(aside) = maps::aside() else { return true };
    *aside = u32::from(!shared);
    let found = find(skb, packet.protocol, &mut Ends::of(packet), |_| true);
    *aside = 0;
    found.is_some()
}

/// Whether a packet that comes in is for a shared socket, or for a connection that came to one.
#[inline(never)]
pub(crate) fn shares(skb: Skb, packet: &Packet) -> bool {
    match find(skb, packet.protocol, &mut Ends::of(packet), maps::is_shared) {
        Some(is_shared) => is_shared,
        // a client that comes again from a port whose last connection is in TIME_WAIT, which hides the listener
        None => packet.is_syn() && is_shared(skb, Protocol::Tcp, &mut Ends::of_nobody(packet)),
    }
}

/// The same by the ends, as they are in packets that come in.
#[inline(always)]
pub(crate) fn is_shared(skb: Skb, protocol: Protocol, ends: &mut Ends) -> bool {
    find(skb, protocol, ends, maps::is_shared) == Some(true)
}

/// Whether `judge` holds of the socket, if there is one. One whose handshake is under way stands for its listener.
#[inline(always)]
fn find(
    skb: Skb,
    protocol: Protocol,
    ends: &mut Ends,
    judge: impl FnOnce(*mut bpf_sock) -> bool,
) -> Option<bool> {
    let (context, this_namespace) = (skb.context(), BPF_F_CURRENT_NETNS as u64);
    let (tuple, size) = (ptr::from_mut(&mut ends.tuple), ends.size);
    let socket = match protocol {
        // SAFETY: the helper reads `size` bytes of the live `tuple`.
        Protocol::Tcp => unsafe { bpf_sk_lookup_tcp(context, tuple, size, this_namespace, 0) },
        // SAFETY: as above.
        Protocol::Udp => unsafe { bpf_sk_lookup_udp(context, tuple, size, this_namespace, 0) },
    };
    if socket.is_null() {
        return None;
    }
    let holds = judge(socket);
    // SAFETY: a socket that the helper has just handed out, released once.
    unsafe { bpf_sk_release(socket.cast()) };
    Some(holds)
}
