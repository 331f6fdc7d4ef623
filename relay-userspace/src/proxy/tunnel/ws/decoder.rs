//! Frames to payload, where they lie.

use super::encoder::control;
use super::head::{Head, Kind, LONGEST};
use super::mask::Key;
use super::{Role, Violation};

/// Takes a stream of frames apart, however it is cut.
#[derive(Debug)]
pub struct Decoder {
    /// Ours.
    role: Role,
    state: State,
}

/// What became of some bytes.
#[derive(Clone, Copy, Debug, Default, Eq, PartialEq)]
pub struct Decoded {
    /// So many bytes of payload lie at the front.
    pub payload: usize,
    /// The peer has sent a close frame: it sends nothing more.
    pub end: bool,
    /// The number of the last ping of ours that it has answered.
    pub pong: Option<u32>,
}

#[derive(Debug)]
enum State {
    Head(Beginning),
    Data { left: u64, key: Key },
    Control(Control),
    Ended,
    Broken(Violation),
}

impl State {
    const NEXT: Self = Self::Head(Beginning { bytes: [0; LONGEST], length: 0 });
}

/// Of the next head as much as has come.
#[derive(Debug)]
struct Beginning {
    bytes: [u8; LONGEST],
    length: usize,
}

#[derive(Debug)]
struct Control {
    kind: Kind,
    left: u64,
    key: Key,
    /// What came of the payload with an earlier read. Empty as a rule, and then it takes no memory.
    held: Vec<u8>,
}

impl Decoder {
    pub const fn new(role: Role) -> Self {
        Self { role, state: State::NEXT }
    }

    /// Takes all of `data`, and leaves the payload that was in it, unmasked, at its front.
    ///
    /// A pong for the last ping in it is appended to `answers`. Earlier ones need none (RFC 6455 section 5.5.3), so that
    /// a flood of pings does not become one of pongs.
    ///
    /// After a close frame everything is ignored. It is not answered: our own direction may have more to send, and ends
    /// by [`Encoder::close`](super::Encoder::close).
    ///
    /// # Errors
    /// A frame that may not be sent. The payload ahead of it is lost, and all further calls fail the same way.
    pub fn decode(&mut self, data: &mut [u8], answers: &mut Vec<u8>) -> Result<Decoded, Violation> {
        let answered = answers.len();
        let mut decoded = Decoded::default();
        let mut at = 0;
        loop {
            match &mut self.state {
                State::Head(beginning) => match beginning.take(&data[at..], self.role) {
                    Ok(Some((head, taken))) => {
                        at += taken;
                        self.state = head.into();
                    }
                    Ok(None) => return Ok(decoded),
                    Err(violation) => self.state = State::Broken(violation),
                },
                State::Data { left, key } => {
                    let length = most(*left, data.len() - at);
                    key.move_down(data, at..at + length, decoded.payload);
                    at += length;
                    decoded.payload += length;
                    *left -= length as u64;
                    if *left > 0 {
                        return Ok(decoded);
                    }
                    self.state = State::NEXT;
                }
                State::Control(frame) => {
                    let (kind, taken) = (frame.kind, most(frame.left, data.len() - at));
                    let Some(payload) = frame.take(&mut data[at..at + taken]) else { return Ok(decoded) };
                    match kind {
                        Kind::Ping => {
                            answers.truncate(answered);
                            control(Kind::Pong, payload, self.role, answers);
                        }
                        // what is no number of ours answers nothing
                        Kind::Pong => {
                            decoded.pong = payload.try_into().ok().map(u32::from_be_bytes).or(decoded.pong);
                        }
                        Kind::Data | Kind::Close => {}
                    }
                    at += taken;
                    self.state = if kind == Kind::Close { State::Ended } else { State::NEXT };
                }
                State::Ended => return Ok(Decoded { end: true, ..decoded }),
                State::Broken(violation) => return Err(*violation),
            }
        }
    }

    /// What the end of the peer's connection means: the end of its stream, since realm sends no close frame, unless a
    /// frame is not whole.
    ///
    /// # Errors
    /// It is not, or there was a violation before.
    pub const fn end_of_stream(&self) -> Result<(), Violation> {
        match &self.state {
            State::Head(Beginning { length: 0, .. }) | State::Ended => Ok(()),
            State::Head(_) | State::Data { .. } | State::Control(_) => Err(Violation::Truncated),
            State::Broken(violation) => Err(*violation),
        }
    }
}

/// Of `left` bytes as many as have come.
fn most(left: u64, has_come: usize) -> usize {
    usize::try_from(left).map_or(has_come, |left| left.min(has_come))
}

impl From<Head> for State {
    fn from(Head { kind, length: left, key }: Head) -> Self {
        match kind {
            Kind::Data => Self::Data { left, key },
            Kind::Close | Kind::Ping | Kind::Pong => {
                Self::Control(Control { kind, left, key, held: Vec::new() })
            }
        }
    }
}

impl Beginning {
    /// The head that is whole with what has come now, and how much of that is its own.
    fn take(&mut self, data: &[u8], role: Role) -> Result<Option<(Head, usize)>, Violation> {
        let had = self.length;
        let room = &mut self.bytes[had..];
        let new = room.len().min(data.len());
        room[..new].copy_from_slice(&data[..new]);
        self.length += new;
        let head = Head::parse(&self.bytes[..self.length], role)?;
        Ok(head.map(|(head, length)| (head, length - had)))
    }
}

impl Control {
    /// The whole payload, if this is the rest of it.
    fn take<'a>(&'a mut self, more: &'a mut [u8]) -> Option<&'a [u8]> {
        self.key.apply(more);
        self.left -= more.len() as u64;
        if self.left == 0 && self.held.is_empty() {
            return Some(more);
        }
        self.held.extend_from_slice(more);
        (self.left == 0).then_some(&self.held)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::proxy::tunnel::ws::Masking;

    const CLIENT: Role = Role::Client(Masking::Zero);

    /// What a decoder makes of reads: the payload, the answers, and what the last read ended with.
    fn decode(role: Role, reads: &[&[u8]]) -> (Vec<u8>, Vec<u8>, Result<Decoded, Violation>) {
        let (mut decoder, mut payload, mut answers) = (Decoder::new(role), Vec::new(), Vec::new());
        let mut last = Ok(Decoded::default());
        for read in reads {
            let mut data = read.to_vec();
            last = decoder.decode(&mut data, &mut answers);
            payload.extend_from_slice(&data[..last.map_or(0, |decoded| decoded.payload)]);
        }
        (payload, answers, last)
    }

    #[test]
    fn messages_are_a_stream_of_bytes() {
        for (role, stream, expected) in [
            (Role::Server, &b"\x82\x85\0\0\0\0hello"[..], &b"hello"[..]),
            (Role::Server, b"\x82\x85\x37\xfa\x21\x3d\x7f\x9f\x4d\x51\x58", b"Hello"),
            (CLIENT, b"\x82\x05hello", b"hello"),
            (CLIENT, b"\x02\x03hel\x00\0\x80\x02lo", b"hello"),
            (CLIENT, b"\x80\x05hello", b"hello"),
            (CLIENT, b"\x82\0\x82\x01a\x02\0\x82\x7e\0\x01b", b"ab"),
            (CLIENT, b"\x02\x01a\x89\0\x80\x01b", b"ab"),
        ] {
            assert_eq!(decode(role, &[stream]).0, expected, "{stream:x?}");
            let bytes: Vec<&[u8]> = stream.chunks(1).collect();
            assert_eq!(decode(role, &bytes).0, expected, "{stream:x?} byte by byte");
        }
    }

    #[test]
    fn a_ping_is_answered_in_one_piece_and_only_the_last_of_a_read() {
        for (reads, answers) in [
            (&[&b"\x89\0"[..]][..], &b"\x8a\x80\0\0\0\0"[..]),
            (&[b"\x89\x04ping"], b"\x8a\x84\0\0\0\0ping"),
            (&[b"\x89\x04p", b"in", b"", b"g"], b"\x8a\x84\0\0\0\0ping"),
            (&[b"\x89\x01a\x82\x01x\x89\x01b"], b"\x8a\x81\0\0\0\0b"),
            (&[b"\x89\x01a", b"\x89\x01b"], b"\x8a\x81\0\0\0\0a\x8a\x81\0\0\0\0b"),
            (&[b"\x89\x02a"], b""),
        ] {
            assert_eq!(decode(CLIENT, reads).1, answers, "{reads:x?}");
        }
        let masked = b"\x89\x85\x37\xfa\x21\x3d\x7f\x9f\x4d\x51\x58";
        assert_eq!(decode(Role::Server, &[masked]).1, b"\x8a\x05Hello");
        assert_eq!(decode(Role::Server, &[&masked[..8], &masked[8..]]).1, b"\x8a\x05Hello");
    }

    #[test]
    fn what_was_to_be_answered_already_stays() {
        let mut answers = b"before".to_vec();
        let decoded = Decoder::new(CLIENT).decode(&mut b"\x89\0\x89\x01a".to_vec(), &mut answers);
        assert_eq!(decoded, Ok(Decoded::default()));
        assert_eq!(answers, b"before\x8a\x81\0\0\0\0a");
    }

    #[test]
    fn nothing_comes_after_a_close() {
        for stream in
            [&b"\x82\x02hi\x88\0"[..], b"\x82\x02hi\x88\x02\x03\xe8\x82\x01x", b"\x82\x02hi\x88\x01x\xff"]
        {
            let (payload, answers, last) = decode(CLIENT, &[stream]);
            assert_eq!((&payload[..], &answers[..]), (&b"hi"[..], &b""[..]));
            assert_eq!(last, Ok(Decoded { payload: 2, end: true, pong: None }), "{stream:x?}");
            let (payload, _, last) = decode(CLIENT, &[stream, b"\x82\x01x\xff\xff"]);
            assert_eq!(payload, b"hi");
            assert_eq!(last, Ok(Decoded { payload: 0, end: true, pong: None }), "{stream:x?}");
        }
    }

    #[test]
    fn pongs_are_told_by_their_number() {
        for (stream, pong) in [
            (&b"\x8a\x04\0\0\x01\x02"[..], Some(258)),
            (b"\x8a\x04\0\0\0\x01\x8a\x04\0\0\0\x02\x8a\0", Some(2)),
            (b"\x8a\0", None),
            (b"\x8a\x05hello", None),
        ] {
            assert_eq!(decode(CLIENT, &[stream]).2.map(|decoded| decoded.pong), Ok(pong), "{stream:x?}");
        }
    }

    #[test]
    fn an_end_within_a_frame_is_none() {
        let ended = |stream: &[u8]| {
            let mut decoder = Decoder::new(CLIENT);
            let _payload = decoder.decode(&mut stream.to_vec(), &mut Vec::new());
            decoder.end_of_stream()
        };
        for whole in [&b""[..], b"\x82\0", b"\x82\x02hi", b"\x02\x02hi", b"\x88\0\x82"] {
            assert_eq!(ended(whole), Ok(()), "{whole:x?}");
        }
        for cut in [&b"\x82"[..], b"\x82\x02", b"\x82\x02h", b"\x82\x02hi\x82\x7e", b"\x89\x02p"] {
            assert_eq!(ended(cut), Err(Violation::Truncated), "{cut:x?}");
        }
        assert_eq!(ended(b"\x81\0"), Err(Violation::Text));
    }

    #[test]
    fn a_violation_stays() {
        let (payload, _, last) = decode(CLIENT, &[b"\x82\x01a", b"\x81\0", b"\x82\x01b", b""]);
        assert_eq!((&payload[..], last), (&b"a"[..], Err(Violation::Text)));
    }

    #[test]
    fn an_idle_decoder_is_small() {
        assert!(size_of::<Decoder>() <= 64, "{}", size_of::<Decoder>());
    }
}
