//! Clients and backends of different address families: the kernel plane beside itself with IPv4 alone, beside realm's engine, which
//! does it with sockets, and beside nftables, which does not do it.

use std::net::{IpAddr, SocketAddr};

use harness::World;
use harness::lab::Attached;
use harness::world::{RELAY, RELAY_V6};

use crate::contender::{Contender, Kind};
use crate::figures::{Options, Series, table};
use crate::load::{WARM_UP, busy, connects};
use crate::peer::{self, Peer};
use crate::{bulk, packets};

const UDP_FLOWS: u32 = 1000;
const BASES: [&str; 3] = [IPV4, "realm, IPv6 to IPv4", "nftables, IPv4"];
const IPV4: &str = "relay, IPv4";

/// Who forwards.
enum Forwarder {
    Kernel(Box<Contender>),
    Daemon(Box<Peer>),
}

/// One of them, by name.
struct Row {
    name: &'static str,
    forwarder: Forwarder,
}

impl Row {
    fn relay(name: &'static str, listener: IpAddr, backend: &str) -> Self {
        let rule = format!("[[rule]]\nname = \"bench\"\nlisten = \":8080\"\nto = \"{backend}\"\n");
        let mut contender = Contender::with_rules(Kind::RelayTc, &rule);
        contender.target = SocketAddr::new(listener, 8080);
        Self { name, forwarder: Forwarder::Kernel(Box::new(contender)) }
    }

    fn all() -> Vec<Self> {
        let (v4, v6) = (IpAddr::from(RELAY), IpAddr::from(RELAY_V6));
        let rows = vec![
            Self::relay(IPV4, v4, "203.0.113.2:80"),
            Self::relay("relay, IPv6 to IPv4", v6, "203.0.113.2:80"),
            Self::relay("relay, IPv4 to IPv6", v4, "[2001:db8:2::2]:80"),
            Self::relay("relay, IPv6", v6, "[2001:db8:2::2]:80"),
            Self {
                name: "realm, IPv6 to IPv4",
                forwarder: Forwarder::Daemon(Box::new(Peer::new(peer::Kind::RealmV6))),
            },
            Self {
                name: "nftables, IPv4",
                forwarder: Forwarder::Kernel(Box::new(Contender::new(Kind::Nftables))),
            },
        ];
        rows.iter().for_each(|row| peer::prepare(row.world()));
        rows
    }

    fn world(&self) -> &World {
        match &self.forwarder {
            Forwarder::Kernel(contender) => &contender.world,
            Forwarder::Daemon(peer) => &peer.world,
        }
    }

    const fn target(&self) -> SocketAddr {
        match &self.forwarder {
            Forwarder::Kernel(contender) => contender.target,
            Forwarder::Daemon(peer) => peer.target,
        }
    }
}

pub fn run(options: &Options) {
    let rows = Row::all();
    for streams in [1, 16] {
        let title = format!("bulk TCP, {streams} streams");
        in_turns(options.rounds, &rows, &title, "Gbit/s", |row| {
            bulk::measure(row.world(), row.target(), streams).0
        });
    }
    in_turns(options.rounds, &rows, "connect, request, close", "per second", |row| {
        connects::measure(row.world(), row.target(), WARM_UP, busy).per_second
    });
    in_turns(options.rounds, &rows, "64-byte UDP frames one way", "million packets/s", |row| {
        let counter = Attached::xdp(&row.world().backend, "backend", "lab_count");
        let rate = packets::flood(row.world(), row.target(), &counter, UDP_FLOWS);
        row.world().accept_checksum_errors();
        rate / 1e6
    });
}

fn in_turns(rounds: usize, rows: &[Row], title: &str, unit: &str, measure: impl Fn(&Row) -> f64) {
    let mut series: Vec<(String, Series)> =
        rows.iter().map(|row| (row.name.to_owned(), Series::default())).collect();
    for _ in 0..rounds {
        for (row, (_, series)) in rows.iter().zip(&mut series) {
            series.0.push(measure(row));
        }
    }
    table(title, unit, &series, &BASES);
}
