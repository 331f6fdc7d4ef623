//! Trains of datagrams that their sender leaves to the device to cut (`UDP_SEGMENT`). A device without wire, as between
//! containers and virtual machines, hands them on whole: they come as one packet.

use std::net::{IpAddr, SocketAddr, UdpSocket};
use std::time::Duration;

use harness::traffic::Datagrams;
use harness::{NetNs, World, eventually};
use nix::sys::socket::{setsockopt, sockopt};
use nix::sys::utsname::uname;

use super::{PAIRS, start};

const DATAGRAMS: usize = 20;

fn cut_by_the_device(socket: &UdpSocket, size: usize) {
    setsockopt(socket, sockopt::UdpGsoSegment, &i32::try_from(size).expect("a size")).expect("UDP_SEGMENT");
}

fn backend_socket(ns: &NetNs, address: IpAddr) -> UdpSocket {
    let socket = ns.run(|| UdpSocket::bind((address, 80))).expect("bind");
    socket.set_read_timeout(Some(Duration::from_secs(5))).expect("timeout");
    socket
}

/// Everything that was sent, datagram by datagram. Returns who sent it.
fn receive(socket: &UdpSocket, sent: &[u8], size: usize, what: &str) -> SocketAddr {
    let mut buffer = [0; 2000];
    let mut sender = None;
    for (index, expected) in sent.chunks(size).enumerate() {
        let (length, from) = socket
            .recv_from(&mut buffer)
            .unwrap_or_else(|error| panic!("{what}: datagram {index} of {size} bytes: {error}"));
        assert!(buffer[..length] == *expected, "{what}: {length} bytes of another datagram");
        sender = Some(from);
    }
    sender.expect("a datagram")
}

/// Packets that have come to the relay from either side.
fn received(world: &World) -> u64 {
    ["uplink", "inside"].map(|interface| world.relay.traffic(interface).rx_packets).iter().sum()
}

/// Whether this kernel lets programs give such packets a header of the other family: Linux 6.3 and later.
fn is_translated() -> bool {
    let name = uname().expect("uname");
    let release = name.release().to_str().expect("a release");
    let mut numbers = release.split(['.', '-']).map_while(|number| number.parse::<u32>().ok());
    (numbers.next(), numbers.next()) >= (Some(6), Some(3))
}

#[test]
fn trains_go_through_as_one_packet() {
    for (listener, backend, _) in PAIRS {
        let world = World::new();
        let daemon = start(&world, backend);
        let server = backend_socket(&world.backend, backend);
        let client = Datagrams::new(&world.client, (listener, 8080)).0;
        let what = format!("{listener} to {backend}");
        if listener.is_ipv4() != backend.is_ipv4() && !is_translated() {
            cut_by_the_device(&client, 1200);
            client.send(&[7; 12_000]).expect("send");
            server.set_nonblocking(true).expect("socket");
            // there are kernels whose cables cut
            eventually("refused under its own reason, or cut before it came", || {
                daemon.ctl.counter("web", "/drops/udp_gso") == 1 || server.recv(&mut [0; 2000]).is_ok()
            });
            continue;
        }
        let mut datagrams = 0;
        // up to 1,260 bytes of IPv4 packets may be fragmented on their way, larger ones not
        for size in [100, 1200, 1232, 1233, 1400, 1452] {
            let sent: Vec<u8> = (0..DATAGRAMS * size + 50).map(|at| (at % 251) as u8).collect();
            let before = received(&world);
            cut_by_the_device(&client, size);
            client.send(&sent).expect("send");
            let from = receive(&server, &sent, size, &what);
            cut_by_the_device(&server, size);
            server.send_to(&sent, from).expect("answer");
            receive(&client, &sent, size, &format!("{what}, back"));
            let came = received(&world) - before;
            assert!(came < DATAGRAMS as u64, "{what}: {came} packets, so they came one by one");
            datagrams += DATAGRAMS as u64 + 1;
        }
        for direction in ["ingress", "egress"] {
            let counted = || daemon.ctl.counter("web", &format!("/{direction}/packets"));
            eventually("every datagram counted", || counted() == datagrams);
        }
        assert_eq!(daemon.ctl.rule("web")["counters"]["drops"], serde_json::json!({}), "{what}");
    }
}
