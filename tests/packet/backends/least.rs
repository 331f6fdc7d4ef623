//! The one with the fewest flows for its weight.

use super::*;

/// Opens and proves a UDP flow; returns the backend that got it.
fn prove(plane: &Plane, port: u16) -> u8 {
    let question = Conversation::usual(port).client_udp(b"question");
    let ran = plane.programs.tc(plane.client, &frame(plane.client, &question), 0).expect("TEST_RUN");
    let chosen = index(&ran).expect("a backend");
    let mut talk = with(chosen, port);
    talk.source.1 = Packet::parse(&ran.frame).expect("a packet").ports().0;
    for (side, packet) in
        [(plane.backend, talk.backend_udp(b"answer")), (plane.client, talk.client_udp(b"more"))]
    {
        let ran = plane.programs.tc(side, &frame(side, &packet), 0).expect("TEST_RUN");
        assert_eq!(ran.verdict, Verdict::Redirect, "{packet:?}");
    }
    chosen
}

fn proven(plane: &Plane, ports: std::ops::Range<u16>, backends: usize) -> Vec<u32> {
    let mut chosen = vec![0; backends];
    for port in ports {
        chosen[usize::from(prove(plane, port))] += 1;
    }
    chosen
}

#[test]
fn flows_are_spread_by_weight() {
    let (plane, _) = plane(Balance::LeastConn, &[4, 2, 1]);
    assert_eq!(proven(&plane, 24_000..24_028, 3), [16, 8, 4]);
}

#[test]
fn who_has_lost_flows_gets_the_next_ones() {
    let (mut plane, mut desired) = plane(Balance::LeastConn, &[1, 1, 1]);
    assert_eq!(proven(&plane, 24_100..24_112, 3), [4, 4, 4]);
    // one is out for a while
    swap(&mut plane, &mut desired, &[1, 1, 0], &[1, 1, 0]);
    assert_eq!(proven(&plane, 24_112..24_120, 3), [4, 4, 0]);
    assert_eq!(known(&plane, &desired.rules[0], 2).0, 4, "its flows go on");
    swap(&mut plane, &mut desired, &[1, 1, 1], &[1, 1, 1]);
    assert_eq!(proven(&plane, 24_120..24_124, 3), [0, 0, 4]);
    // all end
    plane.age(400);
    plane.sweep();
    plane.sweep();
    assert_eq!((0..3).map(|index| known(&plane, &desired.rules[0], index).0).sum::<i64>(), 0);
    assert_eq!(proven(&plane, 24_130..24_136, 3), [2, 2, 2]);
}

/// As on the user plane: what counts is how many it would have.
#[test]
fn of_idle_ones_the_heaviest_comes_first() {
    let (plane, _) = plane(Balance::LeastConn, &[1, 3, 2]);
    for port in 24_200..24_206 {
        assert_eq!(first(&plane, (client(5), port), Protocol::Udp), Some(1));
    }
    assert_eq!(proven(&plane, 24_210..24_216, 3), [1, 3, 2]);
}

#[test]
fn equal_ones_take_turns() {
    let (plane, _) = plane(Balance::LeastConn, &[1; 10]);
    let mut chosen = vec![0; 10];
    // none of these is proven, so all stay equal
    for port in 25_000..25_100 {
        chosen[usize::from(first(&plane, (client(3), port), Protocol::Tcp).expect("a backend"))] += 1;
    }
    assert_eq!(chosen, [10; 10]);
}

/// Idle ones take turns, by weight.
#[test]
fn of_many_idle_ones_all_get_their_share() {
    let (plane, _) = plane(Balance::LeastConn, &[1; 100]);
    let mut chosen = vec![0; 100];
    for port in 26_000..26_400 {
        chosen[usize::from(first(&plane, (client(4), port), Protocol::Udp).expect("a backend"))] += 1;
    }
    assert_eq!(chosen, [4; 100]);
}

/// What they have is held against their weight: who is behind gets more than its turns.
#[test]
fn of_many_the_less_loaded_one_of_two_gets_it() {
    let weights = [1, 1, 2, 4, 8, 16, 1, 1, 2, 4];
    let (mut plane, mut desired) = plane(Balance::LeastConn, &weights);
    let flows = proven(&plane, 27_000..27_040, 10);
    let is_near = |(flows, weight): (&u32, u16)| flows.abs_diff(weight.into()) <= 1 + u32::from(weight) / 8;
    assert!(flows.iter().zip(weights).all(is_near), "{flows:?}");
    // the heaviest loses all
    let without = [1, 1, 2, 4, 8, 0, 1, 1, 2, 4];
    swap(&mut plane, &mut desired, &without, &without);
    plane.age(400);
    plane.sweep();
    plane.sweep();
    let others = proven(&plane, 27_100..27_124, 10);
    assert_eq!(others[5], 0, "{others:?}");
    swap(&mut plane, &mut desired, &weights, &weights);
    let flows = proven(&plane, 27_200..27_220, 10);
    assert!(flows[5] >= 10, "of 20, its turns being 8: {flows:?}");
}
