//! The eBPF objects that were built into this program, if they were.

/// Keeps the bytes at an alignment that an ELF parser can use.
#[repr(C, align(32))]
struct Aligned<T: ?Sized>(T);

static RELAY: &Aligned<[u8]> = &Aligned(*include_bytes!(concat!(env!("OUT_DIR"), "/relay.o")));
static CLOCK: &Aligned<[u8]> = &Aligned(*include_bytes!(concat!(env!("OUT_DIR"), "/clock.o")));

/// The datapath, or `None` in a program built without `cargo xtask build-ebpf`.
pub fn relay() -> Option<&'static [u8]> {
    (!RELAY.0.is_empty()).then_some(&RELAY.0)
}

/// The program that reads the kernel's clocks.
pub fn clock() -> Option<&'static [u8]> {
    (!CLOCK.0.is_empty()).then_some(&CLOCK.0)
}
