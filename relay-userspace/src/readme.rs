//! What README.md tells operators, held against the code.

use std::path::Path;

use relay_common::counters::DropReason;

use crate::alert::channel::Channel;
use crate::config::files::Config;
use crate::kernel::maps::RULE_SLOTS;
use crate::proxy::counters::Refusal;

const README: &str = include_str!("../../README.md");

#[test]
fn the_example_is_a_valid_configuration() {
    let (_, rest) = README.split_once("```toml\n").expect("an example");
    let (example, _) = rest.split_once("```").expect("its end");
    let config = Config::read_with(Path::new("/nonexistent/relay.toml"), example).expect("valid");
    assert_eq!(config.rules.len(), 1);
}

#[test]
fn the_alerts_are_valid_and_of_every_kind() {
    let (_, rest) = README.split_once("### Alerts\n").expect("a section");
    let (section, _) = rest.split_once("\n### ").expect("its end");
    let mut kinds = Vec::new();
    for block in section.split("```toml\n").skip(1) {
        let (example, _) = block.split_once("```").expect("its end");
        let config = Config::read_with(Path::new("/nonexistent/relay.toml"), example).expect("valid");
        kinds.extend(config.alerts.iter().map(|alert| alert.channel.kind()));
    }
    assert_eq!(kinds[1..], Channel::KINDS, "after the first example");
}

#[test]
fn the_table_of_drops_is_complete() {
    let named: Vec<&str> = README
        .lines()
        .skip_while(|line| !line.starts_with("| drop |"))
        .skip(2)
        .map_while(|line| line.strip_prefix("| `")?.split('`').next())
        .collect();
    let mut known: Vec<&str> = DropReason::ALL.iter().map(|reason| reason.as_str()).collect();
    for reason in Refusal::ALL.map(Refusal::as_str) {
        if !known.contains(&reason) {
            known.push(reason);
        }
    }
    assert_eq!(named, known);
}

#[test]
fn the_limit_of_rules_is_the_real_one() {
    let limit = format!("{},{:03} rules", RULE_SLOTS / 1000, RULE_SLOTS % 1000);
    assert!(README.contains(&limit), "{limit}");
}
