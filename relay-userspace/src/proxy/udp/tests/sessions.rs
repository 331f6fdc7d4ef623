//! Who gets whose datagrams, for how long, from which address.

use super::*;
use crate::proxy::counters::Refusal;

#[test]
fn everybody_gets_their_own_answers_from_all_workers() {
    let rig = Rig::with(V4, V4, 2, |_| {});
    let clients: Vec<_> = (0..100).map(|_| rig.client()).collect();
    for (number, client) in clients.iter().enumerate() {
        client.send(number.to_string().as_bytes()).unwrap();
    }
    let mut ports = std::collections::HashSet::new();
    for _ in &clients {
        let (payload, from) = rig.take();
        ports.insert(from);
        rig.backend.send_to(&payload, from).unwrap();
    }
    assert_eq!(ports.len(), clients.len());
    for (number, client) in clients.iter().enumerate() {
        assert_eq!(get(client), number.to_string().as_bytes());
    }
    assert_eq!((rig.service.counters.active(), rig.service.counters.total()), (100, 100));
    let service = Arc::clone(&rig.service);
    rig.end();
    assert_eq!((service.counters.active(), service.counters.total()), (0, 100));
}

#[test]
fn a_stranger_is_heard_only_through_a_full_cone() {
    for (nat, first) in [(UdpNat::Restricted, "backend"), (UdpNat::FullCone, "stranger")] {
        for address in [V4, V6] {
            let rig = Rig::with(address, address, 1, |target| target.udp_nat = nat);
            let client = rig.client();
            let port = rig.echo(&client, b"hello");
            socket(address).send_to(b"stranger", port).unwrap();
            rig.backend.send_to(b"backend", port).unwrap();
            assert_eq!(get(&client), first.as_bytes());
            rig.end();
        }
    }
}

#[test]
fn an_answer_leaves_from_the_address_that_was_asked() {
    let rig = Rig::new("0.0.0.0:0", V4);
    let client = socket(V4);
    let mut ports = Vec::new();
    for number in [2, 3, 2] {
        let to = loopback(number, rig.address.port());
        client.send_to(&[number], to).unwrap();
        let (payload, from) = rig.take();
        rig.backend.send_to(&payload, from).unwrap();
        let mut buffer = [0; 10];
        assert_eq!(client.recv_from(&mut buffer).unwrap(), (1, to));
        ports.push(from);
    }
    assert_eq!(ports[0], ports[2]);
    assert_ne!(ports[0], ports[1], "two addresses, two sessions");
    rig.end();
    let rig = Rig::new("[::]:0", V6);
    let client = socket(V6);
    let to = SocketAddr::new("::1".parse().unwrap(), rig.address.port());
    client.send_to(b"hello", to).unwrap();
    let (payload, from) = rig.take();
    rig.backend.send_to(&payload, from).unwrap();
    assert_eq!(client.recv_from(&mut [0; 10]).unwrap(), (5, to));
    rig.end();
}

#[test]
fn the_silent_are_forgotten_and_either_direction_keeps_a_client() {
    let rig = Rig::with(V4, V4, 1, |target| target.timeouts.udp = Duration::from_secs(2));
    let (sends, gets, silent) = (rig.client(), rig.client(), rig.client());
    let [sends_from, gets_from, _] = [&sends, &gets, &silent].map(|client| {
        client.send(b"hello").unwrap();
        rig.take().1
    });
    let began = Instant::now();
    while began.elapsed() < Duration::from_secs(5) {
        sends.send(b"one way").unwrap();
        assert_eq!(rig.take().1, sends_from, "a new source port under one-way traffic");
        rig.backend.send_to(b"other way", gets_from).unwrap();
        assert_eq!(get(&gets), b"other way");
        std::thread::sleep(Duration::from_millis(100));
    }
    let counters = &rig.service.counters;
    assert_eq!((counters.active(), counters.total()), (2, 3));
    wait("everybody forgotten", || counters.active() == 0);
    rig.echo(&silent, b"again");
    assert_eq!((counters.active(), counters.total()), (1, 4));
    rig.end();
}

#[test]
fn a_new_target_is_for_new_clients() {
    let rig = Rig::with(V4, V4, 1, |target| target.ends = ends(&[], Balance::RoundRobin));
    let counters = &rig.service.counters;
    let old = rig.client();
    old.send(b"nobody there").unwrap();
    wait("counted", || counters.refused(Refusal::NoBackend) == 1);
    let to = rig.backend.local_addr().unwrap();
    rig.service.retarget(target(to, rig.address.port()));
    rig.echo(&old, b"there");
    let elsewhere = socket(V6);
    rig.service.retarget(target(elsewhere.local_addr().unwrap(), rig.address.port()));
    rig.echo(&old, b"stays");
    let new = rig.client();
    new.send(b"moves").unwrap();
    let mut buffer = [0; 10];
    let (length, from) = elsewhere.recv_from(&mut buffer).unwrap();
    elsewhere.send_to(&buffer[..length], from).unwrap();
    assert_eq!(get(&new), b"moves");
    rig.end();
}

#[test]
fn a_source_that_the_host_has_not_is_no_way() {
    let source = Some(IpAddr::from([192, 0, 2, 1]));
    let rig = Rig::with(V4, V4, 1, |target| target.connect.source = source);
    let counters = &rig.service.counters;
    rig.client().send(b"anybody?").unwrap();
    wait("counted", || counters.refused(Refusal::NoRoute) == 1);
    assert_eq!(counters.refused(Refusal::PortsExhausted), 0);
    rig.end();
}

#[test]
fn a_backend_that_refuses_is_asked_again() {
    for address in [V4, V6] {
        let mut rig = Rig::new(address, address);
        let client = rig.client();
        let port = rig.echo(&client, b"before");
        let place = rig.backend.local_addr().unwrap();
        // Another socket takes its place in the rig while the port is closed.
        rig.backend = socket(address);
        let counters = &rig.service.counters;
        for count in 1..=3 {
            client.send(b"nobody hears this").unwrap();
            wait("counted", || counters.refused(Refusal::BackendRefused) == count);
        }
        rig.backend = socket(&place.to_string());
        assert_eq!(rig.echo(&client, b"after"), port);
        assert_eq!(counters.total(), 1);
        rig.end();
    }
}

#[test]
fn draining_lets_nobody_new_in_and_may_be_called_off() {
    let rig = Rig::with(V4, V4, 1, |target| target.timeouts.udp = Duration::from_secs(1));
    let (known, new) = (rig.client(), rig.client());
    rig.echo(&known, b"hello");
    rig.phase.send(Phase::Drain).unwrap();
    // the worker may not have heard of it yet, and who got in goes on
    wait("new clients are refused", || {
        rig.client().send(b"hello").unwrap();
        rig.service.counters.refused(Refusal::Draining) > 0
    });
    known.send(b"still here").unwrap();
    while rig.take().0 != b"still here" {}
    wait("nobody is left", || rig.service.clients() == 0);
    assert_eq!(rig.service.counters.active(), 0);
    rig.phase.send(Phase::Serve).unwrap();
    wait("new clients are let in again", || {
        new.send(b"hello").unwrap();
        rig.service.clients() > 0
    });
    rig.end();
}

#[test]
fn a_lost_owner_is_the_end() {
    let Rig { phase, workers, .. } = Rig::new(V4, V4);
    drop(phase);
    wait("the worker has ended", || workers[0].is_finished());
}
