//! Everything that reads what strangers send, or people write, fed with what is nearly right: for a moment with the units,
//! for as long as somebody likes by `cargo xtask fuzz`.
//!
//! What is right is changed in a few places at random and read in pieces at random. That is blind: no coverage leads it, as
//! it would with cargo-fuzz, which wants another compiler.

mod mutate;

use std::panic::{AssertUnwindSafe, catch_unwind};
use std::path::Path;
use std::sync::Arc;
use std::time::{Duration, Instant};

use rustls::{ClientConfig, ServerConfig};

use self::mutate::Chance;
use crate::config::Config;
use crate::proxy::proxy_protocol::{self, Header, Origin};
use crate::proxy::tunnel::purpose::{Purpose, Willing};
use crate::proxy::tunnel::tls::{ClientTls, ServerTls, Tls, server_name};
use crate::proxy::tunnel::ws::{
    Decoder, Encoder, Expected, LONGEST_HEAD, Masking, Role, read_request, read_response, request,
};
use crate::rule::{AcceptTls, AcceptWs, ConnectTls, ConnectWs, Identity, MaskChoice, ProxyVersion, Verify};

/// How long each goes on where nobody says.
const MOMENT: Duration = Duration::from_millis(500);

/// Feeds `read` with what becomes of `seeds`, until the time is over. What makes it fail is said.
fn feed(seeds: &[Vec<u8>], mut read: impl FnMut(&[u8], &mut Chance)) {
    let seconds = std::env::var("RELAY_FUZZ_SECONDS").ok().and_then(|text| text.parse().ok());
    let until = Instant::now() + seconds.map_or(MOMENT, Duration::from_secs);
    let mut chance = Chance::new();
    let mut inputs = 0_u64;
    while Instant::now() < until {
        let seed = chance.seed();
        let input = chance.mutated(seeds);
        let fed = catch_unwind(AssertUnwindSafe(|| read(&input, &mut chance)));
        assert!(fed.is_ok(), "seed {seed}, input {inputs}: b\"{}\"", input.escape_ascii());
        inputs += 1;
    }
    assert!(inputs > 0, "not one in time");
}

fn accept_ws() -> AcceptWs {
    AcceptWs {
        host: Some("relay.test".into()),
        path: "/ws".into(),
        headers: Vec::new(),
        token: Some("t".into()),
    }
}

fn connect_ws() -> ConnectWs {
    let (path, token) = ("/ws".into(), Some("t".into()));
    ConnectWs { host: Some("relay.test".into()), path, headers: Vec::new(), token, mask: MaskChoice::Auto }
}

/// Frames of ours and of others: lengths of every form, controls, pieces.
fn frames(role: Role) -> Vec<Vec<u8>> {
    let frame = |length: usize| {
        let mut data = vec![b'x'; Encoder::HEADROOM + length];
        let start = Encoder::new(role).frame(&mut data, Encoder::HEADROOM, length);
        data.split_off(start)
    };
    let mut seeds: Vec<Vec<u8>> = [0, 1, 125, 126, 4096, 66_000].map(frame).into();
    let (mut ping, mut close) = (Vec::new(), Vec::new());
    Encoder::new(role).ping(7, &mut ping);
    Encoder::new(role).close(&mut close);
    seeds.push([frame(3), ping.clone(), frame(200), close].concat());
    // a message in pieces
    let mut first = frame(5);
    first[0] &= 0x7f;
    let mut last = frame(6);
    last[0] &= 0xf0;
    seeds.push([first, ping, last].concat());
    seeds
}

/// However a stream is cut, it means the same, and never more than has come.
#[test]
fn frames_of_websockets() {
    for (ours, theirs) in [
        (Role::Server, Role::Client(Masking::Random)),
        (Role::Server, Role::Client(Masking::Zero)),
        (Role::Client(Masking::Zero), Role::Server),
    ] {
        feed(&frames(theirs), |input, chance| {
            let whole = decode(ours, &[input]);
            let pieces = decode(ours, &chance.cut(input));
            assert_eq!(whole.is_ok(), pieces.is_ok());
            if let (Ok(whole), Ok(pieces)) = (whole, pieces) {
                assert_eq!(whole, pieces);
                assert!(whole.len() <= input.len());
            }
        });
    }
}

fn decode(role: Role, pieces: &[&[u8]]) -> Result<Vec<u8>, ()> {
    let (mut decoder, mut payload, mut answers) = (Decoder::new(role), Vec::new(), Vec::new());
    for piece in pieces {
        let mut data = piece.to_vec();
        let decoded = decoder.decode(&mut data, &mut answers).map_err(drop)?;
        payload.extend_from_slice(&data[..decoded.payload]);
        assert!(answers.len() <= 125 + Encoder::HEADROOM * pieces.len() + 125 * pieces.len());
    }
    Ok(payload)
}

/// A head is as long as it is found to be, whatever follows; one that is too long is waited for no longer.
#[test]
fn heads_of_websockets() {
    let willing = Willing { datagrams: true, streams: true };
    let (asked, expected): (Vec<u8>, Expected) = request(&connect_ws(), "relay.test", Purpose::Datagrams);
    let answer =
        read_request(&asked, &accept_ws(), willing).expect("a request").expect("a whole one").response;
    feed(std::slice::from_ref(&asked), |input, _| {
        let read = read_request(input, &accept_ws(), willing);
        if let Ok(Some(asked)) = &read {
            let shorter = read_request(&input[..asked.length], &accept_ws(), willing);
            assert!(shorter.is_ok_and(|again| again.is_some_and(|again| again.length == asked.length)));
        }
        assert!(input.len() < LONGEST_HEAD || read != Ok(None));
    });
    feed(&[answer, asked], |input, _| {
        let read = read_response(input, &expected);
        if let Ok(Some(length)) = read {
            assert_eq!(read_response(&input[..length], &expected), Ok(Some(length)));
        }
        assert!(input.len() < LONGEST_HEAD || read != Ok(None));
    });
}

/// What is read can be written, and reads back.
#[test]
fn headers_of_the_proxy_protocol() {
    let end = |text: &str| text.parse().expect("an address");
    let origins = [
        Origin::Local,
        Origin::Unknown,
        Origin::client(end("192.0.2.1:1"), end("198.51.100.1:443")),
        Origin::client(end("[2001:db8::1]:1"), end("[2001:db8::2]:443")),
    ];
    let header = |origin| Header { origin, tlvs: Vec::new() };
    let written = |version| origins.map(|origin| proxy_protocol::write(&header(origin), version));
    let seeds: Vec<Vec<u8>> = ProxyVersion::ALL.into_iter().flat_map(written).collect();
    feed(&seeds, |input, _| {
        if let Ok(Some((header, length))) = proxy_protocol::parse(input) {
            assert!(length <= input.len());
            let again = proxy_protocol::write(&header, ProxyVersion::V2);
            assert_eq!(proxy_protocol::parse(&again), Ok(Some((header, again.len()))));
        }
    });
}

/// What is changed on its way is noticed: nothing is taken for payload that was not sent.
#[test]
fn records_of_tls() {
    let folder = tempfile::tempdir().expect("a folder");
    let identity = Identity::SelfSigned { name: "relay.test".into() };
    let accept = AcceptTls { identity, client_ca: None, alpn: Vec::new() };
    let server = ServerTls::open(&accept, folder.path()).expect("a server").config();
    let connect =
        ConnectTls { sni: None, verify: Verify::Insecure, ca: None, identity: None, alpn: Vec::new() };
    let client = ClientTls::open(&connect).expect("a client").config();
    // what is fed is where to change what, since no session's bytes are another's
    feed(&[vec![0; 64]], |_, chance| session(&client, &server, chance));
}

fn session(client: &Arc<ClientConfig>, server: &Arc<ServerConfig>, chance: &mut Chance) {
    const SENT: &[u8] = b"what the client has to say, in more than one record";
    let name = server_name("relay.test").expect("a name");
    let mut ends = [Tls::client(client, name).expect("a client"), Tls::server(server).expect("a server")];
    let (mut left, mut got) = ([Vec::new(), Vec::new()], Vec::new());
    let mut flying = Vec::new();
    let (spoiled, mut has_sent) = (chance.below(6), false);
    for turn in 0..12 {
        let (from, to) = (turn % 2, (turn + 1) % 2);
        let mut out = std::mem::take(&mut flying);
        if turn == 0 {
            ends[0].receive(&mut [], &mut out).expect("a hello");
        }
        if from == 0 && !ends[0].is_handshaking() && !has_sent {
            has_sent = true;
            SENT.chunks(20).for_each(|part| ends[0].seal(part, &mut out).expect("sealed"));
        }
        if turn == spoiled {
            out = chance.mutated(&[out]);
        }
        for piece in chance.cut(&out) {
            left[to].extend_from_slice(piece);
            let data = &mut left[to];
            let Ok(received) = ends[to].receive(data, &mut flying) else { return };
            assert!(received.payload <= data.len() && data.len() - received.rest <= Tls::MOST_REST);
            got.extend_from_slice(&data[..received.payload]);
            data.drain(..received.rest);
            assert!(SENT.starts_with(&got), "{:?}", got.escape_ascii().to_string());
        }
    }
}

/// A configuration is right, or its mistakes can be shown.
#[test]
fn configurations() {
    const README: &str = include_str!("../../README.md");
    let examples = README.split("```toml\n").skip(1).filter_map(|text| text.split("```").next());
    let seeds: Vec<Vec<u8>> = examples.map(|text| text.as_bytes().to_vec()).collect();
    feed(&seeds, |input, _| {
        let text = String::from_utf8_lossy(input);
        match Config::read_with(Path::new("/nonexistent/relay.toml"), &text) {
            Ok(config) => assert!(config.rules.iter().all(|(rule, _)| rule.is_watch == rule.to.is_empty())),
            Err(problems) => assert!(!problems.to_string().is_empty()),
        }
    });
}

/// Files of other tools become rules, or are refused with words.
#[test]
fn imports() {
    let seeds = crate::import::tests::SAMPLES.map(|(_, text)| text.as_bytes().to_vec());
    let kinds = crate::import::tests::SAMPLES.map(|(kind, _)| kind);
    feed(&seeds, |input, chance| {
        let Ok(source) = crate::import::Source::new("fed".into(), input.to_vec()) else { return };
        let kind = kinds[chance.below(kinds.len())];
        match crate::import::read(kind, &[source]) {
            Ok((_, findings)) => drop(crate::import::rules(&findings.drafts)),
            Err(refusal) => assert!(refusal.place.line > 0 && !refusal.text.is_empty()),
        }
    });
}
