//! Changes and the file: what is kept of it, which file it is, and what happens when it cannot be written.

use std::fs;
use std::os::unix::fs::{MetadataExt as _, PermissionsExt as _};
use std::path::Path;
use std::process::Command;

use harness::daemon::{binary, settings};
use harness::traffic::{Client, tcp_server};
use harness::world::RELAY;
use harness::{Daemon, World};
use nix::mount::{MsFlags, mount};
use serde_json::{Value, json};

const COMMENTED: &str = "\
# before everything

# the web server,
# since 2019
[[rule]]
name = 'web'          # single quotes stay
listen = [
  \":80\",   # plain
  \":81\",
]
to = \"203.0.113.2:80\"

# games
[[rule]]
to = \"203.0.113.2:27015\"
listen = \":27015\"
protocol = \"udp\"
name = \"games\"
[rule.timeout]
udp = \"60s\" # short
# the end
";

fn text(daemon: &Daemon) -> String {
    fs::read_to_string(&daemon.config).expect("config")
}

#[test]
fn edits_keep_comments_order_and_spelling() {
    let world = World::new();
    let daemon = world.start(COMMENTED);
    let before = text(&daemon);
    let ctl = &daemon.ctl;
    ctl.ok(&["set", "games", "timeout.udp=90s"]);
    let mut expected = before.replace("\"60s\" # short", "\"90s\" # short");
    assert_eq!(text(&daemon), expected);
    ctl.ok(&["set", "web", "to=203.0.113.2:8080"]);
    expected = expected.replace("203.0.113.2:80\"", "203.0.113.2:8080\"");
    assert_eq!(text(&daemon), expected);
    ctl.ok(&["disable", "web"]);
    assert!(text(&daemon).contains("to = \"203.0.113.2:8080\"\nenabled = false\n"), "{}", text(&daemon));
    ctl.ok(&["enable", "web"]);
    assert_eq!(text(&daemon), expected);
    ctl.ok(&["add", "90", "203.0.113.2", "--name", "new"]);
    let added = "\n[[rule]]\nname = \"new\"\nlisten = \":90\"\nto = \"203.0.113.2\"\n";
    assert_eq!(text(&daemon), format!("{expected}{added}"));
    ctl.ok(&["rm", "web"]);
    let gone = expected.find("# the web").expect("start")..expected.find("# games").expect("end");
    expected.replace_range(gone, "");
    assert_eq!(text(&daemon), format!("{expected}{added}"));
    assert_eq!(ctl.ok(&["diff"]), "nothing to change\n", "the file and relayd agree");
    assert_eq!(ctl.ok(&["reload"]), "nothing to change\n");
}

#[test]
fn lists_keep_their_lines_and_realms_weights_are_translated() {
    let world = World::new();
    let daemon = world.start(
        "[[rule]]\nname = \"web\"\nlisten = \":80\"\nto = [\n  \"203.0.113.2:80\", # tokyo\n  \"203.0.113.3:80\", # osaka\n]\n\
         balance = \"roundrobin: 4, 2\" # from realm\n",
    );
    let (ctl, before) = (&daemon.ctl, text(&daemon));
    ctl.ok(&["set", "web", "note=x"]);
    assert_eq!(text(&daemon), format!("{before}note = \"x\"\n"), "what is not asked for stays as it is");
    ctl.ok(&["set", "web", "note=", "to+=203.0.113.4:80"]);
    let own = before
        .replace("\"203.0.113.2:80\"", "{ addr = \"203.0.113.2:80\", weight = 4 }")
        .replace("\"203.0.113.3:80\"", "{ addr = \"203.0.113.3:80\", weight = 2 }")
        .replace("# osaka\n", "# osaka\n  \"203.0.113.4:80\",\n")
        .replace("\"roundrobin: 4, 2\"", "\"roundrobin\"");
    assert_eq!(text(&daemon), own);
    ctl.ok(&["set", "web", "to-=203.0.113.2:80"]);
    let osaka_on = own.replace("  { addr = \"203.0.113.2:80\", weight = 4 }, # tokyo\n", "");
    assert_eq!(text(&daemon), osaka_on);
    assert_eq!(ctl.ok(&["reload"]), "nothing to change\n", "the file and relayd agree");
}

#[test]
fn rules_of_conf_d_are_saved_where_they_came_from() {
    let world = World::new();
    let conf_d = world.folder().join("conf.d");
    fs::create_dir(&conf_d).expect("folder");
    let own = "# alice\n[[rule]]\nname = \"alice\"\nlisten = \":90\"\nto = \"203.0.113.2:90\"\n";
    fs::write(conf_d.join("50-alice.toml"), own).expect("file");
    fs::write(conf_d.join("60-bob.toml"), own.replace("alice", "bob").replace("90", "91")).expect("file");
    fs::write(conf_d.join("ignored.txt"), "not TOML").expect("file");
    let daemon = world.start("[[rule]]\nname = \"main\"\nlisten = \":80\"\nto = \"203.0.113.2\"\n");
    let (ctl, main) = (&daemon.ctl, text(&daemon));
    let names: Vec<_> =
        ctl.json(&["list"]).as_array().expect("list").iter().map(|r| r["name"].clone()).collect();
    assert_eq!(names, ["main", "alice", "bob"]);
    let file = conf_d.join("50-alice.toml");
    assert_eq!(ctl.json(&["set", "alice", "note=hers"])["saved"], json!(file));
    assert_eq!(fs::read_to_string(&file).expect("file"), format!("{own}note = \"hers\"\n"));
    assert!(ctl.ok(&["explain", "alice"]).contains("conf.d/50-alice.toml"));
    assert_eq!(text(&daemon), main);
    ctl.ok(&["rm", "alice"]);
    assert_eq!(fs::read_to_string(&file).expect("file"), "# alice\n", "the comment at the top is the file's");
    assert_eq!(ctl.json(&["add", "92", "203.0.113.2"])["saved"], json!(daemon.config));
    assert_eq!(ctl.ok(&["reload"]), "nothing to change\n");
}

#[test]
fn a_file_is_replaced_whole_and_keeps_its_mode() {
    let world = World::new();
    let daemon = world.start(COMMENTED);
    fs::set_permissions(&daemon.config, fs::Permissions::from_mode(0o604)).expect("mode");
    let before = fs::metadata(&daemon.config).expect("file").ino();
    daemon.ctl.ok(&["set", "web", "note=x"]);
    let after = fs::metadata(&daemon.config).expect("file");
    assert_ne!(before, after.ino(), "a reader of the old file still has all of it");
    assert_eq!(after.mode() & 0o777, 0o604);
    let left: Vec<_> = fs::read_dir(world.folder()).expect("list").flatten().map(|e| e.file_name()).collect();
    assert!(!left.iter().any(|name| name.to_string_lossy().ends_with(".tmp")), "{left:?}");
}

#[test]
fn rules_from_the_command_line_are_not_saved_and_say_so() {
    let world = World::new();
    let folder = world.folder().display().to_string();
    let mut command = Command::new(binary("relayd"));
    command.args(["-l", "8080", "-r", "203.0.113.2:80", "-l", "198.51.100.1:9000-9010", "-r", "203.0.113.2"]);
    command.args(["--socket", &format!("{folder}/relay.sock"), "--state-dir", &format!("{folder}/state")]);
    command.args(["--bpf-dir", &format!("{folder}/bpf")]);
    let daemon = Daemon::spawn(&world.relay, world.folder(), command);
    let _server = tcp_server(&world.backend, 80);
    Client::connect(&world.client, (RELAY, 8080)).and_then(Client::seen_as).expect("forwards");
    let ctl = &daemon.ctl;
    for args in [&["set", "8080", "note=x"][..], &["add", "81", "203.0.113.2"], &["rm", "9000-9010"]] {
        let said = ctl.ok(args);
        assert!(
            said.contains("note: not saved: the rule lives on relayd's command line"),
            "{args:?}: {said}"
        );
        assert!(!said.contains("saved in"), "{said}");
    }
    assert_eq!(ctl.json(&["status"])["config"], json!(null));
    assert!(ctl.ok(&["explain", "8080"]).contains("(kept in relayd's command line)"));
    assert!(ctl.fails(1, &["apply", "/dev/null"]).contains("command line"));
    ctl.ok(&["reload"]);
    let names: Vec<_> =
        ctl.json(&["list"]).as_array().expect("list").iter().map(|r| r["name"].clone()).collect();
    assert_eq!(names, ["8080", "9000-9010"], "a reload brings back what was typed");
}

/// Fills a file system to the last block.
fn fill(folder: &Path) -> std::path::PathBuf {
    let path = folder.join("filler");
    let mut size = 1 << 20;
    while size > 0 {
        let grown = fs::metadata(&path).map_or(0, |file| file.len()) as usize + size;
        if fs::write(&path, vec![b'x'; grown]).is_err() {
            size /= 2;
        }
    }
    path
}

#[test]
fn a_full_disk_changes_nothing() {
    let world = World::new();
    let small = world.folder().join("small");
    fs::create_dir(&small).expect("folder");
    mount(Some("small"), &small, Some("tmpfs"), MsFlags::empty(), Some("size=128k")).expect("tmpfs");
    let config = small.join("relay.toml");
    let rules = "[[rule]]\nname = \"web\"\nlisten = \":80\"\nto = \"203.0.113.2:80\"\n";
    fs::write(&config, settings(world.folder(), "") + rules).expect("config");
    let mut command = Command::new(binary("relayd"));
    command.arg("--config").arg(&config);
    let daemon = Daemon::spawn(&world.relay, world.folder(), command);
    let _servers = [80, 81].map(|port| tcp_server(&world.backend, port));
    let before = fs::read_to_string(&config).expect("config");
    let list = daemon.ctl.json(&["list"]);
    let filler = fill(&small);
    let other = world.folder().join("other.toml");
    fs::write(&other, before.replace(":80\"", ":81\"")).expect("file");
    let other = other.display().to_string();
    for args in [
        &["add", "90", "203.0.113.2:81"][..],
        &["set", "web", "to=203.0.113.2:81"],
        &["disable", "web"],
        &["apply", &other],
    ] {
        let said = daemon.ctl.fails(1, args);
        for part in ["not saved, and nothing changed", "small/relay.toml", "No space left on device"] {
            assert!(said.contains(part), "{args:?}: {said}");
        }
        assert_eq!(fs::read_to_string(&config).expect("config"), before, "{args:?}");
        let addr = |list: &Value| list[0]["to"][0]["addr"].clone();
        assert_eq!(addr(&daemon.ctl.json(&["list"])), addr(&list), "{args:?}");
        assert_eq!(daemon.ctl.json(&["list"]).as_array().map(Vec::len), Some(1), "{args:?}");
        Client::connect(&world.client, (RELAY, 80)).and_then(Client::seen_as).expect("it forwards as before");
        Client::connect(&world.client, (RELAY, 90)).and_then(Client::seen_as).expect_err("never added");
    }
    assert_eq!(fs::read_dir(&small).expect("list").count(), 2, "nothing is left behind");
    fs::remove_file(filler).expect("room");
    daemon.ctl.ok(&["add", "90", "203.0.113.2:81"]);
    Client::connect(&world.client, (RELAY, 90)).and_then(Client::seen_as).expect("there is room again");
}

#[test]
fn a_file_changed_by_hand_is_not_overwritten() {
    let world = World::new();
    let daemon = world.start(COMMENTED);
    let ctl = &daemon.ctl;
    let by_hand = text(&daemon).replace("'web'", "\"site\"");
    fs::write(&daemon.config, &by_hand).expect("edit");
    let said = ctl.fails(1, &["set", "web", "note=x"]);
    assert!(said.contains("rule \"web\" is not in") && said.contains("reload first"), "{said}");
    assert_eq!(text(&daemon), by_hand);
    fs::write(&daemon.config, "this is [not TOML").expect("edit");
    let said = ctl.fails(1, &["rm", "games"]);
    assert!(said.contains("is not TOML any more"), "{said}");
    assert_eq!(ctl.rule("games")["state"], "active");
    fs::remove_file(&daemon.config).expect("remove");
    assert!(ctl.fails(1, &["rm", "games"]).contains("No such file"));
    fs::write(&daemon.config, &by_hand).expect("edit");
    ctl.ok(&["reload"]);
    assert_eq!(ctl.rule("site")["state"], "active");
}
