//! Masking of what clients send (RFC 6455 section 5.3).

use std::hash::{BuildHasher as _, Hasher as _, RandomState};
use std::ops::Range;

/// So many bytes are moved, then unmasked: few enough to be in the nearest cache still.
const BLOCK: usize = 4096;

/// A key, turned to the byte that it is to mask next. The least significant byte is that byte's.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub(super) struct Key(u32);

impl Key {
    /// Leaves everything as it is.
    pub const ZERO: Self = Self(0);

    pub const fn from_bytes(bytes: [u8; 4]) -> Self {
        Self(u32::from_le_bytes(bytes))
    }

    pub const fn to_bytes(self) -> [u8; 4] {
        self.0.to_le_bytes()
    }

    /// One that nobody can foresee: the standard library's hasher is keyed by the system, anew for each.
    pub fn random() -> Self {
        let [a, b, c, d, ..] = RandomState::new().build_hasher().finish().to_le_bytes();
        Self::from_bytes([a, b, c, d])
    }

    /// Masks, or unmasks, what comes next.
    pub fn apply(&mut self, data: &mut [u8]) {
        if *self == Self::ZERO {
            return;
        }
        let key = (u64::from(self.0) << 32) | u64::from(self.0);
        let (words, rest) = data.as_chunks_mut();
        for word in words {
            *word = (u64::from_le_bytes(*word) ^ key).to_le_bytes();
        }
        for (byte, key) in rest.iter_mut().zip(key.to_le_bytes()) {
            *byte ^= key;
        }
        self.0 = self.0.rotate_right(8 * (rest.len() % 4) as u32);
    }

    /// Moves what comes next towards the front of `data`, and unmasks it.
    pub fn move_down(&mut self, data: &mut [u8], from: Range<usize>, to: usize) {
        if from.start == to || *self == Self::ZERO {
            data.copy_within(from.clone(), to);
            self.apply(&mut data[to..][..from.len()]);
            return;
        }
        for moved in (0..from.len()).step_by(BLOCK) {
            let length = BLOCK.min(from.len() - moved);
            let start = from.start + moved;
            data.copy_within(start..start + length, to + moved);
            self.apply(&mut data[to + moved..][..length]);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const KEY: Key = Key::from_bytes([0x37, 0xfa, 0x21, 0x3d]);

    #[test]
    fn the_example_of_the_rfc() {
        let mut data = *b"Hello";
        KEY.clone().apply(&mut data);
        assert_eq!(data, [0x7f, 0x9f, 0x4d, 0x51, 0x58]);
    }

    #[test]
    fn pieces_of_any_length_are_masked_as_the_whole() {
        let plain: Vec<u8> = (0..=255).cycle().take(10_000).collect();
        let bytes = KEY.to_bytes();
        let expected: Vec<u8> = plain.iter().enumerate().map(|(at, byte)| byte ^ bytes[at % 4]).collect();
        for piece in [1, 2, 3, 4, 5, 7, 63, 64, 65, 4095, 4096, 4097, 10_000] {
            let (mut key, mut data) = (KEY, plain.clone());
            data.chunks_mut(piece).for_each(|piece| key.apply(piece));
            assert_eq!(data, expected, "pieces of {piece}");
        }
    }

    #[test]
    fn what_moves_is_masked_as_what_stays() {
        let plain: Vec<u8> = (0..=255).cycle().take(10_000).collect();
        for (length, from, to) in [(0, 5, 1), (9_986, 14, 0), (9_000, 700, 697), (4_097, 3, 3), (13, 14, 1)] {
            for key in [KEY, Key::ZERO] {
                let (mut moving, mut staying, mut data) = (key, key, plain.clone());
                moving.move_down(&mut data, from..from + length, to);
                let mut expected = plain[from..from + length].to_vec();
                staying.apply(&mut expected);
                assert_eq!((&data[to..to + length], moving), (&expected[..], staying), "{from} to {to}");
                assert_eq!(data[..to], plain[..to]);
                assert_eq!(data[from + length..], plain[from + length..]);
            }
        }
    }

    #[test]
    fn keys_differ() {
        let keys: std::collections::HashSet<_> = (0..1000).map(|_| Key::random().to_bytes()).collect();
        assert!(keys.len() > 990, "{}", keys.len());
    }
}
