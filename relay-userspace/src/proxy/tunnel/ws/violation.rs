//! What a peer may not send.

use thiserror::Error;

/// A frame that ends a session.
#[derive(Clone, Copy, Debug, Eq, Error, PartialEq)]
pub enum Violation {
    #[error(
        "a frame with reserved bits: the other end uses an extension that was not agreed on, \
         or something between changes the stream"
    )]
    ReservedBits,
    #[error("a text frame: the other end does not tunnel; a tunnel's frames are binary")]
    Text,
    #[error(
        "a frame with the unknown opcode {0}: the other end does not speak RFC 6455, or the stream is damaged"
    )]
    Opcode(u8),
    #[error("a frame of a client that is not masked, against RFC 6455 section 5.1")]
    Unmasked,
    #[error("a frame of a server that is masked, against RFC 6455 section 5.1")]
    Masked,
    #[error("a control frame in fragments, against RFC 6455 section 5.4")]
    FragmentedControl,
    #[error("a control frame of more than 125 bytes, against RFC 6455 section 5.5")]
    LongControl,
    #[error("a frame of 2^63 bytes or more, against RFC 6455 section 5.2; the stream is damaged")]
    Length,
    #[error(
        "the end of the connection in the middle of a frame: the other end, or something between, broke down"
    )]
    Truncated,
}

impl Violation {
    /// The reason that it is counted under.
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::ReservedBits => "ws_reserved_bits",
            Self::Text => "ws_text",
            Self::Opcode(_) => "ws_opcode",
            Self::Unmasked => "ws_unmasked",
            Self::Masked => "ws_masked",
            Self::FragmentedControl => "ws_fragmented_control",
            Self::LongControl => "ws_long_control",
            Self::Length => "ws_length",
            Self::Truncated => "ws_truncated",
        }
    }
}
