//! A datagram and its answer.

use std::os::fd::AsRawFd as _;

use nix::sys::socket::{MsgFlags, recv};
use socket2::Socket;

use super::{ProbeError, Step};

/// No answer that somebody looks into is longer.
const LONGEST: usize = 2048;

/// A datagram that was sent, on a socket that its answer alone comes to.
pub(in crate::health) struct Question {
    socket: Socket,
    expect: Option<Box<[u8]>>,
}

impl Question {
    pub(super) fn ask(socket: Socket, send: &[u8], expect: Option<Box<[u8]>>) -> Result<Self, ProbeError> {
        socket.send(send)?;
        Ok(Self { socket, expect })
    }

    /// An ICMP error is what the socket says instead of an answer.
    pub(super) fn advance(&mut self) -> Step<()> {
        let mut answer = [0; LONGEST];
        let length =
            recv(self.socket.as_raw_fd(), &mut answer, MsgFlags::empty()).map_err(std::io::Error::from)?;
        let is_expected = self.expect.as_deref().is_none_or(|expect| contains(&answer[..length], expect));
        if is_expected { Ok(()) } else { Err(ProbeError::Answer.into()) }
    }
}

/// Whether some bytes occur in others.
pub(super) fn contains(bytes: &[u8], wanted: &[u8]) -> bool {
    wanted.is_empty() || bytes.windows(wanted.len()).any(|window| window == wanted)
}
