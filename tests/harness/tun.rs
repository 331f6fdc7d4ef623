//! A tun device whose packets the test makes and reads itself: a client without an Ethernet header.

use std::fs::{File, OpenOptions};
use std::io::{self, Read as _, Write as _};
use std::os::fd::{AsFd as _, AsRawFd as _};
use std::os::unix::fs::OpenOptionsExt as _;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::thread::{self, JoinHandle};
use std::time::{Duration, Instant};

use nix::libc;
use nix::poll::{PollFd, PollFlags, poll};

use crate::netns::NetNs;

#[derive(Debug)]
pub struct Tun {
    file: File,
}

nix::ioctl_write_ptr_bad!(set_interface, libc::TUNSETIFF, libc::ifreq);

impl Tun {
    /// Makes a tun device in a namespace and brings it up.
    pub fn new(ns: &NetNs, name: &str) -> Self {
        let file = ns.run(|| {
            let mut options = OpenOptions::new();
            let file = options.read(true).write(true).custom_flags(libc::O_NONBLOCK).open("/dev/net/tun");
            let file = file.expect("/dev/net/tun");
            // SAFETY: all-zero bytes are a valid `ifreq`.
            let mut request: libc::ifreq = unsafe { std::mem::zeroed() };
            for (to, from) in request.ifr_name.iter_mut().zip(name.bytes()) {
                *to = from.cast_signed();
            }
            request.ifr_ifru.ifru_flags = (libc::IFF_TUN | libc::IFF_NO_PI) as i16;
            // SAFETY: an open tun file and a live, initialised request.
            unsafe { set_interface(file.as_raw_fd(), &raw const request) }.expect("tun device");
            file
        });
        ns.up(name);
        Self { file }
    }

    /// Puts an IP packet into the relay.
    pub fn send(&mut self, packet: &[u8]) {
        self.file.write_all(packet).expect("write to tun");
    }

    /// The next packet that is wanted; others, such as router solicitations, are passed over.
    pub fn receive(&mut self, wanted: impl Fn(&[u8]) -> bool) -> Option<Vec<u8>> {
        self.receive_within(Duration::from_secs(3), wanted)
    }

    pub fn receive_within(&mut self, limit: Duration, wanted: impl Fn(&[u8]) -> bool) -> Option<Vec<u8>> {
        let start = Instant::now();
        let mut buffer = [0; 65_536];
        while start.elapsed() < limit {
            match self.file.read(&mut buffer) {
                Ok(length) if wanted(&buffer[..length]) => return Some(buffer[..length].to_vec()),
                Ok(_) => {}
                Err(error) if error.kind() == io::ErrorKind::WouldBlock => {
                    thread::sleep(Duration::from_millis(2))
                }
                Err(error) => panic!("read from tun: {error}"),
            }
        }
        None
    }
}

/// Two tun devices, of which each gets what the other sends: a tunnel between two namespaces' own stacks, as a VPN makes it.
pub struct Tunnel {
    stop: Arc<AtomicBool>,
    threads: Vec<JoinHandle<()>>,
}

impl Tunnel {
    pub fn new(one: &NetNs, other: &NetNs, name: &str) -> Self {
        let ends = [Tun::new(one, name), Tun::new(other, name)].map(|tun| Arc::new(tun.file));
        let stop = Arc::new(AtomicBool::new(false));
        let threads = [(0, 1), (1, 0)].map(|(from, to)| {
            let (from, to, stop) = (ends[from].clone(), ends[to].clone(), stop.clone());
            thread::spawn(move || carry(&from, &to, &stop))
        });
        Self { stop, threads: threads.into() }
    }
}

impl Drop for Tunnel {
    fn drop(&mut self) {
        self.stop.store(true, Ordering::Relaxed);
        for thread in self.threads.drain(..) {
            let _panicked = thread.join();
        }
    }
}

fn carry(mut from: &File, mut to: &File, stop: &AtomicBool) {
    let mut buffer = [0; 65_536];
    while !stop.load(Ordering::Relaxed) {
        let mut waiting = [PollFd::new(from.as_fd(), PollFlags::POLLIN)];
        let _may_be_nothing = poll(&mut waiting, 50_u8);
        while let Ok(length @ 1..) = from.read(&mut buffer) {
            // a device that is down takes nothing, as a cable that is not plugged in
            let _lost = to.write(&buffer[..length]);
        }
    }
}
