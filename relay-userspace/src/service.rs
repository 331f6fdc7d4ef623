//! What relayd tells systemd: ready, reloading, stopping, how it is doing, and that it is alive (sd_notify(3)).

use std::env;
use std::io;
use std::os::linux::net::SocketAddrExt as _;
use std::os::unix::ffi::OsStrExt as _;
use std::os::unix::net::{SocketAddr, UnixDatagram};
use std::time::Duration;

use sd_notify::NotifyState;

/// The service manager, if there is one.
pub struct Service {
    manager: Option<(UnixDatagram, SocketAddr)>,
    systemd: bool,
}

/// How long a manager that does not read may hold us up.
const PATIENCE: Duration = Duration::from_millis(250);

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

    fn tell(&self, states: &[NotifyState<'_>]) {
        let Some((socket, manager)) = &self.manager else { return };
        let message: String = states.iter().map(|state| format!("{state}\n")).collect();
        if let Err(error) = socket.send_to_addr(message.as_bytes(), manager) {
            tracing::debug!("the service manager does not listen: {error}");
        }
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
