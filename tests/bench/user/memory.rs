//! What clients that say nothing cost: memory and descriptors; and whether an early answer arrives whole.

use std::io::{Read as _, Write as _};
use std::net::{Ipv4Addr, Shutdown, SocketAddr, TcpListener, TcpStream, UdpSocket};
use std::process::{Command, Stdio};
use std::thread;
use std::time::Duration;

use harness::programs::Running;
use harness::traffic::udp_server;
use harness::{NetNs, eventually};

use crate::figures::{Options, say};
use crate::load::server::ANSWERING;
use crate::peer::{Kind, Peer, allow_descriptors};

/// Fewer where the system does not allow two descriptors for each.
const CLIENTS: usize = 10_000;
/// What the backend answers with.
const ANSWER: usize = 3 << 20;
const TRIES: usize = 100;

pub fn run(options: &Options) {
    let clients = CLIENTS.min(allow_descriptors() as usize / 2 - 400);
    say(&format!("\n## {clients} clients, and early answers\n"));
    say("| relay | idle TCP: MB | descriptors each | UDP clients: MB | early answers whole |");
    say("|---|---|---|---|---|");
    for kind in Kind::TCP {
        if !options.only.is_empty() && !options.only.iter().any(|word| kind.name().contains(word)) {
            continue;
        }
        let (memory, descriptors) = idle_tcp(&Peer::new(kind), clients);
        let udp =
            if kind == Kind::Haproxy { "-".into() } else { format!("{:.1}", udp(&Peer::new(kind), clients)) };
        let whole = early_answers(&Peer::new(kind));
        say(&format!("| {} | {memory:.1} | {descriptors:.2} | {udp} | {whole} of {TRIES} |", kind.name()));
    }
}

/// Resident MB with idle connections, all of which have said something; descriptors for each.
fn idle_tcp(peer: &Peer, clients: usize) -> (f64, f64) {
    let _server = another_process(&peer.world.backend);
    let before = peer.descriptors();
    let _clients = idle_clients(&peer.world.client, peer.target, clients);
    thread::sleep(Duration::from_secs(1));
    let descriptors = (peer.descriptors() - before) as f64 / clients as f64;
    (peer.memory_kib() as f64 / 1024.0, descriptors)
}

/// Connections that have said something and had it back.
pub fn idle_clients(ns: &NetNs, target: SocketAddr, clients: usize) -> Vec<TcpStream> {
    let connected = |_| {
        let mut stream = TcpStream::connect(target).expect("connect");
        stream.write_all(b"hello").expect("send");
        stream.read_exact(&mut [0; 5]).expect("answer");
        stream
    };
    ns.run(|| (0..clients).map(connected).collect())
}

/// The answering server as a process of its own: its descriptors are not ours.
pub fn another_process(ns: &NetNs) -> Running {
    let mut command = Command::new(std::env::current_exe().expect("own path"));
    let child = ns.run(|| command.arg(ANSWERING).stdin(Stdio::null()).spawn()).expect("the server starts");
    eventually("the server listens", || ns.run(|| TcpStream::connect("127.0.0.1:80").is_ok()));
    Running(child)
}

/// Resident MB with UDP clients, each of which had an answer.
fn udp(peer: &Peer, clients: usize) -> f64 {
    let _server = udp_server(&peer.world.backend, 80);
    let (kind, target) = (peer.kind, peer.target);
    let _clients: Vec<UdpSocket> = peer.world.client.run(|| {
        (0..clients)
            .map(|_| {
                let socket = UdpSocket::bind((Ipv4Addr::UNSPECIFIED, 0)).expect("bind");
                socket.connect(target).expect("connect");
                socket.set_read_timeout(Some(Duration::from_secs(1))).expect("timeout");
                let answered =
                    (0..5).any(|_| socket.send(b"hello").is_ok() && socket.recv(&mut [0; 64]).is_ok());
                assert!(answered, "{}: no answer over UDP", kind.name());
                socket
            })
            .collect()
    });
    peer.memory_kib() as f64 / 1024.0
}

/// How many answers arrive whole that the backend gives, and closes after, while the client is still sending
/// (reference: HTTP's 413 to a large upload).
fn early_answers(peer: &Peer) -> usize {
    let listener = peer.world.backend.run(|| TcpListener::bind("0.0.0.0:80")).expect("bind");
    thread::spawn(move || {
        for stream in listener.incoming().take(TRIES).flatten() {
            thread::spawn(move || answer_early(stream));
        }
    });
    let target = peer.target;
    (0..TRIES).filter(|_| peer.world.client.run(|| upload(target)) == ANSWER).count()
}

/// Reads a little, answers, closes its side, then reads what else comes.
fn answer_early(mut stream: TcpStream) {
    let mut buffer = vec![0; 64 << 10];
    let _first = stream.read(&mut buffer);
    let _gone = stream.write_all(&vec![0x41; ANSWER]);
    let _gone = stream.shutdown(Shutdown::Write);
    while stream.read(&mut buffer).is_ok_and(|length| length > 0) {}
}

/// Bytes of the answer to an upload.
fn upload(target: SocketAddr) -> usize {
    let Ok(stream) = TcpStream::connect(target) else { return 0 };
    stream.set_read_timeout(Some(Duration::from_secs(5))).expect("timeout");
    let mut sending = stream.try_clone().expect("stream");
    let sender = thread::spawn(move || {
        let chunk = vec![0x42; 64 << 10];
        for _ in 0..160 {
            if sending.write_all(&chunk).is_err() {
                break;
            }
            thread::sleep(Duration::from_millis(1));
        }
        let _gone = sending.shutdown(Shutdown::Write);
    });
    let (mut stream, mut received, mut buffer) = (stream, 0, vec![0; 64 << 10]);
    while let Ok(length @ 1..) = stream.read(&mut buffer) {
        received += length;
    }
    sender.join().expect("sender");
    received
}
