//! Several backends: who gets a client, and for how long.

use super::*;
use crate::proxy::counters::Refusal;
use crate::proxy::gate::Policy;
use crate::proxy::pool::Signal;
use crate::rule::{Destination, Staying};

/// A rig whose target leads to others than its own backend.
fn among(list: &[End], balance: Balance) -> Rig {
    Rig::with(V4, V4, 1, |target| target.ends = ends(list, balance))
}

fn to(backend: &UdpSocket) -> End {
    end(backend.local_addr().unwrap())
}

/// Whether the datagram of a new client has come to a backend.
fn takes(backend: &UdpSocket) -> Option<(Vec<u8>, SocketAddr)> {
    let mut buffer = [0; 100];
    backend.set_nonblocking(true).unwrap();
    let (length, from) = backend.recv_from(&mut buffer).ok()?;
    Some((buffer[..length].to_vec(), from))
}

/// The place of the backend that a datagram comes to, which is answered.
fn asked(client: &UdpSocket, backends: &[UdpSocket]) -> usize {
    client.send(b"who?").unwrap();
    let mut taken = None;
    wait("somebody gets it", || {
        taken = backends.iter().enumerate().find_map(|(place, backend)| Some((place, takes(backend)?)));
        taken.is_some()
    });
    let (place, (payload, from)) = taken.unwrap();
    backends[place].send_to(&payload, from).unwrap();
    assert_eq!(get(client), b"who?");
    place
}

#[test]
fn clients_are_spread_by_weight_and_stay() {
    let backends = [socket(V4), socket(V4)];
    let rig = among(&[End { weight: 2, ..to(&backends[0]) }, to(&backends[1])], Balance::RoundRobin);
    let clients: Vec<UdpSocket> = (0..6).map(|_| rig.client()).collect();
    let first: Vec<usize> = clients.iter().map(|client| asked(client, &backends)).collect();
    assert_eq!(first, [0, 1, 0, 0, 1, 0]);
    let again: Vec<usize> = clients.iter().map(|client| asked(client, &backends)).collect();
    assert_eq!(again, first);
    rig.end();
}

#[test]
fn the_next_one_is_taken_where_there_is_no_way_to_the_first() {
    let backend = socket(V4);
    // no socket that is not for a broadcast may be connected to this
    let nowhere = end("255.255.255.255:9".parse().unwrap());
    let rig = among(&[nowhere, to(&backend)], Balance::First);
    assert_eq!(asked(&rig.client(), std::slice::from_ref(&backend)), 0);
    assert_eq!(Refusal::ALL.map(|reason| rig.service.counters.refused(reason)), [0; Refusal::ALL.len()]);
    rig.end();
}

#[test]
fn a_refusal_is_told_and_the_client_stays() {
    let closed = socket(V4);
    let list = [to(&closed), to(&closed)];
    drop(closed);
    let (failures, mut told) = tokio::sync::mpsc::unbounded_channel();
    let pool = Pool::new(RuleName::parse("test").unwrap());
    pool.tell(failures);
    let weights = Arc::new(Weights { tcp: [1, 0].into(), udp: [1, 0].into(), ..Weights::default() });
    let ends = pool.follow(&list, Balance::First, &weights);
    let rig = Rig::with(V4, V4, 1, |target| target.ends = ends);
    let client = rig.client();
    for count in 1..=2 {
        client.send(b"anybody?").unwrap();
        wait("counted", || pool.tallies()[0].udp.failed >= count);
    }
    let failure = told.try_recv().unwrap();
    assert_eq!((&failure.backend, failure.signal), (&list[0].name, Signal::Refused));
    assert_eq!((pool.tallies()[0].udp.active, rig.service.counters.total()), (1, 1));
    rig.end();
    assert_eq!(pool.tallies()[0].udp.active, 0);
}

/// With `on_down = "reset"`.
#[test]
fn clients_of_a_backend_that_goes_choose_anew_and_others_stay() {
    let backends = [socket(V4), socket(V4)];
    let both = [to(&backends[0]), to(&backends[1])];
    let rig = among(&both, Balance::RoundRobin);
    let clients = [rig.client(), rig.client()];
    assert_eq!(clients.each_ref().map(|client| asked(client, &backends)), [0, 1]);
    let staying =
        Staying { udp: [Destination::at(backends[1].local_addr().unwrap())].into(), ..Staying::default() };
    let only = ends(&both[1..], Balance::RoundRobin);
    rig.service.retarget(Target { ends: only, ..(*rig.service.target()).clone() });
    rig.service.gate.set(Policy { backends: Some(Arc::new(staying)), ..Policy::default() });
    assert_eq!(clients.each_ref().map(|client| asked(client, &backends)), [1, 1]);
    assert_eq!((rig.service.counters.take_lost(), rig.service.counters.total()), (1, 3));
    rig.end();
}

/// With `on_down = "keep"`.
#[test]
fn who_was_never_answered_by_a_backend_that_is_down_chooses_anew() {
    let backends = [socket(V4), socket(V4)];
    let pool = Pool::new(RuleName::parse("test").unwrap());
    let weights = |list: [u16; 2], deserted: &[bool]| {
        let deserted = [[].into(), deserted.into()];
        Arc::new(Weights { tcp: list.into(), udp: list.into(), deserted, ..Weights::default() })
    };
    let list = [to(&backends[0]), to(&backends[1])];
    let ends = pool.follow(&list, Balance::First, &weights([1, 1], &[]));
    let rig = Rig::with(V4, V4, 1, |target| target.ends = ends);
    let [answered, waits] = [rig.client(), rig.client()];
    assert_eq!(asked(&answered, &backends), 0);
    waits.send(b"anybody?").unwrap();
    wait("it gets there", || takes(&backends[0]).is_some());
    pool.reweigh(&weights([0, 1], &[]));
    waits.send(b"anybody?").unwrap();
    wait("it goes on getting there", || takes(&backends[0]).is_some());
    pool.reweigh(&weights([0, 1], &[true, false]));
    assert_eq!([&waits, &answered].map(|client| asked(client, &backends)), [1, 0]);
    pool.reweigh(&weights([1, 1], &[]));
    assert_eq!([&waits, &answered].map(|client| asked(client, &backends)), [1, 0]);
    assert_eq!((pool.tallies()[0].udp.active, pool.tallies()[1].udp.active), (1, 1));
    rig.end();
}
