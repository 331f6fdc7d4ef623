//! What a packet costs with one rule, with ten thousand, with one range of sixty thousand ports.

use harness::lab::Attached;

use crate::contender::{Contender, Kind, RULE};
use crate::figures::{Options, Series, table};
use crate::packets::measure;
use crate::scale::many_rules;

const RANGE: &str =
    "[[rule]]\nname = \"bench\"\nlisten = \":2000-61999\"\nto = \"203.0.113.2:2000\"\nforce = true\n";

pub fn run(options: &Options) {
    for kind in [Kind::RelayTc, Kind::RelayXdp] {
        let sets = [
            ("one rule", RULE.to_owned()),
            ("10,000 rules", format!("{}{RULE}", many_rules())),
            ("60,000 ports", RANGE.to_owned()),
        ];
        let contenders: Vec<(Contender, Attached)> = sets
            .iter()
            .map(|(_, rules)| {
                let contender = Contender::with_rules(kind, rules);
                let counter = Attached::xdp(&contender.world.backend, "backend", "lab_count");
                (contender, counter)
            })
            .collect();
        let mut rows: Vec<(String, Series)> =
            sets.iter().map(|(name, _)| ((*name).to_owned(), Series::default())).collect();
        for _ in 0..options.rounds {
            for ((contender, counter), (_, series)) in contenders.iter().zip(&mut rows) {
                series.0.push(measure(contender, counter, 1000) / 1e6);
            }
        }
        table(
            &format!("{}: 64-byte UDP, 1000 flows", kind.name()),
            "million packets/s",
            &rows,
            &["one rule"],
        );
        for (contender, _) in contenders {
            let mut world = contender.world;
            world.expected_checksum_errors = world.checksum_errors();
        }
    }
}
