//! Whole configurations: check, diff, reload, apply and its confirmation.

use std::fs;
use std::path::PathBuf;
use std::process::{Command, Stdio};

use harness::daemon::{Said, binary, settings};
use harness::traffic::{Client, tcp_server};
use harness::world::RELAY;
use harness::{Daemon, World, eventually};
use serde_json::{Value, json};

const WEB: &str = "[[rule]]\nname = \"web\"\nlisten = \":80\"\nto = \"203.0.113.2:80\"\n";
const OTHER: &str = "[[rule]]\nname = \"other\"\nlisten = \":81\"\nto = \"203.0.113.2:80\"\n";

const TWO: &str =
    "[[rule]]\nname = \"two\"\nlisten = \":80\"\nto = [\"203.0.113.2:80\", \"203.0.113.3:80\"]\n";

fn file(world: &World, name: &str, rules: &str) -> (PathBuf, String) {
    let path = world.folder().join(name);
    fs::write(&path, settings(world.folder(), "") + rules).expect("file");
    let shown = path.display().to_string();
    (path, shown)
}

fn through(world: &World, port: u16) -> bool {
    Client::connect(&world.client, (RELAY, port)).and_then(Client::seen_as).is_ok()
}

fn text(daemon: &Daemon) -> String {
    fs::read_to_string(&daemon.config).expect("config")
}

#[test]
fn check_needs_no_relayd() {
    let world = World::new();
    let (_, good) = file(&world, "good.toml", &format!("{WEB}{OTHER}enabled = false\n"));
    let ctl =
        |args: &[&str]| Said::from(Command::new(binary("relayctl")).args(args).output().expect("relayctl"));
    assert_eq!(ctl(&["check", &good]).out, format!("{good} is valid: 2 rules, 1 enabled\n"));
    assert_eq!(
        ctl(&["-o", "json", "check", &good]).out,
        "{\n  \"valid\": true,\n  \"rules\": 2,\n  \"enabled\": 1\n}\n"
    );
    let said = ctl(&["check", "/nonexistent/relay.toml"]);
    assert_eq!(said.code, 4);
    assert!(said.err.contains("/nonexistent/relay.toml: cannot be read: No such file"), "{}", said.err);
}

#[test]
fn diff_says_what_a_file_would_change() {
    let world = World::new();
    let daemon = world.start(WEB);
    let (_, path) = file(&world, "new.toml", &format!("{}{OTHER}", WEB.replace(":80\"\nto", ":8080\"\nto")));
    let said = daemon.ctl.ok(&["diff", &path]);
    let expected = "rule web changed\n  - listen = \":80\"\n  + listen = \":8080\"\nrule other added\n\
                    (dry run: nothing was changed)\n";
    assert_eq!(said, expected);
    assert_eq!(daemon.ctl.json(&["diff", &path])["changes"][1]["action"], "added");
    assert_eq!(daemon.ctl.ok(&["diff", "-o", "tsv", &path]), "changed\tweb\nadded\tother\n");
    assert_eq!(daemon.ctl.ok(&["diff"]), "nothing to change\n");
    fs::write(&daemon.config, text(&daemon).replace(WEB, OTHER)).expect("edit");
    assert!(daemon.ctl.ok(&["diff"]).starts_with("rule other added\nrule web removed\n"));
}

#[test]
fn apply_makes_a_file_the_configuration() {
    let world = World::new();
    let daemon = world.start(WEB);
    let (_server, ctl) = (tcp_server(&world.backend, 80), &daemon.ctl);
    let (path, shown) = file(&world, "new.toml", &format!("# new\n{OTHER}"));
    let said = ctl.ok(&["apply", &shown]);
    assert!(said.contains("rule other added\nrule web removed\n"), "{said}");
    assert!((through(&world, 81), through(&world, 80)) == (true, false));
    assert_eq!(text(&daemon), fs::read_to_string(path).expect("file"), "saved as it was written");
    // from standard input too
    let mut command = Command::new(binary("relayctl"));
    command.env("RELAY_SOCKET", &ctl.socket).args(["apply", "-"]).stdin(Stdio::piped()).stdout(Stdio::null());
    let mut child = command.spawn().expect("relayctl");
    let text = settings(world.folder(), "") + WEB;
    std::io::Write::write_all(&mut child.stdin.take().expect("input"), text.as_bytes()).expect("write");
    assert!(child.wait().expect("it ends").success());
    assert!(through(&world, 80));
    assert!(ctl.fails(1, &["apply", "/nonexistent"]).contains("cannot read /nonexistent: No such file"));
}

#[test]
fn a_file_with_mistakes_is_shown_by_its_own_name_and_changes_nothing() {
    let world = World::new();
    let daemon = world.start(WEB);
    let _server = tcp_server(&world.backend, 80);
    let before = text(&daemon);
    let (_, shown) = file(&world, "bad.toml", &OTHER.replace("to =", "too ="));
    for args in [&["apply", &shown][..], &["diff", &shown], &["check", &shown]] {
        let said = daemon.ctl.fails(4, args);
        assert!(
            said.contains("bad.toml:11:1: rule \"other\": there is no key `too`; did you mean `to`?"),
            "{said}"
        );
    }
    assert_eq!((text(&daemon), through(&world, 80)), (before, true));
}

#[test]
fn an_apply_that_is_confirmed_stays() {
    let world = World::new();
    let daemon = world.start(WEB);
    let (_server, ctl) = (tcp_server(&world.backend, 80), &daemon.ctl);
    let (before, (_, shown)) = (text(&daemon), file(&world, "new.toml", OTHER));
    let said = ctl.run(&["apply", &shown, "--confirm", "60s"]);
    assert_eq!(said.code, 0, "{said:?}");
    assert!(said.err.contains("undone in 60 s unless you run: relayctl confirm"), "{said:?}");
    assert_eq!((text(&daemon), through(&world, 81)), (before, true), "live, not saved yet");
    assert!(ctl.json(&["status"])["unconfirmed_seconds"].as_u64() <= Some(60));
    assert!(ctl.fails(1, &["rm", "other"]).contains("an apply waits for its confirmation"));
    assert!(ctl.fails(1, &["apply", &shown]).contains("another apply waits"));
    assert!(ctl.ok(&["confirm"]).contains("saved in"));
    assert_eq!(text(&daemon), fs::read_to_string(shown).expect("file"));
    assert!(ctl.fails(1, &["confirm"]).contains("nothing to confirm"));
}

#[test]
fn an_apply_that_nobody_confirms_is_undone() {
    let world = World::new();
    let daemon = world.start(WEB);
    let (_server, ctl) = (tcp_server(&world.backend, 80), &daemon.ctl);
    let (before, (_, shown)) = (text(&daemon), file(&world, "new.toml", OTHER));
    let view = ctl.json(&["apply", &shown, "--confirm", "1s"]);
    assert_eq!(view["confirm_within"], 1);
    assert!(through(&world, 81));
    eventually("it is undone", || ctl.json(&["list"])[0]["name"] == "web");
    assert_eq!((through(&world, 80), through(&world, 81), text(&daemon)), (true, false, before));
    assert!(ctl.fails(1, &["confirm"]).contains("it may have lapsed"));
}

#[test]
fn orders_for_backends_outlive_an_apply_that_lapses() {
    let world = World::new();
    let mut daemon = world.start(TWO);
    let ctl = daemon.ctl.clone();
    let ordered = |index: usize| ctl.rule("two")["to"][index]["order"].clone();
    ctl.ok(&["backend", "two", "203.0.113.2:80", "--drain"]);
    ctl.ok(&["backend", "two", "203.0.113.3:80", "--down"]);
    let (_, shown) = file(&world, "new.toml", OTHER);
    ctl.ok(&["apply", &shown, "--confirm", "1s"]);
    eventually("it is undone", || ctl.json(&["list"])[0]["name"] == "two");
    assert_eq!([ordered(0), ordered(1)], ["drain", "down"]);
    // the rule stays, a backend does not
    let (_, shown) = file(&world, "one.toml", &TWO.replace("\"203.0.113.2:80\", ", ""));
    ctl.ok(&["apply", &shown, "--confirm", "2s"]);
    ctl.ok(&["backend", "two", "203.0.113.3:80", "--up"]);
    eventually("it is undone", || ctl.rule("two")["to"].as_array().is_some_and(|to| to.len() == 2));
    assert_eq!([ordered(0), ordered(1)], [json!("drain"), Value::Null], "what was ordered meanwhile stays");
    // nor are they lost if relayd dies meanwhile
    let (_, shown) = file(&world, "other.toml", OTHER);
    ctl.ok(&["apply", &shown, "--confirm", "60s"]);
    daemon.kill();
    daemon.start_again(&world.relay);
    assert_eq!([ordered(0), ordered(1)], [json!("drain"), Value::Null], "after a restart");
}

#[test]
fn reload_reads_the_file_again_or_refuses_it_whole() {
    let world = World::new();
    let daemon = world.start(WEB);
    let (_server, ctl) = (tcp_server(&world.backend, 80), &daemon.ctl);
    let good = text(&daemon);
    fs::write(&daemon.config, format!("{good}{}", OTHER.replace("name = \"other\"", "nmae = \"other\"")))
        .expect("edit");
    let said = ctl.fails(4, &["reload"]);
    assert!(said.contains("did you mean `name`?") && said.contains("relay.toml:"), "{said}");
    let status = ctl.json(&["status"]);
    assert_eq!(status["reload"]["success"], false, "{status}");
    assert!(ctl.ok(&["status"]).contains("refused: "));
    assert!(through(&world, 80));
    fs::write(&daemon.config, format!("{good}{OTHER}")).expect("edit");
    assert_eq!(ctl.ok(&["reload"]), "rule other added\n");
    assert!((through(&world, 80), through(&world, 81)) == (true, true));
    assert_eq!(ctl.json(&["status"])["reload"]["success"], true);
    let changed = text(&daemon).replace("[daemon]", "[log]\nlevel = \"debug\"\n[daemon]");
    fs::write(&daemon.config, changed).expect("edit");
    assert!(ctl.ok(&["reload"]).contains("take effect when relayd is restarted"));
}

#[test]
fn reload_tells_of_every_rule_that_does_not_work() {
    let world = World::new();
    let daemon = world.start(WEB);
    let broken = "[[rule]]\nname = \"away\"\nlisten = \"192.0.2.9:82\"\nto = \"203.0.113.2\"\n";
    fs::write(&daemon.config, format!("{}{broken}", text(&daemon))).expect("edit");
    let said = daemon.ctl.run(&["reload"]);
    assert_eq!(said.code, 5, "{said:?}");
    assert!(
        said.out.contains("note: rule \"away\" does not work: 192.0.2.9 is not an address of this host"),
        "{said:?}"
    );
    assert_eq!(daemon.ctl.json(&["status"])["rules"], json!({ "active": 1, "error": 1 }));
}
