//! `relayctl top`, on a real terminal, against a real relayd with traffic.

use std::process::Command;
use std::thread;
use std::time::Duration;

use harness::daemon::binary;
use harness::terminal::Terminal;
use harness::traffic::{Client, tcp_server};
use harness::world::RELAY;
use harness::{Daemon, Ends, World, eventually};
use nix::sys::signal::Signal;
use std::sync::atomic::{AtomicBool, Ordering};

const RULES: &str = "[[rule]]\nname = \"web\"\nlisten = \":8080\"\nto = \"203.0.113.2:80\"\nprotocol = \"tcp\"\n\
                     [[rule]]\nname = \"user\"\nlisten = \":8081\"\nto = \"203.0.113.2:80\"\nplane = \"user\"\n";

fn top(daemon: &Daemon) -> Command {
    let mut command = Command::new(binary("relayctl"));
    command.arg("--socket").arg(&daemon.ctl.socket).args(["top", "-i", "500ms"]).env_remove("NO_COLOR");
    command
}

/// The line of a rule.
fn line<'a>(screen: &'a str, rule: &str) -> Option<&'a str> {
    screen.lines().find(|line| line.starts_with(rule))
}

#[test]
fn traffic_is_seen_while_it_flows() {
    let world = World::new();
    let daemon = world.start(RULES);
    let _server = tcp_server(&world.backend, 80);
    let over = AtomicBool::new(false);
    thread::scope(|scope| {
        let _ends = Ends(&over);
        scope.spawn(|| {
            while !over.load(Ordering::Relaxed) {
                let sent =
                    Client::connect(&world.client, (RELAY, 8080)).and_then(|client| client.upload(200_000));
                sent.expect("upload");
                thread::sleep(Duration::from_millis(20));
            }
        });
        let mut terminal = Terminal::start(&top(&daemon), (24, 80));
        terminal.await_screen("the rule carries", |screen| {
            line(screen, "web").is_some_and(|line| {
                let cells: Vec<&str> = line.split_whitespace().collect();
                cells[1].ends_with(['M', 'k']) && cells[4] != "-" && cells[4] != "0"
            })
        });
        let first = terminal.look().contents();
        assert!(first.contains("STATE") && !first.contains("LISTEN"), "{first}");
        let rules: Vec<&str> = first.lines().skip(3).take(2).map(|line| &line[..4]).collect();
        assert_eq!(rules, ["web ", "user"], "the busiest first:\n{first}");
        terminal.resize(30, 140);
        terminal.await_screen("there is room for more", |screen| screen.contains("LISTEN"));
        terminal.type_in("\r");
        terminal.await_screen("one rule in full", |screen| {
            screen.contains("203.0.113.2:80") && screen.contains("in: ") && screen.contains("█")
        });
        terminal.type_in("\u{1b}");
        terminal.await_screen("all again", |screen| screen.contains("LISTEN"));
        terminal.type_in("/use\r");
        terminal.await_screen("only one", |screen| {
            line(screen, "web").is_none() && line(screen, "user").is_some()
        });
        terminal.type_in("?");
        terminal.await_screen("help", |screen| screen.contains("sort by traffic both ways"));
        terminal.type_in("xq");
        assert!(terminal.end().success());
        assert!(terminal.is_put_back());
    });
}

#[test]
fn relayd_may_go_and_come_back() {
    let world = World::new();
    let mut daemon = world.start(RULES);
    let mut terminal = Terminal::start(&top(&daemon), (24, 80));
    terminal.await_screen("rules", |screen| line(screen, "web").is_some());
    daemon.kill();
    terminal.await_screen("it is said", |screen| {
        screen.contains("no answer for") && line(screen, "web").is_some()
    });
    daemon.start_again(&world.relay);
    terminal
        .await_screen("it goes on", |screen| !screen.contains("no answer") && screen.contains("2 active"));
    terminal.signal(Signal::SIGTERM);
    assert!(terminal.end().success());
    assert!(terminal.is_put_back());
    daemon.stop();
    daemon.ctl.fails(2, &["top"]);
    let mut terminal = Terminal::start(&top(&daemon), (24, 80));
    assert_eq!(terminal.end().code(), Some(3));
}

#[test]
fn the_shell_gets_the_terminal_as_it_was() {
    let world = World::new();
    let daemon = world.start(RULES);
    let mut terminal = Terminal::start(&top(&daemon), (24, 80));
    terminal.await_screen("rules", |screen| line(screen, "web").is_some());
    assert!(!terminal.is_put_back());
    terminal.type_in("\u{1a}");
    eventually("it stops", || terminal.state() == 'T');
    assert!(terminal.is_put_back());
    terminal.signal(Signal::SIGCONT);
    terminal.await_screen("it goes on", |screen| line(screen, "web").is_some());
    terminal.signal(Signal::SIGTSTP);
    eventually("it stops", || terminal.state() == 'T');
    assert!(terminal.is_put_back());
    terminal.signal(Signal::SIGCONT);
    eventually("it has the terminal", || !terminal.is_put_back());
    terminal.type_in("\u{3}");
    assert!(terminal.end().success());
    assert!(terminal.is_put_back());
}

#[test]
fn without_a_terminal_another_command_is_named() {
    let world = World::new();
    let daemon = world.start(RULES);
    let said = daemon.ctl.fails(2, &["top"]);
    assert!(said.contains("relayctl list -w"), "{said}");
    let said = daemon.ctl.fails(2, &["top", "-i", "1ms"]);
    assert!(said.contains("a time from 250ms to 60s"), "{said}");
}
