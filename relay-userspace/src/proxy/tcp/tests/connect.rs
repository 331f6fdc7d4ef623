//! How a backend is reached, and what the client hears if it is not.

use std::net::Shutdown;

use super::*;
use crate::net::sysctl::local_ports;
use crate::proxy::counters::Refusal;
use crate::rule::Connect;

fn soon() -> Timeouts {
    Timeouts { connect: Duration::from_millis(100), ..Timeouts::default() }
}

fn refused(relay: &Relay, reason: Refusal) {
    assert_eq!(read_to_reset(&relay.client()), b"");
    relay.wait_for_sessions(0);
    for other in Refusal::ALL {
        assert_eq!(relay.service.counters.refused(other), u64::from(other == reason), "{other:?}");
    }
}

/// A port on which nobody listens, and nobody will.
fn closed_port(host: IpAddr) -> Socket {
    let socket = Socket::new(Domain::for_address((host, 0).into()), Type::STREAM, None).unwrap();
    socket.bind(&SocketAddr::from((host, 0)).into()).unwrap();
    socket
}

/// The same on both families.
fn closed_ports() -> [Socket; 2] {
    loop {
        let first = closed_port(HOSTS[0]);
        let second = Socket::new(Domain::IPV6, Type::STREAM, None).unwrap();
        if second.bind(&SocketAddr::new(HOSTS[1], address_of(&first).port()).into()).is_ok() {
            return [first, second];
        }
    }
}

fn address_of(socket: &Socket) -> SocketAddr {
    socket.local_addr().unwrap().as_socket().unwrap()
}

#[test]
fn a_backend_that_refuses_resets_the_client() {
    for host in HOSTS {
        let closed = closed_port(host);
        refused(&Relay::to(host, address_of(&closed)), Refusal::BackendRefused);
    }
}

#[test]
fn a_backend_that_hangs_is_given_up() {
    for host in HOSTS {
        let hole = Blackhole::new(closed_port(host));
        let relay = Relay::with(host, vec![host], hole.address.port(), soon());
        refused(&relay, Refusal::BackendTimeout);
    }
}

#[test]
fn a_backend_without_addresses_resets_the_client() {
    for host in HOSTS {
        refused(&Relay::with(host, vec![], 80, soon()), Refusal::NoBackend);
    }
}

/// That is not taken for a lack of ports, for which others would have to be asked for by name.
#[test]
fn a_source_that_the_host_has_not_is_no_way() {
    let host = HOSTS[0];
    let backend = listen(host);
    let relay = Relay::to(host, backend.local_addr().unwrap());
    let target = relay.service.target();
    let source = Some(IpAddr::from([192, 0, 2, 1]));
    relay
        .service
        .retarget(Target { connect: Connect { source, ..Connect::default() }.into(), ..(*target).clone() });
    refused(&relay, Refusal::NoRoute);
    relay.service.retarget((*target).clone());
    let _client = relay.client();
    let (_accepted, from) = backend.accept().unwrap();
    assert!(local_ports().unwrap().contains(&from.port()), "{from} was asked for by name");
}

#[test]
fn a_client_that_gives_up_ends_the_attempt() {
    for host in HOSTS {
        let hole = Blackhole::new(closed_port(host));
        let relay = Relay::to(host, hole.address);
        let client = relay.client();
        relay.wait_for_sessions(1);
        reset(client);
        relay.wait_for_sessions(0);
        assert_eq!(relay.service.counters.refused(Refusal::BackendTimeout), 0);
    }
}

/// One family answers, the other does not.
#[test]
fn the_other_family_is_tried() {
    for turned in [false, true] {
        let (mut sockets, mut hosts) = (closed_ports(), HOSTS);
        if turned {
            sockets.reverse();
            hosts.reverse();
        }
        let [bad, good] = sockets;
        let port = address_of(&good).port();
        good.listen(8).unwrap();
        let good = good.into();
        // nobody listens: at once
        let relay = Relay::with(hosts[1], hosts.to_vec(), port, Timeouts::default());
        answers(&relay, &good);
        // nobody answers: long before the limit of a minute
        let _hole = Blackhole::new(bad);
        let timeouts = Timeouts { connect: Duration::from_secs(60), ..Timeouts::default() };
        let relay = Relay::with(hosts[1], hosts.to_vec(), port, timeouts);
        answers(&relay, &good);
        assert_eq!(
            Refusal::ALL.map(|reason| relay.service.counters.refused(reason)),
            [0; Refusal::ALL.len()]
        );
    }
}

fn answers(relay: &Relay, backend: &TcpListener) {
    let client = relay.client();
    let backend = patient(backend.accept().unwrap().0);
    send(&client, b"hello");
    client.shutdown(Shutdown::Write).unwrap();
    assert_eq!(read_all(&backend), b"hello");
    drop(backend);
    assert_eq!(read_all(&client), b"");
}

#[test]
fn when_all_addresses_fail_the_last_reason_counts() {
    let [closed, hanging] = closed_ports();
    let port = address_of(&closed).port();
    let _hole = Blackhole::new(hanging);
    let relay = Relay::with(HOSTS[0], vec![HOSTS[1], HOSTS[0]], port, soon());
    refused(&relay, Refusal::BackendRefused);
    let relay = Relay::with(HOSTS[0], vec![HOSTS[0], HOSTS[1]], port, soon());
    refused(&relay, Refusal::BackendTimeout);
}

#[test]
fn new_sessions_go_to_the_new_target() {
    for host in HOSTS {
        let (old, new) = (listen(host), listen(host));
        let relay = Relay::to(host, old.local_addr().unwrap());
        let client = relay.client();
        let backend = patient(old.accept().unwrap().0);
        let target = relay.service.target();
        let to = [end(vec![host], new.local_addr().unwrap().port())];
        let ends = relay.pool.follow(&to, Balance::RoundRobin, &weights(&to));
        relay.service.retarget(Target { ends, ..(*target).clone() });
        answers(&relay, &new);
        send(&client, b"still here");
        assert_eq!(read_exactly(&backend, 10), b"still here");
    }
}
