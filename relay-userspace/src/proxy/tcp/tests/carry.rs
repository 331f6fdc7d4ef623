//! What is sent arrives, whole and in order, whoever ends first.

use std::net::Shutdown;
use std::thread;
use std::time::Duration;

use super::*;
use crate::proxy::tcp::socket::is_delivered;

const MEGABYTE: usize = 1024 * 1024;

#[test]
fn small_messages_go_back_and_forth() {
    for host in HOSTS {
        let (relay, client, backend) = session(host, Timeouts::default());
        for round in 0..1000 {
            let message = pattern(1 + round * 7 % 300, round as u64);
            send(&client, &message);
            assert_eq!(read_exactly(&backend, message.len()), message);
            send(&backend, &message);
            assert_eq!(read_exactly(&client, message.len()), message);
        }
        drop(client);
        assert_eq!(read_all(&backend), b"");
        drop(backend);
        relay.wait_for_sessions(0);
        assert_eq!(relay.service.counters.total(), 1);
    }
}

#[test]
fn bulk_goes_both_ways_at_once() {
    for host in HOSTS {
        let (relay, client, backend) = session(host, Timeouts::default());
        let up = pattern(16 * MEGABYTE, 1);
        let down = pattern(12 * MEGABYTE, 2);
        thread::scope(|scope| {
            for (stream, data) in [(&client, &up), (&backend, &down)] {
                scope.spawn(move || {
                    send(stream, data);
                    stream.shutdown(Shutdown::Write).unwrap();
                });
            }
            let received = scope.spawn(|| read_all(&client));
            assert!(read_all(&backend) == up);
            assert!(received.join().unwrap() == down);
        });
        relay.wait_for_sessions(0);
        assert_eq!(relay.service.counters.ingress.bytes(), up.len() as u64);
        assert_eq!(relay.service.counters.egress.bytes(), down.len() as u64);
    }
}

#[test]
fn pieces_of_every_size_stay_in_order() {
    for host in HOSTS {
        let (_relay, client, backend) = session(host, Timeouts::default());
        // goes back and forth between the ways of moving data, since bulk and small pieces take turns
        let data = pattern(12 * MEGABYTE, 3);
        thread::scope(|scope| {
            scope.spawn(|| {
                let mut rest = &data[..];
                for size in [1, 100, 70_000, 3 * MEGABYTE, 5000, 65_536, 9].into_iter().cycle() {
                    let (piece, left) = rest.split_at(size.min(rest.len()));
                    send(&client, piece);
                    rest = left;
                    if rest.is_empty() {
                        break;
                    }
                    if size < 1000 {
                        thread::sleep(Duration::from_millis(1));
                    }
                }
                client.shutdown(Shutdown::Write).unwrap();
            });
            assert!(read_all(&backend) == data);
        });
    }
}

#[test]
fn a_half_closed_client_gets_its_answer() {
    for host in HOSTS {
        let (relay, client, backend) = session(host, Timeouts::default());
        send(&client, b"question");
        client.shutdown(Shutdown::Write).unwrap();
        assert_eq!(read_all(&backend), b"question");
        let answer = pattern(5 * MEGABYTE, 4);
        send(&backend, &answer);
        drop(backend);
        assert!(read_all(&client) == answer);
        relay.wait_for_sessions(0);
    }
}

/// realm cuts such an answer off, with a FIN.
#[test]
fn an_early_response_arrives_whole() {
    for host in HOSTS {
        let answer = pattern(3_000_000, 5);
        let upload = pattern(4 * MEGABYTE, 6);
        for _ in 0..50 {
            let (relay, client, backend) = session(host, Timeouts::default());
            thread::scope(|scope| {
                scope.spawn(|| {
                    send(&client, &upload);
                    client.shutdown(Shutdown::Write).unwrap();
                });
                scope.spawn(|| {
                    read_exactly(&backend, 1);
                    send(&backend, &answer);
                    backend.shutdown(Shutdown::Write).unwrap();
                    assert!(read_all(&backend) == upload[1..]);
                });
                assert!(read_all(&client) == answer);
            });
            relay.wait_for_sessions(0);
        }
    }
}

/// The backend has said all it wanted, and resets what the client still uploads.
#[test]
fn an_answer_is_delivered_even_if_the_upload_is_reset() {
    for host in HOSTS {
        for round in 0..20 {
            let (relay, client, backend) = session(host, Timeouts::default());
            let answer = pattern(3_000_000, round);
            thread::scope(|scope| {
                let client = &client;
                scope.spawn(move || {
                    let mut upload = client;
                    // until it fails
                    while upload.write_all(&[0; 65_536]).is_ok() {}
                });
                scope.spawn(|| {
                    send(&backend, &answer);
                    backend.shutdown(Shutdown::Write).unwrap();
                    eventually(|| is_delivered(&backend));
                    // closed with data unread: a reset
                    drop(backend);
                });
                thread::sleep(Duration::from_millis(20));
                assert!(read_exactly(client, answer.len()) == answer);
            });
            relay.wait_for_sessions(0);
        }
    }
}

#[test]
fn counters_show_what_a_session_has_moved_so_far() {
    for host in HOSTS {
        let (relay, client, backend) = session(host, Timeouts::default());
        let counters = &relay.service.counters;
        send(&client, &[1; 1000]);
        read_exactly(&backend, 1000);
        send(&backend, &[2; 300]);
        read_exactly(&client, 300);
        eventually(|| counters.ingress.bytes() == 1000 && counters.egress.bytes() == 300);
        assert_eq!((counters.active(), counters.total()), (1, 1));
    }
}

#[test]
fn a_receiver_that_does_not_read_stops_the_sender() {
    for host in HOSTS {
        let listener = listen(host);
        let relay = Relay::to(host, listener.local_addr().unwrap());
        let connect = || (relay.client(), patient(listener.accept().unwrap().0));
        let (client, backend) = connect();
        let data = pattern(64 * MEGABYTE, 7);
        backend.set_write_timeout(Some(Duration::from_millis(300))).unwrap();
        let mut sent = 0;
        while let Ok(more) = (&backend).write(&data[sent..]) {
            sent += more;
            assert!(sent < data.len(), "somebody keeps all of it");
        }
        // others are carried meanwhile
        let other = connect();
        send(&other.0, b"x");
        assert_eq!(read_exactly(&other.1, 1), b"x");
        backend.shutdown(Shutdown::Write).unwrap();
        assert!(read_all(&client) == data[..sent]);
    }
}

/// Buffers and pipes are lent only while data is on its way.
#[test]
fn a_quiet_session_has_two_descriptors() {
    if !is_alone("carry::a_quiet_session_has_two_descriptors") {
        return;
    }
    for host in HOSTS {
        let backend = listen(host);
        let relay = Relay::to(host, backend.local_addr().unwrap());
        let first = (relay.client(), backend.accept().unwrap().0);
        send(&first.0, b"x");
        read_exactly(&first.1, 1);
        let before = descriptors();
        let mut pairs = Vec::new();
        let data = pattern(MEGABYTE, 8);
        for _ in 0..20 {
            let pair = (relay.client(), backend.accept().unwrap().0);
            thread::scope(|scope| {
                scope.spawn(|| send(&pair.0, &data));
                assert!(read_exactly(&pair.1, data.len()) == data);
            });
            pairs.push(pair);
        }
        // two for each of the relay's sessions, two for our own ends, and the pool of pipes
        let pool = 2 * 4;
        eventually(|| descriptors() <= before + 20 * 4 + pool);
    }
}
