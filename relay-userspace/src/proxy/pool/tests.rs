//! Who is chosen, in what order others follow, what is counted and told.

use std::collections::HashMap;
use std::net::Ipv4Addr;

use relay_common::balance::{Load, place_at, place_beside, place_of};
use relay_common::net::mapped;
use tokio::sync::mpsc::unbounded_channel;

use super::*;
use crate::balance::Table;
use crate::rule::{Destination, Staying};

const CLIENT: IpAddr = IpAddr::V4(Ipv4Addr::new(192, 0, 2, 7));

fn end(name: &str, weight: u16, priority: u16) -> End {
    End { name: name.into(), addresses: [CLIENT].into(), first_port: None, weight, priority }
}

fn weights(list: &[u16]) -> Arc<Weights> {
    Arc::new(Weights { tcp: list.into(), udp: list.into(), ..Weights::default() })
}

fn pool() -> Pool {
    Pool::new(RuleName::parse("web").expect("name"))
}

fn client(number: u32) -> IpAddr {
    Ipv4Addr::from_bits(0x0a00_0000 + number).into()
}

fn order(ends: &Ends, client: IpAddr) -> Vec<usize> {
    ends.candidates(Protocol::Tcp, client, &Gate::default()).collect()
}

#[test]
fn turns_go_by_weight_and_each_protocol_has_its_own() {
    let ends = [end("a", 4, 0), end("b", 2, 0), end("c", 1, 0)];
    let ends = pool().follow(&ends, Balance::RoundRobin, &weights(&[4, 2, 1]));
    let round = |protocol| [(); 7].map(|()| ends.choose(protocol, CLIENT).expect("one"));
    assert_eq!(round(Protocol::Tcp), [0, 1, 0, 2, 0, 1, 0]);
    assert_eq!(round(Protocol::Tcp), [0, 1, 0, 2, 0, 1, 0]);
    assert_eq!(round(Protocol::Udp), [0, 1, 0, 2, 0, 1, 0]);
}

#[test]
fn a_client_keeps_its_backend_and_it_is_the_one_of_the_kernel() {
    let list = ["a", "b", "c"].map(|name| end(name, 1, 0));
    let ends = pool().follow(&list, Balance::IpHash, &weights(&[1, 1, 1]));
    let table = Table::new(Balance::IpHash, &[1, 1, 1], |index| list[index].name.to_string());
    let mut seen = HashMap::new();
    for number in 0..1000 {
        let IpAddr::V4(address) = client(number) else { unreachable!() };
        let place = place_of(&mapped(address.into()), u32::try_from(table.places.len()).expect("places"));
        let kernels = usize::from(table.places[place as usize]);
        for client in [IpAddr::V4(address), IpAddr::V6(address.to_ipv6_mapped())] {
            assert_eq!(ends.choose(Protocol::Tcp, client), Some(kernels));
            let order = order(&ends, client);
            assert_eq!((order[0], order.len()), (kernels, 3));
            seen.entry(kernels).or_insert_with(Vec::new).push(order[1]);
        }
    }
    let are_spread = |nexts: &Vec<usize>| nexts.iter().any(|next| *next != nexts[0]);
    assert!(seen.len() == 3 && seen.values().all(are_spread), "clients of one that fails go to both others");
}

#[test]
fn the_least_loaded_for_its_weight_is_chosen_and_equals_take_turns() {
    let list = [end("a", 2, 0), end("b", 1, 0)];
    let pool = pool();
    let ends = pool.follow(&list, Balance::LeastConn, &weights(&[2, 1]));
    let lease = || {
        let index = ends.choose(Protocol::Tcp, CLIENT).expect("one");
        ends.lease(Protocol::Tcp, index)
    };
    let mut leases: Vec<Lease> = (0..9).map(|_| lease()).collect();
    let active = || pool.tallies().iter().map(|tallied| tallied.tcp.active).collect::<Vec<_>>();
    assert_eq!(active(), [6, 3]);
    leases.retain(|lease| lease.index() == 1);
    assert_eq!(active(), [0, 3], "given back");
    assert!((0..4).map(|_| lease()).all(|lease| lease.index() == 0));
    drop(leases);
    pool.reweigh(&weights(&[1, 1]));
    let first = |_| ends.choose(Protocol::Tcp, CLIENT).expect("one");
    let firsts: Vec<usize> = (0..4).map(first).collect();
    assert!(firsts.contains(&0) && firsts.contains(&1), "{firsts:?}");
}

/// With the arithmetic of the programs.
#[test]
fn of_many_two_are_compared_and_all_the_others_follow() {
    let of = [2, 1, 1, 1, 1, 4];
    let list: Vec<End> =
        ["a", "b", "c", "d", "e", "f"].iter().zip(of).map(|(name, weight)| end(name, weight, 0)).collect();
    let ends = pool().follow(&list, Balance::LeastConn, &weights(&of));
    let table = Table::new(Balance::LeastConn, &of, |index| list[index].name.to_string());
    let count = u32::try_from(table.places.len()).expect("places");
    let mut leases = Vec::new();
    let mut flows = [0i64; 6];
    for turn in 0..200 {
        let [one, other] = [place_at(turn, count), place_beside(turn, count)]
            .map(|place| usize::from(table.places[place as usize]));
        let load = |index: usize| Load::new(flows[index], of[index].into(), count);
        let meant = if load(other).against(load(one)) < 0 { other } else { one };
        assert_eq!(ends.choose(Protocol::Tcp, CLIENT), Some(meant), "turn {turn}");
        leases.push(ends.lease(Protocol::Tcp, meant));
        flows[meant] += 1;
    }
    let is_near = |(flows, weight): (&i64, u16)| (flows - 20 * i64::from(weight)).abs() <= 3;
    assert!(flows.iter().zip(of).all(is_near), "{flows:?}");
    let mut order = order(&ends, CLIENT);
    order.sort_unstable();
    assert_eq!(order, [0, 1, 2, 3, 4, 5]);
}

#[test]
fn others_follow_tier_by_tier_and_who_is_passed_over_is_last() {
    let list = [end("spare", 1, 2), end("down", 1, 0), end("up", 1, 0), end("off", 0, 0), end("next", 1, 1)];
    let pool = pool();
    let ends = pool.follow(&list, Balance::RoundRobin, &weights(&[0, 0, 1, 0, 0]));
    assert_eq!(order(&ends, CLIENT), [2, 4, 0, 1]);
    pool.reweigh(&weights(&[0, 1, 1, 0, 0]));
    assert_eq!(order(&ends, CLIENT)[2..], [4, 0]);
    pool.reweigh(&weights(&[0; 5]));
    assert_eq!(order(&ends, CLIENT), [1, 2, 4, 0], "nobody's turn: all as configured");
    assert_eq!(ends.choose(Protocol::Tcp, CLIENT), None);
    let gate = Gate::default();
    let left = ends.candidates(Protocol::Tcp, CLIENT, &gate).without(vec![1, 4]);
    assert_eq!(left.collect::<Vec<_>>(), [2, 0]);
    let is_there_another = |tried: &[usize]| ends.is_there_another(tried, Protocol::Tcp, &gate);
    assert!(is_there_another(&[0, 1, 2]) && !is_there_another(&[0, 1, 2, 4]));
}

/// With `on_down = "reset"`.
#[test]
fn who_would_not_keep_a_session_is_not_in_reserve() {
    // at one address
    let at = |name, port| End { first_port: Some(port), ..end(name, 1, 0) };
    let ends = pool().follow(&[at("down", 81), at("up", 80)], Balance::RoundRobin, &weights(&[0, 1]));
    let [up, down] = [80, 81].map(|port| Destination::at((CLIENT, port).into()));
    let staying = Staying { tcp: [up].into(), udp: [up, down].into() };
    let gate = Gate::default();
    gate.lead_to(Some(Arc::new(staying)));
    let order = |protocol| ends.candidates(protocol, CLIENT, &gate).collect::<Vec<_>>();
    assert_eq!((order(Protocol::Tcp), order(Protocol::Udp)), (vec![1], vec![1, 0]));
    let others = [Protocol::Tcp, Protocol::Udp].map(|protocol| ends.is_there_another(&[1], protocol, &gate));
    assert_eq!(others, [false, true]);
}

#[test]
fn the_first_one_is_followed_by_those_behind_it() {
    let list = ["a", "b", "c"].map(|name| end(name, 1, 0));
    let ends = pool().follow(&list, Balance::First, &weights(&[0, 1, 0]));
    assert_eq!(order(&ends, CLIENT), [1, 2, 0]);
}

#[test]
fn who_has_no_address_is_left_out() {
    let nowhere = End { addresses: Arc::default(), ..end("nowhere", 1, 0) };
    let ends = pool().follow(&[nowhere, end("b", 1, 0)], Balance::RoundRobin, &weights(&[1, 1]));
    assert_eq!([order(&ends, CLIENT), order(&ends, CLIENT)], [[1], [1]]);
}

#[test]
fn who_stays_keeps_its_tally_wherever_it_stands() {
    let pool = pool();
    let ends = pool.follow(&[end("a", 1, 0), end("b", 1, 0)], Balance::RoundRobin, &weights(&[1, 1]));
    let old = ends.lease(Protocol::Udp, 1);
    old.begin();
    old.answer();
    let ends = pool.follow(&[end("b", 2, 0), end("c", 1, 0)], Balance::LeastConn, &weights(&[2, 1]));
    let new = ends.lease(Protocol::Udp, 0);
    let [b, c] = &pool.tallies()[..] else { panic!("two backends") };
    assert_eq!((&*b.name, b.udp), ("b", Numbers { active: 2, total: 1, answered: 1, failed: 0 }));
    assert_eq!((&*c.name, c.udp, c.tcp), ("c", Numbers::default(), Numbers::default()));
    drop((old, new));
    assert_eq!(pool.tallies()[0].udp.active, 0);
}

#[test]
fn weights_that_come_later_hold_for_targets_of_before() {
    let pool = pool();
    let list = [end("a", 1, 0), end("b", 1, 0)];
    let ends = pool.follow(&list, Balance::RoundRobin, &weights(&[1, 0]));
    pool.reweigh(&Arc::new(Weights { tcp: [0, 1].into(), udp: [1, 0].into(), ..Weights::default() }));
    assert_eq!(ends.choose(Protocol::Tcp, CLIENT), Some(1));
    assert_eq!(ends.choose(Protocol::Udp, CLIENT), Some(0));
    // addresses that change leave the choice alone
    let moved = [end("a", 1, 0), End { addresses: Arc::default(), ..end("b", 1, 0) }];
    let later = pool.follow(&moved, Balance::RoundRobin, &weights(&[1, 0]));
    assert_eq!((ends.choose(Protocol::Tcp, CLIENT), later.choose(Protocol::Tcp, CLIENT)), (Some(0), Some(0)));
    // as many as there are, whatever a change has come to meanwhile
    pool.reweigh(&weights(&[0, 0, 7]));
    assert_eq!(later.choose(Protocol::Tcp, CLIENT), None);
}

#[test]
fn failures_are_counted_all_and_told_now_and_then() {
    let (pool, (failures, mut told)) = (pool(), unbounded_channel());
    pool.tell(failures);
    let ends = pool.follow(&[end("a", 1, 0), end("b", 1, 0)], Balance::RoundRobin, &weights(&[1, 1]));
    for _ in 0..100 {
        ends.lease(Protocol::Tcp, 1).fail(Signal::Refused);
    }
    ends.lease(Protocol::Udp, 1).fail(Signal::Unreachable);
    assert_eq!((pool.tallies()[1].tcp.failed, pool.tallies()[1].udp.failed), (100, 1));
    let told: Vec<Failure> = std::iter::from_fn(|| told.try_recv().ok()).collect();
    let first = Failure {
        rule: RuleName::parse("web").expect("name"),
        backend: "b".into(),
        protocol: Protocol::Tcp,
        signal: Signal::Refused,
    };
    assert_eq!(told[0], first);
    let udp = Failure { protocol: Protocol::Udp, signal: Signal::Unreachable, ..first };
    // a slow machine may have taken more than the pause
    assert!(told.len() < 50 && told.last() == Some(&udp), "{told:?}");
}

#[test]
fn a_connection_that_is_broken_off_at_once_was_no_answer() {
    let pool = pool();
    let ends = pool.follow(&[end("a", 1, 0)], Balance::RoundRobin, &weights(&[1]));
    let lease = ends.lease(Protocol::Tcp, 0);
    lease.begin();
    lease.answer();
    lease.fail(Signal::Reset);
    assert_eq!(pool.tallies()[0].tcp, Numbers { active: 1, total: 1, answered: 0, failed: 1 });
}

#[test]
fn a_port_leads_to_the_one_as_far_from_the_start() {
    let shifted = End { first_port: Some(9000), ..end("a", 1, 0) };
    assert_eq!([shifted.port(80, 80), shifted.port(80, 85), end("b", 1, 0).port(80, 85)], [9000, 9005, 85]);
}
