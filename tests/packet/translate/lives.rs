//! Flows with IPv6 on a leg from their opening to their end: swept, limited, drained, switched off, without their backend.

use std::net::SocketAddr;

use harness::packet::{ACK, FIN, SYN, Segment};
use harness::plane::{Plane, Table};
use relay::kernel::sweep::PAIRING;
use relay_common::flow::FlowFlags;

use super::talk::{Pair, Talk, drops, passes, sends};
use crate::conversation::{BACKEND_ISN, CLIENT_ISN};
use crate::{Held, plane};

/// Rounds enough to look for lone halves once and to delete them; returns how many went.
fn sweep(plane: &mut Plane) -> u64 {
    (0..=PAIRING).map(|_| plane.sweep().deleted).sum()
}

fn halves(plane: &Plane, table: Table) -> usize {
    plane.flows().filter(|(found, ..)| *found == table).count()
}

/// Takes one half of the only flow out of a table.
fn take_half(plane: &mut Held, table: Table, egress: bool) {
    let found =
        plane.flows().find(|(at, _, half)| *at == table && half.flags().has(FlowFlags::EGRESS) == egress);
    let (_, key, _) = found.expect("half of a flow");
    plane.take_out(table, &key);
}

/// A first datagram is let in.
#[track_caller]
fn let_in(plane: &Plane, mut talk: Talk) {
    talk.open(plane, plane.client, &talk.client_udp(b"hello"));
}

#[track_caller]
fn refused(plane: &Plane, talk: Talk, why: &str) {
    let (what, change) = (format!("{talk:?}"), format!("web: {why} 1"));
    drops(plane, &what, plane.client, &talk.client_udp(b"hello"), &change);
    drops(plane, &what, plane.client, &talk.client_tcp(&Segment::flags(SYN)), &change);
}

/// Another client of the pair's family.
fn from(pair: Pair, address: (&str, &str), port: u16) -> Talk {
    let address = if pair.client_is_v6() { address.0 } else { address.1 };
    Talk { client: SocketAddr::new(address.parse().expect(address), port), ..pair.talk(0) }
}

const STRANGER: (&str, &str) = ("2001:db8:77::1", "192.0.2.77");
const USUAL: (&str, &str) = ("2001:db8:1::2", "198.51.100.2");

#[test]
fn silent_flows_are_swept_and_live_ones_are_not() {
    for pair in Pair::ALL {
        let times = "timeout = { udp = \"5s\", tcp_idle = \"5s\" }\n";
        let mut plane = plane(&(pair.rules() + times));
        for port in 55_000..55_005 {
            pair.talk(port).prove(&plane, plane.backend);
            pair.talk(port).establish(&plane, plane.backend);
        }
        assert_eq!((sweep(&mut plane), halves(&plane, Table::Tcp)), (0, 10), "{pair:?}");
        plane.age(60);
        plane.sweep();
        assert_eq!(plane.sweep().deleted, 10, "{pair:?}");
        assert_eq!(plane.flows().count(), 0, "{pair:?}");
    }
}

#[test]
fn a_half_alone_goes() {
    for pair in Pair::ALL {
        for egress in [false, true] {
            let mut plane = plane(&pair.rules());
            pair.talk(55_010).establish(&plane, plane.backend);
            plane.age(10);
            assert_eq!(sweep(&mut plane), 0, "{pair:?}: one that is whole may be silent for long");
            take_half(&mut plane, Table::Tcp, egress);
            assert_eq!(sweep(&mut plane), 1, "{pair:?}, without egress: {egress}");
            assert_eq!(plane.flows().count(), 0);
        }
    }
}

/// The table of unproven flows evicts one half without the other: the client's next packet makes it anew.
#[test]
fn a_lost_backend_half_is_made_anew() {
    for pair in Pair::ALL {
        let mut plane = plane(&pair.rules());
        let mut talk = pair.talk(55_020);
        let syn = talk.client_tcp(&Segment::flags(SYN).at(CLIENT_ISN, 0));
        talk.open(&plane, plane.client, &syn);
        take_half(&mut plane, Table::Unproven, true);
        let change = format!("web: in 1/{}; unproven +1", pair.head() + 20);
        sends(&plane, &format!("{pair:?}"), plane.client, &syn, &talk.to_backend(&syn), &change);
        let syn_ack = talk.backend_tcp(&Segment::flags(SYN | ACK).at(BACKEND_ISN, CLIENT_ISN + 1));
        let change = format!("web: out 1/{}", pair.head() + 20);
        sends(
            &plane,
            &format!("{pair:?}: answer"),
            plane.backend,
            &syn_ack,
            &talk.to_client(&syn_ack),
            &change,
        );
        let ack = talk.client_tcp(&Segment::flags(ACK).at(CLIENT_ISN + 1, BACKEND_ISN.wrapping_add(1)));
        let change = format!("web: in 1/{}; tcp +2; unproven -2", pair.head() + 20);
        sends(&plane, &format!("{pair:?}: proof"), plane.client, &ack, &talk.to_backend(&ack), &change);
    }
}

/// An IPv6 client's half alone does not say whose it is; it goes with its rule all the same, and by a new list.
#[test]
fn a_client_half_alone_goes_with_its_rule() {
    for pair in Pair::ALL {
        let list = |networks| format!("{}accept = {{ allow = [{networks}] }}\n", pair.rules());
        for after in [String::new(), list("\"2001:db8:9::/48\", \"192.0.2.0/24\"")] {
            let mut plane = plane(&list("\"2001:db8::/32\", \"198.51.100.0/24\""));
            let_in(&plane, pair.talk(55_025));
            assert_eq!(sweep(&mut plane), 0, "{pair:?}: who is on the list");
            take_half(&mut plane, Table::Unproven, true);
            assert_eq!((sweep(&mut plane), plane.flows().count()), (0, 1), "{pair:?}");
            plane.apply(&after, &[]);
            assert_eq!((sweep(&mut plane), plane.flows().count()), (1, 0), "{pair:?}: {after}");
        }
    }
}

#[test]
fn only_who_is_on_the_list_is_let_in_and_stays() {
    for pair in Pair::ALL {
        let list = |networks: &str| format!("{}accept = {{ allow = [{networks}] }}\n", pair.rules());
        let usual = "\"2001:db8:1::/64\", \"198.51.100.0/24\"";
        let mut plane = plane(&list(&format!("{usual}, \"2001:db8:77::1\", \"192.0.2.77\"")));
        let (mut stays, mut goes) = (from(pair, USUAL, 55_030), from(pair, STRANGER, 55_031));
        stays.prove(&plane, plane.backend);
        goes.establish(&plane, plane.backend);
        let_in(&plane, from(pair, STRANGER, 55_032));
        refused(&plane, from(pair, ("2001:db8:77::2", "192.0.2.78"), 55_033), "not_allowed");
        refused(&plane, from(pair, ("2001:db8:1:1::2", "198.51.101.2"), 55_033), "not_allowed");
        assert_eq!(sweep(&mut plane), 0, "{pair:?}");
        plane.apply(&list(usual), &[]);
        refused(&plane, from(pair, STRANGER, 55_034), "not_allowed");
        assert_eq!(sweep(&mut plane), 2, "{pair:?}: the list is newer than the flows");
        let packet = stays.client_udp(b"still here");
        let change = format!("web: in 1/{}", pair.head() + 18);
        sends(&plane, "stays", plane.client, &packet, &stays.to_backend(&packet), &change);
        let segment = goes.client_tcp(&Segment::flags(ACK).at(CLIENT_ISN + 1, BACKEND_ISN.wrapping_add(1)));
        passes(&plane, "goes", plane.client, &segment, &format!("web: in 1/{}", pair.head() + 20));
    }
}

/// FINs both ways, and the last acknowledgment.
#[track_caller]
fn finish(plane: &Plane, talk: &Talk, pair: Pair) {
    let (client, backend) = (CLIENT_ISN + 1, BACKEND_ISN.wrapping_add(1));
    let bytes = pair.head() + 20;
    let fin = talk.client_tcp(&Segment::flags(FIN | ACK).at(client, backend));
    sends(plane, "FIN", plane.client, &fin, &talk.to_backend(&fin), &format!("web: in 1/{bytes}"));
    let fin = talk.backend_tcp(&Segment::flags(FIN | ACK).at(backend, client + 1));
    sends(plane, "FIN back", plane.backend, &fin, &talk.to_client(&fin), &format!("web: out 1/{bytes}"));
    let ack = talk.client_tcp(&Segment::flags(ACK).at(client + 1, backend.wrapping_add(1)));
    let change = format!("web: in 1/{bytes}; tcp -2; unproven +2");
    sends(plane, "the last ACK", plane.client, &ack, &talk.to_backend(&ack), &change);
}

/// An IPv6 client is its /64: whoever has one has all of its addresses.
#[test]
fn each_client_has_a_limit_of_its_own() {
    for pair in Pair::ALL {
        let mut plane = plane(&format!("{}limit = {{ connections_per_ip = 2 }}\n", pair.rules()));
        from(pair, USUAL, 55_040).prove(&plane, plane.backend);
        let mut tcp = from(pair, ("2001:db8:1::3", USUAL.1), 55_041);
        tcp.establish(&plane, plane.backend);
        refused(&plane, from(pair, USUAL, 55_042), "limit_connections_per_ip");
        refused(&plane, from(pair, ("2001:db8:1::4", USUAL.1), 55_043), "limit_connections_per_ip");
        from(pair, STRANGER, 55_044).prove(&plane, plane.backend);
        finish(&plane, &tcp, pair);
        from(pair, USUAL, 55_045).prove(&plane, plane.backend);
        refused(&plane, from(pair, USUAL, 55_046), "limit_connections_per_ip");
        // places of swept flows are free
        plane.age(100_000);
        plane.sweep();
        assert!(plane.sweep().deleted > 0, "{pair:?}");
        from(pair, USUAL, 55_047).prove(&plane, plane.backend);
        from(pair, USUAL, 55_048).prove(&plane, plane.backend);
        refused(&plane, from(pair, USUAL, 55_049), "limit_connections_per_ip");
    }
}

#[test]
fn a_rule_that_drains_and_one_that_is_switched_off() {
    for pair in Pair::ALL {
        let mut plane = plane(&pair.rules());
        let (mut udp, mut tcp) = (pair.talk(55_050), pair.talk(55_051));
        udp.prove(&plane, plane.backend);
        tcp.establish(&plane, plane.backend);
        plane.apply(&pair.rules(), &["web"]);
        let (datagram, syn) =
            (pair.talk(55_052).client_udp(b"late"), pair.talk(55_052).client_tcp(&Segment::flags(SYN)));
        drops(&plane, "a new datagram", plane.client, &datagram, "web: draining 1");
        passes(&plane, "a new SYN", plane.client, &syn, &format!("web: in 1/{}", pair.head() + 20));
        let (packet, change) = (udp.client_udp(b"there"), format!("web: in 1/{}", pair.head() + 13));
        sends(&plane, "who is in stays in", plane.client, &packet, &udp.to_backend(&packet), &change);
        assert_eq!(sweep(&mut plane), 0, "{pair:?}");
        plane.apply(&format!("{}enabled = false\n", pair.rules()), &[]);
        assert_eq!(sweep(&mut plane), 2, "{pair:?}: switched off");
        passes(&plane, "is the stack's", plane.client, &udp.client_udp(b"there"), "");
        passes(&plane, "is the stack's", plane.client, &syn, "");
    }
}

/// Of both tables, and of the one rule alone.
#[test]
fn flows_end_with_their_backend() {
    for pair in Pair::ALL {
        let other = if pair.backend_is_v6() { "2001:db8:2::3" } else { "203.0.113.3" };
        let usual = pair.talk(0).backend.ip();
        let rules = |backend| {
            let kept = pair.rules().replace("web", "kept").replace("8080", "8081");
            [&pair.rules_to(backend), "on_down = \"reset\"\n", &kept].concat()
        };
        let mut plane = plane(&rules(usual));
        let_in(&plane, pair.talk(55_060));
        let (mut goes, mut stays) = (pair.talk(55_061), pair.talk(55_062));
        goes.establish(&plane, plane.backend);
        stays.listener.set_port(8081);
        stays.prove(&plane, plane.backend);
        assert_eq!(sweep(&mut plane), 0, "{pair:?}");
        plane.apply(&rules(other.parse().expect(other)), &[]);
        let census = plane.sweep();
        assert_eq!((census.deleted, census.gone.into_values().collect::<Vec<_>>()), (2, vec![2]), "{pair:?}");
        let segment = goes.client_tcp(&Segment::flags(ACK).at(CLIENT_ISN + 1, BACKEND_ISN.wrapping_add(1)));
        passes(&plane, "the stack's", plane.client, &segment, &format!("web: in 1/{}", pair.head() + 20));
        let (packet, change) = (stays.client_udp(b"kept"), format!("kept: in 1/{}", pair.head() + 12));
        sends(&plane, "kept", plane.client, &packet, &stays.to_backend(&packet), &change);
    }
}
