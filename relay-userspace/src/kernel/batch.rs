//! Map operations on many entries in one system call, which aya does not have (Linux 5.6 and later).

use std::io;
use std::mem::MaybeUninit;
use std::os::fd::{AsFd, AsRawFd as _};

use aya::Pod;
use nix::libc;

const LOOKUP_BATCH: libc::c_long = 24;
const UPDATE_BATCH: libc::c_long = 26;

/// `struct { ... } batch` of `union bpf_attr` (include/uapi/linux/bpf.h).
#[repr(C)]
#[derive(Default)]
struct BatchAttr {
    in_batch: u64,
    out_batch: u64,
    keys: u64,
    values: u64,
    count: u32,
    map_fd: u32,
    elem_flags: u64,
    flags: u64,
}

fn bpf(command: libc::c_long, attr: &mut BatchAttr) -> io::Result<()> {
    // SAFETY: `attr` is a live, fully initialised prefix of `union bpf_attr` of the size given; the callers below
    // point its addresses at buffers of at least `count` elements that outlive the call.
    let code =
        unsafe { libc::syscall(libc::SYS_bpf, command, std::ptr::from_mut(attr), size_of::<BatchAttr>()) };
    if code == 0 { Ok(()) } else { Err(io::Error::last_os_error()) }
}

/// Writes entries in order. Stops at the first that fails; those before it are written.
pub fn update<K: Pod, V: Pod>(map: impl AsFd, keys: &[K], values: &[V]) -> io::Result<()> {
    let mut done = 0;
    let total = keys.len().min(values.len());
    while done < total {
        let mut attr = BatchAttr {
            keys: keys[done..].as_ptr() as u64,
            values: values[done..].as_ptr() as u64,
            count: u32::try_from(total - done).unwrap_or(u32::MAX),
            map_fd: map.as_fd().as_raw_fd().cast_unsigned(),
            ..BatchAttr::default()
        };
        bpf(UPDATE_BATCH, &mut attr)?;
        done += attr.count as usize;
    }
    Ok(())
}

/// A walk over a map, some thousand entries at a time. Entries that come or go meanwhile may or may not be seen.
pub struct Walk<'a, F, K, V> {
    map: &'a F,
    keys: Vec<MaybeUninit<K>>,
    values: Vec<MaybeUninit<V>>,
    /// The kernel's place marker: a bucket number or a key.
    place: [u8; 64],
    started: bool,
    ended: bool,
}

/// Larger than any hash bucket gets, so that the kernel never refuses for want of room.
const CHUNK: usize = 4096;

impl<'a, F: AsFd, K: Pod, V: Pod> Walk<'a, F, K, V> {
    pub fn new(map: &'a F) -> Self {
        assert!(size_of::<K>() <= 64, "the place marker holds a key");
        Self {
            map,
            keys: vec![MaybeUninit::uninit(); CHUNK],
            values: vec![MaybeUninit::uninit(); CHUNK],
            place: [0; 64],
            started: false,
            ended: false,
        }
    }

    /// The next entries; `None` at the end.
    pub fn next_chunk(&mut self) -> io::Result<Option<impl Iterator<Item = (K, V)> + '_>> {
        if self.ended {
            return Ok(None);
        }
        let place = self.place.as_mut_ptr() as u64;
        let mut attr = BatchAttr {
            in_batch: if self.started { place } else { 0 },
            out_batch: place,
            keys: self.keys.as_mut_ptr() as u64,
            values: self.values.as_mut_ptr() as u64,
            count: CHUNK as u32,
            map_fd: self.map.as_fd().as_raw_fd().cast_unsigned(),
            ..BatchAttr::default()
        };
        match bpf(LOOKUP_BATCH, &mut attr) {
            Ok(()) => {}
            // the end, with what was left
            Err(error) if error.raw_os_error() == Some(libc::ENOENT) => self.ended = true,
            Err(error) => return Err(error),
        }
        self.started = true;
        let count = (attr.count as usize).min(CHUNK);
        let pairs = self.keys[..count].iter().zip(&self.values[..count]);
        Ok(Some(pairs.map(|(key, value)| {
            // SAFETY: the kernel has written the first `count` keys, and any bytes are a `K`.
            let key = unsafe { key.assume_init() };
            // SAFETY: likewise for the values.
            (key, unsafe { value.assume_init() })
        })))
    }
}
