//! Programs that do the user plane's work, each in a world of its own: Relay, realm's engine, HAProxy, nginx.

use std::fs;
use std::net::{IpAddr, SocketAddr, TcpStream};
use std::path::PathBuf;
use std::process::{Child, Command, Stdio};
use std::thread;
use std::time::{Duration, Instant};

use harness::traffic::PATIENCE;
use harness::world::{RELAY, RELAY_V6};
use harness::{Daemon, World};
use nix::sys::resource::{Resource, getrlimit, setrlimit};

use crate::load::server::Answering;

/// Who relays.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub enum Kind {
    Relay,
    Realm,
    /// For IPv6 clients.
    RealmV6,
    Haproxy,
    Nginx,
}

impl Kind {
    pub const TCP: [Self; 4] = [Self::Realm, Self::Haproxy, Self::Nginx, Self::Relay];
    /// HAProxy has no UDP.
    pub const UDP: [Self; 3] = [Self::Realm, Self::Nginx, Self::Relay];

    pub const fn name(self) -> &'static str {
        match self {
            Self::Relay => "relay",
            Self::Realm => "realm",
            Self::RealmV6 => "realm, IPv6 to IPv4",
            Self::Haproxy => "haproxy",
            Self::Nginx => "nginx",
        }
    }
}

/// One of them, running.
pub struct Peer {
    pub kind: Kind,
    pub world: World,
    process: Process,
    /// Where clients go.
    pub target: SocketAddr,
}

enum Process {
    Relay(Box<Daemon>),
    Other(Child),
}

impl Peer {
    /// Relays port 8080 to the backend's port 80, on a host that may use ports of ended connections again.
    pub fn new(kind: Kind) -> Self {
        let world = World::new();
        world.relay.sysctl("net/ipv4/tcp_tw_reuse", "1");
        Self::start(kind, world)
    }

    /// The same with the settings that a system comes with.
    pub fn as_the_system_comes(kind: Kind) -> Self {
        Self::start(kind, World::new())
    }

    fn start(kind: Kind, world: World) -> Self {
        let descriptors = allow_descriptors();
        prepare(&world);
        let process = match kind {
            Kind::Relay => Process::Relay(Box::new(world.start(RULE))),
            Kind::Realm | Kind::RealmV6 => {
                let listener = if kind == Kind::Realm { "0.0.0.0:8080" } else { "[::]:8080" };
                let mut realm = Command::new(realm_program());
                spawn(&world, realm.args([listener, "203.0.113.2:80"]))
            }
            Kind::Haproxy => {
                let mut haproxy = Command::new("haproxy");
                // two for each client, two for each pipe, and some for itself
                let config = HAPROXY.replace("MOST", &(descriptors / 2 - 300).min(40_000).to_string());
                spawn(&world, haproxy.args(["-db", "-f"]).arg(written(&world, "haproxy.cfg", &config)))
            }
            Kind::Nginx => {
                let mut nginx = Command::new("nginx");
                nginx.arg("-p").arg(world.folder()).args(["-e", "stderr", "-c"]);
                spawn(&world, nginx.arg(written(&world, "nginx.conf", NGINX)))
            }
        };
        let address = if kind == Kind::RealmV6 { IpAddr::from(RELAY_V6) } else { RELAY.into() };
        let peer = Self { kind, world, process, target: SocketAddr::new(address, 8080) };
        peer.wait_until_it_relays();
        peer
    }

    fn wait_until_it_relays(&self) {
        let _server = Answering::start(&self.world.backend, 80);
        let target = self.target;
        let said = || fs::read_to_string(self.world.folder().join("peer.log")).unwrap_or_default();
        let is_up = || {
            self.world.client.run(move || {
                let answered = TcpStream::connect(target).and_then(|mut stream| {
                    use std::io::{Read as _, Write as _};
                    stream.write_all(b"?")?;
                    stream.read_exact(&mut [0])
                });
                answered.is_ok()
            })
        };
        let start = Instant::now();
        while !is_up() {
            assert!(start.elapsed() < PATIENCE, "{} does not relay: {}", self.kind.name(), said());
            thread::sleep(Duration::from_millis(20));
        }
    }

    /// Process ids of the program and its children.
    pub fn pids(&self) -> Vec<u32> {
        let own = match &self.process {
            Process::Relay(daemon) => daemon.pid(),
            Process::Other(child) => child.id(),
        };
        let children = fs::read_to_string(format!("/proc/{own}/task/{own}/children")).unwrap_or_default();
        std::iter::once(own).chain(children.split_whitespace().filter_map(|pid| pid.parse().ok())).collect()
    }

    /// Resident memory of all its processes, in KiB.
    pub fn memory_kib(&self) -> u64 {
        self.pids().into_iter().map(resident_kib).sum()
    }

    /// Open descriptors of all its processes.
    pub fn descriptors(&self) -> usize {
        let of = |pid| fs::read_dir(format!("/proc/{pid}/fd")).map_or(0, Iterator::count);
        self.pids().into_iter().map(of).sum()
    }
}

impl Drop for Peer {
    fn drop(&mut self) {
        let pids = self.pids();
        if let Process::Other(child) = &mut self.process {
            for pid in pids.into_iter().skip(1) {
                let pid = nix::unistd::Pid::from_raw(pid.cast_signed());
                let _gone = nix::sys::signal::kill(pid, nix::sys::signal::Signal::SIGKILL);
            }
            let _already_gone = child.kill();
            let _status = child.wait();
        }
    }
}

/// Resident memory of a process.
pub fn resident_kib(pid: u32) -> u64 {
    let status = fs::read_to_string(format!("/proc/{pid}/status")).unwrap_or_default();
    let line = status.lines().find_map(|line| line.strip_prefix("VmRSS:"));
    line.and_then(|line| line.trim().trim_end_matches(" kB").parse().ok()).unwrap_or(0)
}

/// As many descriptors as the system allows, for us and every program that we start.
pub fn allow_descriptors() -> u64 {
    let (_, most) = getrlimit(Resource::RLIMIT_NOFILE).expect("limit");
    setrlimit(Resource::RLIMIT_NOFILE, most, most).expect("limit");
    most
}

/// The same for everyone: ports enough for clients that come and go.
pub fn prepare(world: &World) {
    for ns in [&world.client, &world.relay, &world.backend] {
        ns.sysctl("net/ipv4/tcp_max_syn_backlog", "4096");
    }
    world.client.sysctl("net/ipv4/tcp_tw_reuse", "1");
    world.client.sysctl("net/ipv4/ip_local_port_range", "1024 65535");
    world.enable_gro();
}

fn spawn(world: &World, command: &mut Command) -> Process {
    let program = command.get_program().to_string_lossy().into_owned();
    let log = fs::File::create(world.folder().join("peer.log")).expect("log");
    command.stdin(Stdio::null()).stdout(Stdio::null()).stderr(log);
    let child = world.relay.run(|| command.spawn());
    Process::Other(child.unwrap_or_else(|error| panic!("{program}: {error}")))
}

fn written(world: &World, name: &str, text: &str) -> PathBuf {
    let path = world.folder().join(name);
    fs::write(&path, text).expect("configuration");
    path
}

/// `cargo xtask bench` builds it.
pub fn realm_program() -> PathBuf {
    let own = std::env::current_exe().expect("own path");
    let target = own.parent().and_then(std::path::Path::parent).expect("target");
    let path = target.join("realm/release/realm-peer");
    assert!(path.exists(), "{} is not built; `cargo xtask bench` does it", path.display());
    path
}

const RULE: &str = "
[[rule]]
name = \"bench\"
listen = \":8080\"
to = \"203.0.113.2:80\"
plane = \"user\"
";

const HAPROXY: &str = "
global
    maxconn MOST
    maxpipes 200
defaults
    mode tcp
    option splice-auto
    timeout connect 5s
    timeout client 2h
    timeout server 2h
frontend bench
    bind 0.0.0.0:8080
    default_backend bench
backend bench
    server bench 203.0.113.2:80
";

const NGINX: &str = "
load_module /usr/lib/nginx/modules/ngx_stream_module.so;
daemon off;
pid nginx.pid;
worker_processes auto;
worker_rlimit_nofile 65536;
events { worker_connections 32768; }
stream {
    proxy_timeout 2h;
    server {
        listen 8080 reuseport;
        proxy_pass 203.0.113.2:80;
    }
    server {
        listen 8080 udp reuseport;
        proxy_pass 203.0.113.2:80;
    }
}
";
