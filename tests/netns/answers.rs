//! What name servers say about backends, and what becomes of it: addresses that change, and answers that are none.

use std::fs;
use std::io::{self, Read as _, Write as _};
use std::net::{IpAddr, Ipv4Addr, SocketAddr, TcpListener, TcpStream};
use std::thread;
use std::time::Duration;

use harness::dns::{NameServer, Says, point_to, put_in_place};
use harness::netns::NetNs;
use harness::traffic::{Datagrams, text, udp_server_on};
use harness::world::{BACKEND, BACKEND_V6, RELAY, RELAY_V6};
use harness::{Ctl, World, eventually, within};
use serde_json::{Value, json};

pub(crate) const OTHER: Ipv4Addr = Ipv4Addr::new(203, 0, 113, 3);
pub(crate) const NAMED: &str = "[[rule]]\nname = \"named\"\nlisten = \":8080\"\nto = \"backend.test:80\"\n";
/// Answers hold for a second, so that a test need not wait.
pub(crate) const QUICK: &str = "[dns]\nmin_ttl = \"1s\"\nmax_ttl = \"1s\"\n";
pub(crate) const LIMIT: Duration = Duration::from_secs(60);

/// A backend with two IPv4 addresses, and a name server.
pub(crate) fn world() -> (World, NameServer) {
    let world = World::new();
    world.backend.add_address("backend", OTHER, 24);
    let names = NameServer::start(&world.relay, world.folder());
    (world, names)
}

/// Says on which address it was reached, and echoes after that, until the test ends.
pub(crate) fn telling_server(ns: &NetNs, port: u16) {
    for address in [IpAddr::from([0, 0, 0, 0]), IpAddr::from([0; 16])] {
        let listener = ns.run(|| {
            let domain = socket2::Domain::for_address((address, port).into());
            let socket = socket2::Socket::new(domain, socket2::Type::STREAM, None)?;
            if address.is_ipv6() {
                socket.set_only_v6(true)?;
            }
            socket.bind(&SocketAddr::from((address, port)).into())?;
            socket.listen(128)?;
            Ok::<_, io::Error>(TcpListener::from(socket))
        });
        let listener = listener.expect("listen");
        thread::spawn(move || {
            for stream in listener.incoming().flatten() {
                thread::spawn(move || tell(stream));
            }
        });
    }
}

fn tell(mut stream: TcpStream) -> io::Result<()> {
    let address = stream.local_addr()?.ip().to_string();
    stream.write_all(&[address.len() as u8])?;
    stream.write_all(address.as_bytes())?;
    let mut buffer = [0; 1024];
    loop {
        let length = stream.read(&mut buffer)?;
        stream.write_all(&buffer[..length])?;
        if length == 0 {
            return Ok(());
        }
    }
}

/// A connection, and the backend's address that it has reached.
pub(crate) fn reach(world: &World, to: impl Into<IpAddr>, port: u16) -> (TcpStream, IpAddr) {
    reach_from(&world.client, to, port)
}

pub(crate) fn reach_from(ns: &NetNs, to: impl Into<IpAddr>, port: u16) -> (TcpStream, IpAddr) {
    let to = SocketAddr::new(to.into(), port);
    let mut stream = ns.run(|| TcpStream::connect(to)).expect("connect");
    stream.set_read_timeout(Some(LIMIT)).expect("timeout");
    let mut length = [0];
    stream.read_exact(&mut length).expect("length");
    let mut address = vec![0; length[0].into()];
    stream.read_exact(&mut address).expect("address");
    (stream, String::from_utf8(address).expect("text").parse().expect("address"))
}

pub(crate) fn echo(stream: &mut TcpStream) {
    stream.write_all(b"still there?").expect("write");
    let mut answer = [0; 12];
    stream.read_exact(&mut answer).expect("read");
    assert_eq!(&answer, b"still there?");
}

pub(crate) fn backend(ctl: &Ctl) -> Value {
    ctl.rule("named")["to"][0].clone()
}

fn ipv4_plane(ctl: &Ctl) -> Value {
    ctl.rule("named")["plane"]["ipv4"]["plane"].clone()
}

#[test]
fn a_change_is_followed_on_both_planes_and_old_connections_stay() {
    let (world, names) = world();
    telling_server(&world.backend, 80);
    names.holds_for(1);
    names.says("backend.test", Says::Address(BACKEND));
    let mut daemon = world.start(&[QUICK, NAMED].concat());
    let ctl = daemon.ctl.clone();
    assert_eq!(ipv4_plane(&ctl), "kernel");
    let listeners = [IpAddr::from(RELAY), IpAddr::from(RELAY_V6)];
    let mut old = listeners.map(|listener| reach(&world, listener, 8080));
    assert_eq!(old.each_ref().map(|(_, reached)| *reached), [IpAddr::from(BACKEND); 2]);
    names.says("backend.test", Says::Address(OTHER));
    within(LIMIT, "the new address", &mut || backend(&ctl)["resolved"] == "203.0.113.3");
    for (listener, (stream, _)) in listeners.into_iter().zip(&mut old) {
        assert_eq!(reach(&world, listener, 8080).1, OTHER, "new connections from {listener}");
        echo(stream);
    }
    let log = daemon.log();
    assert!(log.contains("backend.test is 203.0.113.3 now, and no longer 203.0.113.2"), "{log}");
    let explained = ctl.ok(&["explain", "named"]);
    assert!(explained.contains("backend.test:80 has 203.0.113.3: asked "), "{explained}");
    let shown = ctl.ok(&["show", "named"]);
    assert!(shown.contains("backend.test:80 (203.0.113.3), ") && shown.contains("again in "), "{shown}");
}

#[test]
fn another_order_changes_nothing_and_many_rules_ask_once() {
    let (world, names) = world();
    names.holds_for(1);
    let order = [IpAddr::from(BACKEND), OTHER.into(), BACKEND_V6.into()];
    names.says("backend.test", Says::Addresses(order.to_vec()));
    let more = (1..20).map(|n| {
        format!("[[rule]]\nname = \"r{n}\"\nlisten = \":{}\"\nto = \"backend.test:80\"\n", 9000 + n)
    });
    let mut daemon = world.start(&[QUICK, NAMED, &more.collect::<String>()].concat());
    assert!(names.asked("backend.test") <= 2, "once for all, {} times", names.asked("backend.test"));
    let known = json!(["203.0.113.2", "2001:db8:2::2", "203.0.113.3"]);
    assert_eq!(backend(&daemon.ctl)["addresses"], known);
    for turn in 0..4 {
        let asked = names.asked("backend.test");
        names.says("backend.test", Says::Addresses([order[1], order[2], order[0]].to_vec()));
        within(LIMIT, "the next lookups", &mut || names.asked("backend.test") >= asked + 2);
        assert_eq!(backend(&daemon.ctl)["addresses"], known, "{turn}");
    }
    assert!(!daemon.log().contains("and no longer"), "{}", daemon.log());
}

#[test]
fn a_name_may_change_its_family() {
    let (world, names) = world();
    telling_server(&world.backend, 80);
    names.holds_for(1);
    names.says("backend.test", Says::Addresses(vec![BACKEND.into()]));
    let daemon = world.start(&[QUICK, NAMED].concat());
    let ctl = &daemon.ctl;
    let (mut kept, _) = reach(&world, RELAY, 8080);
    for (says, reached) in [
        (vec![BACKEND_V6.into()], IpAddr::from(BACKEND_V6)),
        (vec![OTHER.into()], OTHER.into()),
        (vec![BACKEND_V6.into()], BACKEND_V6.into()),
    ] {
        names.says("backend.test", Says::Addresses(says));
        for listener in [IpAddr::from(RELAY), RELAY_V6.into()] {
            within(LIMIT, "the other family", &mut || reach(&world, listener, 8080).1 == reached);
            let (mut new, _) = reach(&world, listener, 8080);
            echo(&mut new);
        }
        assert_eq!(ipv4_plane(ctl), "kernel");
        echo(&mut kept);
    }
}

#[test]
fn what_is_no_answer_takes_no_address_away() {
    let (world, names) = world();
    telling_server(&world.backend, 80);
    names.holds_for(1);
    names.says("backend.test", Says::Address(BACKEND));
    names.says("loop.test", Says::Alias("backend.test"));
    let chosen = "servers = [\"127.0.0.1\"]\n";
    let mut daemon = world.start(&[QUICK, chosen, NAMED].concat());
    let ctl = daemon.ctl.clone();
    for (says, error) in [
        (Says::NoSuchName, "there is no such name"),
        (Says::Addresses(vec![]), "the name has no address"),
        (Says::Addresses(vec![IpAddr::from([0, 0, 0, 0])]), "no address that traffic can go to"),
        (Says::Alias("loop.test"), "the name has no address"),
        (Says::Failure, "the name server refuses to say"),
        (Says::Garbage, "answer cannot be used"),
        (Says::Forged(OTHER), "the name server does not answer"),
        (Says::Nothing, "the name server does not answer"),
    ] {
        names.says("backend.test", says.clone());
        let told = || backend(&ctl)["lookup"]["error"].as_str().unwrap_or_default().to_owned();
        within(LIMIT, &format!("{says:?}: {error}, {}", told()), &mut || told().contains(error));
        assert_eq!(backend(&ctl)["addresses"], json!(["203.0.113.2"]), "{says:?}");
        assert_eq!(ctl.rule("named")["state"], "active", "{says:?}");
        assert_eq!(reach(&world, RELAY, 8080).1, BACKEND, "{says:?}");
        names.says("backend.test", Says::Address(BACKEND));
        within(LIMIT, "it is right again", &mut || told().is_empty());
    }
    let log = daemon.log();
    assert!(log.contains("backend.test keeps its address 203.0.113.2: there is no such name"), "{log}");
}

#[test]
fn a_name_that_never_had_an_address_says_why() {
    let (world, names) = world();
    names.says("empty.test", Says::Addresses(vec![]));
    names.says("loop.test", Says::Alias("pool.test"));
    names.says("pool.test", Says::Alias("loop.test"));
    names.says("failing.test", Says::Failure);
    names.says("garbled.test", Says::Garbage);
    let daemon = world.start("");
    for (name, why) in [
        ("nosuch.test", "there is no such name"),
        ("empty.test", "the name has no address"),
        ("loop.test", "the name has no address"),
        ("failing.test", "the name server refuses to say"),
        ("garbled.test", "answer cannot be used"),
    ] {
        let refused = daemon.ctl.fails(1, &["add", "8080", name]);
        assert!(
            refused.contains(&format!("{name} does not resolve: ")) && refused.contains(why),
            "{refused}"
        );
    }
}

#[test]
fn servers_are_chosen_and_changed_without_a_restart() {
    let (world, system) = world();
    system.says("backend.test", Says::Address(BACKEND));
    let own = NameServer::start_at(&world.relay, (Ipv4Addr::LOCALHOST, 5353));
    own.says("backend.test", Says::Address(OTHER));
    let daemon = world.start(&["[dns]\nservers = [\"127.0.0.1:5353\"]\n", NAMED].concat());
    let ctl = &daemon.ctl;
    assert_eq!((backend(ctl)["resolved"].as_str(), system.asked("backend.test")), (Some("203.0.113.3"), 0));
    let config = fs::read_to_string(&daemon.config).expect("config");
    fs::write(&daemon.config, config.replace("servers = [\"127.0.0.1:5353\"]", "")).expect("config");
    let said = ctl.ok(&["reload"]);
    assert!(!said.contains("restarted"), "{said}");
    eventually("the system's server", || backend(ctl)["resolved"] == "203.0.113.2");
    // one that is not confirmed takes its servers along
    ctl.ok(&["diff"]);
    fs::write(world.folder().join("other.toml"), config).expect("file");
    ctl.ok(&["apply", "other.toml", "--confirm", "3s"]);
    eventually("its own server", || backend(ctl)["resolved"] == "203.0.113.3");
    within(LIMIT, "the system's server again", &mut || backend(ctl)["resolved"] == "203.0.113.2");
}

#[test]
fn the_systems_files_are_followed() {
    let (world, names) = world();
    names.says("backend.test", Says::Address(BACKEND));
    let other = NameServer::start_at(&world.relay, (Ipv4Addr::new(127, 0, 0, 2), 53));
    other.says("backend.test", Says::Address(OTHER));
    let daemon = world.start(NAMED);
    let resolved = || backend(&daemon.ctl)["resolved"].clone();
    assert_eq!(resolved(), "203.0.113.2");
    point_to(world.folder(), Ipv4Addr::new(127, 0, 0, 2));
    within(LIMIT, "another server in resolv.conf", &mut || resolved() == "203.0.113.3");
    put_in_place(world.folder(), "hosts", "127.0.0.1 localhost\n203.0.113.2 backend.test\n");
    within(LIMIT, "an entry in hosts", &mut || resolved() == "203.0.113.2");
    assert_eq!(backend(&daemon.ctl)["lookup"].get("next_seconds"), None, "that holds until it is changed");
}

#[test]
fn udp_goes_where_there_is_a_way() {
    let (world, names) = world();
    let nowhere = IpAddr::from([0x2001, 0xdb8, 99, 0, 0, 0, 0, 1]);
    names.says("backend.test", Says::Addresses(vec![nowhere, BACKEND.into()]));
    let user = [NAMED, "plane = \"user\"\n"].concat();
    let _server = udp_server_on(&world.backend, (BACKEND, 80));
    for nat in ["", "udp_nat = \"fullcone\"\n"] {
        let daemon = world.start(&["[dns]\nprefer = \"ipv6\"\n", &user, nat].concat());
        assert_eq!(backend(&daemon.ctl)["resolved"], nowhere.to_string());
        Datagrams::new(&world.client, (RELAY, 8080)).echo(&text(100)).expect("echo");
        drop(daemon);
    }
}
