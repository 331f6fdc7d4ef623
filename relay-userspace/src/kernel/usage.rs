//! What rules have used of their limits: a map's memory, shared with the programs.

use std::ffi::c_void;
use std::num::NonZeroUsize;
use std::os::fd::AsFd as _;
use std::path::Path;
use std::ptr::NonNull;
use std::sync::Arc;

use nix::sys::mman::{MapFlags, ProtFlags, mmap, munmap};
use relay_common::names;
use relay_common::usage::Usage;

use super::{Unavailable, maps};

/// Every slot's use of its limits.
#[derive(Debug)]
pub struct UsageTable {
    memory: NonNull<c_void>,
}

const SLOTS: usize = maps::RULE_SLOTS as usize;
const BYTES: NonZeroUsize = NonZeroUsize::new(SLOTS * size_of::<Usage>()).expect("there are slots");

impl UsageTable {
    pub fn open(pins: &Path) -> Result<Self, Unavailable> {
        let map = maps::open_raw(pins, names::USAGE)?;
        let access = ProtFlags::PROT_READ.union(ProtFlags::PROT_WRITE);
        // SAFETY: a new mapping at an address of the kernel's choice.
        let mapped = unsafe { mmap(None, BYTES, access, MapFlags::MAP_SHARED, map.fd().as_fd(), 0) };
        let memory = mapped
            .map_err(|error| Unavailable(format!("map {}: cannot be mapped: {error}", names::USAGE)))?;
        Ok(Self { memory })
    }

    /// All slots in order.
    pub fn slots(&self) -> &[Usage] {
        // SAFETY: the mapping is page-aligned, has room for so many, and lasts as long as `self`; any bytes are a
        // `Usage`, which everybody changes through atomic numbers only.
        unsafe { std::slice::from_raw_parts(self.memory.cast().as_ptr(), SLOTS) }
    }
}

impl Drop for UsageTable {
    fn drop(&mut self) {
        // SAFETY: the mapping made in `open`, to which no reference outlives `self`.
        let _cannot_fail = unsafe { munmap(self.memory, BYTES.get()) };
    }
}

// SAFETY: the memory is mapped for all threads, and is changed through atomic numbers only.
unsafe impl Send for UsageTable {}
// SAFETY: likewise.
unsafe impl Sync for UsageTable {}

/// One rule's.
#[derive(Clone, Debug)]
pub struct UsageSlot {
    pub(super) table: Arc<UsageTable>,
    pub(super) slot: u32,
}

impl AsRef<Usage> for UsageSlot {
    fn as_ref(&self) -> &Usage {
        &self.table.slots()[self.slot as usize]
    }
}
