//! Tunnels without layers, which end or speak while they wait.

use std::io::{Read as _, Write as _};
use std::net::{Ipv4Addr, TcpListener};

use super::*;
use crate::proxy::tunnel::Layers;
use crate::proxy::tunnel::layers::Ws;
use crate::proxy::tunnel::purpose::Purpose;
use crate::proxy::tunnel::ws::{Masking, Role};
use crate::rule::ConnectTunnel;

const HERE: [IpAddr; 1] = [IpAddr::V4(Ipv4Addr::LOCALHOST)];

fn by() -> By {
    let tunnel = ConnectTunnel { tls: None, ws: None, udp_over: None, mux: false };
    By { connector: Arc::new(Connector::new(None, Arc::new(tunnel))), connect: Usual::default() }
}

fn place() -> Place {
    ("backend:80".into(), 80)
}

/// One that waits, and its other end.
fn spare(by: &By, layers: Layers) -> (Spare, TcpStream) {
    let listener = TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).expect("bind");
    let socket = TcpStream::connect(listener.local_addr().expect("address")).expect("connect");
    let (peer, _) = listener.accept().expect("accept");
    let (purpose, undecoded, payload) = (Purpose::Session, Vec::new(), Vec::new());
    let opening = Opening { layers, purpose, undecoded, payload, end: false, grace: None };
    (Spare::new(socket, opening, by.clone(), HERE[0]), peer)
}

fn wanted(by: &By, count: usize, ports: &[u16]) -> Wanted {
    let ends = [(place().0, Open { addresses: HERE.into(), ports: ports.to_vec() })].into();
    Wanted { by: by.clone(), count, ends, room: 16 }
}

/// Some that wait on a shelf that wants no more of them.
fn stocked(by: &By, count: usize) -> (Spares, Vec<TcpStream>) {
    let spares = Spares::default();
    assert_eq!(tend(&spares, &wanted(by, count, &[80])).len(), 1.min(count));
    let peers = (0..count).map(|_| {
        let (spare, peer) = spare(by, Layers::default());
        spares.put(&place(), spare);
        peer
    });
    let peers = peers.collect();
    (spares, peers)
}

fn take(spares: &Spares, by: &By) -> Option<(TcpStream, Opening)> {
    spares.take(place(), by, &HERE)
}

fn tend(spares: &Spares, wanted: &Wanted) -> Vec<Place> {
    spares.tend(wanted).lacking
}

fn settle() {
    std::thread::sleep(Duration::from_millis(20));
}

#[test]
fn one_is_held_always_and_more_when_clients_come() {
    let by = by();
    let spares = Spares::default();
    assert_eq!(tend(&spares, &wanted(&by, 4, &[])).len(), 0, "nobody has asked for a port of a range");
    assert_eq!(tend(&spares, &wanted(&by, 4, &[80])), [place()]);
    assert_eq!(tend(&spares, &wanted(&by, 4, &[80])).len(), 0, "it is being opened");
    let (first, _peer) = spare(&by, Layers::default());
    spares.put(&place(), first);
    assert!(take(&spares, &by).is_some() && take(&spares, &by).is_none());
    assert_eq!(tend(&spares, &wanted(&by, 4, &[80])).len(), 4);
    assert_eq!(spares.of("backend:80"), Held { open: 0, taken: 1, missed: 1 });
}

#[test]
fn what_came_early_is_the_clients() {
    let by = by();
    let (spares, mut peers) = stocked(&by, 1);
    peers[0].write_all(b"220 ").expect("sent");
    settle();
    tend(&spares, &wanted(&by, 1, &[80]));
    peers[0].write_all(b"ready\r\n").expect("sent");
    settle();
    let (_socket, opening) = take(&spares, &by).expect("one");
    assert_eq!(opening.payload, b"220 ready\r\n");
}

#[test]
fn one_that_has_ended_is_nobodys() {
    let by = by();
    let (spares, mut peers) = stocked(&by, 3);
    peers[0].write_all(b"421 too long\r\n").expect("sent");
    drop(peers.remove(0));
    settle();
    assert!(take(&spares, &by).is_some(), "the next one");
    drop(peers.remove(1));
    settle();
    assert!(take(&spares, &by).is_none());
}

/// An end soon after the beginning is a failure, and those make a pause.
#[test]
fn failures_make_pauses() {
    let by = by();
    let (spares, peers) = stocked(&by, 1);
    drop(peers);
    settle();
    assert!(tend(&spares, &wanted(&by, 4, &[80])).is_empty());
    spares.fail(&place());
    let pause = |spares: &Spares| {
        let shelves = spares.shelves();
        shelves.at[&place()].rests_until.expect("a pause").duration_since(Instant::now()).as_secs_f64()
    };
    assert!((1.5..=2.0).contains(&pause(&spares)), "{}", pause(&spares));
    (0..100).for_each(|_| spares.fail(&place()));
    assert!((29.5..=30.0).contains(&pause(&spares)), "{}", pause(&spares));
    spares.shelves().at.get_mut(&place()).expect("a shelf").rests_until = None;
    assert!(take(&spares, &by).is_none());
    assert_eq!(tend(&spares, &wanted(&by, 4, &[80])).len(), 1, "one is enough to see");
}

#[test]
fn what_the_rule_has_changed_is_given_up() {
    let (by, other) = (by(), by());
    let (spares, _peers) = stocked(&by, 2);
    assert!(take(&spares, &other).is_none(), "by other certificates");
    let (spares, _peers) = stocked(&by, 2);
    let elsewhere = [IpAddr::V4(Ipv4Addr::BROADCAST)];
    assert!(spares.take(place(), &by, &elsewhere).is_none(), "to an address that is the backend's no more");
    let (spares, mut peers) = stocked(&by, 2);
    assert!(tend(&spares, &Wanted { ends: HashMap::new(), ..wanted(&by, 2, &[]) }).is_empty());
    assert_eq!(peers[0].read(&mut [0; 8]).expect("an end"), 0, "it gets no clients");
    let (spares, mut peers) = stocked(&by, 2);
    spares.clear();
    assert_eq!(peers[1].read(&mut [0; 8]).expect("an end"), 0);
}

/// Who asks is answered, also where nobody is there yet.
#[test]
fn pings_are_answered() {
    let by = by();
    let spares = Spares::default();
    tend(&spares, &wanted(&by, 1, &[80]));
    let (spare, mut peer) = spare(&by, Layers::new(None, Some(Ws::new(Role::Client(Masking::Zero)))));
    spares.put(&place(), spare);
    peer.write_all(b"\x89\x02hi\x82\x03SSH").expect("sent");
    settle();
    tend(&spares, &wanted(&by, 1, &[80]));
    let mut pong = [0; 8];
    peer.read_exact(&mut pong).expect("a pong");
    assert_eq!(&pong, b"\x8a\x82\0\0\0\0hi");
    let (_socket, opening) = take(&spares, &by).expect("it is still there");
    assert_eq!(opening.payload, b"SSH");
}

/// A scan of a range of ports, say.
#[test]
fn many_ports_share() {
    let by = by();
    let spares = Spares::default();
    let mut open = 0;
    for port in 1000..1100 {
        assert!(spares.take((place().0, port), &by, &HERE).is_none());
        open += spares.tend_changed(&Wanted { room: 1000, ..wanted(&by, 8, &[]) }).lacking.len();
    }
    assert_eq!(open, 8 * SHARED_BY, "they are being opened");
    assert_eq!(tend(&spares, &Wanted { room: 1000, ..wanted(&by, 8, &[80]) }), [place()], "one that stands");
}

#[test]
fn ports_with_clients_have_the_same() {
    let by = by();
    let spares = Spares::default();
    for port in 1000..1008 {
        assert!(spares.take((place().0, port), &by, &HERE).is_none());
    }
    let lacking = tend(&spares, &Wanted { room: 1000, ..wanted(&by, 8, &[]) });
    for port in 1000..1008 {
        assert_eq!(lacking.iter().filter(|place| place.1 == port).count(), 4, "{port}");
    }
}

/// What there is no room for is not forgotten until the next look at everything.
#[test]
fn only_what_has_changed_is_looked_at() {
    let by = by();
    let spares = Spares::default();
    let few = || Wanted { room: 2, ..wanted(&by, 3, &[80]) };
    assert_eq!(tend(&spares, &few()).len(), 1);
    assert_eq!(spares.tend_changed(&few()), Due::default());
    assert!(take(&spares, &by).is_none());
    spares.fail(&place());
    spares.shelves().at.get_mut(&place()).expect("a shelf").rests_until = None;
    spares.shelves().at.get_mut(&place()).expect("a shelf").failures = 0;
    for expected in [2, 1, 0] {
        assert_eq!(spares.tend_changed(&few()).lacking.len(), expected);
    }
}

/// Its judge is told of a backend that does not keep what it takes in, whoever finds out.
#[test]
fn ends_soon_after_the_beginning_are_told() {
    let by = by();
    let (spares, peers) = stocked(&by, 1);
    drop(peers);
    settle();
    assert_eq!(spares.tend(&wanted(&by, 1, &[80])).broken, [place().0]);
    let (spares, peers) = stocked(&by, 1);
    drop(peers);
    settle();
    assert!(take(&spares, &by).is_none());
    assert_eq!(spares.tend_changed(&wanted(&by, 1, &[80])).broken, [place().0]);
    assert_eq!(spares.tend(&wanted(&by, 1, &[80])), Due::default(), "once, and not before a pause");
}
