//! Payload to frames.

use super::Role;
use super::head::{self, Kind};

/// A close frame's payload: 1000, nothing is wrong.
const NORMAL: [u8; 2] = 1000_u16.to_be_bytes();

/// Makes the frames that we send. It remembers nothing from one to the next.
#[derive(Clone, Copy, Debug)]
pub struct Encoder {
    role: Role,
}

impl Encoder {
    /// Bytes that have to be free before the payload.
    pub const HEADROOM: usize = head::LONGEST;

    pub const fn new(role: Role) -> Self {
        Self { role }
    }

    /// Makes `data[at..at + length]` a frame: masks it where it lies if it has to be, and writes the head right before
    /// it. Returns where the frame begins.
    ///
    /// # Panics
    /// If less than [`Self::HEADROOM`] bytes may be before the payload, or the payload is not all in `data`.
    pub fn frame(&self, data: &mut [u8], at: usize, length: usize) -> usize {
        let key = self.role.key();
        if let Some(mut key) = key {
            key.apply(&mut data[at..at + length]);
        }
        let (head, head_length) = head::write(Kind::Data, length, key);
        let start = at - head_length;
        data[start..at].copy_from_slice(&head[..head_length]);
        start
    }

    /// Appends a close frame: nothing of ours follows. To anybody but a Relay it may also say that nothing more is wanted.
    pub fn close(&self, out: &mut Vec<u8>) {
        control(Kind::Close, &NORMAL, self.role, out);
    }

    /// Appends a ping. realm does not answer it; who does says its number again.
    pub fn ping(&self, number: u32, out: &mut Vec<u8>) {
        control(Kind::Ping, &number.to_be_bytes(), self.role, out);
    }
}

/// Appends a control frame.
pub(super) fn control(kind: Kind, payload: &[u8], role: Role, out: &mut Vec<u8>) {
    let key = role.key();
    let (head, length) = head::write(kind, payload.len(), key);
    out.extend_from_slice(&head[..length]);
    let start = out.len();
    out.extend_from_slice(payload);
    if let Some(mut key) = key {
        key.apply(&mut out[start..]);
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::proxy::tunnel::ws::Masking;

    const CLIENT: Role = Role::Client(Masking::Zero);

    fn frame(role: Role, payload: &[u8]) -> Vec<u8> {
        let mut data = [&[0xee; Encoder::HEADROOM + 2][..], payload].concat();
        let start = Encoder::new(role).frame(&mut data, Encoder::HEADROOM + 2, payload.len());
        assert!(data[..start].iter().all(|&byte| byte == 0xee));
        data[start..].to_vec()
    }

    #[test]
    fn frames_are_those_of_realm() {
        assert_eq!(frame(CLIENT, b"hello"), b"\x82\x85\0\0\0\0hello");
        assert_eq!(frame(Role::Server, b"hello"), b"\x82\x05hello");
    }

    #[test]
    fn control_frames() {
        for (role, ping, close) in [
            (CLIENT, &b"\x89\x84\0\0\0\0\0\0\x01\x02"[..], &b"\x88\x82\0\0\0\0\x03\xe8"[..]),
            (Role::Server, b"\x89\x04\0\0\x01\x02", b"\x88\x02\x03\xe8"),
        ] {
            let (encoder, mut out) = (Encoder::new(role), b"before".to_vec());
            encoder.ping(258, &mut out);
            encoder.close(&mut out);
            assert_eq!(out, [b"before", ping, close].concat());
        }
    }

    #[test]
    fn random_keys_hide_the_payload_and_differ() {
        let payload = [7; 64];
        let frames = [(); 2].map(|()| frame(Role::Client(Masking::Random), &payload));
        let keys = frames.each_ref().map(|frame| <[u8; 4]>::try_from(&frame[2..6]).expect("four bytes"));
        assert_ne!(keys[0], keys[1]);
        for (frame, key) in frames.iter().zip(keys) {
            assert!(frame[6..].iter().zip(key.iter().cycle()).all(|(byte, key)| byte ^ key == 7));
        }
    }
}
