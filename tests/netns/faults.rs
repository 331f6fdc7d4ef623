//! The user plane with backends and clients that misbehave. Whatever they do, a rule beside theirs does not notice, and
//! every refusal is counted under its reason.

mod backends;
mod clients;
mod floods;
mod memory;
mod shortage;

use std::net::{Ipv4Addr, Shutdown, SocketAddr, TcpListener, TcpStream};
use std::thread::{self, JoinHandle};

use harness::traffic::{Server, tcp_server, udp_server};
use harness::world::RELAY;
use harness::{Daemon, Load, World};
use nix::sys::resource::{Resource, getrlimit, setrlimit};
use socket2::{Domain, SockRef, Socket, Type};

/// A rule that is put to the test, and one beside it that must not notice.
const RULES: &str = "
[[rule]]
name = \"web\"
listen = \":8080\"
to = \"203.0.113.2:80\"
plane = \"user\"
timeout = { connect = \"1s\", tcp_idle = \"2s\", half_close = \"2s\" }

[[rule]]
name = \"beside\"
listen = \":8081\"
to = \"203.0.113.2:81\"
plane = \"user\"
";

/// Traffic of the rule beside, all along; checked when it ends.
struct Beside {
    load: Load,
    _servers: [Server; 2],
}

impl Beside {
    const TO: (Ipv4Addr, u16) = (RELAY, 8081);

    fn start(world: &World) -> Self {
        let mut beside = Self::already_there(world);
        beside.load = beside.load.with_newcomers(&world.client, Self::TO);
        beside
    }

    /// Nobody new, for whom there may be nothing left.
    fn already_there(world: &World) -> Self {
        let servers = [tcp_server(&world.backend, 81), udp_server(&world.backend, 81)];
        let load =
            Load::new().with_connections(&world.client, Self::TO, 2).with_datagrams(&world.client, Self::TO);
        Self { load, _servers: servers }
    }

    /// Panics if the rule beside has noticed anything.
    fn finish(self, daemon: &Daemon) {
        self.load.run_on(50);
        self.load.finish();
        let rule = daemon.ctl.rule("beside");
        assert_eq!(rule["counters"]["drops"], serde_json::json!({}), "{rule}");
    }
}

/// Lets the tests' own process have as many descriptors as it may; says how many.
fn raise_descriptors() -> usize {
    let (_, most) = getrlimit(Resource::RLIMIT_NOFILE).expect("limit");
    setrlimit(Resource::RLIMIT_NOFILE, most, most).expect("limit");
    most as usize
}

/// A backend that takes connections and nothing that comes by them. Ends with its value.
struct NeverReads {
    listener: TcpListener,
    thread: Option<JoinHandle<Vec<TcpStream>>>,
}

fn never_reads(world: &World) -> NeverReads {
    let listener = world.backend.run(|| {
        let socket = Socket::new(Domain::IPV4, Type::STREAM, None).expect("socket");
        socket.bind(&SocketAddr::from((Ipv4Addr::UNSPECIFIED, 80)).into()).expect("bind");
        // a crowd may come faster than it is taken in, and who finds no room waits for a second
        socket.listen(4096).expect("listen");
        TcpListener::from(socket)
    });
    let own = listener.try_clone().expect("socket");
    let thread = thread::spawn(move || listener.incoming().map_while(Result::ok).collect());
    NeverReads { listener: own, thread: Some(thread) }
}

impl Drop for NeverReads {
    fn drop(&mut self) {
        let _ends = SockRef::from(&self.listener).shutdown(Shutdown::Both);
        let _kept = self.thread.take().map(JoinHandle::join);
    }
}

/// How often the rule has refused somebody for this reason.
fn refused(daemon: &Daemon, reason: &str) -> u64 {
    daemon.ctl.counter("web", &format!("/drops/{reason}"))
}

/// Sessions under way.
fn active(daemon: &Daemon) -> u64 {
    daemon.ctl.counter("web", "/flows/active")
}
