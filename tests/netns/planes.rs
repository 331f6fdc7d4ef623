//! Rules that move from one plane to the other: a UDP client stays where it is, and its backend sees the same source.

use std::net::{SocketAddr, UdpSocket};
use std::time::Duration;

use harness::traffic::Datagrams;
use harness::world::{BACKEND, RELAY};
use harness::{Daemon, World, eventually};

/// A rule whose port is held, and one on shared sockets. The client asks port 8080 of either, which leads to the same.
const LISTEN: [(&str, &str); 2] = [(":8080", "203.0.113.2:8080"), (":8000-9999", "203.0.113.2:8000")];

/// A backend that answers with what it was sent and by whom, until a datagram without anything comes.
fn backend(world: &World) -> std::thread::JoinHandle<()> {
    let socket = world.backend.run(|| UdpSocket::bind((BACKEND, 8080)).expect("bind"));
    std::thread::spawn(move || {
        let mut question = [0; 100];
        while let Ok((length @ 1.., from)) = socket.recv_from(&mut question) {
            let question = String::from_utf8_lossy(&question[..length]);
            drop(socket.send_to(format!("{question} {from}").as_bytes(), from));
        }
    })
}

struct Asking {
    socket: Datagrams,
    asked: u32,
}

impl Asking {
    fn new(world: &World) -> Self {
        let socket = Datagrams::new(&world.client, (RELAY, 8080));
        socket.0.set_read_timeout(Some(Duration::from_millis(500))).expect("timeout");
        Self { socket, asked: 0 }
    }

    /// Who the backend thinks asks. Datagrams may be lost.
    fn seen_as(&mut self) -> SocketAddr {
        let mut seen = None;
        eventually("an answer", || {
            self.asked += 1;
            let _refused_before = self.socket.0.send(self.asked.to_string().as_bytes());
            let mut answer = [0; 100];
            // an answer that comes late is to another question
            while let Ok(length) = self.socket.0.recv(&mut answer) {
                let answer = String::from_utf8_lossy(&answer[..length]);
                let (question, from) = answer.split_once(' ').expect("an answer");
                if question == self.asked.to_string() {
                    seen = Some(from.parse().expect("an address"));
                    return true;
                }
            }
            false
        });
        seen.expect("an answer")
    }
}

/// Clients with what their backend saw them as.
type Known = Vec<(Asking, SocketAddr)>;

fn newcomers(world: &World) -> Known {
    let known = (0..10).map(|_| {
        let mut client = Asking::new(world);
        let seen = client.seen_as();
        assert_eq!(client.seen_as(), seen);
        (client, seen)
    });
    known.collect()
}

/// The kernel plane's ports lie below those that the kernel gives to sockets.
const fn is_of_kernel(seen: &SocketAddr) -> bool {
    seen.port() < 32_768
}

#[track_caller]
fn all_are_seen_as_before(what: &str, clients: &mut [&mut Known]) {
    for (client, seen) in clients.iter_mut().flat_map(|known| known.iter_mut()) {
        for _ in 0..3 {
            assert_eq!(client.seen_as(), *seen, "{what}");
        }
    }
}

fn change(daemon: &Daemon, plane: &str) {
    daemon.ctl.ok(&["set", "web", &format!("plane={plane}")]);
    let expected = if plane == "auto" { "kernel" } else { plane };
    eventually(plane, || daemon.ctl.rule("web")["plane"]["ipv4"]["plane"] == expected);
}

#[test]
fn a_udp_flow_never_changes_plane_half_way() {
    for (listen, to) in LISTEN {
        let world = World::new();
        let rule =
            format!("[[rule]]\nname = \"web\"\nlisten = \"{listen}\"\nto = \"{to}\"\nplane = \"user\"\n");
        let mut daemon = world.start(&rule);
        let backend = backend(&world);
        let mut user = newcomers(&world);
        assert!(!user.iter().any(|(_, seen)| is_of_kernel(seen)), "{listen}");
        change(&daemon, "auto");
        all_are_seen_as_before("user to kernel", &mut [&mut user]);
        let mut kernel = newcomers(&world);
        assert!(kernel.iter().all(|(_, seen)| is_of_kernel(seen)), "{listen}");
        change(&daemon, "user");
        all_are_seen_as_before("kernel to user", &mut [&mut user, &mut kernel]);
        change(&daemon, "auto");
        all_are_seen_as_before("and back", &mut [&mut user, &mut kernel]);
        daemon.ctl.ok(&["drain", "web"]);
        all_are_seen_as_before("draining", &mut [&mut user, &mut kernel]);
        daemon.ctl.ok(&["enable", "web"]);
        all_are_seen_as_before("enabled", &mut [&mut user, &mut kernel]);
        // sessions end with relayd; their clients are served all the same
        daemon.kill();
        all_are_seen_as_before("without relayd", &mut [&mut kernel]);
        for (client, _) in &mut user {
            assert!(is_of_kernel(&client.seen_as()), "{listen}: nobody holds the session any more");
        }
        let end = world.backend.run(|| UdpSocket::bind((BACKEND, 0)).expect("bind"));
        end.send_to(b"", (BACKEND, 8080)).expect("the end");
        backend.join().expect("the backend");
    }
}
