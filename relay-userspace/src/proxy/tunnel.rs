//! What lies between TCP and the payload of a leg.

pub mod ws;
