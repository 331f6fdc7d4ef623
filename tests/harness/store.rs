//! A service manager's file descriptor store, as systemd has it.

use std::fs::File;
use std::io::{self, IoSliceMut};
use std::os::fd::{AsRawFd as _, FromRawFd as _, OwnedFd, RawFd};
use std::os::unix::net::UnixDatagram;
use std::os::unix::process::CommandExt as _;
use std::process::{Command, Stdio};
use std::sync::{Mutex, MutexGuard, PoisonError};

use nix::cmsg_space;
use nix::fcntl::{FcntlArg, fcntl};
use nix::libc;
use nix::sys::socket::{ControlMessageOwned, MsgFlags, recvmsg};

/// Descriptors and their names.
#[derive(Debug, Default)]
pub struct Store(Mutex<Vec<(String, OwnedFd)>>);

/// SD_LISTEN_FDS_START
const FIRST: RawFd = 3;
/// Out of the way of those that are handed out.
const ASIDE: RawFd = 4096;
/// SCM_MAX_FD
const MOST: usize = 253;

/// A message with what is attached to it.
pub fn receive(socket: &UnixDatagram) -> io::Result<(String, Vec<OwnedFd>)> {
    let mut buffer = [0; 4096];
    let mut attached = cmsg_space!([RawFd; MOST]);
    let mut parts = [IoSliceMut::new(&mut buffer)];
    let flags = MsgFlags::MSG_CMSG_CLOEXEC;
    let message = recvmsg::<()>(socket.as_raw_fd(), &mut parts, Some(&mut attached), flags)?;
    let mut descriptors = Vec::new();
    for control in message.cmsgs()? {
        if let ControlMessageOwned::ScmRights(received) = control {
            // SAFETY: the kernel has just opened them for us.
            descriptors.extend(received.into_iter().map(|raw| unsafe { OwnedFd::from_raw_fd(raw) }));
        }
    }
    let length = message.bytes;
    Ok((String::from_utf8_lossy(&buffer[..length]).into_owned(), descriptors))
}

impl Store {
    /// Does what a message says.
    pub fn obey(&self, message: &str, descriptors: Vec<OwnedFd>) {
        let value = |key: &str| message.lines().find_map(|line| line.strip_prefix(key)?.strip_prefix('='));
        let name = value("FDNAME").unwrap_or("stored");
        if value("FDSTOREREMOVE") == Some("1") {
            self.lock().retain(|(known, _)| known != name);
        } else if value("FDSTORE") == Some("1") {
            assert_eq!(value("FDPOLL"), Some("0"), "systemd would close what reports an error");
            assert!(!name.contains(':') && name.len() < 256, "{name}");
            self.lock().extend(descriptors.into_iter().map(|descriptor| (name.to_owned(), descriptor)));
        }
    }

    /// The names of what it has, each once.
    pub fn names(&self) -> Vec<String> {
        let mut names: Vec<String> = self.lock().iter().map(|(name, _)| name.clone()).collect();
        names.sort();
        names.dedup();
        names
    }

    pub fn len(&self) -> usize {
        self.lock().len()
    }

    /// Closes everything.
    pub fn clear(&self) {
        self.lock().clear();
    }

    pub fn is_empty(&self) -> bool {
        self.lock().is_empty()
    }

    /// The same command, started with everything that is here, and with these as standard error.
    pub fn hand_out(&self, command: &Command, stderr: File) -> Command {
        let store = self.lock();
        let names: Vec<&str> = store.iter().map(|(name, _)| name.as_str()).collect();
        // only the process that it is for knows its own number
        let mut shell = Command::new("/bin/sh");
        shell
            .args(["-c", "LISTEN_PID=$$ exec \"$@\"", "sh"])
            .arg(command.get_program())
            .args(command.get_args());
        for (key, value) in command.get_envs() {
            match value {
                Some(value) => shell.env(key, value),
                None => shell.env_remove(key),
            };
        }
        shell.env("LISTEN_FDS", store.len().to_string()).env("LISTEN_FDNAMES", names.join(":"));
        shell.stdin(Stdio::null()).stdout(Stdio::null()).stderr(stderr);
        let aside = |(_, descriptor): &(String, OwnedFd)| {
            let raw = fcntl(descriptor, FcntlArg::F_DUPFD_CLOEXEC(ASIDE)).expect("duplicate");
            // SAFETY: it has just been made.
            unsafe { OwnedFd::from_raw_fd(raw) }
        };
        let aside: Vec<OwnedFd> = store.iter().map(aside).collect();
        let put_in_place = move || {
            for (place, descriptor) in (FIRST..).zip(&aside) {
                // SAFETY: nothing of this process is used any more but what is duplicated here and standard error.
                if unsafe { libc::dup2(descriptor.as_raw_fd(), place) } < 0 {
                    return Err(io::Error::last_os_error());
                }
            }
            Ok(())
        };
        // SAFETY: dup2(2) may be called between fork and exec.
        unsafe { shell.pre_exec(put_in_place) };
        shell
    }

    fn lock(&self) -> MutexGuard<'_, Vec<(String, OwnedFd)>> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}
