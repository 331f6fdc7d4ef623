//! With tungstenite at the other end.

use std::collections::VecDeque;
use std::io::{self, ErrorKind, Read, Write};

use proptest::collection::vec;
use proptest::prelude::*;
use tungstenite::handshake::HandshakeError;
use tungstenite::protocol::frame::Frame;
use tungstenite::protocol::frame::coding::{Data, OpCode};
use tungstenite::protocol::{Role as TheirRole, WebSocket};
use tungstenite::{Error, Message};

use super::properties::{decode, frame};
use super::{Decoded, Encoder, Masking, Role, read_request, read_response, request};
use crate::proxy::tunnel::purpose::{Purpose, Willing};
use crate::rule::{AcceptWs, ConnectWs, MaskChoice};

/// What lies between us and them.
#[derive(Debug, Default)]
struct Wire {
    to_them: VecDeque<u8>,
    from_them: Vec<u8>,
}

impl Read for Wire {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        if self.to_them.is_empty() { Err(ErrorKind::WouldBlock.into()) } else { self.to_them.read(buffer) }
    }
}

impl Write for Wire {
    fn write(&mut self, data: &[u8]) -> io::Result<usize> {
        self.from_them.write(data)
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}

/// All that they can read now.
fn read(them: &mut WebSocket<Wire>) -> Vec<Message> {
    let mut messages = Vec::new();
    loop {
        match them.read() {
            Ok(message) => messages.push(message),
            Err(Error::Io(error)) if error.kind() == ErrorKind::WouldBlock => return messages,
            Err(error) => panic!("{error}"),
        }
    }
}

fn ends() -> impl Strategy<Value = (Role, TheirRole)> {
    proptest::sample::select(&[
        (Role::Client(Masking::Zero), TheirRole::Server),
        (Role::Client(Masking::Random), TheirRole::Server),
        (Role::Server, TheirRole::Client),
    ])
}

fn payload() -> impl Strategy<Value = Vec<u8>> {
    prop_oneof![4 => vec(any::<u8>(), 0..300), 1 => vec(any::<u8>(), 65_000..70_000)]
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(64))]

    #[test]
    fn they_read_what_we_write((ours, theirs) in ends(), payloads in vec(payload(), 0..6)) {
        let mut them = WebSocket::from_raw_socket(Wire::default(), theirs, None);
        let encoder = Encoder::new(ours);
        for payload in &payloads {
            them.get_mut().to_them.extend(frame(encoder, payload));
        }
        let mut control = Vec::new();
        encoder.ping(258, &mut control);
        them.get_mut().to_them.extend(control);
        let messages: Vec<Message> = payloads.into_iter().map(Message::from).collect();
        prop_assert_eq!(read(&mut them), [messages, vec![Message::Ping(vec![0, 0, 1, 2].into())]].concat());
        them.flush().expect("a pong goes out");
        let (payload, _, last) = decode(ours, &them.get_mut().from_them, &[]);
        prop_assert_eq!((payload, last.map(|last| last.pong)), (Vec::new(), Ok(Some(258))));
    }

    #[test]
    fn we_read_what_they_write(
        (ours, theirs) in ends(),
        payloads in vec((payload(), any::<bool>()), 0..6),
        cuts in vec(any::<prop::sample::Index>(), 0..6),
        ping in vec(any::<u8>(), 0..=125),
    ) {
        let mut them = WebSocket::from_raw_socket(Wire::default(), theirs, None);
        let mut expected = Vec::new();
        for (payload, is_in_parts) in payloads {
            expected.extend_from_slice(&payload);
            if is_in_parts {
                let (first, rest) = payload.split_at(payload.len() / 3);
                for (part, opcode, fin) in [(first, Data::Binary, false), (rest, Data::Continue, true)] {
                    let part = Frame::message(part.to_vec(), OpCode::Data(opcode), fin);
                    them.send(Message::Frame(part)).expect("sent");
                }
            } else {
                them.send(payload.into()).expect("sent");
            }
        }
        them.send(Message::Ping(ping.clone().into())).expect("sent");
        let stream = std::mem::take(&mut them.get_mut().from_them);
        let (payload, answers, _) = decode(ours, &stream, &cuts);
        prop_assert!(payload == expected, "{} of {} bytes", payload.len(), expected.len());
        them.get_mut().to_them.extend(answers);
        prop_assert_eq!(read(&mut them), [Message::Pong(ping.into())]);
    }
}

#[test]
fn a_close_is_understood_either_way() {
    let mut them = WebSocket::from_raw_socket(Wire::default(), TheirRole::Server, None);
    let role = Role::Client(Masking::Zero);
    let mut close = Vec::new();
    Encoder::new(role).close(&mut close);
    them.get_mut().to_them.extend(close);
    let Ok(Message::Close(Some(said))) = them.read() else { panic!("no close") };
    assert_eq!(u16::from(said.code), 1000);
    them.flush().expect_err("it is over");
    let (_, _, last) = decode(role, &them.get_ref().from_them, &[]);
    assert_eq!(last, Ok(Decoded { payload: 0, end: true, pong: None }));
}

#[test]
fn their_client_is_let_in_and_loses_nothing() {
    let settings = AcceptWs {
        host: Some("relay.example".into()),
        path: "/a?b=c".into(),
        headers: vec![("server".into(), "nginx".into())],
        token: None,
    };
    let started = tungstenite::client("ws://relay.example:8080/a?b=c", Wire::default());
    let Err(HandshakeError::Interrupted(mut handshake)) = started else { panic!("{started:?}") };
    let wire = handshake.get_mut().get_mut();
    let asked = read_request(&wire.from_them, &settings, Willing::default()).expect("let in").expect("whole");
    assert_eq!((asked.length, asked.is_realm), (wire.from_them.len(), false));
    wire.to_them.extend(asked.response);
    wire.to_them.extend(frame(Encoder::new(Role::Server), b"SSH-2.0-x\r\n"));
    let (mut them, response) = handshake.handshake().expect("a WebSocket");
    assert_eq!(response.headers()["server"], "nginx");
    assert_eq!(read(&mut them), [Message::from(b"SSH-2.0-x\r\n".to_vec())]);
}

#[test]
fn their_server_lets_us_in() {
    let settings = ConnectWs {
        host: None,
        path: "/ws".into(),
        headers: vec![("user-agent".into(), "curl/8".into())],
        token: Some("secret".into()),
        mask: MaskChoice::Random,
    };
    let (request, expected) = request(&settings, "2001:db8::1", Purpose::Session);
    let wire = Wire { to_them: request.into(), ..Wire::default() };
    let mut them = tungstenite::accept(wire).expect("let in");
    them.send(Message::from(b"hello".to_vec())).expect("sent");
    let sent = std::mem::take(&mut them.get_mut().from_them);
    let length = read_response(&sent, &expected).expect("the response").expect("whole");
    let role = Role::Client(settings.mask.into());
    assert_eq!(decode(role, &sent[length..], &[]).0, b"hello");
    them.get_mut().to_them.extend(frame(Encoder::new(role), b"to you"));
    assert_eq!(read(&mut them), [Message::from(b"to you".to_vec())]);
}
