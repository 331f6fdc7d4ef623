//! Chance: what becomes of something that was right, and where a stream is cut.

use std::hash::{BuildHasher as _, RandomState};

/// Numbers that mean something to somebody who counts bytes.
const EDGES: [u8; 8] = [0, 1, 0x7d, 0x7e, 0x7f, 0x80, 0xfe, 0xff];
/// No input is longer.
const LONGEST: usize = 70_000;

/// A source of numbers (xorshift64*), which `RELAY_FUZZ_SEED` makes the same again.
pub(super) struct Chance(u64);

impl Chance {
    pub fn new() -> Self {
        let wanted = std::env::var("RELAY_FUZZ_SEED").ok().and_then(|text| text.parse().ok());
        Self(wanted.unwrap_or_else(|| RandomState::new().hash_one(0)) | 1)
    }

    /// Where it stands.
    pub const fn seed(&self) -> u64 {
        self.0
    }

    /// A number below `most`; 0 if that is 0.
    pub fn below(&mut self, most: usize) -> usize {
        self.0 ^= self.0 >> 12;
        self.0 ^= self.0 << 25;
        self.0 ^= self.0 >> 27;
        let number = self.0.wrapping_mul(0x2545_f491_4f6c_dd1d) >> 32;
        number as usize % most.max(1)
    }

    fn byte(&mut self) -> u8 {
        if self.below(2) == 0 { EDGES[self.below(EDGES.len())] } else { self.below(256) as u8 }
    }

    /// A place in bytes, and one behind it that is not far.
    fn stretch(&mut self, length: usize) -> (usize, usize) {
        let start = self.below(length + 1);
        (start, (start + self.below(40)).min(length))
    }

    /// One of the seeds with some changes.
    pub fn mutated(&mut self, seeds: &[Vec<u8>]) -> Vec<u8> {
        let mut bytes = seeds[self.below(seeds.len())].clone();
        for _ in 0..=self.below(6) {
            let (start, end) = self.stretch(bytes.len());
            match self.below(8) {
                0 | 1 if start < bytes.len() => bytes[start] = self.byte(),
                2 if start < bytes.len() => bytes[start] ^= 1 << self.below(8),
                3 => bytes.insert(start, self.byte()),
                4 => drop(bytes.drain(start..end)),
                5 => {
                    let again = bytes[start..end].to_vec();
                    let at = self.below(bytes.len() + 1);
                    bytes.splice(at..at, again);
                }
                6 => {
                    let other = &seeds[self.below(seeds.len())];
                    let from = self.below(other.len() + 1);
                    bytes.splice(start..end, other[from..].iter().copied());
                }
                7 => bytes.truncate(start.max(1)),
                _ => {}
            }
        }
        bytes.truncate(LONGEST);
        bytes
    }

    /// The same bytes in up to five pieces.
    pub fn cut<'a>(&mut self, bytes: &'a [u8]) -> Vec<&'a [u8]> {
        let mut pieces = Vec::new();
        let mut rest = bytes;
        for _ in 0..self.below(5) {
            let (piece, behind) = rest.split_at(self.below(rest.len() + 1));
            pieces.push(piece);
            rest = behind;
        }
        pieces.push(rest);
        pieces
    }
}
