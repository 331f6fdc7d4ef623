//! Tunnels: connections whose payload is wrapped in TLS, in WebSocket frames, or in both (WSS).
//!
//! The codecs do no I/O and work in place. What a connection has brought lies in a buffer that all sessions of a thread
//! share; TLS decrypts it there, WebSocket takes its frames apart there, and what goes out is framed right before the
//! payload. Only TLS needs a second buffer, to seal into.

mod book;
mod buffer;
pub mod datagrams;
mod exchange;
mod fault;
mod handshake;
mod layers;
mod mux;
mod pump;
pub mod purpose;
mod spares;
mod stream;
pub mod tls;
mod unread;
mod watch;
pub mod ws;

pub use self::book::{News, Tunnels};
pub use self::fault::Fault;
pub use self::handshake::{Acceptor, Beginning, Connector};

pub(super) use self::exchange::{Exchange, Road};
pub(super) use self::handshake::{Opening, part};
pub(super) use self::layers::Layers;
pub(super) use self::mux::{Alone, Exit, MuxStream};
pub(super) use self::pump::{Side, TunnelPump};
pub(super) use self::spares::{By, Due, Open, Place, Spare, Wanted};
pub use self::spares::{Held, Spares};
pub(super) use self::stream::TunnelStream;
