//! relayd restarted by a service manager that keeps its listening sockets: clients that come meanwhile wait.

use std::fs;
use std::io;
use std::net::{SocketAddr, TcpListener};
use std::sync::atomic::{AtomicBool, Ordering};
use std::thread;
use std::time::Duration;

use harness::traffic::{Client, Datagrams, tcp_server, text, udp_server};
use harness::world::{RELAY, RELAY_V6};
use harness::{Daemon, Ends, World, eventually};

const WEB: &str = "[[rule]]\nname = \"web\"\nlisten = \":8080\"\nto = \"203.0.113.2:80\"\nplane = \"user\"\n";
const MORE: &str =
    "[[rule]]\nname = \"more\"\nlisten = \":8081\"\nto = \"203.0.113.2:80\"\nplane = \"user\"\n";

pub(crate) fn start(world: &World, rules: &str) -> Daemon {
    Daemon::start_stored(&world.relay, world.folder(), rules)
}

pub(crate) fn listeners(port: u16) -> [SocketAddr; 2] {
    [SocketAddr::from((RELAY, port)), SocketAddr::from((RELAY_V6, port))]
}

/// The manager closes what it is told to in its own time.
pub(crate) fn is_refused(world: &World, to: impl Into<SocketAddr>) {
    let to = to.into();
    eventually("connections are refused", || {
        let error = Client::connect(&world.client, to).map(drop).err();
        error.is_some_and(|error| error.kind() == io::ErrorKind::ConnectionRefused)
    });
}

/// Kills and stops relayd by turns, while clients come without a rest: each of them is let in. What comes of its session is
/// the restart's business.
pub(crate) fn refuses_nobody(world: &World, daemon: &mut Daemon, tcp: &[SocketAddr], udp: &[SocketAddr]) {
    let is_over = AtomicBool::new(false);
    let goes_on = || !is_over.load(Ordering::Relaxed);
    thread::scope(|scope| {
        let connects = tcp.iter().map(|&to| {
            scope.spawn(move || {
                let mut connected = 0;
                while goes_on() {
                    let client = Client::connect(&world.client, to).expect("refused");
                    let _ended_by_a_restart = client.seen_as();
                    connected += 1;
                }
                connected
            })
        });
        let sends = udp.iter().map(|&to| {
            scope.spawn(move || {
                let mut answered = 0;
                while goes_on() {
                    match Datagrams::new(&world.client, to).echo(b"hello") {
                        Ok(()) => answered += 1,
                        // what the relayd before had already taken
                        Err(error) => assert_ne!(error.kind(), io::ErrorKind::ConnectionRefused, "{to}"),
                    }
                }
                answered
            })
        });
        let clients: Vec<_> = connects.chain(sends).collect();
        let over = Ends(&is_over);
        for turn in 0..6 {
            if turn % 2 == 0 {
                daemon.kill()
            } else {
                daemon.stop()
            }
            daemon.start_again(&world.relay);
            thread::sleep(Duration::from_millis(200));
        }
        drop(over);
        for client in clients {
            assert!(client.join().expect("no client was refused") > 12);
        }
    });
}

/// Ends relayd, has clients come meanwhile, and starts it again: sessions end with it, and who has come is served.
pub(crate) fn waits_for_the_next(
    world: &World,
    daemon: &mut Daemon,
    listeners: &[SocketAddr],
    ending: fn(&mut Daemon),
) {
    let connect = |to: &SocketAddr| Client::connect(&world.client, *to).expect("nobody is refused");
    let mut ended: Vec<Client> =
        listeners.iter().map(|to| connect(to).start_echo().expect("before")).collect();
    ending(daemon);
    assert!(ended.iter_mut().all(|client| client.echo(b"x").is_err()), "sessions end with relayd");
    let waiting: Vec<Client> = (0..20).flat_map(|_| listeners.iter().map(connect)).collect();
    let datagrams: Vec<Datagrams> = listeners.iter().map(|to| Datagrams::new(&world.client, *to)).collect();
    for socket in &datagrams {
        socket.0.send(&text(100)).expect("send");
    }
    daemon.start_again(&world.relay);
    for client in waiting {
        client.upload(10_000).expect("served by the next relayd");
    }
    for socket in &datagrams {
        let mut buffer = [0; 200];
        assert_eq!(socket.0.recv(&mut buffer).expect("the datagram was kept"), 100);
        socket.echo_patiently(&text(1000)).expect("echo");
    }
}

#[test]
fn who_comes_while_relayd_is_away_waits_for_the_next_one() {
    let world = World::new();
    let (_tcp, _udp) = (tcp_server(&world.backend, 80), udp_server(&world.backend, 80));
    let mut daemon = start(&world, WEB);
    for ending in [Daemon::stop, Daemon::kill] {
        waits_for_the_next(&world, &mut daemon, &listeners(8080), ending);
    }
    assert_eq!(daemon.ctl.rule("web")["state"], "active");
    assert_eq!(daemon.store().names().len(), 4, "{:?}", daemon.store().names());
}

#[test]
fn not_one_client_is_refused_over_many_restarts() {
    let world = World::new();
    let _server = tcp_server(&world.backend, 80);
    let mut daemon = start(&world, WEB);
    refuses_nobody(&world, &mut daemon, &listeners(8080), &[]);
    Client::connect(&world.client, (RELAY, 8080))
        .and_then(|client| client.upload(1 << 20))
        .expect("at the end");
}

#[test]
fn what_is_no_longer_wanted_is_closed() {
    let world = World::new();
    let _server = tcp_server(&world.backend, 80);
    let mut daemon = start(&world, &[WEB, MORE].concat());
    assert_eq!(daemon.store().names().len(), 8);
    // while relayd runs
    daemon.ctl.ok(&["disable", "more"]);
    eventually("out of the store", || daemon.store().names().len() == 4);
    is_refused(&world, (RELAY, 8081));
    daemon.ctl.ok(&["enable", "more"]);
    eventually("in it again", || daemon.store().names().len() == 8);
    Client::connect(&world.client, (RELAY, 8081)).and_then(Client::seen_as).expect("served");
    daemon.ctl.ok(&["set", "more", "listen=:8082"]);
    is_refused(&world, (RELAY, 8081));
    daemon.ctl.ok(&["set", "more", "listen=:8081"]);
    // while it does not
    daemon.stop();
    let config = fs::read_to_string(&daemon.config).expect("config");
    let before = config.find("[[rule]]\nname = \"more\"").expect("the rule");
    fs::write(&daemon.config, &config[..before]).expect("config");
    daemon.start_again(&world.relay);
    eventually("only the other rule's", || daemon.store().names().len() == 4);
    is_refused(&world, (RELAY, 8081));
    let bind = || world.relay.run(|| TcpListener::bind(("0.0.0.0", 8081))).is_ok();
    eventually("the port is free for others", bind);
    daemon.ctl.ok(&["down"]);
    eventually("the store is empty", || daemon.store().is_empty());
    is_refused(&world, (RELAY, 8080));
}

#[test]
fn a_port_may_go_to_another_rule_and_be_kept() {
    let world = World::new();
    let _server = tcp_server(&world.backend, 80);
    let mut daemon = start(&world, &[WEB, MORE].concat());
    let config = fs::read_to_string(&daemon.config).expect("config");
    fs::write(&daemon.config, config.replace("8080", "8090").replace("8081", "8080")).expect("config");
    daemon.ctl.ok(&["reload"]);
    eventually("both rules' ports", || daemon.store().names().len() == 8);
    is_refused(&world, (RELAY, 8081));
    daemon.kill();
    let waiting = Client::connect(&world.client, (RELAY, 8080)).expect("not refused");
    daemon.start_again(&world.relay);
    waiting.upload(10_000).expect("served");
    assert_eq!(daemon.ctl.counter("more", "/flows/total"), 1);
}

#[test]
fn many_ports_and_a_store_that_is_small() {
    let world = World::new();
    let _server = tcp_server(&world.backend, 80);
    let rules =
        "[[rule]]\nname = \"many\"\nlisten = \":8080-8279\"\nto = \"203.0.113.2:80\"\nplane = \"user\"\n";
    let mut daemon = start(&world, rules);
    assert_eq!(daemon.store().names().len(), 800);
    daemon.kill();
    let waiting = Client::connect(&world.client, (RELAY, 8080)).expect("not refused");
    daemon.start_again(&world.relay);
    waiting.upload(10_000).expect("served");
    daemon.stop();
    // a manager that takes three
    daemon.set_env("FDSTORE", "3");
    daemon.store().clear();
    daemon.start_again(&world.relay);
    assert!(daemon.store().len() <= 3);
    let log = daemon.log();
    assert_eq!(log.matches("and has no room for more").count(), 1, "{log}");
    daemon.stop();
    is_refused(&world, (RELAY, 8279));
    daemon.start_again(&world.relay);
    Client::connect(&world.client, (RELAY, 8080)).and_then(|client| client.upload(10_000)).expect("served");
}
