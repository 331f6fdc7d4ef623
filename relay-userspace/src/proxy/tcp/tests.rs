//! Real sockets on loopback: a relay on a thread of its own between a client and a backend that block.

mod carry;
mod connect;
mod ends;
mod failover;
mod limits;
mod proxy_protocol;

use std::io::{self, Read, Write};
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr, TcpListener, TcpStream};
use std::process::Command;
use std::sync::Arc;
use std::thread::{self, JoinHandle};
use std::time::{Duration, Instant};

use socket2::{Domain, SockRef, Socket, Type};
use tokio::sync::watch;

use super::serve;
use crate::balance::Weights;
use crate::proxy::pool::{End, Pool};
use crate::proxy::service::{Phase, Service, Target};
use crate::rule::{Balance, RuleName, Timeouts};

/// Both families.
const HOSTS: [IpAddr; 2] = [IpAddr::V4(Ipv4Addr::LOCALHOST), IpAddr::V6(Ipv6Addr::LOCALHOST)];
/// Longer than anything should take; reached only by a test that fails.
const PATIENCE: Duration = Duration::from_secs(20);

/// A relay under test. Dropping it ends its sessions.
struct Relay {
    address: SocketAddr,
    pool: Pool,
    service: Arc<Service>,
    phase: watch::Sender<Phase>,
    thread: Option<JoinHandle<()>>,
}

impl Relay {
    /// Listens on `host` and leads to `backend`.
    fn to(host: IpAddr, backend: SocketAddr) -> Self {
        Self::with(host, vec![backend.ip()], backend.port(), Timeouts::default())
    }

    fn with(host: IpAddr, addresses: Vec<IpAddr>, port: u16, timeouts: Timeouts) -> Self {
        Self::among(host, &[end(addresses, port)], Balance::RoundRobin, timeouts)
    }

    /// Leads to several backends, by their own weights and priorities.
    fn among(host: IpAddr, ends: &[End], balance: Balance, timeouts: Timeouts) -> Self {
        let listener = listen(host);
        listener.set_nonblocking(true).unwrap();
        let address = listener.local_addr().unwrap();
        let name = RuleName::parse("test").unwrap();
        let pool = Pool::new(name.clone());
        let ends = pool.follow(ends, balance, &weights(ends));
        let (udp_nat, accept, connect) = Default::default();
        let target = Target {
            ends,
            first_port: address.port(),
            timeouts: timeouts.into(),
            udp_nat,
            accept,
            connect,
            acceptor: None,
            connector: None,
        };
        let service = Arc::new(Service::new(name, Arc::default(), Arc::default(), Arc::default(), target));
        let (phase, receiver) = watch::channel(Phase::Serve);
        let shared = service.clone();
        service.opens();
        let thread = thread::spawn(move || {
            let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
            runtime.block_on(serve(listener, shared, receiver));
        });
        Self { address, pool, service, phase, thread: Some(thread) }
    }

    fn client(&self) -> TcpStream {
        patient(TcpStream::connect(self.address).unwrap())
    }

    fn wait_for_sessions(&self, count: u64) {
        eventually(|| self.service.counters.active() == count);
    }

    /// Waits until `serve` has returned.
    fn join(mut self) {
        self.thread.take().unwrap().join().unwrap();
    }
}

impl Drop for Relay {
    fn drop(&mut self) {
        self.phase.send_replace(Phase::End);
        if let Some(thread) = self.thread.take()
            && !thread::panicking()
        {
            thread.join().unwrap();
        }
    }
}

/// A backend of weight 1.
fn end(addresses: Vec<IpAddr>, port: u16) -> End {
    let name = format!("{addresses:?}:{port}").into();
    End { name, addresses: addresses.into(), first_port: Some(port), weight: 1, priority: 0 }
}

/// Those of the first tier.
fn weights(ends: &[End]) -> Arc<Weights> {
    let tier = ends.iter().filter(|end| end.weight > 0).map(|end| end.priority).min();
    let weight = |end: &End| if Some(end.priority) == tier { end.weight } else { 0 };
    let weights: Box<[u16]> = ends.iter().map(weight).collect();
    Arc::new(Weights { tcp: weights.clone(), udp: weights, ..Weights::default() })
}

fn listen(host: IpAddr) -> TcpListener {
    TcpListener::bind((host, 0)).unwrap()
}

/// A connection from a client through a relay to a backend: the relay, the client's end, the backend's.
fn session(host: IpAddr, timeouts: Timeouts) -> (Relay, TcpStream, TcpStream) {
    let backend = listen(host);
    let port = backend.local_addr().unwrap().port();
    let relay = Relay::with(host, vec![host], port, timeouts);
    let client = relay.client();
    let accepted = patient(backend.accept().unwrap().0);
    (relay, client, accepted)
}

/// A stream that fails rather than hang.
fn patient(stream: TcpStream) -> TcpStream {
    stream.set_read_timeout(Some(PATIENCE)).unwrap();
    stream.set_write_timeout(Some(PATIENCE)).unwrap();
    stream
}

fn eventually(mut condition: impl FnMut() -> bool) {
    let start = Instant::now();
    while !condition() {
        assert!(start.elapsed() < PATIENCE, "did not come true");
        thread::sleep(Duration::from_millis(2));
    }
}

/// Ends a connection with a reset.
fn reset(stream: TcpStream) {
    SockRef::from(&stream).set_linger(Some(Duration::ZERO)).unwrap();
}

/// Bytes that are nowhere the same.
fn pattern(length: usize, seed: u64) -> Vec<u8> {
    let mut data = Vec::with_capacity(length + 8);
    let mut state = seed | 1;
    while data.len() < length {
        state ^= state << 13;
        state ^= state >> 7;
        state ^= state << 17;
        data.extend_from_slice(&state.to_le_bytes());
    }
    data.truncate(length);
    data
}

/// Everything up to a FIN; fails on a reset.
fn read_all(mut stream: &TcpStream) -> Vec<u8> {
    let mut data = Vec::new();
    stream.read_to_end(&mut data).unwrap();
    data
}

fn read_exactly(mut stream: &TcpStream, length: usize) -> Vec<u8> {
    let mut data = vec![0; length];
    stream.read_exact(&mut data).unwrap();
    data
}

/// Reads until the connection is reset; fails on a FIN. What came before it.
fn read_to_reset(mut stream: &TcpStream) -> Vec<u8> {
    let mut data = Vec::new();
    let error = stream.read_to_end(&mut data).unwrap_err();
    assert_eq!(error.kind(), io::ErrorKind::ConnectionReset);
    data
}

fn send(mut stream: &TcpStream, data: &[u8]) {
    stream.write_all(data).unwrap();
}

/// A listener that takes no more connections: it lets clients hang.
struct Blackhole {
    address: SocketAddr,
    _sockets: Vec<Socket>,
}

impl Blackhole {
    fn new(listener: Socket) -> Self {
        listener.listen(0).unwrap();
        let address = listener.local_addr().unwrap();
        let mut sockets = vec![listener];
        for _ in 0..8 {
            let client = Socket::new(address.domain(), Type::STREAM.nonblocking(), None).unwrap();
            // in progress for ever, but for the first
            _ = client.connect(&address);
            sockets.push(client);
        }
        Self { address: address.as_socket().unwrap(), _sockets: sockets }
    }
}

/// Runs a test of this file again in a process where it is alone, so that it can count and limit descriptors. Whether
/// this is that process.
fn is_alone(test: &str) -> bool {
    const ALONE: &str = "RELAY_TEST_ALONE";
    if std::env::var_os(ALONE).is_some() {
        return true;
    }
    let name = format!("proxy::tcp::tests::{test}");
    let output = Command::new(std::env::current_exe().unwrap())
        .args(["--exact", &name, "--test-threads", "1"])
        .env(ALONE, "1")
        .output()
        .unwrap();
    let text = String::from_utf8_lossy(&output.stdout);
    assert!(
        output.status.success() && text.contains("1 passed"),
        "{text}{}",
        String::from_utf8_lossy(&output.stderr)
    );
    false
}

/// How many descriptors this process has.
fn descriptors() -> usize {
    // one of them is for the folder itself
    std::fs::read_dir("/proc/self/fd").unwrap().count() - 1
}
