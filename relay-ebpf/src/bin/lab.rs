//! Programs for the lab: they make and count packets faster than sockets can, and set the limits to measure against.
#![no_std]
#![no_main]

use aya_ebpf::bindings::{
    BPF_FIB_LKUP_RET_SUCCESS, TC_ACT_UNSPEC, bpf_fib_lookup as FibLookup, bpf_fib_lookup__bindgen_ty_1,
    bpf_fib_lookup__bindgen_ty_2, bpf_fib_lookup__bindgen_ty_3, bpf_fib_lookup__bindgen_ty_4,
    bpf_fib_lookup__bindgen_ty_5, xdp_action,
};
use aya_ebpf::btf_maps::{Array, PerCpuArray};
use aya_ebpf::helpers::{bpf_fib_lookup, bpf_redirect, bpf_redirect_neigh};
use aya_ebpf::macros::{btf_map, classifier, xdp};
use aya_ebpf::programs::{TcContext, XdpContext};
use relay_common::checksum::Delta;
use relay_common::lab::Recipe;

#[btf_map]
static RECIPE: Array<Recipe, 1> = Array::new();
/// Which flow is next, on each CPU.
#[btf_map]
static NEXT: PerCpuArray<u32, 1> = PerCpuArray::new();
/// Packets that have arrived.
#[btf_map]
static ARRIVED: PerCpuArray<u64, 1> = PerCpuArray::new();

/// Lets everything pass. On a veth end it switches NAPI on, without which redirects into its peer are lost.
#[xdp]
fn lab_pass(_ctx: XdpContext) -> u32 {
    xdp_action::XDP_PASS
}

/// Run with live frames: writes the recipe's frame into the buffer, varies it, and sends it. The buffer comes back as
/// somebody else has left it, so it is written whole each time.
#[xdp]
fn lab_generate(ctx: XdpContext) -> u32 {
    let Some(recipe) = RECIPE.get(0) else { return xdp_action::XDP_ABORTED };
    let Some(next) = NEXT.get_ptr_mut(0) else { return xdp_action::XDP_ABORTED };
    let (start, end) = (ctx.data(), ctx.data_end());
    if start + Recipe::FRAME > end {
        return xdp_action::XDP_ABORTED;
    }
    // SAFETY: an element of this CPU's own.
    let flow = unsafe { *next };
    let following = if flow + 1 < recipe.flows { flow + 1 } else { 0 };
    // SAFETY: as above.
    unsafe { *next = following };
    // SAFETY: the frame was just checked to have room for the recipe's. Words, since bytes would be copied one by one.
    unsafe { *(start as *mut [u32; Recipe::FRAME / 4]) = recipe.frame };
    // SAFETY: the same room, as 16-bit words.
    let frame = unsafe { &mut *(start as *mut [u16; Recipe::FRAME / 2]) };
    vary(frame, flow);
    // SAFETY: the helper takes numbers.
    unsafe { bpf_redirect(recipe.interface, 0) as u32 }
}

const IPV4: u16 = 0x0800u16.to_be();
const IPV6: u16 = 0x86ddu16.to_be();
const UDP: u8 = 17;

/// Where things lie in the frame, in 16-bit words.
const KIND: usize = 6;
const HEADER_CHECKSUM: usize = 12;

/// Where the low half of the source address lies, the source port, and UDP's checksum.
struct Places(usize, usize, usize);

impl Places {
    const V4: Self = Self(14, 17, 20);
    const V6: Self = Self(18, 27, 30);
}

/// Gives the frame its flow's source address and port, and keeps both checksums right.
#[inline(always)]
fn vary(frame: &mut [u16; Recipe::FRAME / 2], flow: u32) {
    if frame[KIND] == IPV6 {
        vary_at(frame, flow, &Places::V6);
    } else {
        let address = vary_at(frame, flow, &Places::V4);
        frame[HEADER_CHECKSUM] = address.apply(frame[HEADER_CHECKSUM]);
    }
}

/// Returns what that does to the address.
#[inline(always)]
fn vary_at(frame: &mut [u16; Recipe::FRAME / 2], flow: u32, at: &Places) -> Delta {
    let &Places(address, port, checksum) = at;
    let source = (Recipe::FIRST_PORT + (flow % Recipe::PER_ADDRESS) as u16).to_be();
    let ports = Delta::word(frame[port], source);
    frame[port] = source;
    let old = frame[address];
    let new = u16::from_be(old).wrapping_add((flow / Recipe::PER_ADDRESS) as u16).to_be();
    frame[address] = new;
    let addresses = Delta::word(old, new);
    frame[checksum] = ports.and(addresses).apply_udp(frame[checksum]);
    addresses
}

/// Counts UDP packets and throws them away.
#[xdp]
fn lab_count(ctx: XdpContext) -> u32 {
    let (start, end) = (ctx.data(), ctx.data_end());
    if start + 34 > end {
        return xdp_action::XDP_PASS;
    }
    // SAFETY: the comparison above leaves room for the bytes read.
    let kind = unsafe { *((start + 12) as *const u16) };
    // SAFETY: as above.
    let protocol = unsafe { *((start + 23) as *const u8) };
    // SAFETY: as above.
    let next = unsafe { *((start + 20) as *const u8) };
    if (kind != IPV4 || protocol != UDP) && (kind != IPV6 || next != UDP) {
        return xdp_action::XDP_PASS;
    }
    if let Some(count) = ARRIVED.get_ptr_mut(0) {
        // SAFETY: an element of this CPU's own.
        unsafe { *count += 1 };
    }
    xdp_action::XDP_DROP
}

/// The limit for XDP: a routing lookup and a redirect, no translation.
#[xdp]
fn lab_bare_xdp(ctx: XdpContext) -> u32 {
    let (start, end) = (ctx.data(), ctx.data_end());
    if start + 34 > end {
        return xdp_action::XDP_PASS;
    }
    // SAFETY: the comparison above leaves room for both headers.
    let frame = unsafe { &mut *(start as *mut [u16; 17]) };
    if frame[6] != 0x0800u16.to_be() {
        return xdp_action::XDP_PASS;
    }
    let word = |at: usize| u32::from(frame[at]) | u32::from(frame[at + 1]) << 16;
    let mut lookup = FibLookup {
        family: 2,
        l4_protocol: 17,
        sport: 0,
        dport: 0,
        __bindgen_anon_1: bpf_fib_lookup__bindgen_ty_1 { tot_len: 0 },
        // SAFETY: the context pointer of the running program.
        ifindex: unsafe { (*ctx.ctx).ingress_ifindex },
        __bindgen_anon_2: bpf_fib_lookup__bindgen_ty_2 { flowinfo: 0 },
        __bindgen_anon_3: bpf_fib_lookup__bindgen_ty_3 { ipv6_src: [word(13), 0, 0, 0] },
        __bindgen_anon_4: bpf_fib_lookup__bindgen_ty_4 { ipv6_dst: [word(15), 0, 0, 0] },
        __bindgen_anon_5: bpf_fib_lookup__bindgen_ty_5 { tbid: 0 },
        smac: [0; 6],
        dmac: [0; 6],
    };
    let size = size_of::<FibLookup>() as i32;
    // SAFETY: the helper reads and writes `size` bytes of the live `lookup`.
    let code = unsafe { bpf_fib_lookup(ctx.ctx.cast(), &mut lookup, size, 0) };
    if code != i64::from(BPF_FIB_LKUP_RET_SUCCESS) {
        return xdp_action::XDP_PASS;
    }
    let (to, from) = (lookup.dmac, lookup.smac);
    for (at, pair) in [(0, [to[0], to[1]]), (1, [to[2], to[3]]), (2, [to[4], to[5]])] {
        frame[at] = u16::from_ne_bytes(pair);
    }
    for (at, pair) in [(3, [from[0], from[1]]), (4, [from[2], from[3]]), (5, [from[4], from[5]])] {
        frame[at] = u16::from_ne_bytes(pair);
    }
    // SAFETY: the helper takes numbers.
    unsafe { bpf_redirect(lookup.ifindex, 0) as u32 }
}

/// The limit for tc: a redirect with the kernel's own routing lookup, to the interface that the recipe names.
#[classifier]
fn lab_bare_tc(ctx: TcContext) -> i32 {
    // SAFETY: the context pointer of the running program.
    if unsafe { (*ctx.skb.skb).protocol } as u16 != 0x0800u16.to_be() {
        return TC_ACT_UNSPEC;
    }
    let Some(recipe) = RECIPE.get(0) else { return TC_ACT_UNSPEC };
    // SAFETY: the helper takes a null pointer for "look it up".
    unsafe { bpf_redirect_neigh(recipe.interface, core::ptr::null_mut(), 0, 0) as i32 }
}

#[cfg(not(test))]
#[panic_handler]
fn panic(_info: &core::panic::PanicInfo<'_>) -> ! {
    loop {}
}

#[unsafe(link_section = "license")]
#[unsafe(no_mangle)]
static LICENSE: [u8; 13] = *b"Dual MIT/GPL\0";
