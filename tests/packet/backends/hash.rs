//! By the client's address: the same client always the same backend.

use std::collections::HashMap;

use relay::balance::Table;
use relay_common::balance::place_of;
use relay_common::net::{Address, ipv6_to_wire, mapped};

use super::*;

#[test]
fn a_client_keeps_its_backend() {
    let (plane, _) = plane(Balance::IpHash, &[1, 1, 1]);
    let mut seen = [false; 3];
    for number in 0..200 {
        let chosen = first(&plane, (client(number), 20_000), Protocol::Tcp).expect("a backend");
        seen[usize::from(chosen)] = true;
        for (port, protocol) in [(20_001, Protocol::Tcp), (20_000, Protocol::Udp), (20_002, Protocol::Udp)] {
            assert_eq!(
                first(&plane, (client(number), port), protocol),
                Some(chosen),
                "{number} {protocol:?}"
            );
        }
    }
    assert_eq!(seen, [true; 3]);
}

/// Both planes look into the same table in the same way.
#[test]
fn everybody_computes_the_same() {
    let weights = [4, 2, 1];
    let (plane, desired) = plane(Balance::IpHash, &weights);
    let names = &desired.rules[0].carried.as_ref().expect("carried").kernel.names;
    let table = Table::new(Balance::IpHash, &weights, |index| names[index].to_string());
    let wanted = |address: IpAddr| {
        let words = match address {
            IpAddr::V4(address) => mapped(Address::from(address)),
            IpAddr::V6(address) => ipv6_to_wire(address),
        };
        let place = place_of(&words, u32::try_from(table.places.len()).expect("a table"));
        Some(u8::try_from(table.places[place as usize]).expect("three backends"))
    };
    let mut shares = HashMap::<Option<u8>, u32>::new();
    for number in 0..700 {
        let address = client(number);
        let chosen = first(&plane, (address, 20_100), Protocol::Tcp);
        assert_eq!(chosen, wanted(address.into()), "{address}");
        *shares.entry(chosen).or_default() += 1;
    }
    assert!((340..=460).contains(&shares[&Some(0)]) && (65..=140).contains(&shares[&Some(2)]), "{shares:?}");
    for number in 0..50 {
        let address = Ipv6Addr::from(u128::from(CLIENT_V6) + (number << 64) + number);
        for (port, protocol) in [(20_101, Protocol::Tcp), (20_102, Protocol::Udp)] {
            assert_eq!(first_v6(&plane, (address, port), protocol), wanted(address.into()), "{address}");
        }
    }
}

#[test]
fn others_keep_theirs_when_one_goes() {
    let (mut plane, mut desired) = plane(Balance::IpHash, &[1, 1, 1]);
    let chosen = |plane: &Plane, port| -> Vec<u8> {
        let chosen = (0..300).map(|number| first(plane, (client(number), port), Protocol::Tcp));
        chosen.map(|chosen| chosen.expect("a backend")).collect()
    };
    let before = chosen(&plane, 20_200);
    swap(&mut plane, &mut desired, &[1, 0, 1], &[1, 0, 1]);
    let after = chosen(&plane, 20_201);
    assert!(after.iter().all(|chosen| *chosen != 1));
    let moved = before.iter().zip(&after).filter(|(before, after)| **before != 1 && before != after).count();
    assert!(moved <= 10, "{moved} of 300 without need");
}
