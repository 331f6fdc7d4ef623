//! What relayctl prints, for people and for scripts, and how it ends.

use std::io::{BufRead as _, BufReader};
use std::process::{Command, Stdio};

use harness::daemon::{Said, binary};
use harness::traffic::{Client, tcp_server};
use harness::world::RELAY;
use harness::{Ctl, World, eventually};
use serde_json::json;

const RULES: &str = "[[rule]]\nname = \"web\"\nnote = \"香港\"\nlisten = \":8080\"\nto = \"203.0.113.2:80\"\nprotocol = \"tcp\"\n\
                     [[rule]]\nname = \"user\"\nlisten = \":8081\"\nto = \"203.0.113.2:80\"\nplane = \"user\"\n\
                     [[rule]]\nname = \"off\"\nlisten = \":8082\"\nto = \"203.0.113.2:80\"\nenabled = false\n";

/// relayctl with the socket given through the environment alone.
fn by_environment(ctl: &Ctl, args: &[&str]) -> Said {
    let mut command = Command::new(binary("relayctl"));
    command.env("RELAY_SOCKET", &ctl.socket).args(args);
    Said::from(command.output().expect("relayctl starts"))
}

#[test]
fn list_and_show_in_every_format() {
    let world = World::new();
    let daemon = world.start(RULES);
    let (_server, ctl) = (tcp_server(&world.backend, 80), &daemon.ctl);
    Client::connect(&world.client, (RELAY, 8080)).and_then(Client::seen_as).expect("connect");
    let counted = || ctl.counter("web", "/flows/total") == 1;
    eventually("the flow is counted", counted);

    let table = ctl.ok(&["list"]);
    let lines: Vec<&str> = table.lines().collect();
    assert!(lines[0].starts_with("NAME") && lines[0].ends_with("OUT"), "{table}");
    assert!(lines[1].starts_with("web ") && lines[1].contains("kernel/tc"), "{table}");
    assert!(lines[2].starts_with("user") && lines[2].contains(" user "), "{table}");
    assert!(table.contains("\nuser: IPv4 user: plane = \"user\"\n"), "{table}");
    assert!(table.lines().all(|line| line == line.trim_end()), "no blanks at the ends: {table}");
    let column = lines[0].find("PROTO").expect("column");
    assert!(lines[1..4].iter().all(|line| line[column..].starts_with("tcp")), "{table}");
    let wide = ctl.ok(&["list", "-o", "wide"]);
    assert!(wide.contains("TOTAL FLOWS") && wide.contains("香港"), "{wide}");

    let tsv = ctl.ok(&["-o", "tsv", "list"]);
    let rows: Vec<Vec<&str>> = tsv.lines().map(|line| line.split('\t').collect()).collect();
    assert_eq!((rows.len(), rows.iter().all(|row| row.len() == 17)), (4, true), "{tsv}");
    let cell = |name: &str| rows[1][rows[0].iter().position(|head| *head == name).expect(name)];
    assert_eq!((cell("name"), cell("flows_total"), cell("note")), ("web", "1", "香港"));
    assert_eq!(cell("ingress_bytes"), ctl.counter("web", "/ingress/bytes").to_string());

    let list = ctl.json(&["list"]);
    assert_eq!(list[0], ctl.rule("web"));
    let backend = json!({ "addr": "203.0.113.2:80", "weight": 1, "priority": 0, "state": "unknown",
        "flows": list[0]["counters"]["flows"], "failed": 0, "rtt": list[0]["to"][0]["rtt"] });
    assert_eq!(backend["rtt"]["backend"]["count"], 1, "{backend}");
    assert_eq!((&list[0]["to"], &list[0]["balance"]), (&json!([backend]), &json!("roundrobin")));
    assert_eq!(list[0]["plane"]["ipv4"], json!({ "plane": "kernel", "hook": "tc" }));
    assert_eq!((&list[2]["enabled"], &list[2]["state"]), (&json!(false), &json!("disabled")));
    let shown = ctl.ok(&["show", "web"]);
    for line in ["name      web", "note      香港", "state     active", "flows     "] {
        assert!(shown.lines().any(|found| found.starts_with(line)), "{line}: {shown}");
    }
    assert_eq!(ctl.ok(&["show", "web", "-o", "tsv"]).lines().count(), 2);
}

#[test]
fn every_backend_is_shown() {
    let world = World::new();
    let daemon = world.start(
        "[[rule]]\nname = \"web\"\nlisten = \":80\"\nprotocol = \"tcp\"\nbalance = \"iphash: 4, 2, 0, 1\"\n\
         to = [\"203.0.113.2:80\", \"203.0.113.3:80\", \"203.0.113.4:80\", { addr = \"203.0.113.5\", priority = 1 }]\n",
    );
    let ctl = &daemon.ctl;
    assert!(ctl.ok(&["list"]).contains(" 203.0.113.2:80 +3  "), "{}", ctl.ok(&["list"]));
    let all = "203.0.113.2:80,203.0.113.3:80,203.0.113.4:80,203.0.113.5";
    for args in [&["list", "-o", "wide"], &["list", "-o", "tsv"]] {
        assert!(ctl.ok(args).contains(all), "{}", ctl.ok(args));
    }
    let rule = ctl.rule("web");
    assert_eq!(rule["balance"], "iphash");
    let shares: Vec<_> =
        rule["to"].as_array().expect("list").iter().map(|to| (&to["weight"], &to["priority"])).collect();
    assert_eq!(json!(shares), json!([[4, 0], [2, 0], [0, 0], [1, 1]]));
    let shown = ctl.ok(&["show", "web"]);
    for line in [
        "to        203.0.113.2:80, weight 4, priority 0, unknown for ",
        "to        203.0.113.5, weight 1, priority 1, unknown for ",
        "balance   iphash",
    ] {
        assert!(shown.lines().any(|found| found.starts_with(line)), "{line}: {shown}");
    }
    let explained = ctl.ok(&["explain", "web"]);
    for line in [
        "every IPv4 address of this host, port 80/tcp goes to one of 203.0.113.2:80, 203.0.113.3:80, 203.0.113.4:80, \
         203.0.113.5, same port",
        "new flows: each client address to the same one of 203.0.113.2:80 (weight 4), 203.0.113.3:80 (weight 2); \
         203.0.113.5 only while all of those are down",
        "no new flows, since their weight is 0: 203.0.113.4:80",
    ] {
        assert!(explained.contains(line), "{line}: {explained}");
    }
}

#[test]
fn families_that_nobody_carries_say_why() {
    let world = World::new();
    let daemon = world.start(RULES);
    // sockets that stand for many ports cannot be on one interface, and are nothing without eBPF
    let wide = ["add", "%uplink:10000-19000", "203.0.113.2", "--name", "one-link", "--plane", "user"];
    daemon.ctl.fails(5, &wide);
    let plane = daemon.ctl.rule("one-link")["plane"]["ipv6"].clone();
    assert_eq!(plane["plane"], "none");
    assert!(
        plane["reason"].as_str().is_some_and(|text| text.contains("too many on an interface")),
        "{plane}"
    );
    let user = daemon.ctl.rule("user");
    assert_eq!((&user["plane"]["ipv4"]["plane"], &user["state"]), (&json!("user"), &json!("active")));
    assert_eq!(user["plane"]["ipv4"]["reason"], "plane = \"user\"");
}

#[test]
fn a_range_without_the_kernel_plane_says_why_not() {
    let world = World::new();
    let daemon = world.start_with("hook = \"off\"\n", RULES);
    daemon.ctl.fails(5, &["add", "10000-19000", "203.0.113.2", "--name", "wide"]);
    for family in ["ipv4", "ipv6"] {
        let plane = daemon.ctl.rule("wide")["plane"][family].clone();
        assert_eq!(plane["plane"], "none");
        let reason = plane["reason"].as_str().expect("reason");
        assert!(reason.contains("needs the kernel plane: hook = \"off\""), "{reason}");
    }
}

#[test]
fn explain_and_status_in_words() {
    let world = World::new();
    let daemon = world.start(RULES);
    let ctl = &daemon.ctl;
    ctl.ok(&["add", "10000-19000", "203.0.113.2:20000"]);
    let text = ctl.ok(&["explain", "web"]);
    for part in [
        &format!("rule web is active (kept in {})", daemon.config.display()),
        "IPv4 clients: the kernel plane, at tc",
        "IPv6 clients: the kernel plane, at tc",
        "every IPv4 address of this host, port 8080/tcp goes to 203.0.113.2:80",
        "every IPv6 address of this host, port 8080/tcp goes to 203.0.113.2:80",
        "203.0.113.2 is reached directly on inside, from 203.0.113.1, MTU 1500",
        "idle flows end after 125m (TCP)",
    ] {
        assert!(text.contains(part), "{part}: {text}");
    }
    let text = ctl.ok(&["explain", "10000-19000"]);
    assert!(text.contains("ports 10000-19000/tcp+udp go to 203.0.113.2:20000-29000"), "{text}");
    let status = ctl.ok(&["status"]);
    for part in ["relayd       ", "kernel       forwarding at tc", "uplink: tc", "3 active, 1 disabled"] {
        assert!(status.contains(part), "{part}: {status}");
    }
    assert!(ctl.ok(&["status", "-o", "tsv"]).contains("kernel\tforwarding at tc\n"));
    assert_eq!(ctl.json(&["status"])["rules"], json!({ "active": 3, "disabled": 1 }));
}

#[test]
fn exit_codes_tell_scripts_what_happened() {
    let world = World::new();
    let daemon = world.start(RULES);
    let ctl = &daemon.ctl;
    ctl.ok(&["list"]);
    ctl.fails(1, &["show", "nosuch"]);
    for wrong in [
        &[][..],
        &["lst"],
        &["add", "80"],
        &["list", "-o", "xml"],
        &["show", "a b"],
        &["show", "../status"],
        &["rm"],
        &["apply", "x", "--confirm", "soon"],
    ] {
        let said = ctl.run(wrong);
        assert_eq!((said.code, said.out.as_str()), (2, ""), "{wrong:?}: {said:?}");
    }
    let similar = ctl.fails(2, &["lst"]);
    assert!(similar.contains("similar subcommands exist") && similar.contains("'list'"), "{similar}");
    ctl.fails(4, &["add", "70000", "203.0.113.2"]);
    assert_eq!(ctl.run(&["add", "83", "192.0.2.200"]).code, 5);
    let mut nobody = ctl.clone();
    nobody.socket = world.folder().join("nosuch.sock");
    let said = nobody.fails(3, &["list"]);
    assert!(said.contains("nosuch.sock: No such file") && said.contains("--socket"), "{said}");
    assert_eq!(said.matches("No such file").count(), 1, "said once: {said}");
    for help in [&["--help"][..], &["help"], &["add", "--help"], &["--version"]] {
        let said = ctl.run(help);
        assert_eq!(said.code, if help == ["help"] { 2 } else { 0 }, "{help:?}: {said:?}");
    }
}

#[test]
fn the_socket_may_come_from_the_environment() {
    let world = World::new();
    let daemon = world.start(RULES);
    let said = by_environment(&daemon.ctl, &["-o", "json", "show", "web"]);
    assert_eq!(said.code, 0, "{said:?}");
    assert_eq!(by_environment(&daemon.ctl, &["--socket", "/nonexistent", "list"]).code, 3);
}

#[test]
fn pipes_get_no_colours_and_may_close_early() {
    let world = World::new();
    let daemon = world.start(RULES);
    for (args, no_colour) in [(["list"], false), (["nosuch"], true), (["status"], true)] {
        let mut command = Command::new(binary("relayctl"));
        command.env("RELAY_SOCKET", &daemon.ctl.socket).args(args);
        if no_colour {
            command.env("NO_COLOR", "1").env("CLICOLOR_FORCE", "1");
        }
        let said = Said::from(command.output().expect("relayctl"));
        assert!(!said.out.contains('\x1b') && !said.err.contains('\x1b'), "{said:?}");
    }
    for args in [&["list"][..], &["list", "--watch"], &["completion", "bash"], &["-o", "json", "list"]] {
        let mut command = Command::new(binary("relayctl"));
        command
            .env("RELAY_SOCKET", &daemon.ctl.socket)
            .args(args)
            .stdout(Stdio::piped())
            .stderr(Stdio::piped());
        let mut child = command.spawn().expect("relayctl");
        drop(child.stdout.take());
        let said = Said::from(child.wait_with_output().expect("it ends"));
        assert_eq!((said.code, said.err.as_str()), (0, ""), "{args:?}");
    }
}

#[test]
fn watching_repeats_until_the_reader_goes() {
    let world = World::new();
    let daemon = world.start(RULES);
    for args in [&["list", "-w"][..], &["show", "web", "-w"], &["status", "--watch"]] {
        let mut command = Command::new(binary("relayctl"));
        command.env("RELAY_SOCKET", &daemon.ctl.socket).args(args).stdout(Stdio::piped());
        let mut child = command.spawn().expect("relayctl");
        let mut lines = BufReader::new(child.stdout.take().expect("output")).lines().map(Result::unwrap);
        let first = lines.next().expect("a line");
        assert!(lines.any(|line| line.split(' ').next() == first.split(' ').next()), "{args:?} prints again");
        drop(lines);
        assert!(child.wait().expect("it ends").success(), "{args:?}");
    }
}

#[test]
fn completion_scripts_for_every_shell() {
    for (shell, part) in [
        ("bash", "complete -F _relayctl"),
        ("zsh", "#compdef relayctl"),
        ("fish", "complete -c relayctl"),
        ("elvish", "edit:completion"),
        ("powershell", "Register-ArgumentCompleter"),
    ] {
        let output = Command::new(binary("relayctl")).args(["completion", shell]).output().expect("relayctl");
        let said = Said::from(output);
        assert_eq!(said.code, 0, "{shell}: {}", said.err);
        assert!(said.out.contains(part) && said.out.contains("explain"), "{shell}");
    }
}
