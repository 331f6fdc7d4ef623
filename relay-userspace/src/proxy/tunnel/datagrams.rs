//! Tunnels that carry datagrams of many clients between two Relays: the subprotocol `relay-udp.v1`.

mod frame;
mod line;
#[cfg(test)]
mod properties;
mod writer;

pub use self::frame::{FrameFault, Kind};

pub(in crate::proxy) use self::frame::{Frame, Frames, announced, announcement};
pub(in crate::proxy) use self::line::{Line, PIECES, Piece, Stop};
pub(in crate::proxy) use self::writer::Writer;
