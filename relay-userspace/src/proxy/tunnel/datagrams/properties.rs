//! Frames come out as they went in, however the stream is cut; and whatever comes, nothing panics.

use proptest::collection::vec;
use proptest::prelude::*;

use super::frame::{Frames, HEAD, Kind, LONGEST, announced, announcement};

fn frames() -> impl Strategy<Value = Vec<(u32, Vec<u8>)>> {
    let length = prop_oneof![4 => 0..40_usize, 1 => Just(1200), 1 => Just(LONGEST)];
    vec((any::<u32>(), length.prop_map(|length| vec![7; length])), 0..12)
}

proptest! {
    #[test]
    fn any_cut_gives_the_same_frames(frames in frames(), cuts in vec(1..5000_usize, 1..40)) {
        let mut stream = Vec::new();
        for (flow, payload) in &frames {
            stream.extend(Kind::Data.head(*flow, payload.len()).expect("fits"));
            stream.extend(payload);
        }
        let (mut rest, mut got) = (Vec::new(), Vec::new());
        let mut left = &stream[..];
        for cut in cuts.iter().cycle() {
            let (piece, later) = left.split_at((*cut).min(left.len()));
            left = later;
            rest.extend_from_slice(piece);
            let mut cutter = Frames::new(&rest, 0);
            for frame in &mut cutter {
                let frame = frame.expect("a frame");
                got.push((frame.flow, rest[frame.payload].to_vec()));
            }
            let at = cutter.rest();
            rest.drain(..at);
            if left.is_empty() {
                break;
            }
        }
        prop_assert!(rest.is_empty());
        prop_assert_eq!(got, frames);
    }

    #[test]
    fn whatever_comes_is_a_frame_or_a_fault(bytes in vec(any::<u8>(), 0..200)) {
        let mut frames = Frames::new(&bytes, 0);
        let whole: usize = frames.by_ref().map_while(Result::ok).map(|frame| HEAD + frame.payload.len()).sum();
        prop_assert_eq!(frames.rest(), whole);
    }

    #[test]
    fn clients_are_announced_as_they_are(address in any::<std::net::IpAddr>(), port in any::<u16>()) {
        let client = (address.to_canonical(), port).into();
        prop_assert_eq!(announced(&announcement(client)), Some(client));
    }
}
