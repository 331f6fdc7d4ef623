//! The two ends of a tunnel: an entry at the relay, which wraps, and an exit at the backend, which unwraps.

use std::fs;
use std::net::{SocketAddr, TcpStream};
use std::process::{Command, Stdio};

use harness::certificates::Authority;
use harness::programs::Running;
use harness::world::RELAY;
use harness::{Daemon, NetNs, World, eventually};

use crate::load::server::Answering;
use crate::peer::{allow_descriptors, prepare, realm_program};

/// Whom the certificate and the WebSocket are for.
const HOST: &str = "relay.test";
const ENTRY: u16 = 8080;
const EXIT: &str = "203.0.113.2:8443";
const SERVER: &str = "127.0.0.1:80";

/// Whose tunnel it is.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub enum Family {
    Realm,
    Relay,
}

impl Family {
    pub const ALL: [Self; 2] = [Self::Realm, Self::Relay];

    pub const fn name(self) -> &'static str {
        match self {
            Self::Realm => "realm",
            Self::Relay => "relay",
        }
    }
}

/// A tunnel of which both ends are the same family's.
pub struct Pair {
    pub world: World,
    /// Where clients go.
    pub target: SocketAddr,
    /// Entry and exit.
    ends: [End; 2],
}

enum End {
    Realm(Running),
    Relay(Box<Daemon>),
}

impl End {
    fn pid(&self) -> u32 {
        match self {
            Self::Realm(running) => running.0.id(),
            Self::Relay(daemon) => daemon.pid(),
        }
    }
}

impl Pair {
    /// Both ends with the same certificate, which the entry takes without an authority: realm knows those of browsers alone.
    pub fn new(family: Family, transport: &str) -> Self {
        let world = World::new();
        allow_descriptors();
        prepare(&world);
        for ns in [&world.relay, &world.backend] {
            ns.sysctl("net/ipv4/tcp_tw_reuse", "1");
        }
        Authority::new(world.folder(), "ca").issue("server", HOST);
        let ends = match family {
            Family::Realm => realm(&world, transport),
            Family::Relay => relay(&world, transport),
        };
        let pair = Self { world, target: (RELAY, ENTRY).into(), ends };
        pair.wait_until_it_carries(family, transport);
        pair
    }

    fn wait_until_it_carries(&self, family: Family, transport: &str) {
        let _server = Answering::start(&self.world.backend, 80);
        let target = self.target;
        let what = format!("a tunnel of {} by {transport} carries", family.name());
        eventually(&what, || self.world.client.run(move || asks(target).is_ok()));
    }

    /// Process ids of the entry and the exit.
    pub fn pids(&self) -> [u32; 2] {
        self.ends.each_ref().map(End::pid)
    }
}

fn asks(target: SocketAddr) -> std::io::Result<()> {
    use std::io::{Read as _, Write as _};
    let mut stream = TcpStream::connect(target)?;
    stream.write_all(b"?")?;
    stream.read_exact(&mut [0])
}

fn relay(world: &World, transport: &str) -> [End; 2] {
    let leg = |name: &str, tls: &str| {
        let ws = format!(", host = \"{HOST}\", path = \"/tunnel\"");
        format!("{name} = {{ transport = \"{transport}\"{} }}", wanted(transport, &ws, tls))
    };
    let rule = |listen: &str, to: &str, leg: &str| {
        format!(
            "[[rule]]\nname = \"bench\"\nlisten = \"{listen}\"\nto = \"{to}\"\nprotocol = \"tcp\"\n{leg}\n"
        )
    };
    let files = world.folder().display();
    let accept = leg("accept", &format!(", cert = \"{files}/server.pem\", key = \"{files}/server.key\""));
    let connect = leg("connect", &format!(", sni = \"{HOST}\", verify = \"insecure\""));
    let folder = world.folder().join("exit");
    fs::create_dir(&folder).expect("folder");
    let exit = Daemon::start(&world.backend, &folder, "", &rule(":8443", SERVER, &accept));
    let entry = world.start(&rule(&format!(":{ENTRY}"), EXIT, &connect));
    [entry, exit].map(|daemon| End::Relay(daemon.into()))
}

fn realm(world: &World, transport: &str) -> [End; 2] {
    let options = |tls: &str| wanted(transport, &format!("ws;host={HOST};path=/tunnel;"), tls);
    let start = |ns: &NetNs, listen: &str, to: &str, transports: [&str; 2]| {
        let mut command = Command::new(realm_program());
        command.args([listen, to]).args(transports).stdin(Stdio::null()).stdout(Stdio::null());
        End::Realm(Running::start(ns, &mut command, "coreutils"))
    };
    let files = world.folder().display();
    let accept = options(&format!("tls;cert={files}/server.pem;key={files}/server.key"));
    let connect = options(&format!("tls;sni={HOST};insecure"));
    let exit = start(&world.backend, "0.0.0.0:8443", SERVER, [&accept, ""]);
    let entry = start(&world.relay, &format!("0.0.0.0:{ENTRY}"), EXIT, ["", &connect]);
    [entry, exit]
}

/// Of the options for WebSocket and for TLS those that a transport needs.
fn wanted(transport: &str, ws: &str, tls: &str) -> String {
    match transport {
        "ws" => ws.to_owned(),
        "tls" => tls.to_owned(),
        _ => [ws, tls].concat(),
    }
}

/// What a process has used of the CPUs, in user mode and in the kernel.
pub fn cpu_seconds(pid: u32) -> f64 {
    let stat = fs::read_to_string(format!("/proc/{pid}/stat")).expect("the process runs");
    let behind_name = stat.rsplit_once(") ").map_or("", |(_, rest)| rest);
    let ticks = behind_name.split_whitespace().skip(11).take(2).filter_map(|ticks| ticks.parse::<u64>().ok());
    ticks.sum::<u64>() as f64 / 100.0
}
