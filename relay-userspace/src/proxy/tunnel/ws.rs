//! WebSocket (RFC 6455) as a byte stream: binary frames, whose bounds mean nothing. No socket.
//!
//! Frames are taken apart and put together where they lie. The handshakes work on whole heads.

mod decoder;
mod encoder;
mod fault;
mod handshake;
mod head;
mod mask;
#[cfg(test)]
mod peer;
#[cfg(test)]
mod properties;
mod request;
mod response;
mod violation;

use self::mask::Key;
use crate::rule::tunnel::MaskChoice;

pub use self::decoder::{Decoded, Decoder};
pub use self::encoder::Encoder;
pub use self::fault::HandshakeFault;
pub use self::handshake::LONGEST_HEAD;
pub use self::request::{Asked, read_request};
pub use self::response::{Expected, read_response, request};
pub use self::violation::Violation;

/// Which end of a WebSocket we are.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub enum Role {
    /// Only clients mask.
    Client(Masking),
    Server,
}

/// What a client masks its frames with.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub enum Masking {
    /// Zeros, which leave the payload as it is. realm understands nothing else.
    Zero,
    /// A new key for each frame, as the RFC has it.
    Random,
}

impl From<MaskChoice> for Masking {
    fn from(choice: MaskChoice) -> Self {
        match choice {
            MaskChoice::Auto | MaskChoice::Zero => Self::Zero,
            MaskChoice::Random => Self::Random,
        }
    }
}

impl Role {
    /// What the next frame of ours is masked with; `None`: not at all.
    fn key(self) -> Option<Key> {
        match self {
            Self::Client(Masking::Zero) => Some(Key::ZERO),
            Self::Client(Masking::Random) => Some(Key::random()),
            Self::Server => None,
        }
    }
}
