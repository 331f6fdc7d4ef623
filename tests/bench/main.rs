//! The benchmark: Relay beside what users run today, in one lab, in one run, taking turns.

mod bulk;
mod contender;
mod cost;
mod figures;
mod packets;
mod scale;

use figures::Options;

fn main() {
    let options = Options::from_args();
    let wants = |part: &str| options.parts.is_empty() || options.parts.iter().any(|wanted| wanted == part);
    figures::heading();
    if wants("packets") {
        packets::run(&options);
    }
    if wants("bulk") {
        bulk::run(&options);
    }
    if wants("programs") {
        cost::programs(&options);
    }
    if wants("cost") {
        cost::run(&options);
    }
    if wants("scale") {
        scale::run(&options);
    }
}
