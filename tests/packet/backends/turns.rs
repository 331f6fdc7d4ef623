//! One after the other, as often as its weight says.

use relay::rule::Balance;
use relay_common::net::Protocol;

use super::*;

/// How often each of three backends is chosen by so many new flows.
fn chosen(plane: &Plane, protocol: Protocol, flows: u16, first_port: u16) -> [u32; 3] {
    let mut chosen = [0; 3];
    for port in first_port..first_port + flows {
        chosen[usize::from(first(plane, (client(1), port), protocol).expect("a backend"))] += 1;
    }
    chosen
}

#[test]
fn in_proportion_to_the_weights() {
    let (plane, _) = plane(Balance::RoundRobin, &[4, 2, 1]);
    for (protocol, port) in [(Protocol::Tcp, 20_000), (Protocol::Udp, 20_000)] {
        assert_eq!(chosen(&plane, protocol, 700, port), [400, 200, 100], "{protocol:?}");
        // and not in lumps
        for round in 0..20 {
            assert_eq!(chosen(&plane, protocol, 7, 30_000 + round * 7), [4, 2, 1], "{protocol:?}");
        }
    }
}

#[test]
fn protocols_take_turns_by_themselves() {
    let (mut plane, mut desired) = plane(Balance::RoundRobin, &[1, 1, 1]);
    swap(&mut plane, &mut desired, &[1, 0, 0], &[0, 3, 1]);
    assert_eq!(chosen(&plane, Protocol::Tcp, 40, 21_000), [40, 0, 0]);
    assert_eq!(chosen(&plane, Protocol::Udp, 40, 21_000), [0, 30, 10]);
}

#[test]
fn a_client_that_repeats_itself_stays_where_it_is() {
    let (plane, _) = plane(Balance::RoundRobin, &[1, 1, 1]);
    for protocol in Protocol::ALL {
        let chosen: Vec<_> = (0..4).map(|_| first(&plane, (client(2), 22_000), protocol)).collect();
        assert!(chosen.windows(2).all(|pair| pair[0] == pair[1]), "{chosen:?}");
    }
}

#[test]
fn the_first_one_gets_all() {
    let (mut plane, mut desired) = plane(Balance::First, &[1, 1, 1]);
    assert_eq!(chosen(&plane, Protocol::Tcp, 10, 23_000), [10, 0, 0]);
    swap(&mut plane, &mut desired, &[0, 0, 1], &[0, 1, 1]);
    assert_eq!(chosen(&plane, Protocol::Tcp, 10, 23_100), [0, 0, 10]);
    assert_eq!(chosen(&plane, Protocol::Udp, 10, 23_100), [0, 10, 0]);
}
