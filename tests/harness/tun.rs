//! A tun device whose packets the test makes and reads itself: a client without an Ethernet header.

use std::fs::{File, OpenOptions};
use std::io::{self, Read as _, Write as _};
use std::os::fd::AsRawFd as _;
use std::os::unix::fs::OpenOptionsExt as _;
use std::time::{Duration, Instant};

use nix::libc;

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
                    std::thread::sleep(Duration::from_millis(2))
                }
                Err(error) => panic!("read from tun: {error}"),
            }
        }
        None
    }
}
