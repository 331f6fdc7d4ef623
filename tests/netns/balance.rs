//! Rules with several backends: who gets new flows, by choice and by health, on both planes with the same answers.

mod checks;
mod choice;
mod failover;
mod load;
mod resets;
mod restart;
mod round_trips;
mod tiers;

use std::net::{IpAddr, SocketAddr};
use std::time::Duration;

use harness::farm::{Caller, Visit, name};
use harness::world::{RELAY, RELAY_V6};
use harness::{Ctl, World, within};
use serde_json::Value;

/// For what the rules' checks take a second or two for, on a machine that does much else.
const LIMIT: Duration = Duration::from_secs(30);
/// Quick verdicts; time enough for an answer anywhere.
const QUICK: &str = "kind = \"tcp\", interval = \"200ms\", timeout = \"1s\", fall = 2, rise = 2";

/// A rule's text. `more`: further lines.
fn rule(rule: &str, port: u16, to: &str, more: &str) -> String {
    format!("[[rule]]\nname = \"{rule}\"\nlisten = \":{port}\"\nto = [{to}]\n{more}\n")
}

/// The same rule on both planes: the user plane's name ends with `-user`, and its port is 1000 higher.
fn on_both_planes(name: &str, port: u16, to: &str, more: &str) -> String {
    let by_user = [more, "\nplane = \"user\"\n"].concat();
    [rule(name, port, to, more), rule(&format!("{name}-user"), port + 1000, to, &by_user)].concat()
}

/// What such rules are called.
fn planes(name: &str) -> [String; 2] {
    [name.to_owned(), format!("{name}-user")]
}

/// Backends of the farm as `to` has them.
fn to(hosts: &[usize]) -> String {
    let hosts: Vec<String> = hosts.iter().map(|&host| format!("\"{}\"", name(host))).collect();
    hosts.join(", ")
}

/// The same with something more to say of each.
fn to_with(hosts: &[(usize, &str)]) -> String {
    let entry = |(host, more): &(usize, &str)| format!("{{ addr = \"{}\", {more} }}", name(*host));
    hosts.iter().map(entry).collect::<Vec<_>>().join(", ")
}

/// Where clients reach a port, over IPv4 and IPv6.
fn ways_in(port: u16) -> [SocketAddr; 2] {
    [(IpAddr::from(RELAY), port).into(), (IpAddr::from(RELAY_V6), port).into()]
}

/// A connection by a port of the relay.
fn visit(world: &World, port: u16) -> Visit {
    let [to, _] = ways_in(port);
    Visit::pay(&world.client, None, to).unwrap_or_else(|error| panic!("a connection to {to}: {error}"))
}

/// The first connection by a port of the relay that a backend gets.
fn visit_to(world: &World, port: u16, host: usize) -> Visit {
    let mut visits = (0..8).map(|_| visit(world, port));
    visits.find(|visit| visit.host == host).unwrap_or_else(|| panic!("none of {port} goes to backend {host}"))
}

/// Who gets a new flow by a port of the relay.
fn ask(world: &World, port: u16) -> usize {
    let [to, _] = ways_in(port);
    Caller::new(&world.client, None, to).ask().unwrap_or_else(|error| panic!("an answer from {to}: {error}"))
}

/// Who of the backends gets so many new connections.
fn visits(world: &World, port: u16, count: usize) -> Vec<usize> {
    let mut hosts: Vec<usize> = (0..count).map(|_| visit(world, port).host).collect();
    hosts.sort_unstable();
    hosts.dedup();
    hosts
}

/// What is known of a backend for a protocol.
fn judged(ctl: &Ctl, rule: &str, index: usize, protocol: &str) -> Value {
    ctl.rule(rule)["to"][index][protocol].clone()
}

/// Waits until a backend is so for TCP: `up`, `down`, `unknown`. That is known before new flows go by it.
fn await_state(ctl: &Ctl, rule: &str, index: usize, state: &str) {
    let what = format!("backend {index} of {rule} is {state}");
    within(LIMIT, &what, &mut || judged(ctl, rule, index, "tcp")["state"] == state);
}

/// Waits until the first backends are up for TCP, so many of them.
fn await_up(ctl: &Ctl, rule: &str, count: usize) {
    within(LIMIT, &format!("the backends of {rule} are up"), &mut || {
        let shown = ctl.rule(rule);
        (0..count).all(|index| shown["to"][index]["tcp"]["state"] == "up")
    });
}

/// Waits until new flows of a protocol go to these backends, and not to all that are meant to get them.
fn await_only(ctl: &Ctl, rule: &str, protocol: &str, hosts: &[usize]) {
    let hosts: Vec<String> = hosts.iter().map(|&host| name(host)).collect();
    let line = format!("at present new flows of {protocol} go to {}", hosts.join(", "));
    within(LIMIT, &format!("of {rule}: {line}"), &mut || {
        // it may say why, too
        let said = ctl.ok(&["explain", rule]).to_lowercase() + "\n";
        [": ", "\n"].iter().any(|end| said.contains(&format!("{line}{end}")))
    });
}

/// Waits until new flows go as they are meant to.
fn await_all(ctl: &Ctl, rule: &str) {
    within(LIMIT, &format!("all backends of {rule} get flows"), &mut || {
        !ctl.ok(&["explain", rule]).contains("at present new flows of")
    });
}
