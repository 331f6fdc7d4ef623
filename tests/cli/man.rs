//! Man pages: written whole, understood by groff, and complete.

use std::fs;
use std::process::Command;

use harness::daemon::{Said, binary};
use harness::world;
use relay::config::{Config, Problems, problem::Source};

fn pages() -> tempfile::TempDir {
    let folder = world::folder();
    let output = Command::new(binary("relayctl")).arg("man").arg(folder.path()).output().expect("relayctl");
    let said = Said::from(output);
    assert_eq!(said.code, 0, "{said:?}");
    folder
}

#[test]
fn every_command_has_its_page() {
    let folder = pages();
    let page =
        |name: &str| fs::read_to_string(folder.path().join(name)).unwrap_or_else(|e| panic!("{name}: {e}"));
    assert!(page("relayd.8").contains(".TH relayd 8"), "{}", page("relayd.8"));
    assert!(page("relay.toml.5").contains("relay.toml"));
    let commands = [
        "add",
        "alert",
        "set",
        "rm",
        "list",
        "show",
        "enable",
        "disable",
        "drain",
        "backend",
        "explain",
        "check",
        "diff",
        "apply",
        "import",
        "confirm",
        "reload",
        "history",
        "quota",
        "status",
        "flows",
        "observe",
        "top",
        "export",
        "down",
        "completion",
    ];
    for command in commands {
        assert!(page(&format!("relayctl-{command}.1")).contains(".SH SYNOPSIS"), "{command}");
        assert!(page("relayctl.1").contains(&format!("relayctl\\-{command}")), "{command}");
    }
}

/// Keys that the page describes, dotted: the words of its `.It Ic` entries, below those whose lists they stand in.
fn described(page: &str) -> Vec<String> {
    let (mut path, mut found) = (Vec::<String>::new(), Vec::new());
    for line in page.lines() {
        if line.starts_with(".Bl ") {
            path.push(String::new());
        } else if line == ".El" {
            path.pop();
        } else if let (Some(entry), Some(last)) = (line.strip_prefix(".It Ic "), path.last_mut()) {
            *last = entry.split(' ').next().unwrap_or("").to_owned();
            found.push(path.join("."));
        }
    }
    found
}

/// Keys that relayd knows, as it lists them itself when it meets one that it does not.
fn known(text: &str, of: &str) -> Vec<String> {
    let sources = vec![Source { path: "x".into(), text: text.to_owned() }];
    let problems = Config::parse(Problems { sources, list: Vec::new() }).expect_err("unknown keys");
    let all: Vec<String> = problems.list.iter().filter_map(|problem| problem.help.clone()).collect();
    let lists: Vec<&str> = all.iter().filter_map(|help| help.strip_prefix("known are ")).collect();
    assert_eq!(lists.len(), 1, "{of}: {problems}");
    lists[0].split(", ").map(str::to_owned).collect()
}

#[test]
fn every_key_of_the_file_is_described() {
    let page = include_str!("../../relay-userspace/packaging/relay.toml.5");
    let described = described(page);
    let alert = |kind: &str| format!("[[alert]]\nname = \"x\"\nkind = \"{kind}\"\nzzzzzzzzzz = 1\n");
    let rule = "[[rule]]\nname = \"x\"\nlisten = \"1\"\nto = \"203.0.113.2\"\n";
    for (table, text) in [
        ("daemon", "[daemon]\nzzzzzzzzzz = 1\n".to_owned()),
        ("dns", "[dns]\nzzzzzzzzzz = 1\n".to_owned()),
        ("log", "[log]\nzzzzzzzzzz = 1\n".to_owned()),
        ("metrics", "[metrics]\nzzzzzzzzzz = 1\n".to_owned()),
        ("rule", format!("{rule}zzzzzzzzzz = 1\n")),
        ("timeout", format!("{rule}timeout.zzzzzzzzzz = 1\n")),
        ("keepalive", format!("{rule}timeout.keepalive.zzzzzzzzzz = 1\n")),
        ("accept", format!("{rule}accept.zzzzzzzzzz = 1\n")),
        ("connect", format!("{rule}connect.transport = \"ws\"\nconnect.zzzzzzzzzz = 1\n")),
        ("telegram", alert("telegram")),
        ("wecom", alert("wecom")),
        ("feishu", alert("feishu")),
        ("dingtalk", alert("dingtalk")),
        ("discord", alert("discord")),
        ("slack", alert("slack")),
        ("ntfy", alert("ntfy")),
        ("bark", alert("bark")),
        ("webhook", alert("webhook")),
        ("smtp", alert("smtp")),
        ("limit", format!("{rule}limit.zzzzzzzzzz = 1\n")),
        ("quota", format!("{rule}quota.limit = \"1GB\"\nquota.zzzzzzzzzz = 1\n")),
        ("check", format!("{rule}check.zzzzzzzzzz = 1\n")),
        ("watch", "[[watch]]\nname = \"x\"\nlisten = \"1\"\nzzzzzzzzzz = 1\n".to_owned()),
        ("group", "[[group]]\nname = \"x\"\nzzzzzzzzzz = 1\n".to_owned()),
        ("backend", rule.replace("\"203.0.113.2\"", "{ addr = \"203.0.113.2\", zzzzzzzzzz = 1 }")),
    ] {
        let keys = known(&text, table);
        assert!(!keys.is_empty());
        let path = match table {
            "timeout" | "accept" | "connect" | "limit" | "quota" | "check" => format!("{table}."),
            "keepalive" => "timeout.keepalive.".to_owned(),
            _ => String::new(),
        };
        for key in keys {
            let built = is_built(table, &key, &text);
            let is_described = described.contains(&format!("{path}{key}"));
            assert_eq!(is_described, built, "{table}: {key} is built: {built}");
        }
    }
}

/// Whether a key has a meaning yet: no value of it is refused for want of one.
fn is_built(table: &str, key: &str, text: &str) -> bool {
    // a default that already means what it says is described as well
    ["{ a = 1 }", "true"].iter().all(|value| {
        let text = text.replace("zzzzzzzzzz = 1", &format!("{key} = {value}"));
        let sources = vec![Source { path: "x".into(), text }];
        let Err(problems) = Config::parse(Problems { sources, list: Vec::new() }) else {
            return true;
        };
        assert!(!problems.to_string().contains(&format!("there is no key `{key}`")), "{table}");
        !problems.to_string().contains("is not built yet")
    })
}
