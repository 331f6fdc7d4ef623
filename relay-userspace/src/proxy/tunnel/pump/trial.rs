//! Whether a backend is still there that was connected to long ago, for whoever would come.

use std::io::{self, ErrorKind};
use std::time::Duration;

use socket2::SockRef;
use tokio::net::TcpStream;

use crate::proxy::tcp::socket::acknowledged;

/// A backend on trial: until it acknowledges something, or sends something.
#[derive(Debug)]
pub struct Trial {
    /// What it had acknowledged before.
    acknowledged: [u32; 2],
    /// It was given up since it was silent.
    is_lost: bool,
}

impl Trial {
    /// `limit`: how long it has to acknowledge what it is sent. `None`: the kernel does not know, and it is waited for as
    /// others are.
    pub fn begin(backend: &TcpStream, limit: Duration) -> Option<Self> {
        SockRef::from(backend).set_tcp_user_timeout(Some(limit)).ok()?;
        acknowledged(backend).map(|acknowledged| Self { acknowledged, is_lost: false })
    }

    /// It is there.
    pub fn end(self, backend: &TcpStream) {
        // fails only for a connection that is gone already
        _ = SockRef::from(backend).set_tcp_user_timeout(None);
    }

    /// Whether it has acknowledged something.
    pub fn is_passed(&self, backend: &TcpStream) -> bool {
        acknowledged(backend) != Some(self.acknowledged)
    }

    /// Whether it has never acknowledged anything, and the connection was given up for it.
    pub fn is_failed(&self, backend: &TcpStream) -> bool {
        self.is_lost && !self.is_passed(backend)
    }

    /// The connection has come to an end. Of one that was given up the kernel says what it was last told of the way, if
    /// anything.
    pub fn lose(&mut self, error: &io::Error) {
        use ErrorKind::{HostUnreachable, NetworkUnreachable, TimedOut};
        self.is_lost |= matches!(error.kind(), TimedOut | HostUnreachable | NetworkUnreachable);
    }
}
