//! What the lab's generator is told. Not part of any pinned map.

/// A frame to send again and again, and how to vary it.
#[repr(C)]
#[derive(Clone, Copy, Debug)]
pub struct Recipe {
    /// The frame as words, checksums right.
    pub frame: [u32; Self::FRAME / 4],
    /// Flows to cycle through; each has its own source port, and from 32,768 on its own source address.
    pub flows: u32,
    /// Interface to send it from.
    pub interface: u32,
}

impl Recipe {
    /// Bytes of a frame: what a UDP packet of either family fits into.
    pub const FRAME: usize = 64;
    /// Flows per source address.
    pub const PER_ADDRESS: u32 = 32_768;
    pub const FIRST_PORT: u16 = 1024;
}
