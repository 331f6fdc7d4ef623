//! Streams of many clients in one tunnel, between two Relays: HTTP/2 (RFC 9113), of which each stream is a CONNECT. It
//! tells the end of a stream from its reset, has a window for each, and a limit on all that a peer can make us keep.

mod alone;
mod connections;
mod exit;
mod stream;
#[cfg(test)]
mod tests;

pub use self::alone::Alone;
pub use self::exit::Exit;
pub use self::stream::MuxStream;

use std::time::Duration;

/// How many clients share a connection: what is lost on its way holds all of them up for a round trip.
const STREAMS: u32 = 64;
/// What one stream may have on its way and unread: 20 Mbit/s at 200 ms.
const WINDOW: u32 = 512 * 1024;
/// All of them may, so that none that is not read holds up another one.
const WINDOWS: u32 = STREAMS * WINDOW;
/// What a stream keeps for a connection that takes nothing.
const UNSENT: usize = 64 * 1024;
/// Of which pieces smaller than [`LITTLE`] are no more than this; the next ones wait and become one.
const FEW: usize = 4 * 1024;
const LITTLE: usize = 1024;
/// Small frames that have come are put together as soon as their session has its turn. h2 charges 256 bytes for each until
/// then, and ends the connection of who has more: one that sends so many while we sleep is nobody who means harm.
const FRAMES: usize = 64 * 1024 * 1024;
/// Nobody says more in a stream's head.
const LONGEST_HEAD: u32 = 1024;
/// Streams that were reset here are known for a while: what is still on its way to them is no fault of the peer's.
const RESET_STREAMS: usize = 1024;
const RESET_LASTS: Duration = Duration::from_secs(10);
/// Streams may be reset before we have had a look at them: clients come and go.
const UNSEEN_RESETS: usize = 1024;
