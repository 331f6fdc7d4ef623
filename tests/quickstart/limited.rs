//! What is shown without root: all that a user namespace allows, and the line that shows everything.

use std::fs;
use std::path::Path;
use std::process::{Command, ExitCode};

use harness::World;
use harness::daemon::{binary, settings};
use harness::traffic::{tcp_server, udp_server};
use harness::world::RELAY;

use crate::stage::{self, Stage};
use crate::{say, show};

const RULE: &str = "[[rule]]\nname = \"demo\"\nlisten = \":8388\"\nto = \"203.0.113.2:8388\"\n";

/// Says what root would see, then shows what can be shown.
pub fn run() -> ExitCode {
    let own = std::env::current_exe().unwrap_or_else(|_| "quickstart".into());
    say::line(&format!(
        "Forwarding in the kernel needs root, and cargo does not. Everything is built; to see it at work:\n\n  \
         sudo {}\n",
        say::path(&own)
    ));
    match Stage::raise_as_user().and_then(|stage| stage.play(stage::SHOW_LIMITED)) {
        Ok(code) => code,
        Err(error) => {
            say::line(&format!(
                "Without root, and without a user namespace ({error}), only this can be shown."
            ));
            check_only()
        }
    }
}

/// In a user namespace there are links and a running relayd, but no BPF: relayd carries everything itself.
pub fn show() -> ExitCode {
    let world = World::new();
    let _first = stage::LOG.set(world.folder().join("relayd.log"));
    say::line("Without root, in a user namespace, this can be shown. A configuration is checked:\n");
    show_check(world.folder());
    say::line("relayd runs, and says what it is missing:\n");
    let relayd = world.start(RULE);
    let status = relayd.ctl.json(&["status"]);
    if status["kernel"]["available"] != false {
        stage::fail("relayd claims to use the kernel, which a user namespace does not allow");
    }
    say::command("relayctl explain demo", &relayd.ctl.ok(&["explain", "demo"]));
    let _servers = (tcp_server(&world.backend, 8388), udp_server(&world.backend, 8388));
    say::line("It carries everything itself, then:\n");
    show::talk(&world, (RELAY, 8388).into());
    ExitCode::SUCCESS
}

/// Not even namespaces: the configuration is checked, and nothing touches the host.
fn check_only() -> ExitCode {
    let folder = match tempfile::tempdir() {
        Ok(folder) => folder,
        Err(error) => {
            say::problem(&format!("cannot make a folder: {error}"));
            return ExitCode::FAILURE;
        }
    };
    say::line("A configuration is checked:\n");
    show_check(folder.path());
    ExitCode::SUCCESS
}

/// `relayd --check` with a configuration of one rule.
fn show_check(folder: &Path) {
    let config = folder.join("relay.toml");
    let text = settings(folder, "") + RULE;
    fs::write(&config, text).expect("a configuration");
    let output = Command::new(binary("relayd")).arg("--check").arg("--config").arg(&config).output();
    let output = output.expect("relayd starts");
    let said = String::from_utf8_lossy(&output.stdout) + String::from_utf8_lossy(&output.stderr);
    say::command("relayd --check --config relay.toml", &said);
    assert!(output.status.success(), "relayd refuses a valid configuration");
}
