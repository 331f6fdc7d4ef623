//! Frames that may not be sent, from either side, and those that may: after a handshake that is all right.

use std::io::{Read as _, Write as _};
use std::net::{Shutdown, TcpStream};
use std::sync::mpsc;
use std::time::{Duration, Instant};

use harness::World;
use harness::traffic::{Client, PATIENCE, tcp_server};

use super::{BACKEND, accept, connect, dial, is_clean, is_counted, rule, serve, start, world};

const REQUEST: &[u8] =
    b"GET /tunnel HTTP/1.1\r\nhost: relay.test\r\nupgrade: websocket\r\nconnection: upgrade\r\n\
                         sec-websocket-key: dGhlIHNhbXBsZSBub25jZQ==\r\nsec-websocket-version: 13\r\n\r\n";

/// Frames of a client that are none: how they are called, what they are, the reason in the log.
const OF_CLIENTS: [(&str, &[u8], &str); 9] = [
    ("text", b"\x81\x82\0\0\0\0hi", "ws_text"),
    ("reserved", b"\xc2\x82\0\0\0\0hi", "ws_reserved_bits"),
    ("opcode", b"\x83\x82\0\0\0\0hi", "ws_opcode"),
    ("unmasked", b"\x82\x02hi", "ws_unmasked"),
    ("long-ping", b"\x89\xfe\x00\x7e\0\0\0\0", "ws_long_control"),
    ("split-ping", b"\x09\x81\0\0\0\0x", "ws_fragmented_control"),
    ("endless", b"\x82\xff\xff\xff\xff\xff\xff\xff\xff\xff\0\0\0\0", "ws_length"),
    ("second", b"\x82\x82\0\0\0\0hi\x81\x82\0\0\0\0hi", "ws_text"),
    ("garbage", b"SSH-2.0-OpenSSH_9.2p1\r\n", "ws_"),
];

/// The same of servers.
const OF_SERVERS: [(&str, &[u8], &str); 4] = [
    ("text", b"\x81\x02hi", "ws_text"),
    ("masked", b"\x82\x82\0\0\0\0hi", "ws_masked"),
    ("reserved", b"\xa2\x02hi", "ws_reserved_bits"),
    ("long-close", b"\x88\x7e\x00\x7e", "ws_long_control"),
];

/// A client whose WebSocket is open.
fn upgraded(world: &World, port: u16) -> TcpStream {
    let mut stream = dial(world, port).0;
    stream.write_all(REQUEST).expect("send");
    head(&mut stream);
    stream
}

/// Reads a head to its end, and nothing behind it.
fn head(stream: &mut TcpStream) -> String {
    let mut head = Vec::new();
    while !head.ends_with(b"\r\n\r\n") {
        let mut byte = [0];
        stream.read_exact(&mut byte).expect("a head");
        head.extend(byte);
    }
    String::from_utf8(head).expect("text")
}

#[test]
fn clients_frames_that_are_none() {
    let (world, _authority) = world();
    let (told, heard) = mpsc::channel();
    serve(&world.backend, 80, move |Client(mut stream)| {
        let ended = stream.read(&mut [0; 8]).is_ok();
        told.send(ended).map_err(std::io::Error::other)
    });
    let rules: String = (8000..)
        .zip(OF_CLIENTS)
        .map(|(port, (name, ..))| rule(name, port, BACKEND, &accept("ws", "")))
        .collect();
    let mut daemon = start(&world, &rules);
    for (port, (name, bytes, reason)) in (8000..).zip(OF_CLIENTS) {
        let mut stream = upgraded(&world, port);
        stream.write_all(bytes).expect("send");
        let mut rest = Vec::new();
        stream.read_to_end(&mut rest).unwrap_or_else(|error| panic!("{name}: {error}"));
        is_counted(&mut daemon, name, "ws_frames", &[reason, "frame"]);
        let heard = heard.recv_timeout(PATIENCE).expect("the backend hears of it");
        assert!(!heard || name == "second", "{name}: it looks like the end of a stream");
    }
}

/// A backend that answers as a WebSocket server of today does.
fn answering(world: &World, port: u16, frames: &'static [u8]) {
    serve(&world.backend, port, move |Client(mut stream)| {
        let head = head(&mut stream);
        let key = head.lines().find_map(|line| line.strip_prefix("sec-websocket-key: ")).expect("a key");
        let accept = harness::openssl::websocket_accept(key);
        let answer = format!(
            "HTTP/1.1 101 Switching Protocols\r\nServer: any\r\nConnection: Upgrade\r\nUpgrade: WebSocket\r\n\
             Sec-WebSocket-Accept: {accept}\r\n\r\n"
        );
        // in one piece
        stream.write_all(&[answer.as_bytes(), frames].concat())?;
        stream.read_to_end(&mut Vec::new()).map(drop)
    });
}

#[test]
fn servers_frames_that_are_none() {
    let (world, _authority) = world();
    let mut rules = String::new();
    for (port, (name, frames, _)) in (8000..).zip(OF_SERVERS) {
        answering(&world, port, frames);
        rules += &rule(name, port, &format!("\"203.0.113.2:{port}\""), &connect("ws", ""));
    }
    let mut daemon = start(&world, &rules);
    for (port, (name, _, reason)) in (8000..).zip(OF_SERVERS) {
        let mut answer = Vec::new();
        let _reset = dial(&world, port).0.read_to_end(&mut answer);
        assert_eq!(answer, b"", "{name}");
        is_counted(&mut daemon, name, "ws_frames", &[reason, "backend 203.0.113.2:"]);
    }
}

/// Pieces of messages, empty ones, pings among them, any key, any cut; a close in either form.
#[test]
fn frames_in_every_form() {
    let (world, _authority) = world();
    let _server = tcp_server(&world.backend, 80);
    let daemon = start(&world, &rule("out", 443, BACKEND, &accept("ws", "")));
    let masked = |begin: &[u8], payload: &[u8]| {
        let key = [0x37, 0xfa, 0x21, 0x3d];
        let masked = payload.iter().zip(key.iter().cycle()).map(|(byte, key)| byte ^ key);
        begin.iter().copied().chain(key).chain(masked).collect::<Vec<u8>>()
    };
    // an order to echo, and six bytes, in a fragmented message with a ping inside
    let stream = [
        masked(b"\x02\x83", b"E\0\0"),
        masked(b"\x00\x80", b""),
        masked(b"\x89\x84", b"ping"),
        masked(b"\x00\xfe\x00\x06", b"\0\0\0\0\0\0"),
        masked(b"\x80\xff\0\0\0\0\0\0\0\x06", b"abcdef"),
    ]
    .concat();
    for piece in [1, 2, 3, 5, 64] {
        let mut client = upgraded(&world, 443);
        for bytes in stream.chunks(piece) {
            client.write_all(bytes).expect("send");
        }
        let (mut payload, mut pongs) = (Vec::new(), 0);
        while payload.len() < 6 || pongs == 0 {
            let (opcode, bytes) = frame(&mut client);
            match opcode {
                2 => payload.extend(bytes),
                10 => {
                    assert_eq!(bytes, b"ping");
                    pongs += 1;
                }
                other => panic!("opcode {other}"),
            }
        }
        assert_eq!(payload, b"abcdef", "{piece}");
        client.write_all(&masked(b"\x88\x82", b"\x03\xe8")).expect("a close");
        let (opcode, _) = frame(&mut client);
        assert_eq!(opcode, 8, "{piece}");
        assert_eq!(client.read(&mut [0]).expect("the end"), 0, "{piece}");
    }
    is_clean(&daemon.ctl, "out");
}

/// A server's frame: its opcode and what is in it.
fn frame(stream: &mut TcpStream) -> (u8, Vec<u8>) {
    let mut head = [0; 2];
    stream.read_exact(&mut head).expect("a frame");
    assert!(head[0] & 0xf0 == 0x80 && head[1] < 126, "{head:02x?}");
    let mut payload = vec![0; head[1].into()];
    stream.read_exact(&mut payload).expect("its payload");
    (head[0] & 0xf, payload)
}

/// realm loses what it reads together with the answer to its request, so that nothing follows at once; others need not
/// wait.
#[test]
fn realms_have_time_to_read_the_answer() {
    let (world, _authority) = world();
    serve(&world.backend, 80, |Client(mut stream)| {
        stream.write_all(b"220 ready\r\n")?;
        stream.read(&mut [0; 1]).map(drop)
    });
    let _daemon = start(&world, &rule("out", 443, BACKEND, &accept("ws", "")));
    let request = str::from_utf8(REQUEST).expect("text");
    let others = request.replace("upgrade: websocket", "Upgrade: websocket");
    let gaps = |request: &str| {
        [(); 10].map(|()| {
            let mut stream = dial(&world, 443).0;
            stream.write_all(request.as_bytes()).expect("send");
            head(&mut stream);
            let answered = Instant::now();
            assert_eq!(frame(&mut stream), (2, b"220 ready\r\n".to_vec()));
            answered.elapsed()
        })
    };
    // on a busy machine some of them are longer or shorter than they should be
    let [realms, others] = [request, &others].map(gaps);
    assert!(realms.iter().max() >= Some(&Duration::from_millis(15)), "{realms:?}");
    assert!(others.iter().min() < Some(&Duration::from_millis(15)), "{others:?}");
}

/// A stream that ends without a close frame has ended; one that ends within a frame has not, it is broken.
#[test]
fn ends_without_a_close() {
    let (world, _authority) = world();
    let (told, heard) = mpsc::channel();
    serve(&world.backend, 80, move |Client(mut stream)| {
        let mut all = Vec::new();
        let ended = stream.read_to_end(&mut all).map(|_| all).map_err(|error| error.kind());
        told.send(ended).map_err(std::io::Error::other)
    });
    let rules: String = (8000..)
        .zip(["whole", "payload", "head"])
        .map(|(port, name)| rule(name, port, BACKEND, &accept("ws", "")))
        .collect();
    let mut daemon = start(&world, &rules);
    let cases: [&[u8]; 3] = [b"\x82\x82\0\0\0\0hi", b"\x82\x84\0\0\0\0hi", b"\x82\x82\0\0\0\0hi\x82\x84"];
    for (port, bytes) in (8000..).zip(cases) {
        let mut stream = upgraded(&world, port);
        stream.write_all(bytes).expect("send");
        stream.shutdown(Shutdown::Write).expect("shutdown");
        let ended = heard.recv_timeout(PATIENCE).expect("the backend hears of it");
        let expected =
            if port == 8000 { Ok(b"hi".to_vec()) } else { Err(std::io::ErrorKind::ConnectionReset) };
        assert_eq!(ended, expected, "{bytes:02x?}");
    }
    is_clean(&daemon.ctl, "whole");
    is_counted(&mut daemon, "payload", "ws_frames", &["ws_truncated"]);
    is_counted(&mut daemon, "head", "ws_frames", &["ws_truncated"]);
}
