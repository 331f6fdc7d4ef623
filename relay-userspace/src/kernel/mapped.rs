//! A map's memory, shared with the programs: reading and writing it takes no system call.

use std::ffi::c_void;
use std::marker::PhantomData;
use std::num::NonZeroUsize;
use std::path::Path;
use std::ptr::NonNull;
use std::sync::atomic::{AtomicU32, AtomicUsize, Ordering};
use std::sync::{Mutex, PoisonError};

use aya::maps::MapData;
use nix::errno::Errno;
use nix::libc::off_t;
use nix::sys::mman::{MapFlags, ProtFlags, mmap, mmap_anonymous, munmap};
use relay_common::choice::EndpointUsage;
use relay_common::meter::Meter;
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
// SAFETY: atomic numbers, and a reserved one that nobody reads.
unsafe impl Shared for Meter {}
// SAFETY: an atomic number.
unsafe impl Shared for AtomicU32 {}

/// The entries of an array map, from the first one to the last that somebody has asked for, or somewhat beyond. What is
/// mapped counts as memory of relayd's, and most tables are nearly empty.
#[derive(Debug)]
pub struct Mapped<T> {
    map: MapData,
    /// As much room as the whole map takes.
    memory: NonNull<c_void>,
    bytes: NonZeroUsize,
    /// Bytes from the start that are the map's; the others cannot be read. It only grows, under the lock.
    mapped: AtomicUsize,
    growing: Mutex<()>,
    entries: PhantomData<T>,
}

/// Of addresses that nothing lies at.
const ROOM: MapFlags = MapFlags::MAP_PRIVATE.union(MapFlags::MAP_NORESERVE);

/// Mapped at once: some pages, whatever their size.
const GRAIN: usize = 1 << 16;

impl<T: Shared> Mapped<T> {
    /// `entries`: as many as the map has room for.
    pub fn open(pins: &Path, name: &str, entries: u32) -> Result<Self, Unavailable> {
        let failed =
            |error: &dyn std::fmt::Display| Unavailable(format!("map {name}: cannot be mapped: {error}"));
        let map = maps::open_raw(pins, name)?;
        let bytes = NonZeroUsize::new(entries as usize * size_of::<T>());
        let bytes = bytes.ok_or_else(|| failed(&"it is empty"))?;
        // SAFETY: a new mapping at an address of the kernel's choice.
        let memory = unsafe { mmap_anonymous(None, bytes, ProtFlags::PROT_NONE, ROOM) };
        let memory = memory.map_err(|error| failed(&error))?;
        let (mapped, growing) = (AtomicUsize::new(0), Mutex::new(()));
        let table = Self { map, memory, bytes, mapped, growing, entries: PhantomData };
        table.reach(1).map_err(|error| failed(&error))?;
        Ok(table)
    }

    /// Those that are mapped, in order.
    pub fn entries(&self) -> &[T] {
        let count = self.mapped.load(Ordering::Acquire) / size_of::<T>();
        // SAFETY: the mapping is page-aligned, has so many entries, and lasts as long as `self`; what lies there is as
        // `Shared` says.
        unsafe { std::slice::from_raw_parts(self.memory.cast().as_ptr(), count) }
    }

    /// So many entries from `first` on. `None`: the map has not so many, or there is no memory to map them.
    pub fn stretch(&self, first: usize, count: usize) -> Option<&[T]> {
        let end = first.checked_add(count)?;
        self.reach(end).ok()?;
        self.entries().get(first..end)
    }

    /// Maps so many entries from the start, as far as the map has them.
    fn reach(&self, entries: usize) -> Result<(), Errno> {
        let wanted = entries.saturating_mul(size_of::<T>()).next_multiple_of(GRAIN).min(self.bytes.get());
        if wanted <= self.mapped.load(Ordering::Acquire) {
            return Ok(());
        }
        let _growing = self.growing.lock().unwrap_or_else(PoisonError::into_inner);
        let before = self.mapped.load(Ordering::Acquire);
        let Some(more) = wanted.checked_sub(before).and_then(NonZeroUsize::new) else { return Ok(()) };
        let at = self.memory.as_ptr().addr().checked_add(before).and_then(NonZeroUsize::new);
        let offset = off_t::try_from(before).map_err(|_too_far| Errno::EOVERFLOW)?;
        let access = ProtFlags::PROT_READ.union(ProtFlags::PROT_WRITE);
        let flags = MapFlags::MAP_SHARED.union(MapFlags::MAP_FIXED);
        // SAFETY: it replaces room of our own, which nobody could read so far.
        if let Err(error) = unsafe { mmap(at, more, access, flags, self.map.fd(), offset) } {
            self.keep_room(at, more);
            return Err(error);
        }
        self.mapped.store(before + more.get(), Ordering::Release);
        Ok(())
    }

    /// The kernel may have given room up before it failed to map something there. It is ours again before somebody else's
    /// memory comes there, which would go with ours in the end.
    fn keep_room(&self, at: Option<NonZeroUsize>, bytes: NonZeroUsize) {
        // SAFETY: where there is something mapped, this fails.
        let _still_ours = unsafe {
            mmap_anonymous(at, bytes, ProtFlags::PROT_NONE, ROOM.union(MapFlags::MAP_FIXED_NOREPLACE))
        };
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
