//! Tunnels for datagrams whose other end is not a Relay that behaves: what it sends is cut anyhow, is no frame, is of
//! nobody's flow, is too much, or is not read.

use std::io::{Read as _, Write as _};
use std::net::TcpStream;
use std::time::Duration;

use harness::traffic::{text, udp_server};
use harness::{World, within};

use super::datagrams::{THROUGH, with_udp};
use super::{BACKEND, LIMIT, accept, dial, drops, is_clean, is_counted, rule, start, world};

const REQUEST: &[u8] =
    b"GET /tunnel HTTP/1.1\r\nhost: relay.test\r\nupgrade: websocket\r\nconnection: upgrade\r\n\
                         sec-websocket-key: dGhlIHNhbXBsZSBub25jZQ==\r\nsec-websocket-version: 13\r\n\
                         sec-websocket-protocol: relay-udp.v1\r\n\r\n";
/// 192.0.2.7, port 4660.
const CLIENT: &[u8; 18] = b"\0\0\0\0\0\0\0\0\0\0\xff\xff\xc0\0\x02\x07\x12\x34";

/// Another end of a tunnel, after its handshake.
struct Peer(TcpStream);

impl Peer {
    fn new(world: &World, port: u16) -> Self {
        let mut stream = dial(world, port).0;
        stream.write_all(REQUEST).expect("send");
        let mut head = Vec::new();
        while !head.ends_with(b"\r\n\r\n") {
            let mut byte = [0];
            stream.read_exact(&mut byte).expect("a head");
            head.extend(byte);
        }
        let head = String::from_utf8(head).expect("text").to_lowercase();
        assert!(head.contains("sec-websocket-protocol: relay-udp.v1\r\n"), "{head}");
        Self(stream)
    }

    fn send(&mut self, bytes: &[u8]) {
        self.0.write_all(&in_websocket(bytes)).expect("send");
    }

    /// The next WebSocket frame's payload.
    fn get(&mut self) -> Vec<u8> {
        let mut head = [0; 2];
        self.0.read_exact(&mut head).expect("a frame");
        assert_eq!(head[0], 0x82);
        let length = match head[1] {
            126 => {
                let mut length = [0; 2];
                self.0.read_exact(&mut length).expect("its length");
                u16::from_be_bytes(length).into()
            }
            length => usize::from(length),
        };
        let mut payload = vec![0; length];
        self.0.read_exact(&mut payload).expect("its payload");
        payload
    }
}

/// A binary frame of a client whose mask is zero.
fn in_websocket(bytes: &[u8]) -> Vec<u8> {
    let length = u16::try_from(bytes.len()).expect("short");
    let head = match length {
        0..126 => vec![0x82, 0x80 | u8::try_from(length).expect("short")],
        _ => [&[0x82, 0xfe][..], &length.to_be_bytes()].concat(),
    };
    [&head[..], &[0; 4], bytes].concat()
}

fn frame(kind: u8, flow: u32, payload: &[u8]) -> Vec<u8> {
    let length = u16::try_from(payload.len()).expect("short");
    [&length.to_be_bytes()[..], &[kind, 0], &flow.to_be_bytes(), payload].concat()
}

fn data(flow: u32, payload: &[u8]) -> Vec<u8> {
    frame(0, flow, payload)
}

fn begin(flow: u32) -> Vec<u8> {
    frame(1, flow, CLIENT)
}

/// A rule that takes datagrams in at this port.
fn exit(name: &str, port: u16, lines: &str) -> String {
    with_udp(&rule(name, port, BACKEND, &(accept("ws", THROUGH) + lines)))
}

#[test]
fn frames_byte_by_byte_and_flows_of_nobody() {
    let (world, _authority) = world();
    let _server = udp_server(&world.backend, 80);
    let daemon = start(&world, &exit("out", 443, ""));
    let mut peer = Peer::new(&world, 443);
    let question = data(7, b"question");
    for byte in [begin(7), question.clone()].concat() {
        peer.send(&[byte]);
    }
    assert_eq!(peer.get(), question, "an echo");
    is_clean(&daemon.ctl, "out");
    // over, and of nobody; one that was over begins again
    peer.send(&[frame(2, 7, b""), data(7, b"lost"), data(8, b"lost"), frame(2, 9, b"")].concat());
    within(LIMIT, "both are counted", &mut || drops(&daemon.ctl, "out", "flow_over") == 2);
    peer.send(&[begin(7), question.clone()].concat());
    let mut answers = Vec::new();
    while !answers.ends_with(&question) {
        answers.extend(peer.get());
    }
    for over in [frame(2, 7, b""), frame(2, 8, b"")] {
        assert!(answers.chunks(8).any(|frame| frame == over), "the other end is told: {answers:?}");
    }
}

#[test]
fn what_is_no_frame() {
    let (world, _authority) = world();
    let wrong = [
        ("kind", frame(9, 1, b""), "later version"),
        ("reserved", b"\0\0\0\x01\0\0\0\x01".to_vec(), "later version"),
        ("announcement", frame(1, 1, b"short"), "Begin with 5 bytes"),
        ("end", frame(2, 1, b"long"), "End with 4 bytes"),
        ("length", b"\xff\xff\0\0\0\0\0\x01".to_vec(), "Data with 65535 bytes"),
    ];
    let rules: String = (8000..).zip(&wrong).map(|(port, (name, ..))| exit(name, port, "")).collect();
    let mut daemon = start(&world, &rules);
    for (port, (name, bytes, said)) in (8000..).zip(&wrong) {
        let mut peer = Peer::new(&world, port);
        peer.send(bytes);
        let ended = peer.0.read(&mut [0; 64]);
        assert!(matches!(ended, Ok(0) | Err(_)), "{name}: the tunnel goes on: {ended:?}");
        is_counted(&mut daemon, name, "udp_frames", &[said, "udp_frames"]);
    }
}

/// Limits are for the clients that the other end names.
#[test]
fn more_flows_than_a_client_may_begin() {
    let (world, _authority) = world();
    let _server = udp_server(&world.backend, 80);
    let daemon = start(&world, &exit("out", 443, "limit = { new_flows_per_ip = 4 }\n"));
    let mut peer = Peer::new(&world, 443);
    let flows: Vec<u8> = (1..=10).flat_map(|flow| [begin(flow), data(flow, b"x")].concat()).collect();
    peer.send(&flows);
    within(LIMIT, "six are refused", &mut || drops(&daemon.ctl, "out", "limit_new_flows_per_ip") == 6);
    assert_eq!(daemon.ctl.counter("out", "/flows/active"), 5, "four, and the tunnel");
}

/// Who asks for much and does not read loses what it asked for, and nobody else loses anything.
#[test]
fn who_does_not_read() {
    let (world, _authority) = world();
    let _server = udp_server(&world.backend, 80);
    let daemon = start(&world, &exit("out", 443, ""));
    let mut greedy = Peer::new(&world, 443);
    greedy.0.set_write_timeout(Some(Duration::from_secs(5))).expect("timeout");
    let much = data(1, &text(30_000));
    greedy.send(&begin(1));
    within(LIMIT, "its queue is full", &mut || {
        for _ in 0..100 {
            greedy.send(&much);
        }
        drops(&daemon.ctl, "out", "tunnel_full") > 0
    });
    let mut other = Peer::new(&world, 443);
    let question = data(1, b"question");
    other.send(&[begin(1), question.clone()].concat());
    assert_eq!(other.get(), question, "an echo");
    // its own end acknowledges, and takes nothing: that is the same as if it were gone
    within(LIMIT, "it is cut off", &mut || daemon.ctl.counter("out", "/flows/active") == 2);
}
