//! relayd loads all its programs on this kernel and attaches them the way that is right for it; killed under traffic
//! and started again, it takes them over.

use harness::lab::{enable_gro, set_tx_checksum};
use harness::traffic::{tcp_server, udp_server};
use harness::world::RELAY;
use harness::{Daemon, Load, World, hooks};

const RULE: &str = "[[rule]]\nname = \"web\"\nlisten = \":8080\"\nto = \"203.0.113.2:80\"\n";
const INTERFACES: [&str; 2] = ["uplink", "inside"];

/// Panics if anything is not as it should be. RELAY_TC says what tc programs hang on: clsact or tcx.
pub fn check() {
    let tc = std::env::var("RELAY_TC").expect("RELAY_TC");
    let world = World::new();
    for (ns, interface) in [(&world.client, "client"), (&world.backend, "backend")] {
        set_tx_checksum(ns, interface, false);
        enable_gro(ns, interface);
    }
    let mut daemon = world.start_with("hook = \"xdp\"\n", RULE);
    let (own, kernel) = processor_seconds(daemon.pid());
    crate::say(&format!("relayd was ready after {own:.1} s of its own and {kernel:.1} s in the kernel"));
    is_attached(&world, &daemon, &tc);
    let _servers = (tcp_server(&world.backend, 80), udp_server(&world.backend, 80));
    let load = Load::new()
        .with_connections(&world.client, (RELAY, 8080), 2)
        .with_newcomers(&world.client, (RELAY, 8080))
        .with_datagrams(&world.client, (RELAY, 8080));
    load.run_on(50);
    daemon.kill();
    load.run_on(50);
    daemon.start_again(&world.relay);
    load.run_on(50);
    is_attached(&world, &daemon, &tc);
    let status = daemon.ctl.json(&["status"]);
    assert_eq!(status["kernel"]["adopted"], true, "{status}");
    load.finish();
    assert_eq!(daemon.ctl.rule("web")["counters"]["drops"], serde_json::json!({}));
    narrowed(&world, &mut daemon);
}

/// An interface that is taken out of the configuration while relayd is not there is let go of when it is back.
fn narrowed(world: &World, daemon: &mut Daemon) {
    daemon.stop();
    let text = std::fs::read_to_string(&daemon.config).expect("config");
    let text = text.replacen("hook = ", "interfaces = [\"uplink\"]\nhook = ", 1);
    std::fs::write(&daemon.config, text).expect("config");
    assert_eq!(world.tc_programs("inside"), 1);
    daemon.start_again(&world.relay);
    assert_eq!((world.tc_programs("uplink"), world.tc_programs("inside")), (1, 0));
    assert!(!hooks::has_xdp(&world.relay, "inside"));
}

/// One program on each hook, of the kind that this kernel has.
fn is_attached(world: &World, daemon: &Daemon, tc: &str) {
    let status = daemon.ctl.json(&["status"]);
    let interfaces = status["interfaces"].as_array().expect("interfaces");
    for name in INTERFACES {
        let facts = interfaces.iter().find(|interface| interface["name"] == name);
        let facts = facts.unwrap_or_else(|| panic!("no {name}: {status}"));
        assert_eq!((&facts["tc"], &facts["xdp"]), (&tc.into(), &"native".into()), "{facts}");
        assert_eq!(world.tc_programs(name), 1, "{name}: never two");
        assert!(hooks::has_xdp(&world.relay, name), "{name}");
    }
    let plane = daemon.ctl.rule("web")["plane"]["ipv4"].clone();
    assert_eq!((&plane["plane"], &plane["hook"]), (&"kernel".into(), &"xdp".into()), "{plane}");
}

/// Time that a process has spent in its own code and in the kernel.
fn processor_seconds(pid: u32) -> (f64, f64) {
    let stat = std::fs::read_to_string(format!("/proc/{pid}/stat")).expect("stat");
    // counted from behind the name, which may have spaces in it
    let fields: Vec<&str> = stat.rsplit(')').next().expect("fields").split_whitespace().collect();
    let seconds = |index: usize| fields[index].parse::<f64>().expect("ticks") / 100.0;
    (seconds(11), seconds(12))
}
