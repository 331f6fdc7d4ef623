//! A map's memory, shared with the programs: reading and writing it takes no system call.

use std::ffi::c_void;
use std::marker::PhantomData;
use std::num::NonZeroUsize;
use std::os::fd::AsFd as _;
use std::path::Path;
use std::ptr::NonNull;
use std::sync::atomic::AtomicU32;

use nix::sys::mman::{MapFlags, ProtFlags, mmap, munmap};
use relay_common::choice::EndpointUsage;
use relay_common::usage::Usage;

use super::{Unavailable, maps};

/// What may lie in such memory.
///
/// # Safety
/// Any bytes are a value, which is changed through atomic numbers only, and whose alignment a page has.
pub unsafe trait Shared: Sync {}

// SAFETY: atomic numbers, and reserved ones that nobody reads.
unsafe impl Shared for Usage {}
// SAFETY: likewise.
unsafe impl Shared for EndpointUsage {}
// SAFETY: an atomic number.
unsafe impl Shared for AtomicU32 {}

/// All entries of an array map.
#[derive(Debug)]
pub struct Mapped<T> {
    memory: NonNull<c_void>,
    bytes: NonZeroUsize,
    entries: PhantomData<T>,
}

impl<T: Shared> Mapped<T> {
    /// `entries`: as many as the map has room for.
    pub fn open(pins: &Path, name: &str, entries: u32) -> Result<Self, Unavailable> {
        let failed =
            |error: &dyn std::fmt::Display| Unavailable(format!("map {name}: cannot be mapped: {error}"));
        let map = maps::open_raw(pins, name)?;
        let bytes = NonZeroUsize::new(entries as usize * size_of::<T>());
        let bytes = bytes.ok_or_else(|| failed(&"it is empty"))?;
        let access = ProtFlags::PROT_READ.union(ProtFlags::PROT_WRITE);
        // SAFETY: a new mapping at an address of the kernel's choice.
        let memory = unsafe { mmap(None, bytes, access, MapFlags::MAP_SHARED, map.fd().as_fd(), 0) };
        Ok(Self { memory: memory.map_err(|error| failed(&error))?, bytes, entries: PhantomData })
    }

    /// All entries in order.
    pub const fn entries(&self) -> &[T] {
        let count = self.bytes.get() / size_of::<T>();
        // SAFETY: the mapping is page-aligned, has room for so many, and lasts as long as `self`; what lies there is as
        // `Shared` says.
        unsafe { std::slice::from_raw_parts(self.memory.cast().as_ptr(), count) }
    }
}

impl<T> Drop for Mapped<T> {
    fn drop(&mut self) {
        // SAFETY: the mapping made in `open`, to which no reference outlives `self`.
        let _cannot_fail = unsafe { munmap(self.memory, self.bytes.get()) };
    }
}

// SAFETY: the memory is mapped for all threads, and is changed through atomic numbers only.
unsafe impl<T: Shared> Send for Mapped<T> {}
// SAFETY: likewise.
unsafe impl<T: Shared> Sync for Mapped<T> {}
