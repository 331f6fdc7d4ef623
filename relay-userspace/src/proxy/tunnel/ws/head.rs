//! The head of a frame (RFC 6455 section 5.2), read and written.

use super::mask::Key;
use super::{Role, Violation};

/// Two bytes, a length of 64 bits, a key.
pub(super) const LONGEST: usize = 14;
/// The payload of a control frame.
const LONGEST_CONTROL: u8 = 125;

const FIN: u8 = 0x80;
const RESERVED: u8 = 0x70;
const MASKED: u8 = 0x80;
/// Said instead of a length that has 16 or 64 bits of its own.
const IN_16_BITS: u8 = 126;
const IN_64_BITS: u8 = 127;

/// What a frame is.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub(super) enum Kind {
    /// The beginning of a message or more of one.
    Data,
    Close,
    Ping,
    Pong,
}

#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub(super) struct Head {
    pub kind: Kind,
    /// Below 2^63.
    pub length: u64,
    /// Zeros where the payload is not masked.
    pub key: Key,
}

impl Head {
    /// The head that `bytes` begin with, and its length; `None`: it has not come whole yet. `role` is ours.
    pub fn parse(bytes: &[u8], role: Role) -> Result<Option<(Self, usize)>, Violation> {
        let Some((&[first, second], rest)) = bytes.split_first_chunk() else { return Ok(None) };
        let kind = kind(first, second)?;
        match (role, second & MASKED != 0) {
            (Role::Server, false) => return Err(Violation::Unmasked),
            (Role::Client(_), true) => return Err(Violation::Masked),
            _ => {}
        }
        let Some((length, rest)) = length(second, rest) else { return Ok(None) };
        if length >> 63 != 0 {
            return Err(Violation::Length);
        }
        let Some((key, rest)) = key(second, rest) else { return Ok(None) };
        Ok(Some((Self { kind, length, key }, bytes.len() - rest.len())))
    }
}

fn kind(first: u8, second: u8) -> Result<Kind, Violation> {
    if first & RESERVED != 0 {
        return Err(Violation::ReservedBits);
    }
    let kind = match first & 0xf {
        0 | 2 => return Ok(Kind::Data),
        1 => return Err(Violation::Text),
        8 => Kind::Close,
        9 => Kind::Ping,
        10 => Kind::Pong,
        opcode => return Err(Violation::Opcode(opcode)),
    };
    if first & FIN == 0 {
        return Err(Violation::FragmentedControl);
    }
    if second & !MASKED > LONGEST_CONTROL {
        return Err(Violation::LongControl);
    }
    Ok(kind)
}

/// The length, and what is behind it. One that would have fitted fewer bits is taken too.
fn length(second: u8, rest: &[u8]) -> Option<(u64, &[u8])> {
    match second & !MASKED {
        IN_16_BITS => {
            let (length, rest) = rest.split_first_chunk()?;
            Some((u16::from_be_bytes(*length).into(), rest))
        }
        IN_64_BITS => {
            let (length, rest) = rest.split_first_chunk()?;
            Some((u64::from_be_bytes(*length), rest))
        }
        length => Some((length.into(), rest)),
    }
}

fn key(second: u8, rest: &[u8]) -> Option<(Key, &[u8])> {
    if second & MASKED == 0 {
        return Some((Key::ZERO, rest));
    }
    let (key, rest) = rest.split_first_chunk()?;
    Some((Key::from_bytes(*key), rest))
}

/// The head of a whole message, and its length.
pub(super) fn write(kind: Kind, length: usize, key: Option<Key>) -> ([u8; LONGEST], usize) {
    let opcode = match kind {
        Kind::Data => 2,
        Kind::Close => 8,
        Kind::Ping => 9,
        Kind::Pong => 10,
    };
    let masked = if key.is_some() { MASKED } else { 0 };
    let mut head = [0; LONGEST];
    head[0] = FIN | opcode;
    let mut end = match (u8::try_from(length), u16::try_from(length)) {
        (Ok(length), _) if length <= LONGEST_CONTROL => {
            head[1] = masked | length;
            2
        }
        (_, Ok(length)) => {
            head[1] = masked | IN_16_BITS;
            head[2..4].copy_from_slice(&length.to_be_bytes());
            4
        }
        _ => {
            head[1] = masked | IN_64_BITS;
            head[2..10].copy_from_slice(&(length as u64).to_be_bytes());
            10
        }
    };
    if let Some(key) = key {
        head[end..end + 4].copy_from_slice(&key.to_bytes());
        end += 4;
    }
    (head, end)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::proxy::tunnel::ws::Masking;

    const CLIENT: Role = Role::Client(Masking::Zero);

    #[test]
    fn lengths_take_as_few_bytes_as_they_can() {
        for (length, plain) in [
            (0, &[0x82, 0][..]),
            (125, &[0x82, 125]),
            (126, &[0x82, 126, 0, 126]),
            (255, &[0x82, 126, 0, 255]),
            (65_535, &[0x82, 126, 0xff, 0xff]),
            (65_536, &[0x82, 127, 0, 0, 0, 0, 0, 1, 0, 0]),
        ] {
            let (head, end) = write(Kind::Data, length, None);
            assert_eq!(&head[..end], plain);
            let (head, end) = write(Kind::Data, length, Some(Key::from_bytes(*b"keys")));
            let masked = [&[0x82, plain[1] | 0x80], &plain[2..], b"keys"].concat();
            assert_eq!(&head[..end], masked);
        }
    }

    #[test]
    fn what_is_written_reads_back_once_it_is_whole() {
        for kind in [Kind::Data, Kind::Close, Kind::Ping, Kind::Pong] {
            for (key, reader) in [(None, CLIENT), (Some(Key::from_bytes(*b"keys")), Role::Server)] {
                let lengths: &[usize] = if kind == Kind::Data { &[0, 125, 126, 65_536] } else { &[0, 125] };
                for &length in lengths {
                    let (bytes, end) = write(kind, length, key);
                    for part in 0..end {
                        assert_eq!(Head::parse(&bytes[..part], reader), Ok(None), "{bytes:x?} {part}");
                    }
                    let head = Head { kind, length: length as u64, key: key.unwrap_or(Key::ZERO) };
                    assert_eq!(Head::parse(&bytes, reader), Ok(Some((head, end))));
                }
            }
        }
    }

    #[test]
    fn a_length_may_take_more_bytes_than_it_needs() {
        for (bytes, length) in [(&[0x82, 126, 0, 5][..], 5), (&[0x82, 127, 0, 0, 0, 0, 0, 0, 0, 7], 7)] {
            let head = Head { kind: Kind::Data, length, key: Key::ZERO };
            assert_eq!(Head::parse(bytes, CLIENT), Ok(Some((head, bytes.len()))));
        }
    }

    #[test]
    fn heads_that_are_none() {
        for (bytes, role, violation) in [
            (&[0xc2, 0][..], CLIENT, Violation::ReservedBits),
            (&[0xa2, 0], CLIENT, Violation::ReservedBits),
            (&[0x92, 0], CLIENT, Violation::ReservedBits),
            (&[0x81, 0], CLIENT, Violation::Text),
            (&[0x83, 0], CLIENT, Violation::Opcode(3)),
            (&[0x8f, 0], CLIENT, Violation::Opcode(15)),
            (&[0x09, 0], CLIENT, Violation::FragmentedControl),
            (&[0x89, 126], CLIENT, Violation::LongControl),
            (&[0x88, 127], CLIENT, Violation::LongControl),
            (&[0x82, 127, 0x80, 0, 0, 0, 0, 0, 0, 0], CLIENT, Violation::Length),
            (&[0x82, 0x80], CLIENT, Violation::Masked),
            (&[0x82, 0x00], Role::Server, Violation::Unmasked),
        ] {
            assert_eq!(Head::parse(bytes, role), Err(violation), "{bytes:x?}");
        }
    }
}
