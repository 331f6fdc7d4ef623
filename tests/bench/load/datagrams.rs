//! Datagrams there and back: clients that each have a few on their way.

use std::net::{Ipv4Addr, SocketAddr, UdpSocket};
use std::os::fd::AsRawFd as _;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::thread::JoinHandle;
use std::time::Instant;

use harness::{NetNs, World};
use nix::libc;
use nix::sys::epoll::EpollFlags;

use super::{MESSAGE, Readiness, STRETCH, WARM_UP, busy};

const BATCH: usize = 64;

/// What was seen.
#[derive(Clone, Copy, Debug, Default)]
pub struct Echoed {
    /// Datagrams that came back.
    pub per_second: f64,
    /// CPU-microseconds of the whole machine for each.
    pub cost: f64,
}

/// `window`: how many datagrams each client has on their way.
pub fn measure(world: &World, target: SocketAddr, clients: usize, window: usize) -> Echoed {
    let _server = Mirror::start(&world.backend, 80);
    world.client.run(|| {
        let mut clients = Clients::new(target, clients, window);
        clients.run(Instant::now() + WARM_UP);
        let (done, cpu, start) = (clients.done, busy(), Instant::now());
        clients.run(start + STRETCH);
        let (seconds, cpu) = (start.elapsed().as_secs_f64(), busy() - cpu);
        let done = (clients.done - done) as f64;
        Echoed { per_second: done / seconds, cost: cpu * 1e6 / done }
    })
}

struct Clients {
    readiness: Readiness,
    sockets: Vec<UdpSocket>,
    window: usize,
    batch: Box<Batch>,
    done: u64,
}

impl Clients {
    fn new(target: SocketAddr, number: usize, window: usize) -> Self {
        let readiness = Readiness::new();
        let sockets: Vec<UdpSocket> = (0..number)
            .map(|number| {
                let socket = UdpSocket::bind((Ipv4Addr::UNSPECIFIED, 0)).expect("bind");
                socket.connect(target).expect("connect");
                socket.set_nonblocking(true).expect("nonblocking");
                readiness.add(&socket, number, EpollFlags::EPOLLIN);
                socket
            })
            .collect();
        Self { readiness, sockets, window, batch: Batch::new(), done: 0 }
    }

    fn run(&mut self, until: Instant) {
        let mut ready = Vec::new();
        while Instant::now() < until {
            ready.clear();
            ready.extend(self.readiness.wait());
            if ready.is_empty() {
                self.fill_windows();
            }
            for &(number, _) in &ready {
                let received = self.batch.receive(&self.sockets[number]);
                self.done += received as u64;
                self.batch.send(&self.sockets[number], received);
            }
        }
    }

    /// At the start, and when everything that was on its way is lost.
    fn fill_windows(&mut self) {
        for socket in &self.sockets {
            for _ in 0..self.window {
                let _full = socket.send(&[0x55; MESSAGE]);
            }
        }
    }
}

/// Sends every datagram back where it came from, until it is dropped.
struct Mirror {
    stop: Arc<AtomicBool>,
    thread: Option<JoinHandle<()>>,
}

impl Mirror {
    fn start(ns: &NetNs, port: u16) -> Self {
        let socket = ns.run(|| UdpSocket::bind((Ipv4Addr::UNSPECIFIED, port))).expect("bind");
        socket.set_read_timeout(Some(std::time::Duration::from_millis(100))).expect("timeout");
        let socket2 = socket2::SockRef::from(&socket);
        socket2.set_recv_buffer_size(4 << 20).expect("buffer");
        let stop = Arc::new(AtomicBool::new(false));
        let stopped = stop.clone();
        let thread = ns.spawn(move || {
            let mut batch = Batch::new();
            while !stopped.load(Ordering::Relaxed) {
                let received = batch.receive(&socket);
                batch.send(&socket, received);
            }
        });
        Self { stop, thread: Some(thread) }
    }
}

impl Drop for Mirror {
    fn drop(&mut self) {
        self.stop.store(true, Ordering::Relaxed);
        if let Some(thread) = self.thread.take() {
            let _panicked = thread.join();
        }
    }
}

/// Room for datagrams and where they came from, used again and again.
struct Batch {
    headers: Vec<libc::mmsghdr>,
    _parts: Vec<libc::iovec>,
    _names: Vec<libc::sockaddr_storage>,
    _bytes: Vec<[u8; 2048]>,
}

// SAFETY: the headers point into the vectors beside them, which move along and are never changed in size.
unsafe impl Send for Batch {}

impl Batch {
    fn new() -> Box<Self> {
        let mut bytes = vec![[0; 2048]; BATCH];
        // SAFETY: all-zero bytes are valid for the kernel's structures.
        let zeroed: libc::sockaddr_storage = unsafe { std::mem::zeroed() };
        let mut names = vec![zeroed; BATCH];
        let mut parts: Vec<libc::iovec> = bytes
            .iter_mut()
            .map(|bytes| libc::iovec { iov_base: bytes.as_mut_ptr().cast(), iov_len: bytes.len() })
            .collect();
        // SAFETY: as above.
        let zeroed: libc::mmsghdr = unsafe { std::mem::zeroed() };
        let mut headers = vec![zeroed; BATCH];
        for ((header, part), name) in headers.iter_mut().zip(&mut parts).zip(&mut names) {
            header.msg_hdr.msg_iov = part;
            header.msg_hdr.msg_iovlen = 1;
            header.msg_hdr.msg_name = std::ptr::from_mut(name).cast();
        }
        Box::new(Self { headers, _parts: parts, _names: names, _bytes: bytes })
    }

    /// How many datagrams there were; waits for the first if the socket does.
    fn receive(&mut self, socket: &UdpSocket) -> usize {
        for header in &mut self.headers {
            header.msg_hdr.msg_namelen = size_of::<libc::sockaddr_storage>() as u32;
            // SAFETY: `msg_iov` points to one live part, see `new`.
            unsafe { (*header.msg_hdr.msg_iov).iov_len = 2048 };
        }
        let fd = socket.as_raw_fd();
        // C libraries differ in the type
        let (headers, flags) = (self.headers.as_mut_ptr(), libc::MSG_WAITFORONE as _);
        // SAFETY: as many live headers as said, each with room of the size it names.
        let received = unsafe { libc::recvmmsg(fd, headers, BATCH as u32, flags, std::ptr::null_mut()) };
        usize::try_from(received).unwrap_or(0)
    }

    /// Sends the first of what was received back.
    fn send(&mut self, socket: &UdpSocket, count: usize) {
        for header in &mut self.headers[..count] {
            // SAFETY: `msg_iov` points to one live part, see `new`.
            unsafe { (*header.msg_hdr.msg_iov).iov_len = header.msg_len as usize };
        }
        let fd = socket.as_raw_fd();
        // SAFETY: as many live headers as said.
        let _full = unsafe { libc::sendmmsg(fd, self.headers.as_mut_ptr(), count as u32, 0) };
    }
}
