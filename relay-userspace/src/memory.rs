//! How relayd keeps its heap small: a change of many rules needs as much again for a moment, which goes back to the system.

/// Large pieces have mappings of their own, however often they come and go: glibc otherwise puts them on the heap after the
/// first one, where small ones settle between them and keep them from being given back.
pub fn keep_apart() {
    #[cfg(target_env = "gnu")]
    {
        use nix::libc::{M_MMAP_THRESHOLD, mallopt};
        const LARGE: i32 = 128 << 10;
        // SAFETY: a number for the allocator, set before there is a second thread.
        let _as_it_was_if_refused = unsafe { mallopt(M_MMAP_THRESHOLD, LARGE) };
    }
}

/// Gives back what is free, wherever it lies.
pub fn give_back() {
    #[cfg(target_env = "gnu")]
    {
        // SAFETY: it touches free memory only, and takes the allocator's locks.
        let _nothing_was_free = unsafe { nix::libc::malloc_trim(0) };
    }
}
