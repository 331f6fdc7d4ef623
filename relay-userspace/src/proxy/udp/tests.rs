//! UDP sessions over real sockets on loopback.

mod backends;
mod carry;
mod limits;
mod sessions;

use std::net::{IpAddr, SocketAddr, UdpSocket};
use std::sync::Arc;
use std::thread::JoinHandle;
use std::time::{Duration, Instant};

use socket2::{Domain, Socket, Type};
use tokio::sync::watch;

use super::serve;
use crate::balance::Weights;
use crate::proxy::pool::{End, Ends, Pool};
use crate::proxy::service::{Phase, Service, Target, UdpNat};
use crate::rule::{Balance, RuleName, Usual};

const V4: &str = "127.0.0.1:0";
const V6: &str = "[::1]:0";
/// What is waited for happens at once, or the test fails.
const PATIENCE: Duration = Duration::from_secs(20);

/// A rule's UDP listener with its workers, and the backend, which is played by the test.
struct Rig {
    address: SocketAddr,
    backend: UdpSocket,
    service: Arc<Service>,
    phase: watch::Sender<Phase>,
    workers: Vec<JoinHandle<()>>,
}

impl Rig {
    fn new(listen: &str, backend: &str) -> Self {
        Self::with(listen, backend, 1, |_| {})
    }

    fn with(listen: &str, backend: &str, workers: usize, change: impl FnOnce(&mut Target)) -> Self {
        let mut rig = Self::stopped(listen, backend, change);
        let listeners: Vec<_> = (0..workers).map(|_| listener(rig.address)).collect();
        for listener in listeners {
            rig.work(listener);
        }
        rig
    }

    /// Without a worker.
    fn stopped(listen: &str, backend: &str, change: impl FnOnce(&mut Target)) -> Self {
        super::use_trains(true);
        // Held only until the workers have it, since they share it.
        let address = listener(listen.parse().unwrap()).local_addr().unwrap();
        let backend = socket(backend);
        let to = backend.local_addr().unwrap();
        let mut target = target(to, address.port());
        change(&mut target);
        let name = RuleName::parse("test").unwrap();
        let service = Arc::new(Service::new(name, Arc::default(), Arc::default(), Arc::default(), target));
        let (phase, _) = watch::channel(Phase::Serve);
        Self { address, backend, service, phase, workers: Vec::new() }
    }

    fn work(&mut self, listener: UdpSocket) {
        let session = serve(listener, Arc::clone(&self.service), self.phase.subscribe());
        // That it may be moved between threads is what lets it be spawned.
        let session: std::pin::Pin<Box<dyn Future<Output = ()> + Send>> = Box::pin(session);
        self.workers.push(std::thread::spawn(move || {
            tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap().block_on(session);
        }));
    }

    /// A client's socket, connected to the listener.
    fn client(&self) -> UdpSocket {
        let client = socket(if self.address.is_ipv4() { V4 } else { V6 });
        client.connect(self.address).unwrap();
        client
    }

    /// Takes a datagram at the backend.
    fn take(&self) -> (Vec<u8>, SocketAddr) {
        let mut buffer = vec![0; 70_000];
        let (length, from) = self.backend.recv_from(&mut buffer).expect("nothing came to the backend");
        buffer.truncate(length);
        (buffer, from)
    }

    /// There and back; says from where the backend saw it.
    fn echo(&self, client: &UdpSocket, payload: &[u8]) -> SocketAddr {
        client.send(payload).unwrap();
        let (arrived, from) = self.take();
        assert!(arrived == payload, "{} of {} bytes arrived", arrived.len(), payload.len());
        self.backend.send_to(&arrived, from).unwrap();
        let answer = get(client);
        assert!(answer == payload, "{} of {} bytes came back", answer.len(), payload.len());
        from
    }

    fn end(mut self) {
        self.phase.send_replace(Phase::End);
        for worker in self.workers.drain(..) {
            worker.join().unwrap();
        }
    }
}

fn target(to: SocketAddr, from: u16) -> Target {
    Target {
        ends: ends(&[end(to)], Balance::RoundRobin),
        first_port: from,
        timeouts: Usual::default(),
        udp_nat: UdpNat::Restricted,
        accept: Usual::default(),
        connect: Usual::default(),
        acceptor: None,
        connector: None,
    }
}

/// A backend of weight 1.
fn end(to: SocketAddr) -> End {
    let addresses = [to.ip()].into();
    End { name: to.to_string().into(), addresses, first_port: Some(to.port()), weight: 1, priority: 0 }
}

/// By their own weights.
fn ends(list: &[End], balance: Balance) -> Arc<Ends> {
    let weights: Box<[u16]> = list.iter().map(|end| end.weight).collect();
    let weights = Arc::new(Weights { tcp: weights.clone(), udp: weights, ..Weights::default() });
    Pool::new(RuleName::parse("test").unwrap()).follow(list, balance, &weights)
}

/// A listening socket as a worker gets it.
fn listener(address: SocketAddr) -> UdpSocket {
    let socket = Socket::new(Domain::for_address(address), Type::DGRAM, None).unwrap();
    socket.set_reuse_port(true).unwrap();
    socket.set_nonblocking(true).unwrap();
    if address.is_ipv6() {
        socket.set_only_v6(true).unwrap();
    }
    socket.bind(&address.into()).unwrap();
    socket.into()
}

fn socket(address: &str) -> UdpSocket {
    let socket = UdpSocket::bind(address).unwrap();
    socket.set_read_timeout(Some(PATIENCE)).unwrap();
    socket
}

fn get(socket: &UdpSocket) -> Vec<u8> {
    let mut buffer = vec![0; 70_000];
    let length = socket.recv(&mut buffer).expect("nothing came to the client");
    buffer.truncate(length);
    buffer
}

/// Until `done`, or the test fails.
fn wait(what: &str, mut done: impl FnMut() -> bool) {
    let since = Instant::now();
    while !done() {
        assert!(since.elapsed() < PATIENCE, "not in time: {what}");
        std::thread::sleep(Duration::from_millis(5));
    }
}

/// `127.0.0.N`, all of which are this host.
fn loopback(number: u8, port: u16) -> SocketAddr {
    (IpAddr::from([127, 0, 0, number]), port).into()
}
