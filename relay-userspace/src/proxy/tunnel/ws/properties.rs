//! What must hold for every stream, however it is cut.

use proptest::collection::vec;
use proptest::prelude::*;
use proptest::sample::Index;

use super::{
    Decoded, Decoder, Encoder, Expected, Masking, Role, Violation, read_request, read_response, request,
};
use crate::proxy::tunnel::purpose::{Purpose, Willing};
use crate::rule::{AcceptWs, ConnectWs, MaskChoice};

/// A frame of ours, whole.
pub(super) fn frame(encoder: Encoder, payload: &[u8]) -> Vec<u8> {
    let mut data = [&[0; Encoder::HEADROOM][..], payload].concat();
    let start = encoder.frame(&mut data, Encoder::HEADROOM, payload.len());
    data.split_off(start)
}

/// What a decoder of ours makes of a stream that comes in pieces: payload, answers, what the last piece ended with.
pub(super) fn decode(
    role: Role,
    stream: &[u8],
    cuts: &[Index],
) -> (Vec<u8>, Vec<u8>, Result<Decoded, Violation>) {
    let mut ends: Vec<usize> = cuts.iter().map(|cut| cut.index(stream.len() + 1)).collect();
    ends.push(stream.len());
    ends.sort_unstable();
    let (mut decoder, mut payload, mut answers) = (Decoder::new(role), Vec::new(), Vec::new());
    let (mut start, mut last) = (0, Ok(Decoded::default()));
    for end in ends {
        let mut piece = stream[start..end].to_vec();
        start = end;
        last = decoder.decode(&mut piece, &mut answers);
        let Ok(decoded) = last else { break };
        payload.extend_from_slice(&piece[..decoded.payload]);
    }
    (payload, answers, last)
}

/// A frame as others may make it, for a server of ours: its bytes, and what is payload in it.
fn their_frame() -> impl Strategy<Value = (Vec<u8>, Vec<u8>)> {
    let payload = prop_oneof![4 => vec(any::<u8>(), 0..200), 1 => vec(any::<u8>(), 8_000..9_000)];
    let opcode = proptest::sample::select(&[0x02, 0x82, 0x00, 0x80, 0x89, 0x8a][..]);
    (opcode, payload, any::<[u8; 4]>(), 0..3usize).prop_map(|(first, mut payload, key, form)| {
        let is_control = first & 8 != 0;
        if is_control {
            payload.truncate(125);
        }
        let length = payload.len() as u64;
        let mut bytes = match (form, length) {
            (0, 0..=125) => vec![first, 0x80 | length as u8],
            _ if is_control => vec![first, 0x80 | length as u8],
            (1, _) => [&[first, 0x80 | 126][..], &(length as u16).to_be_bytes()].concat(),
            _ => [&[first, 0x80 | 127][..], &length.to_be_bytes()].concat(),
        };
        bytes.extend_from_slice(&key);
        bytes.extend(payload.iter().zip(key.iter().cycle()).map(|(byte, key)| byte ^ key));
        (bytes, if is_control { Vec::new() } else { payload })
    })
}

fn roles() -> impl Strategy<Value = (Role, Role)> {
    proptest::sample::select(&[
        (Role::Client(Masking::Zero), Role::Server),
        (Role::Client(Masking::Random), Role::Server),
        (Role::Server, Role::Client(Masking::Zero)),
    ])
}

fn server(path: &str) -> AcceptWs {
    AcceptWs { host: None, path: path.into(), headers: Vec::new(), token: None }
}

fn expected() -> Expected {
    let settings =
        ConnectWs { host: None, path: "/".into(), headers: Vec::new(), token: None, mask: MaskChoice::Auto };
    request(&settings, "h", Purpose::Session).1
}

proptest! {
    #[test]
    fn we_read_what_we_write((from, to) in roles(), payloads in vec(vec(any::<u8>(), 0..400), 0..8), cuts: Vec<Index>) {
        let stream: Vec<u8> = payloads.iter().flat_map(|payload| frame(Encoder::new(from), payload)).collect();
        let (payload, answers, last) = decode(to, &stream, &cuts);
        prop_assert_eq!((payload, answers), (payloads.concat(), Vec::new()));
        prop_assert!(last.is_ok_and(|last| !last.end && last.pong.is_none()));
    }

    #[test]
    fn every_frame_that_may_be_sent_is_understood(frames in vec(their_frame(), 0..10), cuts: Vec<Index>) {
        let (frames, payloads): (Vec<_>, Vec<_>) = frames.into_iter().unzip();
        let (payload, answers, last) = decode(Role::Server, &frames.concat(), &cuts);
        prop_assert!(last.is_ok(), "{:?}", last);
        prop_assert_eq!(payload, payloads.concat());
        let (payload, replies, pongs) = decode(Role::Client(Masking::Zero), &answers, &[]);
        prop_assert_eq!((payload, replies, pongs.map(|pongs| pongs.end)), (Vec::new(), Vec::new(), Ok(false)));
    }

    #[test]
    fn bytes_without_sense_mean_the_same_however_they_are_cut(
        (role, _) in roles(), noise in vec(any::<u8>(), 0..3000), cuts: Vec<Index>,
    ) {
        let (payload, _, last) = decode(role, &noise, &[]);
        let (cut_payload, _, cut_last) = decode(role, &noise, &cuts);
        prop_assert_eq!(last.map(|last| last.end), cut_last.map(|last| last.end));
        if last.is_ok() {
            prop_assert_eq!(payload, cut_payload);
        }
    }

    #[test]
    fn answers_do_not_outgrow_what_asks_for_them(pings in vec(vec(any::<u8>(), 0..=125), 0..60)) {
        let stream: Vec<u8> = pings.iter().flat_map(|ping| [&[0x89, ping.len() as u8][..], ping].concat()).collect();
        let (_, answers, _) = decode(Role::Client(Masking::Random), &stream, &[]);
        prop_assert!(answers.len() <= 125 + Encoder::HEADROOM);
    }

    #[test]
    fn no_head_makes_it_panic_or_wait_for_ever(start in 0..5usize, noise in vec(any::<u8>(), 0..9000)) {
        let starts = ["", "GET / HTTP/1.1\r\n", "HTTP/1.1 101 x\r\n", "GET / HTTP/1.1\r\na: ", "\u{16}\u{3}\u{1}"];
        let data = [starts[start].as_bytes(), &noise].concat();
        let (asked, answered) = (read_request(&data, &server("/"), Willing::default()), read_response(&data, &expected()));
        if data.len() >= super::LONGEST_HEAD {
            prop_assert!(asked != Ok(None) && answered != Ok(None));
        }
    }
}

#[test]
fn two_megabytes_come_through_every_kind_of_read() {
    let payload: Vec<u8> =
        (0..2_000_000_u32).map(|at| (at.wrapping_mul(2_654_435_761) >> 24) as u8).collect();
    let encoder = Encoder::new(Role::Client(Masking::Random));
    for (part, read) in
        [(8192, 1), (70_000, 3), (100, 1447), (2_000_000, 65_536), (8192, 8193), (65_535, 65_549)]
    {
        let stream: Vec<u8> = payload.chunks(part).flat_map(|part| frame(encoder, part)).collect();
        let (mut decoder, mut got, mut answers) = (Decoder::new(Role::Server), Vec::new(), Vec::new());
        for piece in stream.chunks(read) {
            let mut data = piece.to_vec();
            let decoded = decoder.decode(&mut data, &mut answers).expect("frames");
            got.extend_from_slice(&data[..decoded.payload]);
        }
        assert!(got == payload && answers.is_empty(), "frames of {part}, reads of {read}");
    }
}
