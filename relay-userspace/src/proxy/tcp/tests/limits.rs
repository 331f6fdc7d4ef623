//! Too many clients, too few descriptors.

use nix::sys::resource::{Resource, getrlimit, setrlimit};

use super::*;
use crate::proxy::counters::Refusal;
use crate::proxy::tcp::socket;
use crate::rule::Keepalive;

#[test]
fn running_out_of_descriptors_ends_no_listener() {
    if !is_alone("limits::running_out_of_descriptors_ends_no_listener") {
        return;
    }
    for host in HOSTS {
        let (_, hard) = getrlimit(Resource::RLIMIT_NOFILE).unwrap();
        let backend = listen(host);
        let relay = Relay::to(host, backend.local_addr().unwrap());
        let other_backend = listen(host);
        let other = Relay::to(host, other_backend.local_addr().unwrap());
        let early = (other.client(), patient(other_backend.accept().unwrap().0));
        other.wait_for_sessions(1);
        // clients first, so that the limit is the relay's to meet
        let clients: Vec<_> = (0..100).map(|_| socket_to(relay.address)).collect();
        let limit = 64.max(descriptors() as u64 + 10);
        setrlimit(Resource::RLIMIT_NOFILE, limit, hard).unwrap();
        for client in &clients {
            client.connect(&relay.address.into()).unwrap();
        }
        eventually(|| relay.service.counters.refused(Refusal::Descriptors) > 0);
        // a session of another rule never notices
        send(&early.0, b"x");
        assert_eq!(read_exactly(&early.1, 1), b"x");
        // nobody is left hanging: each is carried or was reset
        let mut turned_away = vec![false; clients.len()];
        eventually(|| {
            for (gone, client) in turned_away.iter_mut().zip(&clients) {
                *gone |= client.take_error().unwrap().is_some();
            }
            let gone = turned_away.iter().filter(|&&gone| gone).count() as u64;
            let counted = relay.service.counters.refused(Refusal::Descriptors);
            // one for each client
            gone > 0 && gone == counted && gone + relay.service.counters.active() == clients.len() as u64
        });
        for client in &clients {
            client.set_linger(Some(Duration::ZERO)).unwrap();
        }
        drop(clients);
        relay.wait_for_sessions(0);
        setrlimit(Resource::RLIMIT_NOFILE, hard, hard).unwrap();
        works(&relay, &backend);
        works(&other, &other_backend);
    }
}

fn socket_to(address: SocketAddr) -> Socket {
    Socket::new(Domain::for_address(address), Type::STREAM, None).unwrap()
}

/// A client gets through, past what is left of others.
fn works(relay: &Relay, backend: &TcpListener) {
    backend.set_nonblocking(true).unwrap();
    let mut client = relay.client();
    send(&client, b"hello");
    eventually(|| {
        let Ok((accepted, _)) = backend.accept() else {
            client.set_read_timeout(Some(Duration::from_millis(1))).unwrap();
            if matches!((&client).read(&mut [0]), Err(error) if error.kind() == io::ErrorKind::ConnectionReset)
            {
                client = relay.client();
                send(&client, b"hello");
            }
            return false;
        };
        accepted.set_nonblocking(false).unwrap();
        let mut data = Vec::new();
        let mut accepted = patient(accepted);
        let mut byte = [0];
        while data.len() < 5 && matches!(accepted.read(&mut byte), Ok(1)) {
            data.push(byte[0]);
        }
        data == b"hello"
    });
}

#[test]
fn a_flood_of_clients_is_carried() {
    for host in HOSTS {
        let backend = listen(host);
        let relay = Relay::to(host, backend.local_addr().unwrap());
        thread::scope(|scope| {
            scope.spawn(|| {
                for _ in 0..1000 {
                    let accepted = patient(backend.accept().unwrap().0);
                    send(&accepted, &read_exactly(&accepted, 8));
                }
            });
            for thread in 0..4_u64 {
                let relay = &relay;
                scope.spawn(move || {
                    for round in 0..250_u64 {
                        let client = relay.client();
                        let message = (thread << 32 | round).to_be_bytes();
                        send(&client, &message);
                        assert_eq!(read_all(&client), message);
                    }
                });
            }
        });
        relay.wait_for_sessions(0);
        assert_eq!(relay.service.counters.total(), 1000);
    }
}

#[test]
fn accepted_sockets_inherit_what_the_listener_was_told() {
    for host in HOSTS {
        let keepalive =
            Keepalive { idle: Duration::from_secs(7), interval: Duration::from_millis(3900), count: 5 };
        assert_eq!(inherited(host, keepalive), (7, 3, 5));
        let beyond = Keepalive { idle: Duration::from_secs(1 << 40), interval: Duration::ZERO, count: 255 };
        assert_eq!(inherited(host, beyond), (32_767, 1, 127));
    }
}

fn inherited(host: IpAddr, keepalive: Keepalive) -> (u64, u64, u32) {
    let listener = listen(host);
    socket::prepare_listener(&listener, keepalive).unwrap();
    let _client = TcpStream::connect(listener.local_addr().unwrap()).unwrap();
    let accepted = listener.accept().unwrap().0;
    let accepted = SockRef::from(&accepted);
    assert!(accepted.tcp_nodelay().unwrap() && accepted.keepalive().unwrap());
    let times = [accepted.tcp_keepalive_time(), accepted.tcp_keepalive_interval()];
    let [idle, interval] = times.map(|time| time.unwrap().as_secs());
    (idle, interval, accepted.tcp_keepalive_retries().unwrap())
}
