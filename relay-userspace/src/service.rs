//! What relayd tells systemd: ready, reloading, stopping, how it is doing, and that it is alive (sd_notify(3)); and what
//! it has systemd keep.

use std::env;
use std::io::{self, IoSlice};
use std::os::fd::{AsRawFd, BorrowedFd, FromRawFd as _, OwnedFd, RawFd};
use std::os::linux::net::SocketAddrExt as _;
use std::os::unix::ffi::OsStrExt as _;
use std::os::unix::net::{SocketAddr, UnixDatagram};
use std::time::Duration;

use nix::sys::socket::{ControlMessage, MsgFlags, UnixAddr, sendmsg};
use sd_notify::NotifyState;

/// The service manager, if there is one.
#[derive(Debug)]
pub struct Service {
    manager: Option<(UnixDatagram, SocketAddr)>,
    systemd: bool,
}

/// How long a manager that does not read may hold us up.
const PATIENCE: Duration = Duration::from_millis(250);
/// Descriptors in one message; the kernel's limit is SCM_MAX_FD, 253.
const MOST_AT_ONCE: usize = 250;

impl Service {
    pub fn from_environment() -> Self {
        let set = |name: &str| env::var_os(name).filter(|value| !value.is_empty());
        let manager = set("NOTIFY_SOCKET").and_then(|name| match connect(name.as_bytes()) {
            Ok(manager) => Some(manager),
            Err(error) => {
                tracing::warn!("NOTIFY_SOCKET={}: {error}", name.display());
                None
            }
        });
        let systemd = manager.is_some() && set("INVOCATION_ID").is_some();
        Self { manager, systemd }
    }

    /// Whether systemd runs us, as a unit.
    pub const fn is_systemd(&self) -> bool {
        self.systemd
    }

    pub fn ready(&self, status: &str) {
        self.tell(&[NotifyState::Ready, NotifyState::Status(status)]);
    }

    pub fn status(&self, status: &str) {
        self.tell(&[NotifyState::Status(status)]);
    }

    pub fn reloading(&self) {
        let now = NotifyState::monotonic_usec_now();
        match now {
            Ok(now) => self.tell(&[NotifyState::Reloading, now]),
            Err(_no_clock) => self.tell(&[NotifyState::Reloading]),
        }
    }

    pub fn stopping(&self) {
        self.tell(&[NotifyState::Stopping]);
    }

    /// Feeds the watchdog.
    pub fn alive(&self) {
        self.tell(&[NotifyState::Watchdog]);
    }

    /// Whether there is somebody to tell.
    pub const fn is_there(&self) -> bool {
        self.manager.is_some()
    }

    /// How many descriptors the manager keeps, if it says so (systemd 254).
    pub fn store_size(&self) -> Option<usize> {
        env::var("FDSTORE").ok()?.parse().ok()
    }

    /// Whether descriptors surely outlive us: the manager says so, or is a systemd that may be too old to say it.
    pub fn keeps(&self) -> bool {
        self.is_there() && self.store_size().map_or(self.systemd, |size| size > 0)
    }

    /// Has the manager keep descriptors for the next relayd.
    pub fn store(&self, name: &str, descriptors: &[BorrowedFd<'_>]) -> io::Result<()> {
        let Some((socket, manager)) = &self.manager else { return Ok(()) };
        // without FDPOLL=0 it would close what reports an error
        let states = [NotifyState::FdStore, NotifyState::FdName(name), NotifyState::Custom("FDPOLL=0")];
        let message = lines(&states);
        for descriptors in descriptors.chunks(MOST_AT_ONCE) {
            let raw: Vec<RawFd> = descriptors.iter().map(AsRawFd::as_raw_fd).collect();
            let attached = [ControlMessage::ScmRights(&raw)];
            let text = [IoSlice::new(message.as_bytes())];
            sendmsg(
                socket.as_raw_fd(),
                &text,
                &attached,
                MsgFlags::MSG_NOSIGNAL,
                Some(&unix_address(manager)?),
            )?;
        }
        Ok(())
    }

    /// Has the manager close what it keeps under a name.
    pub fn unstore(&self, name: &str) {
        self.tell(&[NotifyState::FdStoreRemove, NotifyState::FdName(name)]);
    }

    /// What the manager has kept. To be asked once.
    pub fn inherited(&self) -> Vec<(String, OwnedFd)> {
        let descriptors = match sd_notify::listen_fds_with_names() {
            Ok(descriptors) => descriptors,
            Err(error) => {
                tracing::warn!("what the service manager has kept cannot be used: {error}");
                return Vec::new();
            }
        };
        // SAFETY: the manager has opened them for this process, which has just checked that, and nobody else has looked.
        let own = |descriptor| unsafe { OwnedFd::from_raw_fd(descriptor) };
        descriptors.map(|(descriptor, name)| (name, own(descriptor))).collect()
    }

    fn tell(&self, states: &[NotifyState<'_>]) {
        let Some((socket, manager)) = &self.manager else { return };
        if let Err(error) = socket.send_to_addr(lines(states).as_bytes(), manager) {
            tracing::debug!("the service manager does not listen: {error}");
        }
    }
}

fn lines(states: &[NotifyState<'_>]) -> String {
    states.iter().map(|state| format!("{state}\n")).collect()
}

fn unix_address(address: &SocketAddr) -> io::Result<UnixAddr> {
    match (address.as_pathname(), address.as_abstract_name()) {
        (Some(path), _) => Ok(UnixAddr::new(path)?),
        (None, Some(name)) => Ok(UnixAddr::new_abstract(name)?),
        (None, None) => Err(io::ErrorKind::AddrNotAvailable.into()),
    }
}

/// A socket to send from, and the manager's: a path, or `@` and an abstract name.
fn connect(name: &[u8]) -> io::Result<(UnixDatagram, SocketAddr)> {
    let address = match name.split_first() {
        Some((b'@', name)) => SocketAddr::from_abstract_name(name)?,
        _ => SocketAddr::from_pathname(std::ffi::OsStr::from_bytes(name))?,
    };
    let socket = UnixDatagram::unbound()?;
    socket.set_write_timeout(Some(PATIENCE))?;
    Ok((socket, address))
}
