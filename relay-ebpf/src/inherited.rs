//! What is noted of sockets and passes on to the connections that they accept.

use core::ptr;

use aya_ebpf::bindings::bpf_map_type::BPF_MAP_TYPE_SK_STORAGE;
use aya_ebpf::bindings::{BPF_F_CLONE, BPF_F_NO_PREALLOC, bpf_sock};
use aya_ebpf::helpers::bpf_sk_storage_get;

const FLAGS: usize = (BPF_F_NO_PREALLOC | BPF_F_CLONE) as usize;

/// A map of `T` by socket. Its fields are what the loader reads of it (BTF); nothing is ever there.
#[repr(C)]
pub(crate) struct Inherited<T> {
    r#type: *const [i32; BPF_MAP_TYPE_SK_STORAGE as usize],
    key: *const i32,
    value: *const T,
    max_entries: *const [i32; 0],
    map_flags: *const [i32; FLAGS],
}

// SAFETY: the pointers are never followed; the kernel keeps the map's entries apart.
unsafe impl<T> Sync for Inherited<T> {}

impl<T> Inherited<T> {
    pub(crate) const fn new() -> Self {
        Self {
            r#type: ptr::null(),
            key: ptr::null(),
            value: ptr::null(),
            max_entries: ptr::null(),
            map_flags: ptr::null(),
        }
    }

    /// Whether anything is noted of a socket.
    #[inline(always)]
    pub(crate) fn has(&self, socket: *mut bpf_sock) -> bool {
        let map = ptr::from_ref(self).cast_mut().cast();
        // SAFETY: the helper takes this map, and a socket that the verifier has seen come from the kernel.
        let noted = unsafe { bpf_sk_storage_get(map, socket.cast(), ptr::null_mut(), 0) };
        !noted.is_null()
    }
}
