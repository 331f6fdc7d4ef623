//! Real sockets on loopback.
