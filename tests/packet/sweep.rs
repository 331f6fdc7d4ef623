//! What is swept: halves of flows that have lost their other half, when they are silent, and never a live flow's; and
//! what ended rules have counted.

use std::net::Ipv4Addr;

use harness::packet::{ACK, Packet, Segment};
use harness::plane::{Plane, Table};
use harness::world::RELAY;
use relay::host::ClaimRange;
use relay::kernel::sweep::PAIRING;
use relay_common::flow::{FlowEntry, FlowFlags, FlowKey, Owner};
use relay_common::net::{Address, Port, Ports, Protocol};

use crate::conversation::{BACKEND_ISN, CLIENT_ISN, Conversation};
use crate::table::Gives::{Drop, Pass, Sends, SendsFast};
use crate::table::row;
use crate::{WEB, plane};

type Half = (FlowKey, FlowEntry);

/// The key of a packet as it arrives.
fn key(packet: &Packet) -> FlowKey {
    let (source, destination) = packet.ports();
    let ports = Ports::new(Port::new(source), Port::new(destination));
    let protocol = Protocol::from_number(packet.protocol).expect("TCP or UDP");
    FlowKey::new(Address::from(packet.source), Address::from(packet.destination), ports, protocol)
}

/// A live TCP flow: its conversation, its client half, its backend half.
fn flow(plane: &Plane, client_port: u16) -> (Conversation, Half, Half) {
    let mut talk = Conversation::usual(client_port);
    talk.establish(plane, plane.client, plane.backend);
    let half = |packet: &Packet| {
        let found = plane.flows().find(|(_, known, _)| *known == key(packet));
        let (table, key, half) = found.expect("half of a flow");
        assert_eq!(table, Table::Tcp);
        (key, half)
    };
    let segment = Segment::flags(ACK);
    (talk, half(&talk.client_tcp(&segment)), half(&talk.backend_tcp(&segment)))
}

/// The only ports that flows may claim.
fn claim(plane: &mut Plane, first: u16, last: u16) {
    plane.claims = ClaimRange { first, last };
    plane.apply(WEB, &[]);
}

/// Every live half was last seen ten ticks ago.
fn grow_old(plane: &mut Plane) {
    let live: Vec<_> = plane.flows().filter(|(table, ..)| *table == Table::Tcp).collect();
    for (table, key, mut half) in live {
        half.seen = half.seen.wrapping_sub(10);
        plane.put(table, &key, &half);
    }
}

/// Rounds enough to look for lone halves once and to delete them; returns how many went.
fn sweep(plane: &mut Plane) -> u64 {
    (0..=PAIRING).map(|_| plane.sweep().deleted).sum()
}

fn is_live(plane: &Plane, half: &Half) -> bool {
    plane.flows().any(|(table, key, _)| table == Table::Tcp && key == half.0)
}

#[test]
fn a_half_alone_gives_its_port_up() {
    let mut plane = plane(WEB);
    claim(&mut plane, 5000, 5001);
    let (_, client, backend) = flow(&plane, 44_000);
    let (_, lone_client, claimed) = flow(&plane, 44_001);
    plane.take_out(Table::Tcp, &lone_client.0);
    grow_old(&mut plane);
    let syn = Conversation::usual(44_002).client_tcp(&Segment::flags(harness::packet::SYN));
    row(&plane, "both ports are taken", plane.client, &syn, Drop, "web: ports_exhausted 1");
    assert_eq!(sweep(&mut plane), 1);
    assert!(!is_live(&plane, &claimed));
    assert!(
        is_live(&plane, &client) && is_live(&plane, &backend),
        "one that is whole may be silent for long"
    );
    let (_, _, again) = flow(&plane, 44_002);
    assert_eq!(again.0, claimed.0, "the port has gone to another client");
    // the other half alone has no claim, but stands in its client's way
    plane.take_out(Table::Tcp, &again.0);
    grow_old(&mut plane);
    assert_eq!(sweep(&mut plane), 1);
    flow(&plane, 44_002);
}

/// A flow that closes or is proven is in two tables for a moment, half by half.
#[test]
fn a_flow_between_two_tables_stays() {
    let mut plane = plane(WEB);
    let (_, client, backend) = flow(&plane, 44_010);
    plane.put(Table::Unproven, &client.0, &client.1);
    plane.take_out(Table::Tcp, &client.0);
    grow_old(&mut plane);
    assert_eq!(sweep(&mut plane), 0);
    assert!(is_live(&plane, &backend));
    plane.take_out(Table::Unproven, &client.0);
    assert_eq!(sweep(&mut plane), 1);
    assert!(!is_live(&plane, &backend));
}

/// Its client's and its backend's place may belong to others by now, who lose nothing.
#[test]
fn a_place_that_another_flow_has_taken_is_left_to_it() {
    let mut plane = plane(WEB);
    let (_, client, backend) = flow(&plane, 44_020);
    let stranger = key(&Conversation::usual(44_021).client_tcp(&Segment::flags(ACK)));
    let owner = Owner { rule: client.1.rule(), generation: client.1.generation, endpoint: 0 };
    let flags = client.1.flags();
    let stale =
        FlowEntry::new(&stranger, client.1.translation(), owner, client.1.hop(), flags, client.1.seen);
    assert!(stale.opposite(Protocol::Tcp) == backend.0);
    plane.put(Table::Tcp, &stranger, &stale);
    grow_old(&mut plane);
    assert_eq!(sweep(&mut plane), 1);
    assert!(!is_live(&plane, &(stranger, stale)));
    assert!(is_live(&plane, &client) && is_live(&plane, &backend));
}

/// As long as somebody sends, nothing is taken away, the mark of an earlier round or not.
#[test]
fn a_half_that_is_used_stays() {
    let mut plane = plane(WEB);
    let (talk, client, backend) = flow(&plane, 44_030);
    plane.take_out(Table::Tcp, &backend.0);
    grow_old(&mut plane);
    let is_marked = |plane: &Plane| {
        plane.flows().any(|(_, key, half)| key == client.0 && half.flags().has(FlowFlags::DYING))
    };
    for _ in 0..PAIRING {
        if !is_marked(&plane) {
            plane.sweep();
        }
    }
    assert!(is_marked(&plane));
    let segment = Segment::flags(ACK).at(CLIENT_ISN + 1, BACKEND_ISN.wrapping_add(1)).carrying(b"data");
    let data = talk.client_tcp(&segment);
    row(&plane, "it lives", plane.client, &data, Sends(&talk.to_backend(&data)), "web: in 1/44");
    assert_eq!(plane.sweep().deleted, 0, "the round after the mark");
    assert!(is_live(&plane, &client));
    grow_old(&mut plane);
    assert_eq!(sweep(&mut plane), 1);
    assert!(!is_live(&plane, &client));
}

/// There is room for so many reasons of so many rules only.
#[test]
fn what_an_ended_rule_has_dropped_is_forgotten() {
    let mut plane = plane(WEB);
    plane.apply(WEB, &["web"]);
    let packet = Conversation::usual(44_040).client_udp(b"too late");
    row(&plane, "draining", plane.client, &packet, Drop, "web: draining 1");
    plane.apply("", &[]);
    assert_eq!(plane.counts().ended_rules(), 1, "its flows may yet be refused");
    let resting = plane.dataplane.resting();
    plane.dataplane.free_slots(&resting).expect("free slots");
    assert_eq!(plane.counts().ended_rules(), 0);
}

/// Of both tables, and of the one rule alone: another may go to the same backend.
#[test]
fn flows_end_with_their_backend_where_the_rule_wants_it() {
    let rules = |backend: &str, more: &str| {
        let kept = WEB.replace("web", "kept").replace("8080", "8081");
        [&WEB.replace("203.0.113.2", backend), "on_down = \"reset\"\n", more, &kept].concat()
    };
    let limit = "limit = { connections = 1 }\n";
    let mut plane = plane(&rules("203.0.113.2", limit));
    let mut unproven = Conversation::usual(44_051);
    unproven.open(&plane, plane.client, &unproven.client_udp(b"hello"));
    let (talk, goes, claim) = flow(&plane, 44_050);
    let mut stays = Conversation { listener: (RELAY, 8081), ..Conversation::usual(44_052) };
    stays.establish(&plane, plane.client, plane.backend);
    assert_eq!(plane.sweep().deleted, 0);
    plane.apply(&rules("203.0.113.3", limit), &[]);
    let census = plane.sweep();
    assert_eq!((census.deleted, census.gone.into_values().collect::<Vec<_>>()), (2, vec![2]));
    assert!(!is_live(&plane, &goes) && !is_live(&plane, &claim));
    assert_eq!(plane.sweep().deleted, 0);
    let segment = Segment::flags(ACK).at(CLIENT_ISN + 1, BACKEND_ISN.wrapping_add(1));
    row(&plane, "the stack's", plane.client, &talk.client_tcp(&segment), Pass, "web: in 1/40");
    let packet = stays.client_tcp(&segment);
    row(&plane, "kept", plane.client, &packet, SendsFast(&stays.to_backend(&packet)), "kept: in 1/40");
    // the place of the one that went is free, and the new address has it
    let backend = (Ipv4Addr::new(203, 0, 113, 3), 80);
    let mut again = Conversation { backend, ..Conversation::usual(44_050) };
    again.establish(&plane, plane.client, plane.backend);
    plane.apply(&rules("203.0.113.3", ""), &[]);
    assert_eq!(plane.sweep().deleted, 0);
}
