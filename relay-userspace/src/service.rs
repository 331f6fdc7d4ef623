//! What relayd tells systemd: ready, reloading, stopping, how it is doing, and that it is alive (sd_notify(3)).

use std::env;
use std::os::unix::ffi::OsStrExt as _;

use sd_notify::NotifyState;

/// The service manager, if there is one.
pub struct Service {
    notifies: bool,
    systemd: bool,
}

impl Service {
    pub fn from_environment() -> Self {
        let set = |name: &str| env::var_os(name).is_some_and(|value| !value.as_bytes().is_empty());
        Self { notifies: set("NOTIFY_SOCKET"), systemd: set("INVOCATION_ID") && set("NOTIFY_SOCKET") }
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

    fn tell(&self, state: &[NotifyState<'_>]) {
        if self.notifies
            && let Err(error) = sd_notify::notify(state)
        {
            tracing::debug!("the service manager does not listen: {error}");
        }
    }
}
