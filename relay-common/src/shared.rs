//! A number in memory that the programs and relayd both change.

use core::sync::atomic::AtomicU64;
#[cfg(not(target_arch = "bpf"))]
use core::sync::atomic::Ordering::Relaxed;

/// A number that everybody may read, replace, and add to in one step.
#[repr(transparent)]
#[derive(Debug, Default)]
pub struct Shared(AtomicU64);

#[cfg(not(target_arch = "bpf"))]
impl Shared {
    pub fn get(&self) -> u64 {
        self.0.load(Relaxed)
    }

    pub fn set(&self, number: u64) {
        self.0.store(number, Relaxed);
    }

    /// Wraps.
    pub fn add(&self, number: u64) {
        self.0.fetch_add(number, Relaxed);
    }
}

/// LLVM has no atomic loads for BPF, where every aligned load is one.
#[cfg(target_arch = "bpf")]
impl Shared {
    #[inline(always)]
    pub fn get(&self) -> u64 {
        // SAFETY: the reference keeps the eight bytes valid and aligned.
        unsafe { self.0.as_ptr().read_volatile() }
    }

    #[inline(always)]
    pub fn set(&self, number: u64) {
        // SAFETY: the reference keeps the eight bytes valid and aligned, and they are meant to be changed through it.
        unsafe { self.0.as_ptr().write_volatile(number) }
    }

    /// The one instruction that all kernels have; core's own hands the old value back, which needs 5.12.
    #[inline(always)]
    pub fn add(&self, number: u64) {
        let word = self.0.as_ptr();
        // SAFETY: as for `set`; the instruction does nothing but add.
        unsafe {
            core::arch::asm!("lock *(u64 *)({word} + 0) += {number}", word = in(reg) word, number = in(reg) number);
        }
    }
}
