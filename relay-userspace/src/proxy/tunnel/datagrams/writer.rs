//! Puts frames together in the thread's buffer, so that what one batch brings is wrapped and sent at once.

use super::super::buffer::{self, Buffers, HEADROOM, PIECE};
use super::super::fault::Fault;
use super::frame::{HEAD, Kind};
use super::line::Line;

/// Frames for one line at a time.
pub struct Writer<'a> {
    buffers: &'a mut Buffers,
    /// How much lies in the buffer.
    filled: usize,
}

impl Writer<'_> {
    /// Lends the thread's buffer. What is left in it at the end is forgotten.
    pub fn with<T>(work: impl FnOnce(&mut Writer<'_>) -> T) -> T {
        buffer::with(|buffers| work(&mut Writer { buffers, filled: 0 }))
    }

    /// Adds a frame. `false`: the line has no room for it, or it is too long for any.
    pub fn push(&mut self, line: &mut Line, kind: Kind, flow: u32, payload: &[u8]) -> Result<bool, Fault> {
        let Some(head) = kind.head(flow, payload.len()) else { return Ok(false) };
        if !line.has_room_beside(self.filled) {
            return Ok(false);
        }
        self.append(line, &head, payload)?;
        Ok(true)
    }

    /// Adds frames that have been put together before, however many they are.
    pub fn copy(&mut self, line: &mut Line, frames: &[u8]) -> Result<(), Fault> {
        frames.chunks(PIECE).try_for_each(|piece| self.append(line, &[], piece))
    }

    fn append(&mut self, line: &mut Line, head: &[u8], payload: &[u8]) -> Result<(), Fault> {
        let length = head.len() + payload.len();
        if HEADROOM + self.filled + length > self.buffers.opened.len() || self.filled >= PIECE {
            self.flush(line)?;
        }
        let place = &mut self.buffers.opened[HEADROOM + self.filled..][..length];
        place[..head.len()].copy_from_slice(head);
        place[head.len()..].copy_from_slice(payload);
        self.filled += length;
        Ok(())
    }

    /// Wraps and sends what there is.
    pub fn flush(&mut self, line: &mut Line) -> Result<(), Fault> {
        let length = std::mem::take(&mut self.filled);
        if length == 0 { Ok(()) } else { line.wrap(self.buffers, length) }
    }
}

/// The longest frame has room.
const _: () = assert!(super::frame::LONGEST + HEAD <= PIECE + buffer::REST);
