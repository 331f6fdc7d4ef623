//! The header that a backend gets.

use super::*;
use crate::rule::{Connect, ProxyVersion};

/// A session whose backend is told, from a client that has sent nothing yet.
fn told(host: IpAddr, version: ProxyVersion) -> (Relay, TcpStream, TcpStream) {
    let backend = listen(host);
    let relay = Relay::to(host, backend.local_addr().unwrap());
    let connect = Connect { proxy_protocol: Some(version) };
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
