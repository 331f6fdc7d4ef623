//! relayd's arguments, its signals, its log, and what it tells its service manager.

use std::fs;
use std::io::Write as _;
use std::sync::mpsc::RecvTimeoutError;
use std::thread;
use std::time::Duration;

use harness::daemon::settings;
use harness::programs::relayd;
use harness::traffic::{Client, PATIENCE};
use harness::world::RELAY;
use harness::{Ctl, Daemon, World, eventually};
use nix::sys::signal::Signal;
use nix::sys::stat::Mode;
use nix::unistd::mkfifo;
use serde_json::Value;

const WEB: &str = "[[rule]]\nname = \"web\"\nlisten = \":80\"\nto = \"203.0.113.2:80\"\n";

fn config(world: &World, rules: &str) -> String {
    let path = world.folder().join("relay.toml");
    fs::write(&path, settings(world.folder(), "") + rules).expect("config");
    path.display().to_string()
}

#[test]
fn check_and_dump_start_nothing() {
    let world = World::new();
    let path = config(
        &world,
        &format!("[metrics]\nlisten = \"127.0.0.1:9464\"\n{WEB}note = \"香港\"\ntimeout.udp = \"1m\"\n"),
    );
    let run = |args: &[&str]| relayd(&world.relay, world.folder(), args);
    for flag in ["-t", "--check"] {
        let said = run(&["--config", &path, flag]);
        assert_eq!((said.code, said.out.as_str()), (0, "configuration is valid: 1 rule\n"), "{said:?}");
    }
    let said = run(&["-c", &path, "-T"]);
    assert_eq!(said.code, 0, "{said:?}");
    for part in [
        "max_flows = 4096\n",
        "level = \"info\"",
        "listen = \"127.0.0.1:9464\"",
        "note = \"香港\"",
        "timeout = { udp = \"1m\" }",
    ] {
        assert!(said.out.contains(part), "{part}: {}", said.out);
    }
    // what is printed is a configuration again, and the same one
    fs::write(&path, &said.out).expect("config");
    assert_eq!(run(&["-c", &path, "--dump"]).out, said.out);
    let said = run(&["-c", &path, "-T", "--socket", "/tmp/x.sock", "-l", "81", "-r", "203.0.113.2"]);
    assert!(
        said.out.contains("socket = \"/tmp/x.sock\"") && said.out.contains("name = \"81\""),
        "{}",
        said.out
    );
    assert!(!world.folder().join("relay.sock").exists() && !world.folder().join("state").exists());
}

/// The example of relay.toml(5), and whatever is packaged as a file.
#[test]
fn the_examples_are_valid() {
    let world = World::new();
    let packaging = concat!(env!("CARGO_MANIFEST_DIR"), "/../relay-userspace/packaging");
    let page = fs::read_to_string(format!("{packaging}/relay.toml.5")).expect("page");
    let example =
        page.split(".Bd -literal\n").nth(1).and_then(|rest| rest.split(".Ed").next()).expect("example");
    let path = world.folder().join("example.toml");
    fs::write(&path, example).expect("file");
    let packaged = fs::read_dir(packaging).expect("packaging").flatten().map(|entry| entry.path());
    let packaged = packaged.filter(|path| path.extension().is_some_and(|extension| extension == "toml"));
    for path in packaged.chain([path]) {
        let said = relayd(&world.relay, world.folder(), &["-c", &path.display().to_string(), "-t"]);
        assert_eq!(said.code, 0, "{}: {said:?}", path.display());
    }
}

#[test]
fn exit_codes_tell_the_kinds_of_failure_apart() {
    let world = World::new();
    let run = |args: &[&str]| relayd(&world.relay, world.folder(), args);
    let good = config(&world, WEB);
    for (code, args, says) in [
        (2, &["--nosuch"][..], "unexpected argument '--nosuch'"),
        (2, &["-l", "80"], "each -l needs its -r"),
        (2, &["-c", &good, "--trace-packets", "nosuch", "-t"], "there is no rule \"nosuch\""),
        (4, &["-c", "/nonexistent/relay.toml"], "/nonexistent/relay.toml: cannot be read: No such file"),
        (4, &["-l", "x", "-r", ":", "-t"], "-l: \"x\": the port is not a number"),
        (
            4,
            &["-l", "80", "-r", "203.0.113.2", "-l", "80", "-r", "203.0.113.3", "-t"],
            "two rules are called \"80\"",
        ),
        (4, &["-c", &good, "-l", "70-90", "-r", "203.0.113.3", "-t"], "\":70-90\" overlaps rule \"web\""),
        (4, &["-l", "80-90", "-r", "203.0.113.2:65530", "-t"], "do not fit above port 65530"),
        (1, &["-c", &good, "--state-dir", "/dev/null/state"], "cannot make the state folder"),
        (1, &["-c", &good, "--socket", "/dev/null/sock"], "cannot make the folder of the socket"),
    ] {
        let said = run(args);
        assert_eq!(said.code, code, "{args:?}: {said:?}");
        assert!(said.err.contains(says), "{args:?}: {}", said.err);
    }
    let said = run(&["-l", "x", "-r", "203.0.113.2", "-l", "80", "-r", ":", "-t"]);
    assert!(said.err.contains("-l: \"x\"") && said.err.contains("-r: \":\""), "all at once: {}", said.err);
}

/// The next message in which `word` occurs.
fn told(daemon: &Daemon, word: &str) -> String {
    loop {
        match daemon.told.recv_timeout(PATIENCE) {
            Ok(message) if message.contains(word) => return message,
            Ok(_) => {}
            Err(error @ (RecvTimeoutError::Timeout | RecvTimeoutError::Disconnected)) => {
                panic!("{word}: {error}")
            }
        }
    }
}

#[test]
fn the_service_manager_is_told() {
    let world = World::new();
    let mut daemon = world.start(WEB);
    told(&daemon, "WATCHDOG=1");
    fs::write(
        &daemon.config,
        format!("{}enabled = false\n", fs::read_to_string(&daemon.config).expect("config")),
    )
    .expect("edit");
    daemon.signal(Signal::SIGHUP);
    let message = told(&daemon, "RELOADING=1");
    let time = message.lines().find_map(|line| line.strip_prefix("MONOTONIC_USEC="));
    assert!(time.is_some_and(|time| time.parse::<u64>().is_ok()), "Type=notify-reload wants it: {message}");
    let message = told(&daemon, "READY=1");
    assert!(message.contains("STATUS=0 of 1 rules active"), "{message}");
    daemon.ctl.ok(&["enable", "web"]);
    assert!(told(&daemon, "STATUS=").contains("STATUS=1 of 1 rules active"));
    daemon.ctl.ok(&["down"]);
    assert!(told(&daemon, "STATUS=").contains("no kernel plane: detached by `relayctl down`"));
    daemon.stop();
    told(&daemon, "STOPPING=1");
}

/// The socket is there first. relayd is held up by a pipe in place of its ledger, which it reads before it has any rule.
#[test]
fn who_asks_before_the_rules_are_there_gets_them() {
    let world = World::new();
    let state = world.folder().join("state");
    fs::create_dir(&state).expect("folder");
    let pipe = state.join("sysctl");
    mkfifo(&pipe, Mode::S_IRWXU).expect("pipe");
    let ctl = Ctl::new(world.folder().join("relay.sock"), world.folder());
    thread::scope(|scope| {
        let asked = scope.spawn(|| {
            let held_up = fs::File::options().write(true).open(&pipe).expect("relayd reads");
            let answer = scope.spawn(|| ctl.json(&["list"]));
            thread::sleep(Duration::from_millis(200));
            drop(held_up);
            answer.join().expect("relayctl")
        });
        let _daemon = world.start(WEB);
        let rules = asked.join().expect("answer");
        assert_eq!(rules[0]["state"], "active", "{rules}");
    });
}

#[test]
fn signals_end_it_well_and_hangup_reads_the_file() {
    let world = World::new();
    let mut daemon = world.start(WEB);
    fs::write(&daemon.config, "[[rule]").expect("edit");
    daemon.signal(Signal::SIGHUP);
    eventually("the refusal is logged", || {
        let log = daemon.log();
        log.contains("ERROR not reloaded, the old rules stay") && log.contains("this is not TOML")
    });
    assert_eq!(daemon.ctl.rule("web")["state"], "active");
    daemon.signal(Signal::SIGINT);
    eventually("it stops", || !daemon.ctl.socket.exists());
    eventually("it says so", || daemon.log().contains("stopped; the kernel plane goes on forwarding"));
}

#[test]
fn the_log_is_json_where_it_is_asked_to_be() {
    let world = World::new();
    let mut daemon = world.start(&format!("[log]\nformat = \"json\"\nlevel = \"debug\"\n{WEB}"));
    daemon.ctl.ok(&["set", "web", "note=x"]);
    let log = daemon.log();
    let lines: Vec<Value> =
        log.lines().map(|line| serde_json::from_str(line).expect("a JSON line")).collect();
    assert!(lines.len() >= 4, "{log}");
    assert!(lines.iter().any(|line| line["fields"]["RULE"] == "web" && line["level"] == "INFO"), "{log}");
}

#[test]
fn the_level_lets_lines_through() {
    let world = World::new();
    let rule = format!(
        "{WEB}plane = \"user\"\naccept = {{ proxy_protocol = true, trusted = [\"198.51.100.0/24\"] }}\n"
    );
    let mut daemon = world.start(&format!("[log]\nlevel = \"debug\"\n{rule}"));
    let mut client = Client::connect(&world.client, (RELAY, 80)).expect("a connection");
    client.0.write_all(b"no header\r\n").expect("sent");
    eventually("who is refused is in the log", || {
        daemon.log().lines().any(|line| line.contains("DEBUG") && line.contains("proxy_missing"))
    });
}

#[test]
fn the_level_holds_lines_back() {
    let world = World::new();
    let mut daemon = world.start(&format!("[log]\nlevel = \"error\"\n{WEB}"));
    daemon.ctl.ok(&["set", "web", "note=x"]);
    assert_eq!(daemon.log(), "");
}
