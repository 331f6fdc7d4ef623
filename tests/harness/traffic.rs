//! Real TCP and UDP between namespaces, with contents that are checked.

use std::io::{self, Read, Write};
use std::net::{Ipv4Addr, Ipv6Addr, SocketAddr, TcpListener, TcpStream, UdpSocket};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::thread::{self, JoinHandle};
use std::time::Duration;

use socket2::{Domain, Socket, Type};

pub use crate::datagrams::Datagrams;
use crate::netns::NetNs;

/// How long anything may take before a test gives up on it.
pub const PATIENCE: Duration = Duration::from_secs(10);

/// A stream of bytes that can be told from any other (xorshift64*).
#[derive(Clone, Debug)]
pub struct Noise(u64);

impl Noise {
    pub const fn new(seed: u64) -> Self {
        Self(seed.wrapping_mul(0x9e37_79b9_7f4a_7c15) | 1)
    }

    pub fn next_u64(&mut self) -> u64 {
        self.0 ^= self.0 >> 12;
        self.0 ^= self.0 << 25;
        self.0 ^= self.0 >> 27;
        self.0.wrapping_mul(0x2545_f491_4f6c_dd1d)
    }

    pub fn fill(&mut self, buffer: &mut [u8]) {
        let (words, rest) = buffer.as_chunks_mut();
        for word in words {
            *word = self.next_u64().to_le_bytes();
        }
        if !rest.is_empty() {
            rest.copy_from_slice(&self.next_u64().to_le_bytes()[..rest.len()]);
        }
    }
}

/// A running hash of bytes and their number. It goes word by word, so that hashing does not set the pace.
#[derive(Clone, Copy, Debug, Default, Eq, PartialEq)]
pub struct Digest {
    pub length: u64,
    hash: u64,
    /// The bytes after the last whole word.
    rest: u64,
}

impl Digest {
    pub fn add(&mut self, bytes: &[u8]) {
        let held = (self.length % 8) as usize;
        let (first, bytes) = bytes.split_at(bytes.len().min((8 - held) % 8));
        self.add_to_rest(first);
        let (words, last) = bytes.as_chunks();
        for word in words {
            self.mix(u64::from_le_bytes(*word));
        }
        self.length += 8 * words.len() as u64;
        self.add_to_rest(last);
    }

    /// Fewer bytes than a word has.
    fn add_to_rest(&mut self, bytes: &[u8]) {
        for &byte in bytes {
            self.rest |= u64::from(byte) << (8 * (self.length % 8));
            self.length += 1;
            if self.length.is_multiple_of(8) {
                let word = std::mem::take(&mut self.rest);
                self.mix(word);
            }
        }
    }

    const fn mix(&mut self, word: u64) {
        self.hash = (self.hash.rotate_left(5) ^ word).wrapping_mul(0x517c_c1b7_2722_0a95);
    }

    /// The hash of everything so far.
    pub const fn value(mut self) -> u64 {
        self.mix(self.rest);
        self.hash
    }

    /// Of the first `length` bytes of a noise.
    pub fn of_noise(seed: u64, length: u64) -> Self {
        let mut digest = Self::default();
        let mut noise = Noise::new(seed);
        let mut buffer = [0; 16 * 1024];
        let mut left = length;
        while left > 0 {
            let size = left.min(buffer.len() as u64) as usize;
            noise.fill(&mut buffer);
            digest.add(&buffer[..size]);
            left -= size as u64;
        }
        digest
    }
}

/// A server on a thread; ends with its value.
pub struct Server {
    stop: Arc<AtomicBool>,
    thread: Option<JoinHandle<()>>,
    /// Connections accepted, or datagrams received.
    pub served: Arc<AtomicU64>,
}

impl Server {
    fn start(ns: &NetNs, work: impl FnOnce(&AtomicBool, &Arc<AtomicU64>) + Send + 'static) -> Self {
        let (stop, served) = (Arc::new(AtomicBool::new(false)), Arc::new(AtomicU64::new(0)));
        let (inner_stop, inner_served) = (stop.clone(), served.clone());
        let thread = ns.spawn(move || work(&inner_stop, &inner_served));
        Self { stop, thread: Some(thread), served }
    }

    pub fn count(&self) -> u64 {
        self.served.load(Ordering::Relaxed)
    }
}

impl Drop for Server {
    fn drop(&mut self) {
        self.stop.store(true, Ordering::Relaxed);
        if let Some(thread) = self.thread.take() {
            let _panicked = thread.join();
        }
    }
}

/// What a client asks of the TCP server: one letter and a number.
const ECHO: u8 = b'E';
const UPLOAD: u8 = b'U';
const DOWNLOAD: u8 = b'D';
const WHO: u8 = b'W';

/// Answers echoes, uploads, downloads and the question who is asking.
pub fn tcp_server(ns: &NetNs, port: u16) -> Server {
    let listener = ns.run(|| {
        let socket = Socket::new(Domain::IPV6, Type::STREAM, None).expect("socket");
        socket.set_only_v6(false).expect("both families");
        socket.set_reuse_address(true).expect("reuse");
        socket.bind(&SocketAddr::from((Ipv6Addr::UNSPECIFIED, port)).into()).expect("bind");
        socket.listen(4096).expect("listen");
        TcpListener::from(socket)
    });
    listener.set_nonblocking(true).expect("nonblocking");
    Server::start(ns, move |stop, served| {
        while !stop.load(Ordering::Relaxed) {
            match listener.accept() {
                Ok((stream, from)) => {
                    served.fetch_add(1, Ordering::Relaxed);
                    thread::spawn(move || serve(stream, from));
                }
                Err(_nobody) => thread::sleep(Duration::from_millis(1)),
            }
        }
    })
}

fn serve(mut stream: TcpStream, from: SocketAddr) -> io::Result<()> {
    stream.set_nonblocking(false)?;
    stream.set_nodelay(true)?;
    let mut order = [0; 9];
    stream.read_exact(&mut order)?;
    let number =
        u64::from_le_bytes([order[1], order[2], order[3], order[4], order[5], order[6], order[7], order[8]]);
    match order[0] {
        ECHO => {
            let mut buffer = [0; 16 * 1024];
            loop {
                let length = stream.read(&mut buffer)?;
                if length == 0 {
                    return Ok(());
                }
                stream.write_all(&buffer[..length])?;
            }
        }
        UPLOAD => {
            let digest = digest_of(&mut stream, number)?;
            stream.write_all(&digest.value().to_le_bytes())
        }
        DOWNLOAD => send_noise(&mut stream, number, number).map(drop),
        WHO => {
            let from = SocketAddr::new(from.ip().to_canonical(), from.port());
            stream.write_all(from.to_string().as_bytes())
        }
        _ => Ok(()),
    }
}

fn digest_of(stream: &mut TcpStream, length: u64) -> io::Result<Digest> {
    let mut digest = Digest::default();
    let mut buffer = vec![0; 256 * 1024];
    while digest.length < length {
        let size = stream.read(&mut buffer)?;
        if size == 0 {
            return Err(io::Error::from(io::ErrorKind::UnexpectedEof));
        }
        digest.add(&buffer[..size]);
    }
    Ok(digest)
}

/// Sends a noise; returns what was sent.
fn send_noise(stream: &mut TcpStream, seed: u64, length: u64) -> io::Result<Digest> {
    let mut digest = Digest::default();
    let mut noise = Noise::new(seed);
    let mut buffer = vec![0; 64 * 1024];
    while digest.length < length {
        let size = (length - digest.length).min(buffer.len() as u64) as usize;
        noise.fill(&mut buffer[..size]);
        stream.write_all(&buffer[..size])?;
        digest.add(&buffer[..size]);
    }
    Ok(digest)
}

/// A connection to the TCP server.
#[derive(Debug)]
pub struct Client(pub TcpStream);

impl Client {
    pub fn connect(ns: &NetNs, to: impl Into<SocketAddr>) -> io::Result<Self> {
        Self::connect_within(ns, to, PATIENCE)
    }

    pub fn connect_within(ns: &NetNs, to: impl Into<SocketAddr>, limit: Duration) -> io::Result<Self> {
        let address = to.into();
        let stream = ns.run(|| TcpStream::connect_timeout(&address, limit))?;
        stream.set_read_timeout(Some(PATIENCE))?;
        stream.set_write_timeout(Some(PATIENCE))?;
        stream.set_nodelay(true)?;
        Ok(Self(stream))
    }

    /// From a port of the client's choice, which it may have used before.
    pub fn connect_from(ns: &NetNs, port: u16, to: (Ipv4Addr, u16)) -> io::Result<Self> {
        Self::connect_bound(ns, (Ipv4Addr::UNSPECIFIED, port), to)
    }

    /// From one of the client's addresses and a port of its choice.
    pub fn connect_from_v6(ns: &NetNs, source: (Ipv6Addr, u16), to: SocketAddr) -> io::Result<Self> {
        Self::connect_bound(ns, source, to)
    }

    /// From one of the client's addresses.
    pub fn connect_as(ns: &NetNs, source: Ipv4Addr, to: (Ipv4Addr, u16)) -> io::Result<Self> {
        Self::connect_bound(ns, (source, 0), to)
    }

    fn connect_bound(
        ns: &NetNs,
        source: impl Into<SocketAddr>,
        to: impl Into<SocketAddr>,
    ) -> io::Result<Self> {
        let (source, to) = (source.into(), to.into());
        let stream = ns.run(|| {
            let socket = Socket::new(Domain::for_address(to), Type::STREAM, None)?;
            socket.set_reuse_address(true)?;
            socket.bind(&source.into())?;
            socket.connect_timeout(&to.into(), PATIENCE)?;
            Ok::<_, io::Error>(TcpStream::from(socket))
        })?;
        stream.set_read_timeout(Some(PATIENCE))?;
        stream.set_write_timeout(Some(PATIENCE))?;
        Ok(Self(stream))
    }

    /// Ends the connection with a RST.
    pub fn reset(self) {
        let socket = Socket::from(self.0);
        socket.set_linger(Some(Duration::ZERO)).expect("linger");
    }

    fn order(&mut self, letter: u8, number: u64) -> io::Result<()> {
        let mut order = vec![letter];
        order.extend(number.to_le_bytes());
        self.0.write_all(&order)
    }

    /// Begins an echo conversation: the first byte is back, so the backend has it and whoever carries it.
    pub fn start_echo(mut self) -> io::Result<Self> {
        self.order(ECHO, 0)?;
        self.echo(b"?")?;
        Ok(self)
    }

    /// Sends something and gets it back.
    pub fn echo(&mut self, bytes: &[u8]) -> io::Result<()> {
        self.0.write_all(bytes)?;
        let mut back = vec![0; bytes.len()];
        self.0.read_exact(&mut back)?;
        if back == bytes { Ok(()) } else { Err(io::Error::other("the echo is another text")) }
    }

    /// Sends so many bytes; the server's hash must be ours.
    pub fn upload(mut self, length: u64) -> io::Result<()> {
        self.order(UPLOAD, length)?;
        let sent = send_noise(&mut self.0, length, length)?;
        let mut hash = [0; 8];
        self.0.read_exact(&mut hash)?;
        if u64::from_le_bytes(hash) == sent.value() {
            Ok(())
        } else {
            Err(io::Error::other("the upload arrived changed"))
        }
    }

    /// Gets so many bytes; they must be the ones that were sent.
    pub fn download(self, length: u64) -> io::Result<()> {
        self.download_expecting(Digest::of_noise(length, length))
    }

    /// The same, with the digest of a noise whose seed is its length.
    pub fn download_expecting(mut self, expected: Digest) -> io::Result<()> {
        self.order(DOWNLOAD, expected.length)?;
        if digest_of(&mut self.0, expected.length)? == expected {
            Ok(())
        } else {
            Err(io::Error::other("the download arrived changed"))
        }
    }

    /// The address that the server sees.
    pub fn seen_as(mut self) -> io::Result<SocketAddr> {
        self.order(WHO, 0)?;
        let mut text = String::new();
        self.0.read_to_string(&mut text)?;
        text.parse().map_err(|_not_an_address| io::Error::other(text))
    }
}

/// Sends every datagram back to where it came from.
pub fn udp_server(ns: &NetNs, port: u16) -> Server {
    udp_server_on(ns, (Ipv6Addr::UNSPECIFIED, port))
}

/// One that answers from a certain address; where there are several, the route would choose.
pub fn udp_server_on(ns: &NetNs, address: impl Into<SocketAddr>) -> Server {
    let address = address.into();
    let socket = ns.run(|| UdpSocket::bind(address)).expect("bind");
    socket.set_read_timeout(Some(Duration::from_millis(50))).expect("timeout");
    Server::start(ns, move |stop, served| {
        let mut buffer = vec![0; 65_536];
        while !stop.load(Ordering::Relaxed) {
            if let Ok((length, from)) = socket.recv_from(&mut buffer) {
                // who has the answer may look at the count
                served.fetch_add(1, Ordering::Relaxed);
                let _asker_gone = socket.send_to(&buffer[..length], from);
            }
        }
    })
}

/// A text of so many bytes.
pub fn text(length: usize) -> Vec<u8> {
    let mut bytes = vec![0; length];
    Noise::new(length as u64 + 1).fill(&mut bytes);
    bytes
}
