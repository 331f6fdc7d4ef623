//! Tunnels: what a session's leg is wrapped in. Codecs without sockets, working in place in their owner's buffers.

pub mod tls;
