//! Relay's kernel plane: full NAT of IPv4 TCP and UDP, on tc and on XDP; and counting what the user plane carries.
//!
//! Entry points and the one table that turns outcomes into verdicts. A packet of a live flow stays in
//! [`established`]; everything else goes through [`slow`].
#![no_std]
#![no_main]

mod across;
mod answer;
mod choose;
mod claim;
mod count;
mod ended;
mod error;
mod established;
mod established_v6;
mod extension;
mod fragment;
mod half;
mod icmp;
mod inherited;
mod ipv6;
mod limit;
mod listening;
mod lookup;
mod maps;
mod mss;
mod neighbour;
mod note;
mod observe;
mod open;
mod packet;
mod police;
mod rewrite;
mod round_trip;
mod route;
mod scratch;
mod signal;
mod skb;
mod slow;
mod socket;
mod sum;
mod sweep;
mod tc;
mod trace;
mod track;
mod translate;
mod unproven;
mod user;
mod xdp;

use aya_ebpf::bindings::{__sk_buff, TC_ACT_REDIRECT, TC_ACT_SHOT, TC_ACT_UNSPEC, xdp_action, xdp_md};
use aya_ebpf::macros::{cgroup_sock, cgroup_sock_addr, classifier, sk_lookup, xdp};
use aya_ebpf::programs::{SkLookupContext, SockAddrContext, SockContext, TcContext, XdpContext};

use crate::skb::Skb;

/// What became of a packet.
#[repr(u32)]
#[derive(Clone, Copy, Eq, PartialEq)]
pub(crate) enum Outcome {
    /// Not ours: the rest of the host gets it as it came.
    Miss = 0,
    /// Ours, and on its way out.
    Sent = 1,
    /// Ours, and refused under a counted reason.
    Dropped = 2,
}

impl Outcome {
    /// `TC_ACT_UNSPEC` lets the classifiers after us have their say, where `TC_ACT_OK` would end the chain.
    const fn tc(self) -> i32 {
        match self {
            Self::Miss => TC_ACT_UNSPEC,
            Self::Sent => TC_ACT_REDIRECT,
            Self::Dropped => TC_ACT_SHOT,
        }
    }

    /// XDP passes what it cannot finish; the tc program behind it sees the packet untouched.
    const fn xdp(self) -> u32 {
        match self {
            Self::Miss => xdp_action::XDP_PASS,
            Self::Sent => xdp_action::XDP_REDIRECT,
            Self::Dropped => xdp_action::XDP_DROP,
        }
    }
}

/// For interfaces whose packets start with an Ethernet header.
#[classifier]
fn relay_tc(ctx: TcContext) -> i32 {
    tc::run::<{ packet::ETHERNET }>(Skb::new(ctx.skb.skb)).tc()
}

/// For interfaces whose packets start with the IP header: tun, WireGuard, ppp.
#[classifier]
fn relay_tc_l3(ctx: TcContext) -> i32 {
    tc::run::<0>(Skb::new(ctx.skb.skb)).tc()
}

/// The same two for what leaves: it is counted and goes on, if it may.
#[classifier]
fn relay_egress(ctx: TcContext) -> i32 {
    user::outgoing(Skb::new(ctx.skb.skb), packet::ETHERNET as u32).tc()
}

#[classifier]
fn relay_egress_l3(ctx: TcContext) -> i32 {
    user::outgoing(Skb::new(ctx.skb.skb), 0).tc()
}

#[xdp]
fn relay_xdp(ctx: XdpContext) -> u32 {
    let md: *mut xdp_md = ctx.ctx;
    xdp::run(md).xdp()
}

/// Not attached anywhere: relayd runs it to delete dead flows.
#[classifier]
fn relay_sweep(ctx: TcContext) -> i32 {
    let skb: *mut __sk_buff = ctx.skb.skb;
    sweep::run(Skb::new(skb))
}

/// For the network namespace: what comes to a port without a socket of its own.
#[sk_lookup]
fn relay_lookup(ctx: SkLookupContext) -> u32 {
    lookup::run(&ctx)
}

/// What programs do that may be about to listen. They are never kept from it.
const GO_ON: i32 = 1;

#[cgroup_sock(post_bind4)]
fn relay_bound4(ctx: SockContext) -> i32 {
    lookup::bound4(ctx.sock);
    GO_ON
}

#[cgroup_sock(post_bind6)]
fn relay_bound6(ctx: SockContext) -> i32 {
    lookup::bound6(ctx.sock);
    GO_ON
}

#[cgroup_sock_addr(sendmsg4)]
fn relay_sent4(ctx: SockAddrContext) -> i32 {
    lookup::sent(ctx.sock_addr);
    GO_ON
}

#[cgroup_sock_addr(sendmsg6)]
fn relay_sent6(ctx: SockAddrContext) -> i32 {
    lookup::sent(ctx.sock_addr);
    GO_ON
}

#[cfg(not(test))]
#[panic_handler]
fn panic(_info: &core::panic::PanicInfo<'_>) -> ! {
    loop {}
}

#[unsafe(link_section = "license")]
#[unsafe(no_mangle)]
static LICENSE: [u8; 13] = *b"Dual MIT/GPL\0";
