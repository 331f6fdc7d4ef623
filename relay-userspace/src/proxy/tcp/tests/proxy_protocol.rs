//! The header that a backend gets.

use super::*;
use crate::proxy::counters::Refusal;
use crate::proxy::gate::Policy;
use crate::rule::{Accept, AllowList, Connect, Network, ProxyVersion};

/// A session whose backend is told, from a client that has sent nothing yet.
fn told(host: IpAddr, version: ProxyVersion) -> (Relay, TcpStream, TcpStream) {
    let backend = listen(host);
    let relay = Relay::to(host, backend.local_addr().unwrap());
    let connect = Connect { proxy_protocol: Some(version), ..Connect::default() }.into();
    relay.service.retarget(Target { connect, ..(*relay.service.target()).clone() });
    let client = relay.client();
    (relay, client, patient(backend.accept().unwrap().0))
}

#[test]
fn the_backend_is_told_before_the_client_says_anything() {
    for host in HOSTS {
        let (relay, mut client, mut backend) = told(host, ProxyVersion::V1);
        let (source, destination) = (client.local_addr().unwrap(), relay.address);
        let family = if host.is_ipv4() { "TCP4" } else { "TCP6" };
        let line = format!("PROXY {family} {host} {host} {} {}\r\n", source.port(), destination.port());
        let mut header = vec![0; line.len()];
        backend.read_exact(&mut header).unwrap();
        assert_eq!(String::from_utf8(header).unwrap(), line);
        client.write_all(b"hello").unwrap();
        client.shutdown(std::net::Shutdown::Write).unwrap();
        let mut rest = Vec::new();
        backend.read_to_end(&mut rest).unwrap();
        assert_eq!(rest, b"hello");
        eventually(|| relay.service.counters.ingress.bytes() == 5);
    }
}

#[test]
fn a_client_that_says_nothing_at_all_is_announced_too() {
    let (relay, client, mut backend) = told(HOSTS[0], ProxyVersion::V2);
    client.shutdown(std::net::Shutdown::Write).unwrap();
    let mut header = Vec::new();
    backend.read_to_end(&mut header).unwrap();
    assert_eq!((header.len(), &header[12..14]), (28, &b"\x21\x11"[..]));
    backend.write_all(b"bye").unwrap();
    drop(backend);
    let mut answer = Vec::new();
    (&client).read_to_end(&mut answer).unwrap();
    assert_eq!(answer, b"bye");
    eventually(|| relay.service.counters.egress.bytes() == 3);
    assert_eq!(relay.service.counters.ingress.bytes(), 0);
}

/// A relay that expects a header, a client, and the backend's listener.
fn expecting(host: IpAddr) -> (Relay, TcpStream, TcpListener) {
    let backend = listen(host);
    let relay = Relay::to(host, backend.local_addr().unwrap());
    let accept = Accept { proxy_protocol: true, ..Accept::default() }.into();
    let connect = Connect { proxy_protocol: Some(ProxyVersion::V2), ..Connect::default() }.into();
    relay.service.retarget(Target { accept, connect, ..(*relay.service.target()).clone() });
    let client = relay.client();
    (relay, client, backend)
}

#[test]
fn what_a_proxy_says_goes_on_with_all_it_says() {
    let header = b"\r\n\r\n\0\r\nQUIT\n\x21\x11\0\x10\xc0\0\x02\x07\xc6\x33\x64\x01\0\x05\x01\xbb\x05\0\x01x";
    for split in [1, 12, 20, header.len()] {
        for host in HOSTS {
            let (relay, mut client, backend) = expecting(host);
            for part in header.chunks(split) {
                client.write_all(part).unwrap();
                thread::sleep(Duration::from_millis(1));
            }
            client.write_all(b"hello").unwrap();
            client.shutdown(std::net::Shutdown::Write).unwrap();
            let mut all = Vec::new();
            patient(backend.accept().unwrap().0).read_to_end(&mut all).unwrap();
            assert_eq!(all, [header, &b"hello"[..]].concat());
            eventually(|| relay.service.counters.ingress.bytes() == 5);
        }
    }
}

#[test]
fn a_proxys_own_connection_is_told_as_such() {
    let (_relay, mut client, backend) = expecting(HOSTS[0]);
    client.write_all(b"\r\n\r\n\0\r\nQUIT\n\x20\0\0\0ping").unwrap();
    let mut backend = patient(backend.accept().unwrap().0);
    let mut all = [0; 20];
    backend.read_exact(&mut all).unwrap();
    assert_eq!(&all[..], b"\r\n\r\n\0\r\nQUIT\n\x20\0\0\0ping");
}

#[test]
fn large_data_right_behind_the_header_is_whole() {
    let (_relay, mut client, backend) = expecting(HOSTS[0]);
    let data = pattern(3 << 20, 7);
    let sent = [b"PROXY UNKNOWN\r\n", &data[..]].concat();
    let sender = thread::spawn(move || client.write_all(&sent).map(|()| client));
    let mut backend = patient(backend.accept().unwrap().0);
    let mut all = vec![0; 16 + data.len()];
    backend.read_exact(&mut all).unwrap();
    assert!(all[16..] == data[..] && all[12..16] == *b"\x21\0\0\0");
    sender.join().unwrap().unwrap();
}

/// It is the client that the proxy names who must be let in, from the beginning to the end.
#[test]
fn the_announced_client_must_be_on_the_list() {
    let only = |network: &str| {
        let list = AllowList::new(vec![Network::parse(network).unwrap()]);
        Policy { allow: Some(Arc::new(list)), ..Policy::default() }
    };
    let hello = b"PROXY TCP4 192.0.2.7 198.51.100.1 1280 443\r\nhello";
    let (relay, mut client, _backend) = expecting(HOSTS[0]);
    relay.service.gate.set(only("127.0.0.1"));
    client.write_all(hello).unwrap();
    client.read_exact(&mut [0]).unwrap_err();
    eventually(|| relay.service.counters.refused(Refusal::NotAllowed) == 1);
    assert_eq!(relay.service.counters.total(), 0);

    relay.service.gate.set(only("192.0.2.0/24"));
    let mut client = relay.client();
    client.write_all(hello).unwrap();
    relay.wait_for_sessions(1);
    relay.service.gate.set(only("192.0.2.7"));
    thread::sleep(Duration::from_millis(50));
    assert_eq!(relay.service.counters.active(), 1, "another list that it is on");
    relay.service.gate.set(only("127.0.0.1"));
    client.read_exact(&mut [0]).unwrap_err();
    relay.wait_for_sessions(0);
}
