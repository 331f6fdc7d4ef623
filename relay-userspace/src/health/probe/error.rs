//! Why a probe was not answered as it should be.

use std::io;

use nix::errno::Errno;

use crate::proxy::tunnel::Fault;

/// What went wrong with a probe, in words that are shown.
#[derive(Clone, Debug, Eq, PartialEq, thiserror::Error)]
pub enum ProbeError {
    #[error("connection refused")]
    Refused,
    #[error("no answer in time")]
    TimedOut,
    #[error("connection reset")]
    Reset,
    #[error("the endpoint closed the connection before it answered")]
    Closed,
    /// Nothing gets there: no route, ICMP unreachable, a firewall of this host, a source address that it has not.
    #[error("cannot be reached: {}", .0.desc())]
    Unreachable(Errno),
    #[error("this host has no source port left towards it")]
    NoPort,
    #[error("TLS: {0}")]
    Tls(Box<str>),
    /// The rule's tunnel does not open: why, and its stable name.
    #[error("{0} ({1})")]
    Tunnel(Box<str>, &'static str),
    #[error("the answer is not HTTP: {0}")]
    NotHttp(Box<str>),
    #[error("HTTP status {0}")]
    Status(u16),
    #[error("the body does not contain what check.body says")]
    Body,
    #[error("the answer does not contain what check.expect says")]
    Answer,
    #[error("the endpoint sends on and on, and no answer")]
    TooMuch,
    #[error("{}", .0.desc())]
    Other(Errno),
}

impl From<io::Error> for ProbeError {
    fn from(error: io::Error) -> Self {
        if let Some(tls) = error.get_ref().and_then(|inner| inner.downcast_ref::<rustls::Error>()) {
            return Self::Tls(tls.to_string().into());
        }
        if let Some(own) = error.get_ref().and_then(|inner| inner.downcast_ref::<Self>()) {
            return own.clone();
        }
        match error.raw_os_error().map(Errno::from_raw) {
            Some(Errno::ECONNREFUSED) => Self::Refused,
            Some(Errno::ETIMEDOUT) => Self::TimedOut,
            Some(Errno::ECONNRESET | Errno::EPIPE) => Self::Reset,
            Some(
                errno @ (Errno::ENETUNREACH
                | Errno::EHOSTUNREACH
                | Errno::EHOSTDOWN
                | Errno::ENETDOWN
                | Errno::EACCES
                | Errno::EPERM
                | Errno::EADDRNOTAVAIL
                | Errno::ENODEV
                | Errno::ENOPROTOOPT),
            ) => Self::Unreachable(errno),
            Some(errno) => Self::Other(errno),
            None => Self::Closed,
        }
    }
}

impl From<Fault> for ProbeError {
    fn from(fault: Fault) -> Self {
        Self::Tunnel(fault.to_string().into(), fault.as_str())
    }
}

impl ProbeError {
    /// Whether it was this host that had no room, which says nothing about the endpoint.
    pub(in crate::health) const fn is_ours(&self) -> bool {
        matches!(
            self,
            Self::NoPort
                | Self::Other(Errno::EMFILE | Errno::ENFILE | Errno::ENOBUFS | Errno::ENOMEM | Errno::EAGAIN)
        )
    }
}
