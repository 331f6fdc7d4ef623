//! Pinned links: taking one over, and taking one off its hook at once, which aya does not have (Linux 5.9 and later).
//!
//! Removing the pin alone ends the link too, but later: the kernel leaves that to a worker, and packets are forwarded
//! until then.

use std::ffi::CString;
use std::io;
use std::os::fd::{AsRawFd as _, FromRawFd as _, OwnedFd};
use std::path::Path;

use aya::programs::links::{FdLink, PinnedLink};
use nix::libc;

const OBJ_GET: libc::c_long = 7;
const LINK_DETACH: libc::c_long = 34;

/// The first members of `union bpf_attr` for both commands (include/uapi/linux/bpf.h): a path for one, a descriptor
/// for the other.
#[repr(C)]
struct Attr {
    first: u64,
    descriptor: u32,
    flags: u32,
}

fn bpf(command: libc::c_long, first: u64) -> io::Result<i32> {
    let attr = Attr { first, descriptor: 0, flags: 0 };
    // SAFETY: `attr` is a live, fully initialised prefix of `union bpf_attr` of the size given; a path in it is a C
    // string that the caller keeps alive.
    let result =
        unsafe { libc::syscall(libc::SYS_bpf, command, std::ptr::from_ref(&attr), size_of::<Attr>()) };
    i32::try_from(result).ok().filter(|&result| result >= 0).ok_or_else(io::Error::last_os_error)
}

/// The link behind a pin, if there is one.
pub(super) fn adopt(pin: &Path) -> Option<FdLink> {
    pin.exists().then(|| PinnedLink::from_pin(pin).ok()).flatten().map(FdLink::from)
}

/// Detaches the link behind a pin. The pin stays.
pub fn detach(pin: &Path) -> io::Result<()> {
    let path = CString::new(pin.as_os_str().as_encoded_bytes())?;
    let descriptor = bpf(OBJ_GET, path.as_ptr() as u64)?;
    // SAFETY: the kernel has just given it to us, and to nobody else.
    let link = unsafe { OwnedFd::from_raw_fd(descriptor) };
    bpf(LINK_DETACH, u64::from(link.as_raw_fd().cast_unsigned())).map(|_zero| ())
}
