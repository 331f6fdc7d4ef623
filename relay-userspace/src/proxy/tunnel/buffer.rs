//! The buffers that all sessions of a thread share.

use std::cell::RefCell;

use super::tls::Tls;
use super::ws::Encoder;

/// Room before payload for what is written ahead of it.
pub const HEADROOM: usize = Encoder::HEADROOM.next_multiple_of(16);
/// What is read at once.
pub const PIECE: usize = 64 * 1024;
/// What may be left over of what came before.
pub const REST: usize = Tls::MOST_REST;
/// Room for a piece that is sealed.
const SEALED: usize = PIECE + 1024;

/// Where bytes are taken apart and put together.
pub struct Buffers {
    /// What has come, from [`HEADROOM`] on.
    pub opened: Box<[u8]>,
    /// What TLS has sealed.
    pub sealed: Vec<u8>,
    /// What a codec answers by itself.
    pub answers: Vec<u8>,
}

thread_local! {
    static SHARED: RefCell<Buffers> = RefCell::new(Buffers {
        opened: vec![0; HEADROOM + REST + PIECE].into(),
        sealed: Vec::with_capacity(SEALED),
        answers: Vec::new(),
    });
}

/// Lends this thread's buffers.
pub fn with<T>(work: impl FnOnce(&mut Buffers) -> T) -> T {
    SHARED.with_borrow_mut(|buffers| {
        buffers.sealed.clear();
        buffers.answers.clear();
        work(buffers)
    })
}
