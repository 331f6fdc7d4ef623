//! Moving bytes between a socket and a buffer, as far as both go at once.

use std::io::{self, ErrorKind};
use std::os::fd::AsRawFd;

use nix::errno::Errno;
use nix::libc::MSG_MORE;
use nix::sys::socket::{MsgFlags, recv, send};
use tokio::io::Interest;
use tokio::net::TcpStream;

/// What has arrived; `None` for nothing yet.
pub fn try_receive(from: &TcpStream, buffer: &mut [u8]) -> io::Result<Option<usize>> {
    let mut received = None;
    let result = from.try_io(Interest::READABLE, || {
        let length = recv(from.as_raw_fd(), buffer, MsgFlags::empty())?;
        received = Some(length);
        // a buffer that is not full emptied the socket: to say so saves the call that would find nothing
        if length > 0 && length < buffer.len() { Err(ErrorKind::WouldBlock.into()) } else { Ok(()) }
    });
    accept_would_block(result)?;
    Ok(received)
}

/// How much the receiver took; 0 if it has no room.
pub fn try_send(to: &TcpStream, data: &[u8]) -> io::Result<usize> {
    try_send_by(to, data, MsgFlags::MSG_NOSIGNAL)
}

/// The same for what the end of the stream follows at once, so that one packet carries both.
pub fn try_send_last(to: &TcpStream, data: &[u8]) -> io::Result<usize> {
    try_send_by(to, data, MsgFlags::MSG_NOSIGNAL | MsgFlags::from_bits_retain(MSG_MORE))
}

fn try_send_by(to: &TcpStream, data: &[u8], flags: MsgFlags) -> io::Result<usize> {
    let mut sent = 0;
    let result = to.try_io(Interest::WRITABLE, || {
        sent = send(to.as_raw_fd(), data, flags)?;
        if sent < data.len() { Err(ErrorKind::WouldBlock.into()) } else { Ok(()) }
    });
    accept_would_block(result)?;
    Ok(sent)
}

fn accept_would_block(result: io::Result<()>) -> io::Result<()> {
    match result {
        Err(error) if error.kind() == ErrorKind::WouldBlock => Ok(()),
        result => result,
    }
}

/// Whether a failed send says that the peer had ended its own stream in peace before it reset the connection.
pub fn ended_before_reset(error: &io::Error) -> bool {
    error.raw_os_error() == Some(Errno::EPIPE as i32)
}
