//! Wide rules have no socket on each port: what comes to their ports and finds no connection is given to relayd's shared
//! sockets, unless a program of the host listens there, which other hooks notice.

use aya_ebpf::bindings::{bpf_sk_lookup, bpf_sock, bpf_sock_addr, sk_action};
use aya_ebpf::helpers::{bpf_get_netns_cookie, bpf_get_socket_cookie, bpf_ktime_get_ns};
use aya_ebpf::programs::SkLookupContext;
use relay_common::lookup::{BLOCK, Family, Spot, Taken, group, place};
use relay_common::net::Protocol;

use crate::maps;

const AF_INET: u32 = 2;
const AF_INET6: u32 = 10;
/// State of a socket that has a peer, which no other packet finds.
const ESTABLISHED: u32 = 1;
/// A socket that sends is noted again when this has passed, in nanoseconds.
const AGAIN: u64 = 1_000_000_000;
/// Every address.
const ANY: [u32; 4] = [0; 4];

/// A field of a context, read whole: the verifier refuses to read a part of some.
macro_rules! field {
    ($context:expr, $($field:tt)+) => {
        // SAFETY: the context pointer of the running program, or a socket that it names; the verifier turns the read
        // into a load of its own.
        unsafe { (&raw const (*$context).$($field)+).read_volatile() }
    };
}

/// The four words of an IPv6 address of a context.
macro_rules! address6 {
    ($context:expr, $field:ident) => {
        [
            field!($context, $field[0]),
            field!($context, $field[1]),
            field!($context, $field[2]),
            field!($context, $field[3]),
        ]
    };
}

/// The socket lookup of the network namespace: always goes on, with a shared socket chosen or without.
#[inline(always)]
pub(crate) fn run(context: &SkLookupContext) -> u32 {
    let _nobody = choose(context);
    sk_action::SK_PASS
}

#[inline(always)]
fn choose(context: &SkLookupContext) -> Option<()> {
    let lookup: *mut bpf_sk_lookup = context.lookup;
    let protocol = Protocol::from_number(field!(lookup, protocol) as u8)?;
    let family = family(field!(lookup, family))?;
    let place = place(protocol, family, field!(lookup, local_port) as u16);
    let taken = taken(place)?;
    if maps::is_aside() {
        return None;
    }
    let address = match family {
        Family::V4 => [field!(lookup, local_ip4), 0, 0, 0],
        Family::V6 => address6!(lookup, local_ip6),
    };
    let forced = if taken.is_everywhere() {
        taken.is_forced()
    } else {
        *maps::taker(&Spot { number: taken.set(), address })? != 0
    };
    if !forced && is_yielded(place, address) {
        return None;
    }
    maps::choose(context, group(protocol, family))
}

#[inline(always)]
fn family(number: u32) -> Option<Family> {
    match number {
        AF_INET => Some(Family::V4),
        AF_INET6 => Some(Family::V6),
        _ => None,
    }
}

/// What is taken on a port, if anything.
#[inline(always)]
fn taken(place: u32) -> Option<Taken> {
    let block = maps::block(place / BLOCK as u32)?;
    let taken = block.ports[place as usize % BLOCK];
    if taken.is_nothing() { None } else { Some(taken) }
}

#[inline(always)]
fn is_yielded(place: u32, address: [u32; 4]) -> bool {
    maps::yielded(&Spot { number: place, address }).is_some()
        || maps::yielded(&Spot { number: place, address: ANY }).is_some()
}

/// A socket was bound to an IPv4 address and a port.
#[inline(always)]
pub(crate) fn bound4(socket: *mut bpf_sock) {
    let address = [field!(socket, src_ip4), 0, 0, 0];
    let port = field!(socket, src_port) as u16;
    bound(socket, Family::V4, address, port, false);
}

/// The same for IPv6; what is bound to every address may be there for IPv4 too.
#[inline(always)]
pub(crate) fn bound6(socket: *mut bpf_sock) {
    let address = address6!(socket, src_ip6);
    let port = field!(socket, src_port) as u16;
    bound(socket, Family::V6, address, port, true);
}

#[inline(always)]
fn bound(socket: *mut bpf_sock, family: Family, address: [u32; 4], port: u16, both: bool) {
    // SAFETY: the helper takes the program's own context.
    let cookie = unsafe { bpf_get_socket_cookie(socket.cast()) };
    // SAFETY: likewise.
    let namespace = unsafe { bpf_get_netns_cookie(socket.cast()) };
    let Some(home) = maps::home() else { return };
    if home.socket == cookie {
        home.namespace = namespace;
    }
    let Some(protocol) = Protocol::from_number(field!(socket, protocol) as u8) else { return };
    if home.namespace == namespace && !maps::is_own(cookie) {
        note(protocol, family, address, port);
        if both {
            note_as_ipv4(protocol, address, port);
        }
    }
}

/// A datagram leaves a socket that may never have been bound by anybody: the kernel has given it a port.
#[inline(always)]
pub(crate) fn sent(context: *mut bpf_sock_addr) {
    let socket = field!(context, __bindgen_anon_1.sk);
    if socket.is_null() || field!(socket, state) == ESTABLISHED {
        return;
    }
    // SAFETY: the helper takes the program's own context.
    let namespace = unsafe { bpf_get_netns_cookie(context.cast()) };
    if maps::home().is_none_or(|home| home.namespace != namespace) {
        return;
    }
    let port = field!(socket, src_port) as u16;
    if field!(socket, family) == AF_INET {
        note(Protocol::Udp, Family::V4, [field!(socket, src_ip4), 0, 0, 0], port);
    } else {
        let address = address6!(socket, src_ip6);
        note(Protocol::Udp, Family::V6, address, port);
        note_as_ipv4(Protocol::Udp, address, port);
    }
}

/// An IPv6 socket on every address, or on one that stands for an IPv4 address.
#[inline(always)]
fn note_as_ipv4(protocol: Protocol, address: [u32; 4], port: u16) {
    let is_mapped = address[0] == 0 && address[1] == 0 && address[2] == 0xffff_u32.to_be();
    if is_mapped || address == ANY {
        note(protocol, Family::V4, [address[3], 0, 0, 0], port);
    }
}

/// Leaves a port to whoever has it now.
#[inline(always)]
fn note(protocol: Protocol, family: Family, address: [u32; 4], port: u16) {
    let place = place(protocol, family, port);
    if taken(place).is_none() {
        return;
    }
    let spot = Spot { number: place, address };
    // SAFETY: the helper takes nothing and returns a number.
    let now = unsafe { bpf_ktime_get_ns() };
    if maps::yielded(&spot).is_none_or(|since| now.wrapping_sub(*since) > AGAIN) {
        maps::leave(&spot, now);
    }
}
