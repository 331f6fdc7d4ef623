//! `relayctl import`: into a relayd that runs, and into a file without one.

use std::fs;
use std::process::Command;

use harness::World;
use harness::daemon::binary;

const OLD: &str = "# mine\n[[rule]]\nname = \"8388\"\nlisten = \":8388\"\nto = \"203.0.113.2:1\"\n";

#[test]
fn rules_come_in_one_change_or_not_at_all() {
    let world = World::new();
    let daemon = world.start(OLD);
    let folder = tempfile::tempdir().expect("a folder");
    let path = folder.path().join("lines");
    let file = path.to_str().expect("a path");
    fs::write(&path, "8388:203.0.113.2:443\n8389:203.0.113.2:443:tokyo\n").expect("lines");
    let read = || fs::read_to_string(&daemon.config).expect("config");
    let before = read();
    let import = |extra: &[&str]| {
        let mut command = Command::new(binary("relayctl"));
        command.arg("--socket").arg(&daemon.ctl.socket).args(["import", "lines", file]).args(extra);
        command.output().expect("relayctl")
    };
    let refused = import(&[]);
    let said = String::from_utf8_lossy(&refused.stderr).into_owned();
    assert!(!refused.status.success() && said.contains("a rule \"8388\" already"), "{said}");
    assert!(import(&["--on-conflict", "skip", "--dry-run"]).status.success());
    assert_eq!(read(), before, "nothing has changed");
    let skipped = import(&["--on-conflict", "skip"]);
    let said = String::from_utf8_lossy(&skipped.stdout).into_owned();
    assert!(skipped.status.success() && said.contains("lines:2"), "{said}");
    assert!(read().starts_with(&before) && read().contains("note = \"tokyo\""), "{}", read());
    assert!(import(&["--on-conflict", "replace"]).status.success());
    assert!(!read().contains("203.0.113.2:1\"") && read().matches("[[rule]]").count() == 2, "{}", read());
    assert_eq!(daemon.ctl.ok(&["diff"]), "nothing to change\n", "the file and relayd agree");
}

#[test]
fn a_file_takes_rules_without_relayd_and_realm_has_them_back() {
    let folder = tempfile::tempdir().expect("a folder");
    let at = |name: &str| folder.path().join(name).to_str().expect("a path").to_owned();
    let run = |words: &[&str]| Command::new(binary("relayctl")).args(words).output().expect("relayctl");
    fs::write(at("realm"), "[[endpoints]]\nlisten = \"[::]:80\"\nremote = \"h.example:1\"\n").expect("realm");
    assert!(run(&["import", "auto", &at("realm"), "--to", &at("relay.toml")]).status.success());
    let again = run(&["import", "auto", &at("realm"), "--to", &at("relay.toml")]);
    assert_eq!(again.status.code(), Some(1), "{}", String::from_utf8_lossy(&again.stderr));
    let back = run(&["export", "realm", &at("relay.toml")]);
    let text = String::from_utf8_lossy(&back.stdout).into_owned();
    assert!(text.contains("listen = \"[::]:80\"") && text.contains("remote = \"h.example:1\""), "{text}");
    fs::write(at("bad"), "80:a:1\nhalf").expect("bad");
    let bad = run(&["import", "lines", &at("bad"), "--to", "-"]);
    assert!(String::from_utf8_lossy(&bad.stderr).contains("bad:2: "), "{bad:?}");
}
