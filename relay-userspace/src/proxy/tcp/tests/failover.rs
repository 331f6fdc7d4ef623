//! Several backends: who gets a session, and that one of them fails no client.

use std::net::Shutdown;

use super::*;
use crate::proxy::counters::Refusal;
use crate::proxy::pool::Signal;
use crate::rule::{Accept, Connect, ProxyVersion};

const HOST: IpAddr = HOSTS[0];
/// A session reaches the next backend within a second of silence, and then at once.
const SOON: Duration = Duration::from_millis(2500);

/// A backend that says its name to whoever comes, and ends when the client does.
struct Named(u16);

impl Named {
    fn new(name: u8) -> Self {
        let listener = listen(HOST);
        let port = listener.local_addr().unwrap().port();
        thread::spawn(move || {
            for stream in listener.incoming() {
                thread::spawn(move || answer(&patient(stream.unwrap()), name));
            }
        });
        Self(port)
    }

    fn end(&self, weight: u16, priority: u16) -> End {
        End { weight, priority, ..end(vec![HOST], self.0) }
    }
}

fn answer(mut stream: &TcpStream, name: u8) {
    // fails when the test is over
    _ = stream.write_all(&[name]);
    _ = io::copy(&mut stream, &mut io::sink());
}

/// A port on which nobody listens.
fn closed() -> (Socket, End) {
    let socket = Socket::new(Domain::IPV4, Type::STREAM, None).unwrap();
    socket.bind(&SocketAddr::from((HOST, 0)).into()).unwrap();
    let port = socket.local_addr().unwrap().as_socket().unwrap().port();
    (socket, end(vec![HOST], port))
}

/// One that does not answer.
fn silent() -> (Blackhole, End) {
    let hole = Blackhole::new(closed().0);
    let end = end(vec![HOST], hole.address.port());
    (hole, end)
}

/// One that resets whoever comes before it has said anything; `after`: bytes that it reads first.
fn resetting(after: usize) -> End {
    let listener = listen(HOST);
    let port = listener.local_addr().unwrap().port();
    thread::spawn(move || {
        for stream in listener.incoming() {
            let stream = patient(stream.unwrap());
            read_exactly(&stream, after);
            reset(stream);
        }
    });
    end(vec![HOST], port)
}

fn relay(ends: &[End], balance: Balance) -> Relay {
    Relay::among(HOST, ends, balance, Timeouts::default())
}

/// Who answers a new session.
fn name(relay: &Relay) -> u8 {
    let client = relay.client();
    let name = read_exactly(&client, 1)[0];
    client.shutdown(Shutdown::Write).unwrap();
    assert_eq!(read_all(&client), b"");
    name
}

fn nobody_was_refused(relay: &Relay) {
    for reason in Refusal::ALL {
        assert_eq!(relay.service.counters.refused(reason), 0, "{reason:?}");
    }
}

#[test]
fn sessions_are_spread_by_weight_and_counted() {
    let [a, b, c] = [b'a', b'b', b'c'].map(Named::new);
    let relay = relay(&[a.end(4, 0), b.end(2, 0), c.end(1, 0)], Balance::RoundRobin);
    let names: Vec<u8> = (0..14).map(|_| name(&relay)).collect();
    assert_eq!(names, b"abacabaabacaba");
    relay.wait_for_sessions(0);
    let tallies = relay.pool.tallies();
    let numbers = tallies.iter().map(|tallied| (tallied.tcp.active, tallied.tcp.total, tallied.tcp.failed));
    assert_eq!(numbers.collect::<Vec<_>>(), [(0, 8, 0), (0, 4, 0), (0, 2, 0)]);
}

#[test]
fn a_client_comes_back_to_its_backend() {
    let [a, b, c] = [b'a', b'b', b'c'].map(Named::new);
    let relay = relay(&[a.end(1, 0), b.end(1, 0), c.end(1, 0)], Balance::IpHash);
    let first = name(&relay);
    assert!((0..10).all(|_| name(&relay) == first));
}

#[test]
fn the_client_that_a_proxy_names_is_the_one_that_counts() {
    let [a, b] = [b'a', b'b'].map(Named::new);
    let relay = relay(&[a.end(1, 0), b.end(1, 0)], Balance::IpHash);
    let target = relay.service.target();
    let accept = Accept { proxy_protocol: true, ..Accept::clone(&target.accept) }.into();
    relay.service.retarget(Target { accept, ..(*target).clone() });
    for number in 1..20 {
        let client = relay.client();
        send(&client, format!("PROXY TCP4 192.0.2.{number} 198.51.100.1 1000 80\r\n").as_bytes());
        let expected = target.ends.choose(relay_common::net::Protocol::Tcp, [192, 0, 2, number].into());
        assert_eq!(usize::from(read_exactly(&client, 1)[0] - b'a'), expected.unwrap());
    }
}

#[test]
fn sessions_go_where_there_are_fewest() {
    let [a, b] = [b'a', b'b'].map(Named::new);
    let relay = relay(&[a.end(1, 0), b.end(1, 0)], Balance::LeastConn);
    let mut clients: Vec<(u8, TcpStream)> = (0..6)
        .map(|_| {
            let client = relay.client();
            (read_exactly(&client, 1)[0], client)
        })
        .collect();
    let count = |clients: &[(u8, TcpStream)], name| clients.iter().filter(|(by, _)| *by == name).count();
    assert_eq!((count(&clients, b'a'), count(&clients, b'b')), (3, 3));
    clients.retain(|(by, _)| *by == b'b');
    eventually(|| relay.pool.tallies()[0].tcp.active == 0);
    clients.extend((0..3).map(|_| {
        let client = relay.client();
        (read_exactly(&client, 1)[0], client)
    }));
    assert_eq!((count(&clients, b'a'), count(&clients, b'b')), (3, 3));
}

#[test]
fn one_that_refuses_fails_no_client() {
    for balance in Balance::ALL {
        let (up, (_closed, down)) = (Named::new(b'u'), closed());
        let relay = relay(&[down, up.end(1, 0)], balance);
        let start = Instant::now();
        assert!((0..20).all(|_| name(&relay) == b'u'), "{balance:?}");
        assert!(start.elapsed() < SOON, "at once: {:?}", start.elapsed());
        nobody_was_refused(&relay);
        let [down, up] = &relay.pool.tallies()[..] else { panic!("two backends") };
        assert_eq!((down.tcp.total, up.tcp.total, up.tcp.failed), (0, 20, 0));
        assert!(balance == Balance::IpHash || down.tcp.failed > 0, "{balance:?}");
    }
}

#[test]
fn one_that_is_silent_delays_a_client_by_a_second() {
    let (up, (_hole, down)) = (Named::new(b'u'), silent());
    let relay = relay(&[down, up.end(1, 0)], Balance::RoundRobin);
    let (failures, mut told) = tokio::sync::mpsc::unbounded_channel();
    relay.pool.tell(failures);
    let start = Instant::now();
    let clients: Vec<TcpStream> = (0..10).map(|_| relay.client()).collect();
    assert!(clients.iter().all(|client| read_exactly(client, 1) == b"u"));
    assert!((Duration::from_secs(1)..SOON).contains(&start.elapsed()), "{:?}", start.elapsed());
    nobody_was_refused(&relay);
    let [down, up] = &relay.pool.tallies()[..] else { panic!("two backends") };
    assert_eq!((down.tcp.active, down.tcp.failed, up.tcp.total), (0, 5, 10));
    let failure = told.try_recv().unwrap();
    assert_eq!((&failure.backend, failure.signal), (&down.name, Signal::Silent));
    assert!(told.try_recv().is_err(), "five at once are told as one");
}

#[test]
fn tiers_are_tried_in_their_order_and_weight_0_never() {
    let [last, off] = [b'l', b'o'].map(Named::new);
    let ((_one, first), (_two, second)) = (closed(), closed());
    let ends = [off.end(0, 0), last.end(1, 2), End { priority: 1, ..second }, first];
    let relay = relay(&ends, Balance::RoundRobin);
    assert_eq!(name(&relay), b'l');
    let failed = |index: usize| relay.pool.tallies()[index].tcp.failed;
    assert_eq!([failed(3), failed(2)], [1, 1]);
    nobody_was_refused(&relay);
    // without the last tier there is nobody
    let relay = self::relay(&[ends[0].clone(), ends[2].clone(), ends[3].clone()], Balance::RoundRobin);
    assert_eq!(read_to_reset(&relay.client()), b"");
    relay.wait_for_sessions(0);
    assert_eq!(relay.service.counters.refused(Refusal::BackendRefused), 1);
    assert_eq!(relay.pool.tallies()[0].tcp.total, 0);
}

#[test]
fn new_weights_move_new_sessions_and_leave_old_ones() {
    let [a, b] = [b'a', b'b'].map(Named::new);
    let relay = relay(&[a.end(1, 0), b.end(1, 1)], Balance::RoundRobin);
    let old = relay.client();
    assert_eq!(read_exactly(&old, 1), b"a");
    relay.pool.reweigh(&Arc::new(Weights { tcp: [0, 1].into(), udp: [0, 1].into(), ..Weights::default() }));
    assert_eq!([name(&relay), name(&relay)], *b"bb");
    old.shutdown(Shutdown::Write).unwrap();
    assert_eq!(read_all(&old), b"");
}

#[test]
fn one_that_breaks_off_at_once_is_left_for_the_next() {
    let up = Named::new(b'u');
    let relay = relay(&[resetting(0), up.end(1, 0)], Balance::First);
    let connect = Connect { proxy_protocol: Some(ProxyVersion::V1), ..Connect::default() };
    for connect in [Connect::default(), connect] {
        relay.service.retarget(Target { connect: connect.into(), ..(*relay.service.target()).clone() });
        assert!((0..20).all(|_| name(&relay) == b'u'));
    }
    nobody_was_refused(&relay);
    assert!(relay.pool.tallies()[0].tcp.failed > 0);
}

#[test]
fn what_a_backend_has_got_is_sent_to_no_other() {
    let up = Named::new(b'u');
    let relay = relay(&[resetting(5), up.end(1, 0)], Balance::First);
    let (failures, mut told) = tokio::sync::mpsc::unbounded_channel();
    relay.pool.tell(failures);
    let client = relay.client();
    send(&client, b"hello");
    assert_eq!(read_to_reset(&client), b"");
    relay.wait_for_sessions(0);
    assert_eq!(told.try_recv().unwrap().signal, Signal::Reset);
    assert_eq!(relay.pool.tallies()[1].tcp.total, 0);
}

#[test]
fn when_all_break_off_so_does_the_client() {
    let relay = relay(&[resetting(0), resetting(0)], Balance::RoundRobin);
    assert_eq!(read_to_reset(&relay.client()), b"");
    relay.wait_for_sessions(0);
    assert!(relay.pool.tallies().iter().all(|tallied| (tallied.tcp.failed, tallied.tcp.active) == (1, 0)));
}
