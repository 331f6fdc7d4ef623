//! Pipes for splice(2), lent from a pool of the thread's own, so that a session has one only while data lies in it.

use std::cell::RefCell;
use std::io;
use std::os::fd::OwnedFd;

use nix::fcntl::{FcntlArg, OFlag, SpliceFFlags, fcntl, splice};
use nix::unistd::pipe2;
use tokio::net::TcpStream;

use crate::proxy::descriptors;

/// What a pipe should hold: the most that every system allows. A quarter of it needs a third more processor time.
const SIZE: i32 = 1024 * 1024;
/// With less (the user's share of pipe memory is used up) splicing is no better than copying.
const LEAST: i32 = 256 * 1024;
/// Empty pipes kept for later.
const MOST_IDLE: usize = 16;
/// Pipes of a thread altogether. All but one hold what slow receivers have not taken yet, so this bounds the memory too.
const MOST: usize = 64;
/// How many wishes are turned down after the system has refused one, since asking costs four calls.
const TURNED_DOWN: u32 = 1000;

thread_local! {
    static POOL: RefCell<Pool> = const { RefCell::new(Pool { idle: Vec::new(), made: 0, refused: 0 }) };
}

struct Pool {
    idle: Vec<Pipe>,
    made: usize,
    /// Wishes still to be turned down.
    refused: u32,
}

/// A pipe and how much lies in it.
#[derive(Debug)]
pub struct Pipe {
    output: OwnedFd,
    input: OwnedFd,
    length: usize,
}

impl Pipe {
    /// An empty pipe, unless there are too many, or the system gives none of a useful size.
    pub fn lend() -> Option<Self> {
        POOL.with_borrow_mut(|pool| {
            if let Some(pipe) = pool.idle.pop() {
                return Some(pipe);
            }
            pool.refused = pool.refused.saturating_sub(1);
            if pool.made >= MOST || pool.refused > 0 {
                return None;
            }
            let pipe = Self::new().ok();
            match &pipe {
                Some(_) => pool.made += 1,
                None => pool.refused = TURNED_DOWN,
            }
            pipe
        })
    }

    /// Back to the pool; one that still holds data is closed.
    pub fn give_back(self) {
        let surplus = POOL.with_borrow_mut(|pool| {
            if self.length == 0 && pool.idle.len() < MOST_IDLE {
                pool.idle.push(self);
                return None;
            }
            Some(self)
        });
        drop(surplus);
    }

    /// Gives back the descriptors of the pool.
    pub fn close_idle() {
        let idle = POOL.with_borrow_mut(|pool| std::mem::take(&mut pool.idle));
        drop(idle);
    }

    fn new() -> io::Result<Self> {
        let (output, input) = pipe2(OFlag::O_NONBLOCK | OFlag::O_CLOEXEC)?;
        descriptors::check(&input)?;
        let set = |size| fcntl(&input, FcntlArg::F_SETPIPE_SZ(size));
        set(SIZE).or_else(|_| set(LEAST))?;
        Ok(Self { output, input, length: 0 })
    }

    pub const fn length(&self) -> usize {
        self.length
    }

    /// Takes what has arrived; 0 at the end of the stream.
    pub fn fill(&mut self, from: &TcpStream) -> io::Result<usize> {
        let moved = splice(from, None, &self.input, None, SIZE as usize, flags())?;
        self.length += moved;
        Ok(moved)
    }

    /// Hands on what the receiver has room for.
    pub fn drain(&mut self, to: &TcpStream) -> io::Result<usize> {
        let moved = splice(&self.output, None, to, None, self.length, flags())?;
        self.length -= moved;
        Ok(moved)
    }
}

impl Drop for Pipe {
    fn drop(&mut self) {
        // the pool is gone when the thread ends
        _ = POOL.try_with(|pool| pool.try_borrow_mut().map(|mut pool| pool.made -= 1));
    }
}

fn flags() -> SpliceFFlags {
    SpliceFFlags::SPLICE_F_NONBLOCK | SpliceFFlags::SPLICE_F_MOVE
}
