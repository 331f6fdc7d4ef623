//! What reading from a side has come to.

use std::io;

use crate::proxy::tunnel::fault::Fault;

/// Why carrying stopped.
pub enum Stop {
    /// The sender is gone.
    Receive,
    /// The receiver is.
    Send(io::Error),
    /// What came from a side, or is to be sent to it, cannot be.
    Fault(usize, Fault),
}

/// What there was to read.
pub enum Input {
    Nothing,
    End,
    /// `is_traffic`: it was not about the tunnel alone, as pings are.
    Some {
        length: usize,
        is_traffic: bool,
    },
}
