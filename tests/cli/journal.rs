//! Under systemd relayd speaks the journal's own protocol, and lines carry fields to search by.

use std::collections::BTreeMap;
use std::fs;
use std::os::unix::fs::MetadataExt as _;
use std::os::unix::net::UnixDatagram;
use std::process::Command;
use std::time::Duration;

use harness::daemon::{binary, settings};
use harness::traffic::{Client, tcp_server};
use harness::world::RELAY_V6;
use harness::{Daemon, World, eventually};
use nix::mount::{MsFlags, mount};

const RULES: &str = "[[rule]]\nname = \"web\"\nlisten = \":80\"\nto = \"203.0.113.2:80\"\n\
                     [[rule]]\nname = \"away\"\nlisten = \"192.0.2.9:81\"\nto = \"203.0.113.2:80\"\n";

/// relayd whose standard error is said to be the journal.
fn start(world: &World, log: &str) -> Daemon {
    let path = world.folder().join("relay.toml");
    fs::write(&path, settings(world.folder(), "") + log + RULES).expect("config");
    let log = fs::File::create(world.folder().join("relayd.log")).expect("log").metadata().expect("log");
    // spawn() takes JOURNAL_STREAM out of what is inherited, so it comes by way of env(1)'s place: the shell's
    let mut command = Command::new("/bin/sh");
    let stream = format!("{}:{}", log.dev(), log.ino());
    command.args(["-c", "JOURNAL_STREAM=$1 exec \"$2\" --config \"$3\"", "sh", &stream]);
    command.arg(binary("relayd")).arg(path);
    Daemon::spawn(&world.relay, world.folder(), command)
}

/// The fields of one entry (systemd's "Native Journal Protocol"): `NAME=value` lines.
fn fields(entry: &[u8]) -> BTreeMap<String, String> {
    let mut fields = BTreeMap::new();
    let mut rest = entry;
    while !rest.is_empty() {
        let end = rest.iter().position(|&byte| byte == b'\n').expect("a line");
        let line = String::from_utf8_lossy(&rest[..end]).into_owned();
        rest = &rest[end + 1..];
        match line.split_once('=') {
            Some((name, value)) => fields.insert(name.to_owned(), value.to_owned()),
            // a value with its length before it, in eight bytes
            None => {
                let length = u64::from_le_bytes(rest[..8].try_into().expect("length")) as usize;
                let value = String::from_utf8_lossy(&rest[8..8 + length]).into_owned();
                rest = &rest[8 + length + 1..];
                fields.insert(line, value)
            }
        };
    }
    fields
}

/// A journal, played by the test.
fn journal() -> UnixDatagram {
    mount(Some("run"), "/run", Some("tmpfs"), MsFlags::empty(), None::<&str>).expect("a /run of our own");
    fs::create_dir_all("/run/systemd/journal").expect("folder");
    let journal = UnixDatagram::bind("/run/systemd/journal/socket").expect("journal");
    journal.set_read_timeout(Some(Duration::from_millis(500))).expect("timeout");
    journal
}

/// A connection's line can be searched for by everything that it says.
#[test]
fn connections_have_fields() {
    let world = World::new();
    let journal = journal();
    let daemon = start(&world, "[log]\nlevel = \"error\"\nconnections = true\n\n");
    daemon.ctl.ok(&["set", "web", "plane=user"]);
    let _server = tcp_server(&world.backend, 80);
    let mut client =
        Client::connect(&world.client, (RELAY_V6, 80)).and_then(Client::start_echo).expect("connect");
    client.echo(b"hello").expect("echo");
    let own = client.0.local_addr().expect("address");
    drop(client);
    let mut buffer = vec![0; 65_536];
    let mut entry = BTreeMap::new();
    eventually("an entry", || match journal.recv(&mut buffer) {
        Ok(length) => {
            entry = fields(&buffer[..length]);
            entry.contains_key("CLIENT")
        }
        Err(_nothing_yet) => false,
    });
    for (name, value) in [
        ("RULE", "web"),
        ("PLANE", "user"),
        ("PROTOCOL", "tcp"),
        ("CLIENT", &own.to_string()),
        ("BACKEND", "203.0.113.2:80"),
        ("INGRESS", "15"),
        ("EGRESS", "6"),
        ("REASON", "closed"),
    ] {
        assert_eq!(entry.get(name).map(String::as_str), Some(value), "{name}: {entry:?}");
    }
    assert!(entry["SECONDS"].parse::<f64>().is_ok_and(|seconds| seconds < 60.0), "{entry:?}");
    assert!(
        entry["MESSAGE"].starts_with(&format!("web: tcp {own} to 203.0.113.2:80: closed after ")),
        "{entry:?}"
    );
}

#[test]
fn entries_carry_their_rule() {
    let world = World::new();
    let journal = journal();
    let mut daemon = start(&world, "");
    daemon.ctl.ok(&["set", "web", "note=x"]);
    let mut entries = Vec::new();
    let mut buffer = vec![0; 65_536];
    let is_of = |entry: &BTreeMap<_, _>, rule: &str| entry.get("RULE").is_some_and(|name| name == rule);
    eventually("entries of both rules", || {
        entries.extend(journal.recv(&mut buffer).map(|length| fields(&buffer[..length])));
        ["web", "away"].iter().all(|rule| entries.iter().any(|entry| is_of(entry, rule)))
    });
    let of = |rule: &str| entries.iter().find(|entry| is_of(entry, rule)).expect("an entry");
    let (web, away) = (of("web"), of("away"));
    assert_eq!((web["MESSAGE"].as_str(), web["PRIORITY"].as_str()), ("rule web changed", "5"), "{web:?}");
    assert!(
        away["MESSAGE"].contains("192.0.2.9 is not an address of this host") && away["PRIORITY"] == "4",
        "{away:?}"
    );
    assert_eq!(daemon.log(), "", "nothing is said twice");
}

#[test]
fn without_a_journal_the_log_is_text() {
    let world = World::new();
    mount(Some("run"), "/run", Some("tmpfs"), MsFlags::empty(), None::<&str>).expect("a /run of our own");
    let mut daemon = start(&world, "");
    let log = daemon.log();
    assert!(log.contains("relayd ") && log.contains("ready: 1 of 2 rules active"), "{log}");
}
