//! A TCP server that gives back what it gets.

use std::collections::HashMap;
use std::io::{ErrorKind, Read as _, Write as _};
use std::net::TcpStream;
use std::os::fd::{AsRawFd as _, FromRawFd as _};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::thread::JoinHandle;

use harness::NetNs;
use nix::sys::epoll::EpollFlags;
use nix::sys::socket::{SockFlag, accept4};
use socket2::{Domain, Socket, Type};

use super::Readiness;

const LISTENER: usize = 0;

/// The argument that makes this program be such a server and nothing else.
pub const ANSWERING: &str = "answering";

/// Serves port 80 of the namespace that we are in, until the process ends.
pub fn answer_for_ever() {
    serve(&listener(80), &AtomicBool::new(false));
}

/// Runs until it is dropped.
pub struct Answering {
    stop: Arc<AtomicBool>,
    thread: Option<JoinHandle<()>>,
}

impl Answering {
    pub fn start(ns: &NetNs, port: u16) -> Self {
        let listener = ns.run(|| listener(port));
        let stop = Arc::new(AtomicBool::new(false));
        let stopped = stop.clone();
        let thread = ns.spawn(move || serve(&listener, &stopped));
        Self { stop, thread: Some(thread) }
    }
}

impl Drop for Answering {
    fn drop(&mut self) {
        self.stop.store(true, Ordering::Relaxed);
        if let Some(thread) = self.thread.take() {
            let _panicked = thread.join();
        }
    }
}

fn listener(port: u16) -> Socket {
    let socket = Socket::new(Domain::IPV6, Type::STREAM.nonblocking(), None).expect("socket");
    socket.set_reuse_address(true).expect("reuse");
    socket.bind(&std::net::SocketAddr::from((std::net::Ipv6Addr::UNSPECIFIED, port)).into()).expect("bind");
    socket.listen(16_384).expect("listen");
    socket
}

fn serve(listener: &Socket, stop: &AtomicBool) {
    let mut readiness = Readiness::new();
    readiness.add(listener, LISTENER, EpollFlags::EPOLLIN);
    let mut open: HashMap<usize, TcpStream> = HashMap::new();
    let mut ready = Vec::new();
    while !stop.load(Ordering::Relaxed) {
        ready.clear();
        ready.extend(readiness.wait());
        for &(number, _) in &ready {
            if number == LISTENER {
                let flags = SockFlag::SOCK_NONBLOCK | SockFlag::SOCK_CLOEXEC;
                while let Ok(fd) = accept4(listener.as_raw_fd(), flags) {
                    // SAFETY: the kernel has just given us this descriptor; nobody else has it.
                    let stream = unsafe { TcpStream::from_raw_fd(fd) };
                    let _unsupported = stream.set_nodelay(true);
                    let number = stream.as_raw_fd() as usize;
                    readiness.add(&stream, number, EpollFlags::EPOLLIN | EpollFlags::EPOLLET);
                    open.insert(number, stream);
                }
            } else if open.get_mut(&number).is_some_and(|stream| !answer(stream)) {
                open.remove(&number);
            }
        }
    }
}

/// `false`: the connection is over.
fn answer(stream: &mut TcpStream) -> bool {
    let mut buffer = [0; 4096];
    loop {
        match stream.read(&mut buffer) {
            Ok(0) => return false,
            Ok(length) if stream.write_all(&buffer[..length]).is_err() => return false,
            // what is left comes with an event of its own
            Ok(length) if length < buffer.len() => return true,
            Ok(_) => {}
            Err(error) => return error.kind() == ErrorKind::WouldBlock,
        }
    }
}
