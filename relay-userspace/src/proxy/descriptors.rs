//! The process's last descriptors, which sessions leave alone: without any, relayctl could not even ask what is going on.

use std::io;
use std::os::fd::AsRawFd;

use nix::errno::Errno;
use nix::sys::eventfd::{EfdFlags, EventFd};
use nix::sys::resource::{Resource, getrlimit};

/// How many they leave, or a sixteenth of a small number.
const LEFT: usize = 32;

/// How many descriptors the process may have.
pub fn limit() -> usize {
    let (soft, _) = getrlimit(Resource::RLIMIT_NOFILE).unwrap_or_default();
    usize::try_from(soft).unwrap_or(usize::MAX)
}

/// An error like the kernel's own if a session's new descriptor is one of the last.
pub fn check(new: &impl AsRawFd) -> io::Result<()> {
    // the kernel gives the lowest number that is free
    let number = usize::try_from(new.as_raw_fd()).unwrap_or(0);
    if number < sessions_end_at(limit()) { Ok(()) } else { Err(Errno::EMFILE.into()) }
}

/// The same for something that sessions can do without, which gets half of them.
pub fn check_plenty(new: &impl AsRawFd) -> io::Result<()> {
    let number = usize::try_from(new.as_raw_fd()).unwrap_or(0);
    if number < limit() / 2 { Ok(()) } else { Err(Errno::EMFILE.into()) }
}

/// The same before there is one: what would be given up at once is not begun.
pub fn are_plenty() -> io::Result<()> {
    check_plenty(&EventFd::from_value_and_flags(0, EfdFlags::EFD_CLOEXEC)?)
}

fn sessions_end_at(limit: usize) -> usize {
    limit - LEFT.min(limit / 16)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn some_are_left_alone() {
        for (limit, end) in [(64, 60), (256, 240), (1024, 992), (usize::MAX, usize::MAX - LEFT), (0, 0)] {
            assert_eq!(sessions_end_at(limit), end, "{limit}");
        }
    }
}
