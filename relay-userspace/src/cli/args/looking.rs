//! What is typed to look at the past, at flows, and at what happens.

use std::path::PathBuf;
use std::time::Duration;

use clap::{Args, ValueHint};

use super::{Watch, rule_name};
use crate::accounting::bill::{Count, Factor};
use crate::accounting::calendar::{self, Step, TIME_FORMS, parse_time};
use crate::api::flows::{self, MOST, USUAL_LIMIT};
use crate::cli::top::INTERVALS;
use crate::config::quantity::parse_duration;
use crate::observe::Kind;
use crate::rule::RuleName;

/// What can be observed.
const KINDS: [&str; 5] = Kind::NAMES;

#[derive(Debug, Args)]
pub struct History {
    #[arg(value_parser = rule_name)]
    pub name: Option<RuleName>,
    /// Of this port alone, of a rule with `count_ports`
    #[arg(long, requires = "name")]
    pub port: Option<u16>,
    /// From then on: 2026-11-01, or how long ago, such as 7d
    #[arg(long, value_name = "TIME", requires = "name", value_parser = time)]
    pub since: Option<String>,
    /// Until then
    #[arg(long, value_name = "TIME", requires = "name", value_parser = time)]
    pub until: Option<String>,
    /// What a row covers
    #[arg(long, value_enum, default_value_t)]
    pub by: Step,
    /// Which bytes are billed
    #[arg(long, value_enum, default_value_t)]
    pub count: Count,
    /// What they are multiplied by on the bill, such as 2 or 1.5
    #[arg(long, default_value = "1")]
    pub factor: Factor,
    /// Draw bars of both directions together
    #[arg(long, requires = "name")]
    pub plot: bool,
    /// Write a picture into this file
    #[arg(long, value_name = "FILE", requires = "name", value_hint = ValueHint::FilePath)]
    pub svg: Option<PathBuf>,
}

#[derive(Debug, Args)]
pub struct Flows {
    /// Of this rule; of all without
    #[arg(value_parser = rule_name)]
    pub name: Option<RuleName>,
    /// Of clients with this address or in this network
    #[arg(long, value_name = "NET", value_parser = clients)]
    pub client: Option<String>,
    /// To this backend: an address, with or without its port
    #[arg(long, value_name = "ADDR", value_parser = backend_place)]
    pub backend: Option<String>,
    /// tcp or udp
    #[arg(long, value_parser = ["tcp", "udp"])]
    pub protocol: Option<String>,
    /// kernel or user
    #[arg(long, value_parser = ["kernel", "user"])]
    pub plane: Option<String>,
    /// What comes first: most bytes, the oldest (age) or the youngest (new)
    #[arg(long, default_value = "bytes", value_parser = ["bytes", "age", "new"])]
    pub sort: String,
    /// No more than so many, up to 10000
    #[arg(long, value_name = "N", default_value_t = USUAL_LIMIT as u64, value_parser = clap::value_parser!(u64).range(1..=MOST as u64))]
    pub limit: u64,
    #[command(flatten)]
    pub watch: Watch,
}

#[derive(Debug, Args)]
pub struct Observe {
    /// Of this rule; of all without
    #[arg(value_parser = rule_name)]
    pub name: Option<RuleName>,
    /// What is turned away only: refused and dropped
    #[arg(long, conflicts_with = "kind")]
    pub drops: bool,
    /// What becomes of flows only: opened, proven and closed
    #[arg(long, conflicts_with = "kind")]
    pub flows: bool,
    /// Only these, with commas between
    #[arg(long, value_name = "KIND", value_delimiter = ',', value_parser = KINDS)]
    pub kind: Vec<String>,
    /// Of clients with this address or in this network
    #[arg(long, value_name = "NET", value_parser = clients)]
    pub client: Option<String>,
    /// tcp or udp
    #[arg(long, value_parser = ["tcp", "udp"])]
    pub protocol: Option<String>,
    /// kernel or user
    #[arg(long, value_parser = ["kernel", "user"])]
    pub plane: Option<String>,
    /// End after so many
    #[arg(short = 'n', long, value_name = "N", value_parser = clap::value_parser!(u64).range(1..))]
    pub count: Option<u64>,
}

#[derive(Debug, Args)]
pub struct Top {
    /// Time between two looks, from 250ms to 60s
    #[arg(short, long, value_name = "TIME", default_value = "1s", value_parser = interval)]
    pub interval: Duration,
}

/// Checked here, sent as it was typed: what is a time ago is so for relayd.
fn time(text: &str) -> Result<String, &'static str> {
    parse_time(text, calendar::now()).map(|_| text.to_owned()).ok_or(TIME_FORMS)
}

fn interval(text: &str) -> Result<Duration, String> {
    let [least, most] = INTERVALS;
    let allowed = parse_duration(text).filter(|interval| (least..=most).contains(interval));
    allowed.ok_or_else(|| "a time from 250ms to 60s".into())
}

/// Checked here, sent as it was typed.
fn clients(text: &str) -> Result<String, &'static str> {
    flows::client(text).map(|_| text.to_owned())
}

fn backend_place(text: &str) -> Result<String, &'static str> {
    flows::backend(text).map(|_| text.to_owned())
}
