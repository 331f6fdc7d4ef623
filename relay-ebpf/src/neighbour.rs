//! Link addresses for XDP. Asking the kernel's routing table costs more than everything else about a packet, so each CPU
//! remembers its answers until the tick is over. A change of routes is seen at once, by the next hop's generation; a
//! neighbour that takes another link address, within a tick.
//!
//! What XDP sends, the kernel does not see, and so it never checks whether the neighbour is still there. Every few ticks
//! one packet is therefore left to tc, whose redirect goes through the kernel's neighbour table.

use aya_ebpf::bindings::{
    BPF_FIB_LKUP_RET_SUCCESS, bpf_fib_lookup as FibLookup, bpf_fib_lookup__bindgen_ty_1,
    bpf_fib_lookup__bindgen_ty_2, bpf_fib_lookup__bindgen_ty_3, bpf_fib_lookup__bindgen_ty_4,
    bpf_fib_lookup__bindgen_ty_5, xdp_md,
};
use aya_ebpf::helpers::bpf_fib_lookup;

use crate::established::Hit;
use crate::maps;

const AF_INET: u8 = 2;

/// Link addresses for the way out: destination and source, as three words each.
#[repr(C)]
#[derive(Clone, Copy)]
pub(crate) struct Macs {
    pub(crate) destination: [u16; 3],
    pub(crate) source: [u16; 3],
}

/// Everything that an answer depends on.
#[repr(C)]
#[derive(Clone, Copy, Eq, PartialEq)]
struct Question {
    source: u32,
    destination: u32,
    /// Where the packet came in.
    interface: u32,
    /// Index and generation of the next hop.
    hop: u32,
}

/// An answer, and the tick that it is good for (32 bytes).
#[repr(C)]
pub(crate) struct Known {
    question: Question,
    tick: u32,
    macs: Macs,
}

/// Answers that each CPU remembers.
pub(crate) const KNOWN: usize = 1024;
/// Ticks from one packet left to tc to the next, a power of two.
const CHECK_EVERY: u32 = 8;

impl Question {
    /// Where its answer is kept: the top bits of a multiplicative hash (Knuth, TAOCP 6.4).
    #[inline(always)]
    const fn slot(self) -> u32 {
        let mixed = self.destination ^ self.source.rotate_left(16) ^ self.interface ^ self.hop;
        mixed.wrapping_mul(0x9e37_79b1) >> (32 - KNOWN.ilog2())
    }
}

/// The neighbour that a packet goes to; `None` where the kernel has none yet, or disagrees about the way.
#[inline(always)]
pub(crate) fn find(md: *mut xdp_md, interface: u32, hit: &Hit) -> Option<Macs> {
    let (to, hop) = (hit.flow.translation(), hit.flow.hop());
    let question = Question {
        source: to.source.to_wire(),
        destination: to.destination.to_wire(),
        interface,
        hop: u32::from(hop.index) << 16 | u32::from(hop.generation),
    };
    let now = maps::now();
    let slot = question.slot();
    let known = maps::neighbour(slot)?;
    let same = known.question == question;
    if same && known.tick == now {
        return Some(known.macs);
    }
    let macs = ask(md, question, hit)?;
    *known = Known { question, tick: now, macs };
    // not of a question that is new: its flow has just come from tc
    let is_check = same && (now ^ slot).is_multiple_of(CHECK_EVERY);
    (!is_check).then_some(macs)
}

#[inline(always)]
fn ask(md: *mut xdp_md, question: Question, hit: &Hit) -> Option<Macs> {
    let mut lookup = FibLookup {
        family: AF_INET,
        l4_protocol: hit.protocol.number(),
        sport: 0,
        dport: 0,
        __bindgen_anon_1: bpf_fib_lookup__bindgen_ty_1 { tot_len: 0 },
        ifindex: question.interface,
        __bindgen_anon_2: bpf_fib_lookup__bindgen_ty_2 { flowinfo: 0 },
        __bindgen_anon_3: bpf_fib_lookup__bindgen_ty_3 { ipv6_src: [question.source, 0, 0, 0] },
        __bindgen_anon_4: bpf_fib_lookup__bindgen_ty_4 { ipv6_dst: [question.destination, 0, 0, 0] },
        __bindgen_anon_5: bpf_fib_lookup__bindgen_ty_5 { tbid: 0 },
        smac: [0; 6],
        dmac: [0; 6],
    };
    let size = size_of::<FibLookup>() as i32;
    // SAFETY: the helper reads and writes `size` bytes of the live `lookup`.
    let code = unsafe { bpf_fib_lookup(md.cast(), &mut lookup, size, 0) };
    if code != i64::from(BPF_FIB_LKUP_RET_SUCCESS) || lookup.ifindex != hit.next_hop.interface {
        return None;
    }
    Some(Macs { destination: words(lookup.dmac), source: words(lookup.smac) })
}

#[inline(always)]
fn words(mac: [u8; 6]) -> [u16; 3] {
    [
        u16::from_ne_bytes([mac[0], mac[1]]),
        u16::from_ne_bytes([mac[2], mac[3]]),
        u16::from_ne_bytes([mac[4], mac[5]]),
    ]
}
