//! The usual world: a client, a relay with Relay on it, a backend, a cable between each two.

use std::fs;
use std::net::{Ipv4Addr, Ipv6Addr};
use std::os::unix::fs::chown;
use std::os::unix::process::CommandExt as _;
use std::process::Command;
use std::thread;
use std::time::Duration;

use nix::mount::{MsFlags, mount};
use nix::sched::{CloneFlags, unshare};
use nix::sys::resource::{Resource, setrlimit};
use tempfile::TempDir;

use crate::daemon::{Daemon, binary, settings};
use crate::hooks;
use crate::lab::enable_gro;
use crate::netns::{NetNs, cable};
use crate::packet::Packet;
use crate::panics::tell_at_once;
use crate::raw::Wire;

/// Addresses of the usual world (RFC 5737).
pub const CLIENT: Ipv4Addr = Ipv4Addr::new(198, 51, 100, 2);
pub const RELAY: Ipv4Addr = Ipv4Addr::new(198, 51, 100, 1);
pub const RELAY_INSIDE: Ipv4Addr = Ipv4Addr::new(203, 0, 113, 1);
pub const BACKEND: Ipv4Addr = Ipv4Addr::new(203, 0, 113, 2);

/// The same over IPv6 (RFC 3849).
pub const CLIENT_V6: Ipv6Addr = Ipv6Addr::new(0x2001, 0xdb8, 1, 0, 0, 0, 0, 2);
pub const RELAY_V6: Ipv6Addr = Ipv6Addr::new(0x2001, 0xdb8, 1, 0, 0, 0, 0, 1);
pub const RELAY_INSIDE_V6: Ipv6Addr = Ipv6Addr::new(0x2001, 0xdb8, 2, 0, 0, 0, 0, 1);
pub const BACKEND_V6: Ipv6Addr = Ipv6Addr::new(0x2001, 0xdb8, 2, 0, 0, 0, 0, 2);

/// Client, relay and backend.
pub struct World {
    pub client: NetNs,
    pub relay: NetNs,
    pub backend: NetNs,
    folder: TempDir,
}

impl World {
    /// Interfaces: `client`, `uplink` and `inside` at the relay, `backend`.
    pub fn new() -> Self {
        tell_at_once();
        private_mounts();
        let relay = NetNs::new("relay");
        let (client, backend) = around(&relay);
        Self { client, relay, backend, folder: folder() }
    }

    /// Starts relayd at the relay with these rules.
    pub fn start(&self, rules: &str) -> Daemon {
        self.start_with("", rules)
    }

    /// Starts relayd with lines for `[daemon]` and rules.
    pub fn start_with(&self, daemon: &str, rules: &str) -> Daemon {
        Daemon::start(&self.relay, self.folder.path(), daemon, rules)
    }

    /// Starts relayd as an ordinary user, whose own the configuration is.
    pub fn start_unprivileged(&self, rules: &str) -> Daemon {
        const NOBODY: u32 = 65_534;
        let folder = self.folder();
        let (config, program) = (folder.join("relay.toml"), folder.join("relayd"));
        fs::write(&config, settings(folder, "") + rules).expect("config");
        // where it was built may be out of that user's reach
        fs::copy(binary("relayd"), &program).expect("copy");
        for path in [folder, &config] {
            chown(path, Some(NOBODY), Some(NOBODY)).expect("chown");
        }
        let mut command = Command::new(program);
        command.arg("--config").arg(config).uid(NOBODY).gid(NOBODY);
        Daemon::spawn(&self.relay, folder, command)
    }

    /// Starts relayd, which may have so many descriptors.
    pub fn start_limited(&self, descriptors: u64, rules: &str) -> Daemon {
        self.start_limited_with("", descriptors, rules)
    }

    /// The same with lines for `[daemon]`.
    pub fn start_limited_with(&self, daemon: &str, descriptors: u64, rules: &str) -> Daemon {
        self.start_with_limit(daemon, (Resource::RLIMIT_NOFILE, descriptors), rules)
    }

    /// Starts relayd, which may have so much of something.
    pub fn start_with_limit(&self, daemon: &str, (of, most): (Resource, u64), rules: &str) -> Daemon {
        let config = self.folder().join("relay.toml");
        fs::write(&config, settings(self.folder(), daemon) + rules).expect("config");
        let mut command = Command::new(binary("relayd"));
        command.arg("--config").arg(&config);
        // SAFETY: between fork and exec it calls nothing but setrlimit, which may be called there.
        unsafe { command.pre_exec(move || setrlimit(of, most, most).map_err(Into::into)) };
        Daemon::spawn(&self.relay, self.folder(), command)
    }

    /// Sends frames to the relay from the client's link, made from as many forged addresses and ports.
    ///
    /// It rests now and then: all packets that a CPU has not got to wait in one queue of a thousand
    /// (`net.core.netdev_max_backlog`), which other tests' packets would not find room in.
    pub fn flood(&self, frames: u32, packet: impl Fn(u32, (Ipv4Addr, u16)) -> Packet) {
        self.relay.default_route(CLIENT, "uplink");
        let wire = Wire::new(&self.client, "client");
        let mac = self.relay.mac("uplink");
        for index in 0..frames {
            // RFC 2544's addresses
            let source = Ipv4Addr::from(u32::from_be_bytes([198, 18, 0, 0]) | (index & 0xffff));
            let mut packet = packet(index, (source, 1024 + (index % 60_000) as u16));
            packet.destination_mac = mac;
            wire.send(&packet.frame());
            if index.is_multiple_of(100) {
                thread::sleep(Duration::from_millis(1));
            }
        }
    }

    /// NAPI at every end, as real network cards have it.
    pub fn enable_gro(&self) {
        for (ns, interface) in [
            (&self.client, "client"),
            (&self.relay, "uplink"),
            (&self.relay, "inside"),
            (&self.backend, "backend"),
        ] {
            enable_gro(ns, interface);
        }
    }

    /// Programs at the relay's tc ingress.
    pub fn tc_programs(&self, interface: &str) -> usize {
        hooks::tc_programs(&self.relay, interface)
    }

    pub fn folder(&self) -> &std::path::Path {
        self.folder.path()
    }

    /// Bad checksums seen by any of the three.
    pub fn checksum_errors(&self) -> u64 {
        [&self.client, &self.relay, &self.backend].into_iter().map(NetNs::checksum_errors).sum()
    }

    /// Says that the bad checksums so far were meant to be.
    pub fn accept_checksum_errors(&self) {
        [&self.client, &self.relay, &self.backend].into_iter().for_each(NetNs::accept_checksum_errors);
    }
}

/// A client and a backend, each on a cable to the relay.
pub fn around(relay: &NetNs) -> (NetNs, NetNs) {
    let (client, backend) = (NetNs::new("client"), NetNs::new("backend"));
    cable((&client, "client"), (relay, "uplink"));
    cable((&backend, "backend"), (relay, "inside"));
    client.add_address("client", CLIENT, 24);
    relay.add_address("uplink", RELAY, 24);
    relay.add_address("inside", RELAY_INSIDE, 24);
    backend.add_address("backend", BACKEND, 24);
    client.default_route(RELAY, "client");
    backend.default_route(RELAY_INSIDE, "backend");
    client.add_address("client", CLIENT_V6, 64);
    relay.add_address("uplink", RELAY_V6, 64);
    relay.add_address("inside", RELAY_INSIDE_V6, 64);
    backend.add_address("backend", BACKEND_V6, 64);
    client.default_route_v6(RELAY_V6, "client");
    backend.default_route_v6(RELAY_INSIDE_V6, "backend");
    (client, backend)
}

impl Default for World {
    fn default() -> Self {
        Self::new()
    }
}

/// Mounts made from here on are this thread's and its children's alone, and go with them.
pub fn private_mounts() {
    unshare(CloneFlags::CLONE_NEWNS).expect("a mount namespace needs root");
    let flags = MsFlags::MS_REC | MsFlags::MS_PRIVATE;
    mount(None::<&str>, "/", None::<&str>, flags, None::<&str>).expect("private mounts");
}

/// A folder for one test.
pub fn folder() -> TempDir {
    tempfile::Builder::new().prefix("relay-test-").tempdir().expect("folder")
}
