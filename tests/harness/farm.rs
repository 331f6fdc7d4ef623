//! Several backends in one namespace, each with an address of its own: each says which one it is, and can be made to refuse,
//! to say nothing at all, or to be slow.

use std::io::{self, Read as _, Write as _};
use std::net::{IpAddr, Ipv4Addr, Shutdown, SocketAddr, SocketAddrV4, TcpListener, TcpStream, UdpSocket};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU16, AtomicU64, Ordering};
use std::thread::{self, JoinHandle};
use std::time::Duration;

use netlink_packet_route::rule::{RuleAction, RuleMessage};
use socket2::{Domain, SockRef, Socket, Type};

use crate::netns::NetNs;
use crate::traffic::PATIENCE;

/// Where all of them listen.
pub const PORT: u16 = 80;
const FIRST: Ipv4Addr = Ipv4Addr::new(203, 0, 113, 11);

/// The backends, by their index.
pub struct Farm {
    ns: NetNs,
    hosts: Vec<Host>,
}

struct Host {
    at: SocketAddrV4,
    manner: Arc<Manner>,
    tcp: Option<TcpPort>,
    udp: Option<UdpPort>,
}

/// How a backend answers.
struct Manner {
    index: u8,
    /// Milliseconds before the first byte of an answer over TCP.
    delay: AtomicU64,
    /// Of answers to HTTP requests.
    status: AtomicU16,
    /// It resets connections in place of its first byte.
    breaks_off: AtomicBool,
}

struct TcpPort(TcpListener, Option<JoinHandle<()>>);
struct UdpPort(Arc<AtomicBool>, Option<JoinHandle<()>>);

impl Farm {
    /// So many backends behind the usual world's relay, all serving.
    pub fn new(backend: &NetNs, count: u8) -> Self {
        (0..count).for_each(|index| backend.add_address("backend", address(index.into()), 24));
        Self::serving(backend, count, |index| SocketAddrV4::new(address(index), PORT))
    }

    /// The same at ports of one address.
    pub fn at_one_address(backend: &NetNs, count: u8) -> Self {
        backend.add_address("backend", address(0), 24);
        Self::serving(backend, count, |index| one_address(index).parse().expect("an address"))
    }

    fn serving(backend: &NetNs, count: u8, at: impl Fn(usize) -> SocketAddrV4) -> Self {
        let mut farm = Self { ns: backend.another(), hosts: Vec::new() };
        for index in 0..count {
            let manner = Manner {
                index,
                delay: AtomicU64::new(0),
                status: AtomicU16::new(200),
                breaks_off: AtomicBool::new(false),
            };
            let at = at(index.into());
            farm.hosts.push(Host { at, manner: Arc::new(manner), tcp: None, udp: None });
            farm.serve(index.into());
        }
        farm
    }

    /// It listens on both protocols, if it does not yet.
    pub fn serve(&mut self, index: usize) {
        self.serve_tcp(index);
        self.serve_udp(index);
    }

    pub fn serve_tcp(&mut self, index: usize) {
        let host = &mut self.hosts[index];
        if host.tcp.is_none() {
            host.tcp = Some(TcpPort::open(&self.ns, host.at, &host.manner));
        }
    }

    pub fn serve_udp(&mut self, index: usize) {
        let host = &mut self.hosts[index];
        if host.udp.is_none() {
            host.udp = Some(UdpPort::open(&self.ns, host.at, &host.manner));
        }
    }

    /// It listens no more. Connections that it has stay.
    pub fn refuse(&mut self, index: usize) {
        self.refuse_tcp(index);
        self.refuse_udp(index);
    }

    pub fn refuse_tcp(&mut self, index: usize) {
        self.hosts[index].tcp = None;
    }

    pub fn refuse_udp(&mut self, index: usize) {
        self.hosts[index].udp = None;
    }

    /// Nothing comes from it any more, neither answers nor errors; neighbours still know where it is.
    pub fn freeze(&self, index: usize) {
        let address = *self.hosts[index].at.ip();
        self.ns.netlink(async move |handle| silence(&handle, address).execute().await);
    }

    /// It is back, with what it had.
    pub fn thaw(&self, index: usize) {
        let address = *self.hosts[index].at.ip();
        self.ns.netlink(async move |handle| {
            let rule: RuleMessage = silence(&handle, address).message_mut().clone();
            handle.rule().del(rule).execute().await
        });
    }

    /// It waits so long before it begins an answer over TCP.
    pub fn slow_down(&self, index: usize, by: Duration) {
        let milliseconds = u64::try_from(by.as_millis()).expect("a short time");
        self.hosts[index].manner.delay.store(milliseconds, Ordering::Relaxed);
    }

    /// It takes connections and resets them when it would begin to answer.
    pub fn break_off(&self, index: usize) {
        self.hosts[index].manner.breaks_off.store(true, Ordering::Relaxed);
    }

    /// What HTTP requests are answered with.
    pub fn set_status(&self, index: usize, status: u16) {
        self.hosts[index].manner.status.store(status, Ordering::Relaxed);
    }
}

/// A backend's address.
pub fn address(index: usize) -> Ipv4Addr {
    Ipv4Addr::from(u32::from(FIRST) + u32::try_from(index).expect("a small number"))
}

/// A backend as rules name it.
pub fn name(index: usize) -> String {
    format!("{}:{PORT}", address(index))
}

/// The same of backends that are ports of one address.
pub fn one_address(index: usize) -> String {
    format!("{}:{}", address(0), usize::from(PORT) + index)
}

/// `ip rule add from ADDRESS blackhole`: no route leads from there to anywhere but the host itself.
fn silence(handle: &rtnetlink::Handle, address: Ipv4Addr) -> rtnetlink::RuleAddRequest<Ipv4Addr> {
    handle.rule().add().v4().source_prefix(address, 32).priority(100).action(RuleAction::Blackhole)
}

impl TcpPort {
    fn open(ns: &NetNs, at: SocketAddrV4, manner: &Arc<Manner>) -> Self {
        let listener = ns.run(|| {
            let socket = Socket::new(Domain::IPV4, Type::STREAM, None).expect("socket");
            socket.set_reuse_address(true).expect("reuse");
            socket.bind(&SocketAddr::from(at).into()).expect("bind");
            socket.listen(1024).expect("listen");
            TcpListener::from(socket)
        });
        let (heard, manner) = (listener.try_clone().expect("descriptor"), manner.clone());
        let thread = ns.spawn(move || {
            while let Ok((stream, _)) = heard.accept() {
                let manner = manner.clone();
                thread::spawn(move || manner.serve(stream));
            }
        });
        Self(listener, Some(thread))
    }
}

impl Drop for TcpPort {
    fn drop(&mut self) {
        // ends the listening at once, and the thread that waits for it
        let _ended = SockRef::from(&self.0).shutdown(Shutdown::Both);
        let _panicked = self.1.take().map(JoinHandle::join);
    }
}

impl UdpPort {
    fn open(ns: &NetNs, at: SocketAddrV4, manner: &Arc<Manner>) -> Self {
        let socket = ns.run(|| UdpSocket::bind(at)).expect("bind");
        socket.set_read_timeout(Some(Duration::from_millis(50))).expect("timeout");
        let (stop, index) = (Arc::new(AtomicBool::new(false)), manner.index);
        let is_over = stop.clone();
        let thread = ns.spawn(move || {
            let mut buffer = [0; 2048];
            while !is_over.load(Ordering::Relaxed) {
                if let Ok((length, from)) = socket.recv_from(&mut buffer) {
                    let answer = [&[index], &buffer[..length]].concat();
                    let _unheard = socket.send_to(&answer, from);
                }
            }
        });
        Self(stop, Some(thread))
    }
}

impl Drop for UdpPort {
    fn drop(&mut self) {
        self.0.store(true, Ordering::Relaxed);
        let _panicked = self.1.take().map(JoinHandle::join);
    }
}

impl Manner {
    /// One byte is answered with who it is, and all after that with itself; an HTTP request with the status.
    fn serve(&self, mut stream: TcpStream) -> io::Result<()> {
        let mut buffer = [0; 2048];
        let length = stream.read(&mut buffer)?;
        thread::sleep(Duration::from_millis(self.delay.load(Ordering::Relaxed)));
        if self.breaks_off.load(Ordering::Relaxed) {
            // closed with nothing to wait for, it is a reset
            return SockRef::from(&stream).set_linger(Some(Duration::ZERO));
        }
        if buffer[..length].starts_with(b"GET ") {
            let status = self.status.load(Ordering::Relaxed);
            let answer = format!("HTTP/1.1 {status} So\r\nContent-Length: 2\r\nConnection: close\r\n\r\nok");
            return stream.write_all(answer.as_bytes());
        }
        stream.write_all(&[self.index])?;
        loop {
            let length = stream.read(&mut buffer)?;
            if length == 0 {
                return Ok(());
            }
            stream.write_all(&buffer[..length])?;
        }
    }
}

/// A connection to one of the backends.
#[derive(Debug)]
pub struct Visit {
    pub stream: TcpStream,
    /// Whose it is.
    pub host: usize,
}

impl Visit {
    /// From an address of the client's, or any.
    pub fn pay(ns: &NetNs, source: Option<IpAddr>, to: SocketAddr) -> io::Result<Self> {
        Self::pay_within(ns, source, to, PATIENCE)
    }

    /// From an address and a port.
    pub fn pay_from(ns: &NetNs, source: SocketAddr, to: SocketAddr) -> io::Result<Self> {
        Self::begin(ns, Some(source), to, PATIENCE)
    }

    /// The same, which fails if nobody answers in time.
    pub fn pay_within(
        ns: &NetNs,
        source: Option<IpAddr>,
        to: SocketAddr,
        limit: Duration,
    ) -> io::Result<Self> {
        Self::begin(ns, source.map(|source| SocketAddr::new(source, 0)), to, limit)
    }

    fn begin(ns: &NetNs, source: Option<SocketAddr>, to: SocketAddr, limit: Duration) -> io::Result<Self> {
        let mut stream = ns.run(|| {
            let socket = Socket::new(Domain::for_address(to), Type::STREAM, None)?;
            if let Some(source) = source {
                socket.bind(&source.into())?;
            }
            socket.connect_timeout(&to.into(), limit)?;
            Ok::<_, io::Error>(TcpStream::from(socket))
        })?;
        stream.set_read_timeout(Some(limit))?;
        stream.set_write_timeout(Some(limit))?;
        stream.write_all(b"?")?;
        let mut host = [0];
        stream.read_exact(&mut host)?;
        Ok(Self { stream, host: host[0].into() })
    }

    /// Says something and gets it back.
    pub fn echo(&mut self) -> io::Result<()> {
        self.stream.write_all(b"still there?")?;
        let mut back = [0; 12];
        self.stream.read_exact(&mut back)?;
        if back == *b"still there?" { Ok(()) } else { Err(io::Error::other("the echo is another text")) }
    }
}

/// A UDP client, whose datagrams go to one of the backends.
#[derive(Debug)]
pub struct Caller(pub UdpSocket);

impl Caller {
    /// From an address of the client's, or any.
    pub fn new(ns: &NetNs, source: Option<IpAddr>, to: SocketAddr) -> Self {
        let any = if to.is_ipv4() { IpAddr::from([0; 4]) } else { IpAddr::from([0; 16]) };
        let socket = ns.run(|| {
            let socket = UdpSocket::bind((source.unwrap_or(any), 0)).expect("bind");
            socket.connect(to).expect("connect");
            socket
        });
        socket.set_read_timeout(Some(Duration::from_secs(2))).expect("timeout");
        Self(socket)
    }

    /// Who answers.
    pub fn ask(&self) -> io::Result<usize> {
        self.0.send(b"who?")?;
        let mut answer = [0; 64];
        let length = self.0.recv(&mut answer)?;
        match &answer[..length] {
            [host, b'w', b'h', b'o', b'?'] => Ok((*host).into()),
            _ => Err(io::Error::other("the answer is to something else")),
        }
    }

    /// Who answers, asked twice: after that the flow is proven.
    pub fn settle(&self) -> io::Result<usize> {
        let (first, second) = (self.ask()?, self.ask()?);
        if first == second { Ok(first) } else { Err(io::Error::other("a flow went to two backends")) }
    }
}
