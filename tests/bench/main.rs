//! The benchmark: Relay beside what users run today, in one lab, in one run, taking turns.

mod bulk;
mod choice;
mod contender;
mod cost;
mod failover;
mod families;
mod figures;
mod health;
mod limits;
mod load;
mod packets;
mod peer;
mod scale;
mod tunnels;
mod user;

use figures::Options;
use load::server::{ANSWERING, answer_for_ever};

fn main() {
    if std::env::args().nth(1).as_deref() == Some(ANSWERING) {
        peer::allow_descriptors();
        return answer_for_ever();
    }
    let options = Options::from_args();
    let wants = |part: &str| options.parts.is_empty() || options.parts.iter().any(|wanted| wanted == part);
    figures::heading();
    if wants("limits") {
        limits::run(&options);
    }
    if wants("packets") {
        packets::run(&options);
    }
    if wants("bulk") {
        bulk::run(&options);
    }
    if wants("programs") {
        cost::programs(&options);
    }
    if wants("choice") {
        choice::run(&options);
    }
    if wants("cost") {
        cost::run(&options);
    }
    if wants("tcp") {
        user::tcp(&options);
    }
    if wants("udp") {
        user::udp(&options);
    }
    if wants("memory") {
        user::memory(&options);
    }
    if wants("tunnels") {
        tunnels::run(&options);
    }
    if wants("families") {
        families::run(&options);
    }
    if wants("failover") {
        failover::run(&options);
    }
    if wants("health") {
        health::run(&options);
    }
    if wants("scale") {
        scale::run(&options);
    }
}
