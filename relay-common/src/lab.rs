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
    /// Bytes of a frame: an IPv4 UDP packet in the smallest Ethernet frame (64 bytes on a cable, checksum included).
    pub const FRAME: usize = 60;
    /// Flows per source address.
    pub const PER_ADDRESS: u32 = 32_768;
    pub const FIRST_PORT: u16 = 1024;
}
