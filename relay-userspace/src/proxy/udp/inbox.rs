//! Receives many datagrams in one system call, on buffers that all sockets of a thread share.

use std::mem::MaybeUninit;
use std::os::fd::{AsFd, AsRawFd as _};
use std::ptr;

use nix::errno::Errno;
use nix::libc;

use super::envelope::{Control, Name};

/// How many datagrams are taken from a listener at once. So many, since the more there are, the more of them are of
/// the same client and travel together.
pub const SLOTS: usize = 1024;
/// Room for the largest datagram there is, or for a train of them (see [`Train`]).
const SLOT: usize = 65_536;
/// From one slot to the next: not a multiple of pages, since all slots would then compete for the same cache lines.
const STRIDE: usize = SLOT + 192;

/// Datagrams of one sender in a row, `size` bytes each, the last one perhaps shorter. Mostly it is a single one;
/// the kernel hands over several as one where it received them so (`UDP_GRO`).
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub struct Train {
    /// Where in [`Inbox::memory`].
    pub start: usize,
    pub length: usize,
    pub size: usize,
}

impl Train {
    pub const fn datagrams(&self) -> usize {
        if self.length <= self.size { 1 } else { self.length.div_ceil(self.size) }
    }

    /// The datagrams one by one.
    pub fn singles(self) -> impl Iterator<Item = Self> {
        let end = self.start + self.length;
        (0..self.datagrams()).map(move |number| {
            let start = self.start + number * self.size;
            let length = self.size.min(end - start);
            Self { start, length, size: length }
        })
    }
}

/// The buffers. Memory that no datagram has reached is not taken from the system.
pub struct Inbox {
    memory: Vec<u8>,
    names: Vec<Name>,
    controls: Vec<Control>,
    lengths: Vec<usize>,
    _vectors: Vec<libc::iovec>,
    /// Each points at the name, the control buffer and the memory of its slot; none of these vectors ever changes its
    /// size.
    headers: Vec<libc::mmsghdr>,
}

impl Inbox {
    pub fn new() -> Self {
        let mut memory = vec![0; SLOTS * STRIDE];
        // SAFETY: the range is the allocation's own, and this advice changes no content. Huge pages would make the
        // first datagrams of a thread cost megabytes. Where the advice is not taken, nothing else is wrong.
        unsafe { libc::madvise(page_up(memory.as_ptr()), memory.len() - PAGE, libc::MADV_NOHUGEPAGE) };
        let mut names: Vec<Name> = vec![Name::default(); SLOTS];
        let mut controls: Vec<Control> = vec![Control::default(); SLOTS];
        let slots = memory.chunks_exact_mut(STRIDE);
        let mut vectors: Vec<libc::iovec> =
            slots.map(|slot| libc::iovec { iov_base: slot.as_mut_ptr().cast(), iov_len: SLOT }).collect();
        let parts = vectors.iter_mut().zip(&mut names).zip(&mut controls);
        let headers = parts.map(|((vector, name), control)| header(vector, name, control)).collect();
        Self { memory, names, controls, lengths: vec![0; SLOTS], _vectors: vectors, headers }
    }

    pub fn memory(&self) -> &[u8] {
        &self.memory
    }

    /// Receives at most `most` datagrams or trains into the slots from `first` on, and says how many came.
    pub fn receive(&mut self, socket: impl AsFd, first: usize, most: usize) -> nix::Result<usize> {
        let headers = &mut self.headers[first..SLOTS.min(first + most)];
        let count = headers.len() as libc::c_uint;
        let flags = libc::MSG_DONTWAIT as _;
        let descriptor = socket.as_fd().as_raw_fd();
        // SAFETY: `new` has pointed every header at a name, a control buffer and a vector of one slot, none of them
        // shared, all of them in vectors that live and stay in place as long as the headers.
        let received =
            unsafe { libc::recvmmsg(descriptor, headers.as_mut_ptr(), count, flags, ptr::null_mut()) };
        let received = Errno::result(received)?.cast_unsigned() as usize;
        for (slot, header) in (first..).zip(&mut headers[..received]) {
            self.lengths[slot] = header.msg_len as usize;
            self.names[slot].filled(header.msg_hdr.msg_namelen);
            self.controls[slot].filled(header.msg_hdr.msg_controllen as _);
            offer(header);
        }
        Ok(received)
    }

    pub fn train(&self, slot: usize) -> Train {
        let length = self.lengths[slot];
        let size = self.controls[slot].segment().filter(|&size| size > 0).unwrap_or(length);
        Train { start: slot * STRIDE, length, size }
    }

    pub fn sender(&self, slot: usize) -> &Name {
        &self.names[slot]
    }

    pub fn control(&self, slot: usize) -> &Control {
        &self.controls[slot]
    }
}

fn header(vector: &mut libc::iovec, name: &mut Name, control: &mut Control) -> libc::mmsghdr {
    let mut header = empty_header();
    header.msg_hdr.msg_name = name.as_mut_ptr().cast();
    header.msg_hdr.msg_iov = vector;
    header.msg_hdr.msg_iovlen = 1;
    header.msg_hdr.msg_control = control.as_mut_ptr().cast();
    offer(&mut header);
    header
}

/// Says how much room there is, where the kernel says how much of it is used.
const fn offer(header: &mut libc::mmsghdr) {
    header.msg_hdr.msg_namelen = Name::ROOM as _;
    header.msg_hdr.msg_controllen = Control::ROOM as _;
}

/// Some C libraries have padding in it that cannot be named.
pub fn empty_header() -> libc::mmsghdr {
    // SAFETY: it is made of integers and pointers, all of which may be zero.
    unsafe { MaybeUninit::zeroed().assume_init() }
}

/// At least a page of every system.
const PAGE: usize = 65_536;

fn page_up(address: *const u8) -> *mut libc::c_void {
    address.wrapping_add(address.align_offset(PAGE)).cast_mut().cast()
}
