//! What arrives: every size, both ways, in every family; trains; errors that concern one datagram only.

use std::os::fd::AsFd as _;

use nix::sys::socket::{setsockopt, sockopt};

use super::*;
use crate::proxy::counters::Refusal;
use crate::proxy::udp::clients::Id;
use crate::proxy::udp::envelope::{Control, Name};
use crate::proxy::udp::inbox::Train;
use crate::proxy::udp::outbox::{Outbox, Sent};

const OWNER: Id = Id::from_number(7);

/// Bytes that show where they belong.
fn payload(length: usize) -> Vec<u8> {
    (0..length).map(|place| (place % 251) as u8).collect()
}

#[test]
fn every_size_arrives_both_ways_in_every_family() {
    for (listen, backend) in [(V4, V4), (V4, V6), (V6, V4), (V6, V6)] {
        let rig = Rig::new(listen, backend);
        let client = rig.client();
        let most = if (listen, backend) == (V6, V6) { 65_527 } else { 65_507 };
        let sizes = [0, 1, 64, 1472, 1473, 1500, 4000, 9000, 65_000, most];
        let ports: Vec<_> = sizes.iter().map(|&size| rig.echo(&client, &payload(size))).collect();
        assert!(ports.iter().all(|port| port == &ports[0]), "one client, several sockets");
        let counters = &rig.service.counters;
        let bytes: usize = sizes.iter().sum();
        for way in [&counters.ingress, &counters.egress] {
            wait("counted", || (way.packets(), way.bytes()) == (sizes.len() as u64, bytes as u64));
        }
        assert_eq!((counters.active(), counters.total()), (1, 1));
        rig.end();
    }
}

#[test]
fn a_train_arrives_as_the_datagrams_it_was_made_of() {
    for address in [V4, V6] {
        let rig = Rig::new(address, address);
        let client = rig.client();
        let sent = payload(20 * 1000 + 7);
        setsockopt(&client, sockopt::UdpGsoSegment, &1000).unwrap();
        client.send(&sent).unwrap();
        let mut from = None;
        for expected in sent.chunks(1000) {
            let (arrived, port) = rig.take();
            assert!(arrived == expected);
            from = Some(port);
        }
        setsockopt(&rig.backend, sockopt::UdpGsoSegment, &1000).unwrap();
        rig.backend.send_to(&sent, from.unwrap()).unwrap();
        for expected in sent.chunks(1000) {
            assert!(get(&client) == expected);
        }
        let counters = &rig.service.counters;
        for way in [&counters.ingress, &counters.egress] {
            wait("counted", || (way.packets(), way.bytes()) == (21, sent.len() as u64));
        }
        rig.end();
    }
}

#[test]
fn a_datagram_that_cannot_be_sent_is_lost_alone() {
    let mut rig = Rig::stopped(V6, V4, |_| {});
    let waiting = listener(rig.address);
    // All of one batch, since they wait for the worker. No IPv4 datagram is so large.
    let (one, other) = (rig.client(), rig.client());
    let sent = [(&one, payload(10)), (&one, payload(65_527)), (&one, payload(20)), (&other, payload(30))];
    for (client, payload) in &sent {
        client.send(payload).unwrap();
    }
    rig.work(waiting);
    let mut lengths = [rig.take(), rig.take(), rig.take()].map(|(arrived, _)| arrived.len());
    lengths.sort_unstable();
    assert_eq!(lengths, [10, 20, 30]);
    let counters = &rig.service.counters;
    wait("counted", || counters.ingress.packets() == 3 && counters.refused(Refusal::Unsendable) == 1);
    rig.end();
}

/// Pushes `count` datagrams of `size` bytes and sends them.
fn send(outbox: &mut Outbox, socket: &UdpSocket, count: usize, size: usize) -> (Sent, Vec<(Id, usize)>) {
    let memory = payload(count * size);
    for number in 0..count {
        let train = Train { start: number * size, length: size, size };
        outbox.push(OWNER, train, usize::MAX, || (Name::default(), Control::default()));
    }
    let mut whole = Vec::new();
    (outbox.send(socket, &memory, |id, size| whole.push((id, size))), whole)
}

#[test]
fn where_the_kernel_cannot_cut_the_datagrams_go_one_by_one() {
    let receiver = socket(V4);
    let sender = socket(V4);
    sender.connect(receiver.local_addr().unwrap()).unwrap();
    let mut outbox = Outbox::default();
    let expected = Sent { datagrams: 10, bytes: 1000, ..Sent::default() };
    assert_eq!(send(&mut outbox, &sender, 10, 100), (expected, vec![]));
    // Without checksums there is no UDP_SEGMENT.
    set_no_check(&sender);
    assert_eq!(send(&mut outbox, &sender, 10, 100), (expected, vec![(OWNER, 100)]));
    for number in 0..20 {
        let start = number % 10 * 100;
        assert_eq!(get(&receiver), payload(1000)[start..start + 100]);
    }
}

fn set_no_check(socket: &UdpSocket) {
    let descriptor = std::os::fd::AsRawFd::as_raw_fd(&socket.as_fd());
    let on: nix::libc::c_int = 1;
    let (option, length) = (std::ptr::from_ref(&on).cast(), size_of_val(&on) as u32);
    // SAFETY: the option's value is an integer of the length given, and lives.
    let done = unsafe {
        nix::libc::setsockopt(descriptor, nix::libc::SOL_SOCKET, nix::libc::SO_NO_CHECK, option, length)
    };
    assert_eq!(done, 0);
}

#[test]
fn what_a_full_socket_does_not_take_is_lost_and_the_rest_goes_on() {
    // A local datagram socket holds a fixed number, a UDP socket on loopback never fills.
    let (sender, receiver) = std::os::unix::net::UnixDatagram::pair().unwrap();
    sender.set_nonblocking(true).unwrap();
    receiver.set_nonblocking(true).unwrap();
    let memory = payload(64 * 1024);
    let mut outbox = Outbox::default();
    let mut total = Sent::default();
    for size in 1..=300 {
        outbox
            .push(OWNER, Train { start: 0, length: size, size }, 0, || (Name::default(), Control::default()));
    }
    total += outbox.send(&sender, &memory, |_, _| panic!("nothing was sent as one"));
    assert_eq!(total.datagrams + total.lost, 300);
    assert!(total.lost > 0 && total.datagrams > 0, "{total:?}");
    let mut buffer = [0; 1000];
    let arrived: Vec<_> = std::iter::from_fn(|| receiver.recv(&mut buffer).ok()).collect();
    assert_eq!(arrived, (1..=total.datagrams as usize).collect::<Vec<_>>());
    outbox.push(OWNER, Train { start: 0, length: 5, size: 5 }, 0, || (Name::default(), Control::default()));
    assert_eq!(outbox.send(&sender, &memory, |_, _| {}).datagrams, 1);
}

#[test]
fn a_client_that_never_reads_holds_nobody_up() {
    let rig = Rig::new(V4, V4);
    let (silent, client) = (rig.client(), rig.client());
    silent.send(b"mine").unwrap();
    let (_, port) = rig.take();
    for _ in 0..3000 {
        rig.backend.send_to(&[0; 1400], port).unwrap();
    }
    rig.echo(&client, b"still here");
    rig.end();
}
