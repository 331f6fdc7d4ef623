//! Small UDP packets per second, made in the kernel, counted and dropped at the backend.

use std::net::SocketAddr;
use std::time::Duration;

use harness::World;
use harness::lab::{Attached, Generator, rate};
use harness::packet::{Packet, PacketV6};
use harness::world::{CLIENT, CLIENT_V6};

use crate::contender::{Contender, Kind};
use crate::figures::{Options, Series, table};

const KINDS: [Kind; 6] =
    [Kind::Routing, Kind::Nftables, Kind::BareTc, Kind::RelayTc, Kind::BareXdp, Kind::RelayXdp];

/// Those whose name contains one of the words given with `--only`.
fn kinds(options: &Options) -> Vec<Kind> {
    let wanted =
        |kind: &Kind| options.only.is_empty() || options.only.iter().any(|word| kind.name().contains(word));
    KINDS.into_iter().filter(wanted).collect()
}

pub fn run(options: &Options) {
    for &flows in &options.flows {
        let contenders: Vec<(Contender, Attached)> = kinds(options).into_iter().map(prepared).collect();
        let mut rows: Vec<(String, Series)> =
            kinds(options).iter().map(|kind| (kind.name().to_owned(), Series::default())).collect();
        for _ in 0..options.rounds {
            for ((contender, counter), (_, series)) in contenders.iter().zip(&mut rows) {
                series.0.push(measure(contender, counter, flows) / 1e6);
            }
        }
        for (contender, _) in &contenders {
            contender.world.accept_checksum_errors();
        }
        let title = format!("64-byte UDP frames, {flows} flows, checksums real");
        table(&title, "million packets/s", &rows, &["nftables", "routing", "bare xdp"]);
    }
}

fn prepared(kind: Kind) -> (Contender, Attached) {
    let contender = Contender::new(kind);
    let counter = Attached::xdp(&contender.world.backend, "backend", "lab_count");
    (contender, counter)
}

pub fn measure(contender: &Contender, counter: &Attached, flows: u32) -> f64 {
    flood(&contender.world, contender.target, counter, flows)
}

/// Packets per second that come through.
pub fn flood(world: &World, target: SocketAddr, counter: &Attached, flows: u32) -> f64 {
    let (to, from) = (world.relay.mac("uplink"), world.client.mac("client"));
    let frame = match target {
        SocketAddr::V4(target) => {
            let packet = Packet::udp((CLIENT, 1024), (*target.ip(), target.port()), &[0x55; 18]);
            Packet { destination_mac: to, source_mac: from, ..packet }.frame()
        }
        SocketAddr::V6(target) => {
            let packet = PacketV6::udp((CLIENT_V6, 1024), (*target.ip(), target.port()), &[0x55; 2]);
            PacketV6 { destination_mac: to, source_mac: from, ..packet }.frame()
        }
    };
    let _generator = Generator::start(&world.client, "client", frame, flows, 0);
    rate(counter, Duration::from_millis(700), Duration::from_millis(1500))
}
