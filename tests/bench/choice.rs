//! What the first packet of a flow costs where its rule has one backend, and where it has a hundred to choose from.

use harness::packet::{Packet, SYN, Segment};
use harness::plane::{Plane, Verdict};
use harness::world::{CLIENT, RELAY};

use crate::figures::{Options, Series, table};

/// New flows that are timed.
const FLOWS: u16 = 4000;
/// Those before them, which warm everything up.
const WARM: u16 = 500;
const BACKENDS: u16 = 100;

fn rules(balance: &str, backends: u16) -> String {
    let to: Vec<String> = (0..backends).map(|index| format!("\"203.0.113.2:{}\"", 2000 + index)).collect();
    format!(
        "[[rule]]\nname = \"bench\"\nlisten = \":8080\"\nprotocol = \"tcp\"\nbalance = \"{balance}\"\nto = [{}]\n\
         check = {{ kind = \"passive\" }}\n",
        to.join(", ")
    )
}

/// Nanoseconds of the program at tc alone, by BPF_PROG_TEST_RUN.
pub fn run(options: &Options) {
    let one = ("one backend".to_owned(), rules("roundrobin", 1));
    let many = ["roundrobin", "iphash", "leastconn", "first"];
    let many = many.map(|balance| (format!("{BACKENDS} backends, {balance}"), rules(balance, BACKENDS)));
    let sets: Vec<(String, String)> = std::iter::once(one).chain(many).collect();
    let mut rows: Vec<(String, Series)> =
        sets.iter().map(|(name, _)| (name.clone(), Series::default())).collect();
    let mut plane = Plane::new(32_768);
    plane.enter();
    for _ in 0..options.rounds {
        for ((_, rules), (_, series)) in sets.iter().zip(&mut rows) {
            plane.carry(rules);
            series.0.push(time(&plane));
        }
    }
    table("tc program, first packet of a TCP flow", "ns per packet", &rows, &["one backend"]);
}

/// The median over many new flows.
fn time(plane: &Plane) -> f64 {
    let mut series = Series::default();
    for index in 0..WARM + FLOWS {
        let packet = Packet::tcp((CLIENT, 10_000 + index), (RELAY, 8080), &Segment::flags(SYN).at(100, 0));
        let frame = Packet { destination_mac: plane.uplink.mac, ..packet }.frame();
        let (verdict, nanoseconds) = plane.programs.time_tc(plane.uplink, &frame, 1).expect("TEST_RUN");
        assert_eq!(verdict, Verdict::Redirect, "flow {index}");
        if index >= WARM {
            series.0.push(f64::from(nanoseconds));
        }
    }
    series.median()
}
