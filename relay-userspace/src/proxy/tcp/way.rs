//! One direction of a session: from one connection to the other.
//!
//! What arrives is read into a buffer that all sessions of the thread share, and written on at once. Only what the
//! receiver has no room for is kept, and nothing more is read until it is out. A direction with much to carry goes
//! through a pipe instead, without being copied.

use std::cell::RefCell;
use std::io::{self, ErrorKind};
use std::task::{Context, Poll, ready};

use tokio::io::Interest;
use tokio::net::TcpStream;

use super::pipe::Pipe;
use super::remainder::{self, Remainder};
use super::transfer::{try_receive, try_send};

/// The shared buffer; also the most that is kept for a slow receiver without a pipe, unless much is kept already.
const BUFFER: usize = 64 * 1024;
/// How much a direction may carry before others get their turn.
const TURN: usize = 1024 * 1024;
/// A piece of this size calls for a pipe,
const LARGE: usize = 16 * 1024;
/// and so many pieces in a row that are smaller than `SMALL` for the buffer again.
const SMALL_PIECES: u8 = 8;
const SMALL: usize = 4 * 1024;

thread_local! {
    static SHARED: RefCell<Box<[u8]>> = RefCell::new(vec![0; BUFFER].into());
}

/// Why a direction stopped before its end.
#[derive(Debug)]
pub enum Fault {
    Receive,
    Send(io::Error),
}

#[derive(Debug, Default)]
pub struct Way {
    state: State,
    store: Store,
    mode: Mode,
}

#[derive(Clone, Copy, Debug, Default, Eq, PartialEq)]
enum State {
    #[default]
    Open,
    /// The receiver is gone: what arrives is thrown away.
    Void,
    /// The end of the stream has come, and everything before it is out.
    Done,
}

/// What the receiver has not taken yet.
#[derive(Debug, Default)]
enum Store {
    #[default]
    Empty,
    Kept(Remainder),
    Piped(Pipe),
}

/// How data is moved.
#[derive(Clone, Copy, Debug, Default, Eq, PartialEq)]
enum Mode {
    #[default]
    Copy,
    /// `small`: how many small pieces have come in a row.
    Splice { small: u8 },
}

/// What a call of [`Way::poll`] did.
#[derive(Debug, Default)]
pub struct Moved {
    /// Taken from the sender.
    pub received: usize,
    /// Handed to the receiver.
    pub sent: usize,
}

/// What the sender had.
enum Input {
    Nothing,
    End,
    Some,
}

impl Way {
    /// With something to deliver before anything is received.
    pub fn starting_with(data: Vec<u8>) -> Self {
        let store = if data.is_empty() { Store::Empty } else { Store::Kept(Remainder::new(data)) };
        Self { store, ..Self::default() }
    }

    pub fn is_done(&self) -> bool {
        self.state == State::Done
    }

    /// Whether nothing more will be delivered.
    pub fn is_over(&self) -> bool {
        self.state != State::Open
    }

    pub fn is_void(&self) -> bool {
        self.state == State::Void
    }

    /// Whether the sender is left alone until the receiver has room.
    pub const fn is_blocked(&self) -> bool {
        !matches!(self.store, Store::Empty)
    }

    /// What has been received and not been handed on; `None`: it cannot be read.
    pub fn kept(&self) -> Option<&[u8]> {
        match &self.store {
            Store::Empty => Some(&[]),
            Store::Kept(kept) => Some(kept.rest()),
            Store::Piped(_) => None,
        }
    }

    /// From now on everything is thrown away.
    pub fn give_up(&mut self) {
        if self.state == State::Open {
            self.state = State::Void;
            self.store = Store::Empty;
        }
    }

    /// Carries what there is to carry. Ready at the end of the stream.
    pub fn poll(
        &mut self,
        cx: &mut Context<'_>,
        from: &TcpStream,
        to: &TcpStream,
        moved: &mut Moved,
    ) -> Poll<Result<(), Fault>> {
        while self.state != State::Done {
            ready!(self.poll_store(cx, to, moved)).map_err(Fault::Send)?;
            if moved.received >= TURN {
                cx.waker().wake_by_ref();
                return Poll::Pending;
            }
            ready!(from.poll_read_ready(cx)).map_err(lost)?;
            let input = match (self.state, self.mode) {
                (State::Void, _) => void(from, moved)?,
                (_, Mode::Copy) => self.copy(from, to, moved)?,
                (_, Mode::Splice { small }) => self.splice(from, to, small, moved)?,
            };
            if let Input::End = input {
                self.state = State::Done;
            }
        }
        Poll::Ready(Ok(()))
    }

    /// Hands on what was kept.
    fn poll_store(
        &mut self,
        cx: &mut Context<'_>,
        to: &TcpStream,
        moved: &mut Moved,
    ) -> Poll<io::Result<()>> {
        loop {
            let sent = match &mut self.store {
                Store::Empty => return Poll::Ready(Ok(())),
                Store::Kept(kept) => {
                    ready!(to.poll_write_ready(cx))?;
                    let now = try_send(to, kept.rest())?;
                    kept.take(now);
                    now
                }
                Store::Piped(pipe) => {
                    ready!(to.poll_write_ready(cx))?;
                    try_drain(pipe, to)?
                }
            };
            moved.sent += sent;
            self.release();
        }
    }

    /// Lets go of a store that is empty.
    fn release(&mut self) {
        let empty = match &self.store {
            Store::Empty => false,
            Store::Kept(kept) => kept.rest().is_empty(),
            Store::Piped(pipe) => pipe.length() == 0,
        };
        if empty && let Store::Piped(pipe) = std::mem::take(&mut self.store) {
            pipe.give_back();
        }
    }

    fn copy(&mut self, from: &TcpStream, to: &TcpStream, moved: &mut Moved) -> Result<Input, Fault> {
        SHARED.with_borrow_mut(|buffer| {
            let room = remainder::room(buffer.len());
            let data = match try_receive(from, &mut buffer[..room]).map_err(lost)? {
                None => return Ok(Input::Nothing),
                Some(0) => return Ok(Input::End),
                Some(length) => &buffer[..length],
            };
            moved.received += data.len();
            let sent = match try_send(to, data) {
                Ok(sent) => sent,
                Err(error) => {
                    self.store = Store::Kept(Remainder::new(data.to_vec()));
                    return Err(Fault::Send(error));
                }
            };
            moved.sent += sent;
            let rest = &data[sent..];
            if !rest.is_empty() {
                self.store = Store::Kept(Remainder::new(rest.to_vec()));
            }
            if data.len() >= LARGE {
                self.mode = Mode::Splice { small: 0 };
            }
            Ok(Input::Some)
        })
    }

    fn splice(
        &mut self,
        from: &TcpStream,
        to: &TcpStream,
        small: u8,
        moved: &mut Moved,
    ) -> Result<Input, Fault> {
        let Some(mut pipe) = Pipe::lend() else {
            self.mode = Mode::Copy;
            return Ok(Input::Some);
        };
        let filled = match from.try_io(Interest::READABLE, || pipe.fill(from)) {
            Ok(filled) => filled,
            Err(error) => {
                pipe.give_back();
                let nothing = error.kind() == ErrorKind::WouldBlock;
                return if nothing { Ok(Input::Nothing) } else { Err(Fault::Receive) };
            }
        };
        moved.received += filled;
        let mut sent = 0;
        while pipe.length() > 0 {
            match try_drain(&mut pipe, to).map_err(Fault::Send)? {
                0 => break,
                now => sent += now,
            }
        }
        moved.sent += sent;
        self.store = Store::Piped(pipe);
        self.release();
        let small = if filled < SMALL { small + 1 } else { 0 };
        self.mode = if small < SMALL_PIECES { Mode::Splice { small } } else { Mode::Copy };
        Ok(if filled == 0 { Input::End } else { Input::Some })
    }
}

/// What went wrong makes no difference: the sender is gone.
fn lost(_: io::Error) -> Fault {
    Fault::Receive
}

/// Reads and forgets.
fn void(from: &TcpStream, moved: &mut Moved) -> Result<Input, Fault> {
    SHARED.with_borrow_mut(|buffer| {
        Ok(match try_receive(from, buffer).map_err(lost)? {
            None => Input::Nothing,
            Some(0) => Input::End,
            Some(length) => {
                moved.received += length;
                Input::Some
            }
        })
    })
}

fn try_drain(pipe: &mut Pipe, to: &TcpStream) -> io::Result<usize> {
    match to.try_io(Interest::WRITABLE, || pipe.drain(to)) {
        Err(error) if error.kind() == ErrorKind::WouldBlock => Ok(0),
        result => result,
    }
}
