//! The user plane's UDP where the address an answer leaves from, or what a link can take, matters.

use std::net::{IpAddr, Ipv6Addr, SocketAddr, SocketAddrV6, UdpSocket};
use std::sync::Arc;
use std::thread::JoinHandle;
use std::time::Duration;

use harness::world::{BACKEND, RELAY, World};
use harness::{NetNs, eventually};
use nix::sys::socket::{setsockopt, sockopt};
use relay::balance::Weights;
use relay::proxy::pool::{End, Pool};
use relay::proxy::service::{Phase, Service, Target, UdpNat};
use relay::proxy::udp::serve;
use relay::rule::{Balance, RuleName, Usual};
use tokio::sync::watch;

const PORT: u16 = 8080;

/// A worker inside a namespace; it ends with this value.
struct Worker {
    service: Arc<Service>,
    phase: Option<watch::Sender<Phase>>,
    thread: Option<JoinHandle<()>>,
}

impl Worker {
    fn new(relay: &NetNs, listen: IpAddr, backend: SocketAddr) -> Self {
        let name = RuleName::parse("web").expect("name");
        let end = End {
            name: backend.to_string().into(),
            addresses: [backend.ip()].into(),
            first_port: Some(backend.port()),
            weight: 1,
            priority: 0,
        };
        let weights = Arc::new(Weights { tcp: [1].into(), udp: [1].into(), ..Weights::default() });
        let target = Target {
            ends: Pool::new(name.clone()).follow(&[end], Balance::default(), &weights),
            first_port: PORT,
            timeouts: Usual::default(),
            udp_nat: UdpNat::Restricted,
            accept: Usual::default(),
            connect: Usual::default(),
        };
        let service = Arc::new(Service::new(name, Arc::default(), Arc::default(), Arc::default(), target));
        let (phase, phases) = watch::channel(Phase::Serve);
        let listener = relay.run(|| UdpSocket::bind((listen, PORT)).expect("listener"));
        let session = serve(listener, Arc::clone(&service), phases);
        let thread = relay.spawn(move || {
            let runtime =
                tokio::runtime::Builder::new_current_thread().enable_all().build().expect("runtime");
            runtime.block_on(session);
        });
        Self { service, phase: Some(phase), thread: Some(thread) }
    }
}

impl Drop for Worker {
    fn drop(&mut self) {
        drop(self.phase.take());
        let ended = self.thread.take().expect("thread").join();
        assert!(ended.is_ok() || std::thread::panicking(), "the worker panicked");
    }
}

fn socket(ns: &NetNs, address: SocketAddr) -> UdpSocket {
    let socket = ns.run(|| UdpSocket::bind(address).expect("bind"));
    socket.set_read_timeout(Some(harness::patience(Duration::from_secs(10)))).expect("timeout");
    socket
}

/// A client from `address` to `to`, which hears nobody but `to`.
fn client(ns: &NetNs, address: SocketAddr, to: SocketAddr) -> UdpSocket {
    let socket = socket(ns, address);
    socket.connect(to).expect("connect");
    socket
}

fn link_local(ns: &NetNs, interface: &str, address: Ipv6Addr, port: u16) -> SocketAddr {
    SocketAddrV6::new(address, port, 0, ns.index(interface)).into()
}

#[test]
fn an_ipv6_answer_leaves_from_the_address_and_interface_that_was_asked() {
    let world = World::new();
    let worker = Worker::new(&world.relay, Ipv6Addr::UNSPECIFIED.into(), (BACKEND, 80).into());
    let backend = socket(&world.backend, (BACKEND, 80).into());
    let global = |last| Ipv6Addr::new(0x2001, 0xdb8, 0, 1, 0, 0, 0, last);
    let local = |last| Ipv6Addr::new(0xfe80, 0, 0, 0, 0, 0, 0, last);
    // The same link-local addresses on both of its links, one of them to the client and one to the backend's host.
    for (ns, interface, addresses) in [
        (&world.relay, "uplink", &[global(1), global(9), local(1)][..]),
        (&world.client, "client", &[global(2), local(2)]),
        (&world.relay, "inside", &[local(1)]),
        (&world.backend, "backend", &[local(2)]),
    ] {
        addresses.iter().for_each(|&address| ns.add_address(interface, address, 64));
    }
    let asked = |last| (global(last), PORT).into();
    let near = |ns, interface| {
        client(ns, link_local(ns, interface, local(2), 4000), link_local(ns, interface, local(1), PORT))
    };
    let clients = [
        client(&world.client, (global(2), 4001).into(), asked(1)),
        client(&world.client, (global(2), 4002).into(), asked(9)),
        near(&world.client, "client"),
        near(&world.backend, "backend"),
    ];
    for (number, client) in clients.iter().enumerate() {
        for round in 0..2 {
            let payload = [number as u8, round];
            client.send(&payload).expect("send");
            let mut buffer = [0; 10];
            let (length, from) = backend.recv_from(&mut buffer).expect("at the backend");
            assert_eq!(buffer[..length], payload);
            backend.send_to(&buffer[..length], from).expect("answer");
            let length = client.recv(&mut buffer).unwrap_or_else(|error| panic!("client {number}: {error}"));
            assert_eq!(buffer[..length], payload);
        }
    }
    assert_eq!(worker.service.counters.total(), clients.len() as u64);
}

#[test]
fn a_train_for_a_link_that_takes_smaller_packets_arrives_in_fragments() {
    const DATAGRAMS: usize = 30;
    let world = World::new();
    world.relay.set_mtu("inside", 1280);
    world.backend.set_mtu("backend", 1280);
    let worker = Worker::new(&world.relay, RELAY.into(), (BACKEND, 80).into());
    let backend = socket(&world.backend, (BACKEND, 80).into());
    let client = client(&world.client, "198.51.100.2:0".parse().expect("address"), (RELAY, PORT).into());
    setsockopt(&client, sockopt::UdpGsoSegment, &1400).expect("UDP_SEGMENT");
    let sent: Vec<u8> = (0..DATAGRAMS * 1400).map(|place| (place % 251) as u8).collect();
    for round in 1..=2 {
        client.send(&sent).expect("send");
        let mut from = None;
        for expected in sent.chunks(1400) {
            let mut buffer = [0; 2000];
            let (length, port) = backend.recv_from(&mut buffer).expect("at the backend");
            assert!(buffer[..length] == *expected, "{length} bytes of another datagram");
            from = Some(port);
        }
        backend.send_to(b"all there", from.expect("a port")).expect("answer");
        assert_eq!(client.recv(&mut [0; 100]).expect("answer"), 9);
        let counters = &worker.service.counters;
        eventually("every datagram counted", || counters.ingress.packets() == (round * DATAGRAMS) as u64);
    }
}
