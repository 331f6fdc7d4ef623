//! relayd loads all its programs on this kernel, and attaches them the way that is right for it.

use harness::World;
use harness::hooks;

const RULE: &str = "[[rule]]\nname = \"web\"\nlisten = \":8080\"\nto = \"203.0.113.2:80\"\n";

/// Panics if anything is not as it should be. RELAY_TC says what tc programs hang on: clsact or tcx.
pub fn check() {
    let tc = std::env::var("RELAY_TC").expect("RELAY_TC");
    let world = World::new();
    let mut daemon = world.start_with("hook = \"xdp\"\n", RULE);
    let (own, kernel) = processor_seconds(daemon.pid());
    println!("relayd was ready after {own:.1} s of its own and {kernel:.1} s in the kernel");
    let status = daemon.ctl.json(&["status"]);
    let interfaces = status["interfaces"].as_array().expect("interfaces");
    for name in ["uplink", "inside"] {
        let facts = interfaces.iter().find(|interface| interface["name"] == name);
        let facts = facts.unwrap_or_else(|| panic!("no {name}: {status}"));
        assert_eq!(facts["tc"], tc.as_str(), "{facts}");
        assert_eq!(facts["xdp"], "native", "{facts}");
        assert_eq!(world.tc_programs(name), 1);
        assert!(hooks::has_xdp(&world.relay, name));
    }
    let plane = daemon.ctl.rule("web")["plane"]["ipv4"].clone();
    assert_eq!((&plane["plane"], &plane["hook"]), (&"kernel".into(), &"xdp".into()), "{plane}");
    daemon.kill();
    for name in ["uplink", "inside"] {
        assert_eq!(world.tc_programs(name), 1, "tc outlives relayd");
        assert!(hooks::has_xdp(&world.relay, name), "XDP outlives relayd");
    }
    daemon.start_again(&world.relay);
    let status = daemon.ctl.json(&["status"]);
    assert_eq!(status["kernel"]["adopted"], true, "{status}");
    for name in ["uplink", "inside"] {
        assert_eq!(world.tc_programs(name), 1, "{name}: taken over, never added twice");
    }
}

/// Time that a process has spent in its own code and in the kernel.
fn processor_seconds(pid: u32) -> (f64, f64) {
    let stat = std::fs::read_to_string(format!("/proc/{pid}/stat")).expect("stat");
    // counted from behind the name, which may have spaces in it
    let fields: Vec<&str> = stat.rsplit(')').next().expect("fields").split_whitespace().collect();
    let seconds = |index: usize| fields[index].parse::<f64>().expect("ticks") / 100.0;
    (seconds(11), seconds(12))
}
