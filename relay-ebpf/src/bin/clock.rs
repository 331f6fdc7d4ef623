//! Reports jiffies and the monotonic clock. An object of its own: relayd needs HZ before it can set up the others.
#![no_std]
#![no_main]

use aya_ebpf::helpers::{bpf_jiffies64, bpf_ktime_get_ns};
use aya_ebpf::macros::classifier;
use aya_ebpf::programs::TcContext;

/// Behind the link header, 8 bytes each.
const AT: usize = 14;

#[classifier]
fn relay_clock(ctx: TcContext) -> i32 {
    // SAFETY: the helper takes nothing and returns a number.
    let jiffies = unsafe { bpf_jiffies64() };
    // SAFETY: as above.
    let nanoseconds = unsafe { bpf_ktime_get_ns() };
    match ctx.store(AT, &[jiffies, nanoseconds], 0) {
        Ok(()) => 0,
        Err(_) => -1,
    }
}

#[cfg(not(test))]
#[panic_handler]
fn panic(_info: &core::panic::PanicInfo<'_>) -> ! {
    loop {}
}

#[unsafe(link_section = "license")]
#[unsafe(no_mangle)]
static LICENSE: [u8; 13] = *b"Dual MIT/GPL\0";
