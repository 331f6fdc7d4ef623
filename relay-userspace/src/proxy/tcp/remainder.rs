//! What a slow receiver has not taken yet, and how much all of them may leave lying in relayd's memory.

use std::sync::atomic::{AtomicUsize, Ordering};

/// From here on receivers share the memory in small pieces.
const PLENTY: usize = 16 * 1024 * 1024;
/// The most that is read for one receiver then.
const PIECE: usize = 2 * 1024;

/// Bytes kept for all sessions.
static KEPT: AtomicUsize = AtomicUsize::new(0);

/// Data that has been read and not sent.
#[derive(Debug)]
pub struct Remainder {
    data: Vec<u8>,
    sent: usize,
}

impl Remainder {
    pub fn new(data: Vec<u8>) -> Self {
        KEPT.fetch_add(data.len(), Ordering::Relaxed);
        Self { data, sent: 0 }
    }

    pub fn rest(&self) -> &[u8] {
        &self.data[self.sent..]
    }

    /// So much of the rest has been sent.
    pub const fn take(&mut self, sent: usize) {
        self.sent += sent;
    }
}

impl Drop for Remainder {
    fn drop(&mut self) {
        KEPT.fetch_sub(self.data.len(), Ordering::Relaxed);
    }
}

/// How much to read at once into a buffer of this size: all of it may have to be kept.
pub fn room(buffer: usize) -> usize {
    room_beside(KEPT.load(Ordering::Relaxed), buffer)
}

fn room_beside(kept: usize, buffer: usize) -> usize {
    if kept < PLENTY { buffer } else { buffer.min(PIECE) }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn pieces_are_small_when_much_is_kept() {
        assert_eq!(room_beside(0, 65_536), 65_536);
        assert_eq!(room_beside(PLENTY - 1, 65_536), 65_536);
        assert_eq!(room_beside(PLENTY, 65_536), PIECE);
        assert_eq!(room_beside(PLENTY, 100), 100);
    }

    #[test]
    fn what_is_kept_is_counted_until_it_is_gone() {
        const MUCH: usize = 1 << 40;
        // other tests keep something too, but never that much
        assert!(KEPT.load(Ordering::Relaxed) < MUCH);
        let mut remainder = Remainder::new(vec![7; 4 * PLENTY]);
        assert_eq!(room(65_536), PIECE);
        remainder.take(4 * PLENTY - 3);
        assert_eq!(remainder.rest(), [7; 3]);
        drop(remainder);
        assert!(KEPT.load(Ordering::Relaxed) < MUCH, "not counted twice");
    }
}
