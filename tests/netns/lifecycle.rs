//! relayd comes, goes, dies and changes its rules; traffic does not notice.

use std::fs;
use std::net::TcpListener;

use aya::maps::{HashMap, MapData};
use aya::programs::tc::TcHandle;
use harness::lab::Attached;
use harness::traffic::{Client, tcp_server, text, udp_server};
use harness::world::RELAY;
use harness::{Daemon, Load, World, eventually, hooks};
use nix::sys::signal::Signal;
use relay::kernel::filters::has_filter;
use relay::kernel::maps::{self, NameBytes};
use relay::kernel::slots::decode_name;
use relay::kernel::tc::{FILTER_HANDLE, FILTER_PRIORITY, TcHook};
use relay_common::names;

const RULES: &str = "[[rule]]\nname = \"web\"\nlisten = \":8080\"\nto = \"203.0.113.2:80\"\n\
                     [[rule]]\nname = \"other\"\nlisten = \":9090\"\nto = \"203.0.113.2:90\"\n";

fn load(world: &World) -> Load {
    Load::new()
        .with_connections(&world.client, (RELAY, 8080), 12)
        .with_newcomers(&world.client, (RELAY, 8080))
        .with_datagrams(&world.client, (RELAY, 8080))
}

/// Replaces some text in the configuration file.
fn edit(daemon: &Daemon, from: &str, to: &str) {
    let text = fs::read_to_string(&daemon.config).expect("config");
    assert!(text.contains(from), "{text}");
    fs::write(&daemon.config, text.replacen(from, to, 1)).expect("config");
}

/// Kills relayd, starts it, stops it and starts it again while the load runs, which does not notice.
pub(crate) fn kill_start_stop_start(world: &World, daemon: &mut Daemon, load: &Load, rules: &[&str]) {
    let packets = |daemon: &Daemon| -> u64 {
        rules.iter().map(|rule| daemon.ctl.counter(rule, "/ingress/packets")).sum()
    };
    load.run_on(300);
    let before = packets(daemon);
    daemon.kill();
    load.run_on(600);
    daemon.start_again(&world.relay);
    load.run_on(300);
    let status = daemon.ctl.json(&["status"]);
    assert_eq!(status["kernel"]["adopted"], true, "{status}");
    let after = packets(daemon);
    assert!(after > before + 600, "what was forwarded without relayd is counted too: {before} {after}");
    daemon.stop();
    load.run_on(300);
    daemon.start_again(&world.relay);
    load.run_on(300);
    assert!(packets(daemon) > after);
}

#[test]
fn killed_stopped_and_started_again_under_load() {
    let world = World::new();
    let mut daemon = world.start(RULES);
    let (_tcp, _udp) = (tcp_server(&world.backend, 80), udp_server(&world.backend, 80));
    let load = load(&world);
    kill_start_stop_start(&world, &mut daemon, &load, &["web"]);
    load.finish();
    assert_eq!(daemon.ctl.rule("web")["counters"]["drops"], serde_json::json!({}));
}

#[test]
fn killed_again_and_again_under_load() {
    let world = World::new();
    let mut daemon = world.start(RULES);
    let (_tcp, _udp) = (tcp_server(&world.backend, 80), udp_server(&world.backend, 80));
    let load = load(&world);
    for round in 0..6 {
        load.run_on(50);
        daemon.kill();
        load.run_on(20 * round);
        daemon.start_again(&world.relay);
    }
    load.run_on(100);
    load.finish();
}

#[test]
fn reloads_touch_only_what_changed() {
    let world = World::new();
    let daemon = world.start(RULES);
    let (_tcp, _udp) = (tcp_server(&world.backend, 80), udp_server(&world.backend, 80));
    let (_others, _new) = (tcp_server(&world.backend, 90), tcp_server(&world.backend, 91));
    let load = load(&world);
    load.run_on(100);
    edit(&daemon, "203.0.113.2:90", "203.0.113.2:91");
    daemon.signal(Signal::SIGHUP);
    eventually("the change is there", || daemon.ctl.rule("other")["to"][0]["addr"] == "203.0.113.2:91");
    load.run_on(100);
    Client::connect(&world.client, (RELAY, 9090)).and_then(Client::seen_as).expect("the new backend");
    for round in 0..20 {
        edit(
            &daemon,
            "[[rule]]\nname = \"other\"",
            &format!(
                "[[rule]]\nname = \"more{round}\"\nlisten = {}\nto = \"203.0.113.2:1\"\n[[rule]]\nname = \"other\"",
                7000 + round
            ),
        );
        daemon.ctl.ok(&["reload"]);
        load.run_on(20);
    }
    assert_eq!(daemon.ctl.json(&["list"]).as_array().map(Vec::len), Some(22));
    // a file that is wrong changes nothing, and nothing that worked stops
    edit(&daemon, "listen = \":8080\"", "listen = \":8080x\"");
    daemon.ctl.fails(4, &["reload"]);
    load.run_on(100);
    edit(&daemon, "listen = \":8080x\"", "listen = \":8080\"");
    daemon.ctl.ok(&["reload"]);
    load.run_on(100);
    load.finish();
}

#[test]
fn a_changed_backend_gets_new_flows_while_old_ones_stay() {
    let world = World::new();
    let daemon = world.start(RULES);
    let (old_server, new_server) = (tcp_server(&world.backend, 80), tcp_server(&world.backend, 81));
    let load = Load::new().with_connections(&world.client, (RELAY, 8080), 5);
    load.run_on(50);
    daemon.ctl.ok(&["set", "web", "to=203.0.113.2:81"]);
    load.run_on(50);
    assert_eq!((old_server.count(), new_server.count()), (5, 0));
    Client::connect(&world.client, (RELAY, 8080)).and_then(Client::seen_as).expect("connect");
    assert_eq!((old_server.count(), new_server.count()), (5, 1));
    load.finish();
}

#[test]
fn counters_survive_edits_and_restarts() {
    let world = World::new();
    let mut daemon = world.start(RULES);
    let _server = tcp_server(&world.backend, 80);
    Client::connect(&world.client, (RELAY, 8080)).and_then(|client| client.upload(100_000)).expect("upload");
    eventually("the flow has ended", || daemon.ctl.counter("web", "/flows/active") == 0);
    let before = daemon.ctl.rule("web")["counters"].clone();
    assert!(before["ingress"]["bytes"].as_u64().is_some_and(|bytes| bytes > 100_000), "{before}");
    daemon.ctl.ok(&["set", "web", "note=edited", "to=203.0.113.2:81"]);
    assert_eq!(daemon.ctl.rule("web")["counters"], before);
    daemon.ctl.ok(&["disable", "web"]);
    daemon.ctl.ok(&["enable", "web"]);
    assert_eq!(daemon.ctl.rule("web")["counters"], before);
    daemon.kill();
    daemon.start_again(&world.relay);
    assert_eq!(daemon.ctl.rule("web")["counters"], before);
    daemon.stop();
    daemon.start_again(&world.relay);
    assert_eq!(daemon.ctl.rule("web")["counters"], before);
}

#[test]
fn rules_removed_while_relayd_was_dead_are_gone_when_it_is_back() {
    let world = World::new();
    let mut daemon = world.start(RULES);
    let _servers = (tcp_server(&world.backend, 80), tcp_server(&world.backend, 90));
    let mut client =
        Client::connect(&world.client, (RELAY, 9090)).and_then(Client::start_echo).expect("connect");
    client.echo(&text(5)).expect("echo");
    daemon.kill();
    edit(&daemon, "[[rule]]\nname = \"other\"\nlisten = \":9090\"\nto = \"203.0.113.2:90\"\n", "");
    daemon.start_again(&world.relay);
    eventually("the flows of the rule have ended", || client.echo(&text(5)).is_err());
    let refused = Client::connect(&world.client, (RELAY, 9090)).expect_err("its rule is gone");
    assert_eq!(refused.kind(), std::io::ErrorKind::ConnectionRefused);
    Client::connect(&world.client, (RELAY, 8080)).and_then(Client::seen_as).expect("the other one is there");
}

#[test]
fn a_fault_ends_no_flow() {
    let world = World::new();
    let mut daemon = world.start(RULES);
    let _server = tcp_server(&world.backend, 80);
    let load = Load::new().with_connections(&world.client, (RELAY, 8080), 5);
    load.run_on(50);
    daemon.kill();
    let squatter = world.relay.run(|| TcpListener::bind((RELAY, 8080))).expect("the port is free meanwhile");
    daemon.start_again(&world.relay);
    assert_eq!(daemon.ctl.rule("web")["state"], "error");
    load.run_on(200);
    drop(squatter);
    eventually("the rule has its port back", || daemon.ctl.rule("web")["state"] == "active");
    load.run_on(50);
    load.finish();
    Client::connect(&world.client, (RELAY, 8080)).and_then(Client::seen_as).expect("new flows too");
}

/// Which slot of the rule table a rule has.
fn slot(world: &World, rule: &str) -> Option<u32> {
    let pins = world.folder().join("bpf/abi1");
    let names: HashMap<MapData, u32, NameBytes> = maps::open(&pins, names::RULE_NAMES).expect("names");
    let is_its = |bytes: &NameBytes| decode_name(bytes).is_some_and(|(name, _)| name.as_str() == rule);
    names.iter().flatten().find(|(_, bytes)| is_its(bytes)).map(|(slot, _)| slot)
}

/// A slot that a rule has given up rests until the rule's flows are swept, though relayd dies in between.
#[test]
fn a_slot_rests_over_a_crash() {
    let world = World::new();
    let mut daemon = world.start(RULES);
    let given_up = slot(&world, "other").expect("a slot");
    daemon.ctl.ok(&["rm", "other"]);
    daemon.kill();
    daemon.start_again(&world.relay);
    let add = || daemon.ctl.ok(&["add", "9090", "203.0.113.2", "--name", "new"]);
    add();
    assert!(slot(&world, "new").is_some_and(|slot| slot != given_up));
    eventually("it has rested", || {
        daemon.ctl.ok(&["rm", "new"]);
        add();
        daemon.ctl.ok(&["list"]);
        slot(&world, "new") == Some(given_up)
    });
}

#[test]
fn down_leaves_nothing_behind() {
    let world = World::new();
    let mut daemon = world.start_with("hook = \"xdp\"\n", RULES);
    let names = [
        "net/ipv4/ip_local_reserved_ports",
        "net/ipv4/conf/uplink/forwarding",
        "net/ipv4/conf/inside/forwarding",
        "net/ipv4/ip_forward",
    ];
    let read = || names.map(|name| world.relay.read_sysctl(name));
    assert_eq!(
        read()[1..],
        ["1".to_owned(), "1".to_owned(), "0".to_owned()],
        "XDP needs these, and no others"
    );
    let _server = tcp_server(&world.backend, 80);
    Client::connect(&world.client, (RELAY, 8080)).and_then(Client::seen_as).expect("connect");
    daemon.ctl.ok(&["down"]);
    Client::connect(&world.client, (RELAY, 8080)).expect_err("nothing is forwarded any more");
    assert_eq!(read(), ["", "0", "0", "0"].map(String::from), "settings are as they were");
    assert_eq!((world.tc_programs("uplink"), world.tc_programs("inside")), (0, 0));
    assert!(!hooks::has_xdp(&world.relay, "uplink"));
    daemon.ctl.ok(&["reload"]);
    Client::connect(&world.client, (RELAY, 8080)).and_then(Client::seen_as).expect("up again");
    daemon.ctl.ok(&["down"]);
    daemon.stop();
    // the command works without a daemon too
    daemon.start_again(&world.relay);
    daemon.kill();
    Client::connect(&world.client, (RELAY, 8080)).and_then(Client::seen_as).expect("outlives relayd");
}

#[test]
fn settings_of_another_boot_are_not_put_back() {
    let world = World::new();
    let mut daemon = world.start_with("hook = \"xdp\"\n", RULES);
    let forwarding = "net/ipv4/conf/uplink/forwarding";
    let remembered = |daemon: &Daemon| daemon.ctl.json(&["status"])["sysctls"].clone();
    let changed = remembered(&daemon);
    assert!(changed.as_array().is_some_and(|names| names.contains(&forwarding.into())), "{changed}");
    daemon.kill();
    daemon.start_again(&world.relay);
    assert_eq!(remembered(&daemon), changed, "a restart forgets nothing");
    daemon.kill();
    let ledger = world.folder().join("state/sysctl");
    let text = fs::read_to_string(&ledger).expect("ledger");
    let boot = fs::read_to_string("/proc/sys/kernel/random/boot_id").expect("boot id");
    assert!(text.contains(boot.trim()), "{text}");
    fs::write(&ledger, text.replace(boot.trim(), "00000000-0000-4000-8000-000000000000")).expect("ledger");
    daemon.start_again(&world.relay);
    assert_eq!(remembered(&daemon), serde_json::json!([]), "these values are the new boot's own");
    daemon.ctl.ok(&["down"]);
    assert_eq!(world.relay.read_sysctl(forwarding), "1");
}

#[test]
fn a_filter_on_an_interface_that_is_no_longer_ours_is_taken_off() {
    let world = World::new();
    let own = (FILTER_PRIORITY, FILTER_HANDLE);
    let others = [(FILTER_PRIORITY + 1, FILTER_HANDLE), (FILTER_PRIORITY + 2, TcHandle::new(0, 7))];
    let all = [own, others[0], others[1]];
    let _left = all.map(|(priority, handle)| Attached::filter(&world.relay, "inside", priority, handle));
    let there = |(priority, handle): (u16, TcHandle)| {
        world.relay.run(|| has_filter("inside", TcHook::Ingress, priority, handle.into())).expect("filters")
    };
    assert_eq!(all.map(there), [true; 3]);
    let mut daemon = world.start_with("interfaces = [\"uplink\"]\n", RULES);
    assert_eq!(all.map(there), [false, true, true], "nobody else's");
    let log = daemon.log();
    assert!(log.contains("inside detached: an earlier relayd has left its filter there"), "{log}");
}

#[test]
fn programs_that_were_detached_by_others_come_back() {
    let world = World::new();
    let _daemon = world.start(RULES);
    let _server = tcp_server(&world.backend, 80);
    assert_eq!(world.tc_programs("uplink"), 1);
    hooks::take_off(&world.relay, "uplink", &world.folder().join("bpf"));
    eventually("the program is back", || world.tc_programs("uplink") == 1);
    Client::connect(&world.client, (RELAY, 8080)).and_then(Client::seen_as).expect("works again");
}
