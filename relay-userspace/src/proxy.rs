//! The user plane: sessions that relayd carries itself, on worker threads of its own.
//!
//! It knows rules as plain values and sockets that were bound for them; nothing of the kernel plane, the supervisor or
//! the API.

pub mod complaints;
pub mod counters;
pub mod descriptors;
mod ending;
pub mod gate;
pub mod kept;
pub mod outgoing;
pub mod pool;
pub mod proxy_protocol;
pub mod roster;
pub mod service;
pub mod shared;
mod sources;
pub mod tcp;
pub mod tunnel;
pub mod udp;
pub mod walk;
pub mod workers;
