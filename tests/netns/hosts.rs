//! /etc/hosts is edited while relayd runs: whatever else goes on, backends go where it says.

use std::net::Ipv4Addr;
use std::time::Duration;

use harness::dns::{NameServer, Says, put_in_place};
use harness::world::BACKEND;
use harness::{Ctl, World, within};
use serde_json::Value;

const LIMIT: Duration = Duration::from_secs(60);
const FIXED: &str = "[[rule]]\nname = \"fixed\"\nlisten = \":8080\"\nto = \"fixed.test:80\"\n";
const SLOW: &str = "[[rule]]\nname = \"slow\"\nlisten = \":8081\"\nto = \"slow.test:80\"\n";

fn world() -> (World, NameServer) {
    let world = World::new();
    let names = NameServer::start(&world.relay, world.folder());
    (world, names)
}

fn entry(world: &World, lines: &str) {
    put_in_place(world.folder(), "hosts", &format!("127.0.0.1 localhost\n{lines}"));
}

fn resolved(ctl: &Ctl, rule: &str) -> Value {
    ctl.rule(rule)["to"][0]["resolved"].clone()
}

#[test]
fn an_edit_is_followed_whoever_looks_a_name_up_meanwhile() {
    let (world, names) = world();
    names.says("other.test", Says::Address(BACKEND));
    entry(&world, "203.0.113.2 fixed.test\n");
    let daemon = world.start(FIXED);
    for last in 3..6_u8 {
        let address = Ipv4Addr::new(203, 0, 113, last);
        entry(&world, &format!("{address} fixed.test\n"));
        // a name that nobody has asked for yet is looked up at once
        daemon.ctl.ok(&["add", &format!("90{last}"), "other.test:80", "--name", "other"]);
        within(LIMIT, "the address of the file", &mut || {
            resolved(&daemon.ctl, "fixed") == address.to_string()
        });
        daemon.ctl.ok(&["rm", "other"]);
    }
}

#[test]
fn an_edit_counts_more_than_the_answer_under_way() {
    let (world, names) = world();
    names.says("slow.test", Says::Nothing);
    entry(&world, "203.0.113.2 fixed.test\n");
    let daemon = world.start(&[FIXED, SLOW].concat());
    entry(&world, "203.0.113.3 fixed.test slow.test\n");
    within(LIMIT, "the edit is noticed", &mut || resolved(&daemon.ctl, "fixed") == "203.0.113.3");
    names.says("slow.test", Says::Address(BACKEND));
    within(LIMIT, "the file's address", &mut || resolved(&daemon.ctl, "slow") == "203.0.113.3");
}
