//! Wide ranges and large rule sets on the user plane: shared sockets behind the socket lookup program.

use std::fmt::Write as _;
use std::fs;
use std::io::{Read as _, Write as _};
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr, TcpListener, UdpSocket};
use std::thread;
use std::time::Duration;

use harness::daemon::settings;
use harness::traffic::{Client, Datagrams, PATIENCE, tcp_server, text, udp_server};
use harness::world::{RELAY, RELAY_V6};
use harness::{Daemon, Load, World, eventually};

const FIRST: u16 = 2000;
pub(crate) const MIDDLE: u16 = 32_000;
const LAST: u16 = 61_999;
/// Sixty thousand ports, each to the same port of the backend.
pub(crate) const RANGE: &str =
    "[[rule]]\nname = \"range\"\nlisten = \":2000-61999\"\nto = \"203.0.113.2\"\nplane = \"user\"\n";

fn families() -> [IpAddr; 2] {
    [RELAY.into(), RELAY_V6.into()]
}

/// What is pinned for shared sockets.
pub(crate) fn shared_pins(world: &World) -> usize {
    let pins = fs::read_dir(world.folder().join("bpf/abi1")).into_iter().flatten().flatten();
    pins.filter(|pin| pin.file_name().to_string_lossy().starts_with("shared_")).count()
}

fn descriptors(daemon: &Daemon) -> usize {
    fs::read_dir(format!("/proc/{}/fd", daemon.pid())).expect("fd").count()
}

/// What the relay's own programs say to clients.
const OWN: &[u8] = b"mine";

/// A program on the relay that greets its next client.
pub(crate) fn greeter(listener: TcpListener) -> thread::JoinHandle<()> {
    thread::spawn(move || {
        let (mut client, _) = listener.accept().expect("accept");
        client.write_all(OWN).expect("greet");
    })
}

pub(crate) fn is_greeted(world: &World, to: SocketAddr) -> bool {
    let Ok(mut client) = Client::connect(&world.client, to) else { return false };
    client.0.set_read_timeout(Some(Duration::from_secs(5))).expect("timeout");
    let mut said = [0; 4];
    client.0.read_exact(&mut said).is_ok() && said == OWN
}

#[test]
fn sixty_thousand_ports_on_both_families() {
    let world = World::new();
    let bare = world.start("");
    let before = descriptors(&bare);
    drop(bare);
    let daemon = world.start(RANGE);
    let rule = daemon.ctl.rule("range");
    for family in ["ipv4", "ipv6"] {
        assert_eq!(rule["plane"][family]["plane"], "user", "{rule}");
    }
    let opened = descriptors(&daemon).saturating_sub(before);
    assert!(opened < 100, "{opened} descriptors for a range");
    for port in [FIRST, MIDDLE, LAST] {
        let (_tcp, _udp) = (tcp_server(&world.backend, port), udp_server(&world.backend, port));
        for address in families() {
            let to = SocketAddr::from((address, port));
            let connect =
                || Client::connect(&world.client, to).unwrap_or_else(|error| panic!("{to}: {error}"));
            connect().upload(1 << 20).expect("upload");
            connect().download(1 << 20).expect("download");
            // the client takes answers from this address and port alone
            let socket = Datagrams::new(&world.client, to);
            for size in [0, 1, 1400, 9000, 60_000] {
                socket.echo(&text(size)).unwrap_or_else(|error| panic!("{to}: {size} bytes: {error}"));
            }
        }
    }
    for address in families() {
        for port in [FIRST - 1, LAST + 1] {
            assert!(Client::connect(&world.client, (address, port)).is_err(), "{port} is nobody's");
        }
    }
    assert_eq!(daemon.ctl.counter("range", "/flows/total"), 18);
    assert_eq!(daemon.ctl.rule("range")["counters"]["drops"], serde_json::json!({}));
}

#[test]
fn many_clients_of_many_ports_keep_apart() {
    let world = World::new();
    let daemon = world.start(
        "[[rule]]\nname = \"range\"\nlisten = \":2000-61999\"\nto = \"203.0.113.2:2000\"\n\
         protocol = \"udp\"\nplane = \"user\"\ntimeout = { udp = \"5s\" }\n",
    );
    let _servers: Vec<_> = (2000..2016).map(|port| udp_server(&world.backend, port)).collect();
    let before = descriptors(&daemon);
    let clients: Vec<Datagrams> =
        (0..160).map(|index| Datagrams::new(&world.client, (RELAY_V6, 2000 + index % 16))).collect();
    for round in 0..3 {
        for (index, client) in clients.iter().enumerate() {
            client.echo(&text(100 + index)).unwrap_or_else(|error| panic!("{round} {index}: {error}"));
        }
    }
    assert_eq!(daemon.ctl.counter("range", "/flows/active"), 160);
    // one towards the backend each, and at most one for each port and worker
    let more = descriptors(&daemon) - before;
    assert!((160..320).contains(&more), "{more} descriptors for 160 clients");
    eventually("idle clients and their sockets go", || {
        daemon.ctl.counter("range", "/flows/active") == 0 && descriptors(&daemon) <= before + 20
    });
}

#[test]
fn the_address_that_was_asked_answers() {
    let world = World::new();
    let (second, second_v6) =
        (Ipv4Addr::new(198, 51, 100, 9), Ipv6Addr::new(0x2001, 0xdb8, 1, 0, 0, 0, 0, 9));
    world.relay.add_address("uplink", second, 24);
    world.relay.add_address("uplink", second_v6, 64);
    let one = format!(
        "[[rule]]\nname = \"one\"\nlisten = [\"{RELAY}:2000-60000\", \"[{RELAY_V6}]:2000-60000\"]\n\
         to = \"203.0.113.2:2000\"\nplane = \"user\"\n"
    );
    let daemon = world.start(&one);
    let port = 2000;
    let (_tcp, _udp) = (tcp_server(&world.backend, port), udp_server(&world.backend, port));
    let (_other_tcp, _other_udp) = (tcp_server(&world.backend, 3000), udp_server(&world.backend, 3000));
    for address in families() {
        Client::connect(&world.client, (address, port)).and_then(Client::seen_as).expect("its address");
        Datagrams::new(&world.client, (address, port)).echo(b"hello").expect("its address");
    }
    for address in [IpAddr::from(second), second_v6.into()] {
        assert!(Client::connect(&world.client, (address, port)).is_err(), "{address} is not the rule's");
    }
    let other = "203.0.113.2:3000";
    daemon.ctl.ok(&["add", &format!("{second}:2000-60000"), other, "--name", "two", "--plane", "user"]);
    daemon.ctl.ok(&["add", &format!("[{second_v6}]:2000-60000"), other, "--name", "three"]);
    for address in [IpAddr::from(second), second_v6.into()] {
        Client::connect(&world.client, (address, port)).and_then(Client::seen_as).expect("the other address");
        Datagrams::new(&world.client, (address, port)).echo(b"hello").expect("the other address");
    }
    for (name, flows) in [("one", 4), ("two", 2), ("three", 2)] {
        assert_eq!(daemon.ctl.counter(name, "/flows/total"), flows, "{name}");
    }
}

#[test]
fn a_program_that_begins_to_listen_gets_its_port() {
    let world = World::new();
    let mut daemon = world.start(RANGE);
    let _backend = tcp_server(&world.backend, 5001);
    let mut own = Vec::new();
    for address in families() {
        let to = SocketAddr::from((address, 5000));
        let listener = world.relay.run(|| TcpListener::bind(to)).expect("bind");
        let greets = greeter(listener.try_clone().expect("clone"));
        // at once: it is noticed while it binds
        assert!(is_greeted(&world, to), "{to} was robbed");
        greets.join().expect("greeter");
        // a port beside it is the rule's still
        Client::connect(&world.client, (address, 5001)).and_then(Client::seen_as).expect("the next port");
        own.push(listener);
    }
    eventually("relayd tells", || daemon.log().contains("leaves port 5000/tcp to"));
    drop(own);
    let _backend = tcp_server(&world.backend, 5000);
    eventually("the rule has the port again", || {
        Client::connect(&world.client, (RELAY_V6, 5000)).and_then(Client::seen_as).is_ok()
    });
}

#[test]
fn a_listener_on_every_address_is_one_of_both_families() {
    let world = World::new();
    let _daemon = world.start(RANGE);
    let own = world.relay.run(|| TcpListener::bind((Ipv6Addr::UNSPECIFIED, 5000))).expect("bind");
    own.set_nonblocking(false).expect("blocking");
    let again = own.try_clone().expect("clone");
    let (one, two) = (greeter(own), greeter(again));
    for address in families() {
        assert!(is_greeted(&world, (address, 5000).into()), "{address} was robbed");
    }
    one.join().and_then(|()| two.join()).expect("greeters");
}

#[test]
fn datagrams_of_the_relays_own_programs_come_back_to_them() {
    let world = World::new();
    world.relay.sysctl("net/ipv4/ip_local_port_range", "32000 33000");
    for plane in ["user", "auto"] {
        let daemon = world.start(&RANGE.replace("\"user\"", &format!("\"{plane}\"")));
        let _server = udp_server(&world.backend, 53);
        for to in [SocketAddr::from((harness::world::BACKEND, 53)), (harness::world::BACKEND_V6, 53).into()] {
            // a server that has chosen its port, and a client that has not and is not connected
            let own =
                if to.is_ipv4() { IpAddr::from(Ipv4Addr::UNSPECIFIED) } else { Ipv6Addr::UNSPECIFIED.into() };
            for _ in 0..4 {
                let unbound = world.relay.run(|| {
                    let domain = socket2::Domain::for_address(to);
                    socket2::Socket::new(domain, socket2::Type::DGRAM, None)
                });
                let unbound = UdpSocket::from(unbound.expect("socket"));
                let chosen = world.relay.run(|| UdpSocket::bind((own, 40_000))).expect("bind");
                for socket in [unbound, chosen] {
                    socket.set_read_timeout(Some(PATIENCE)).expect("timeout");
                    socket.send_to(b"question", to).expect("send");
                    let mut answer = [0; 64];
                    let (_, from) =
                        socket.recv_from(&mut answer).unwrap_or_else(|error| panic!("{plane} {to}: {error}"));
                    assert_eq!(from, to);
                }
            }
        }
        drop(daemon);
    }
}

#[test]
fn force_takes_a_port_from_a_program() {
    let world = World::new();
    let own = world.relay.run(|| TcpListener::bind((Ipv6Addr::UNSPECIFIED, 5000))).expect("bind");
    let daemon = world.start("");
    let said = daemon.ctl.fails(1, &["add", "2000-61999", "203.0.113.2", "--plane", "user"]);
    assert!(said.contains("port 5000/tcp is in use by"), "{said}");
    daemon.ctl.ok(&["add", "2000-61999", "203.0.113.2", "--plane", "user", "--force"]);
    let _server = tcp_server(&world.backend, 5000);
    for address in families() {
        Client::connect(&world.client, (address, 5000)).and_then(Client::seen_as).expect("the rule's");
    }
    drop(own);
}

#[test]
fn ten_thousand_rules_on_both_families() {
    let world = World::new();
    let mut rules = String::new();
    for port in 10_000..20_000 {
        write!(rules, "[[rule]]\nname = \"r{port}\"\nlisten = \":{port}\"\nto = \"203.0.113.2:80\"\n\n")
            .expect("a string takes everything");
    }
    let daemon = world.start(&rules);
    let (_tcp, _udp) = (tcp_server(&world.backend, 80), udp_server(&world.backend, 80));
    assert!(descriptors(&daemon) < 8000, "{} descriptors", descriptors(&daemon));
    assert!(daemon.memory_kib() < 90 << 10, "{} KiB", daemon.memory_kib());
    for port in [10_000, 10_001, 15_000, 19_999] {
        let name = format!("r{port}");
        let plane = daemon.ctl.rule(&name)["plane"].clone();
        for address in families() {
            let family = if address.is_ipv4() { "ipv4" } else { "ipv6" };
            assert_eq!(plane[family]["plane"], "kernel", "{name}");
            // what the host sends to itself is relayd's
            Client::connect(&world.relay, (address, port)).and_then(Client::seen_as).expect("connect");
            Client::connect(&world.client, (address, port)).and_then(Client::seen_as).expect("connect");
            Datagrams::new(&world.client, (address, port)).echo(b"hello").expect("echo");
        }
        assert_eq!(daemon.ctl.counter(&name, "/flows/total"), 6);
    }
    daemon.ctl.ok(&["rm", "r19999"]);
    assert!(Client::connect(&world.client, (RELAY_V6, 19_999)).is_err());
    Client::connect(&world.client, (RELAY_V6, 19_998)).and_then(Client::seen_as).expect("connect");
}

#[test]
fn edits_disturb_nobody() {
    let world = World::new();
    let daemon = world.start(RANGE);
    let (_tcp, _udp) = (tcp_server(&world.backend, MIDDLE), udp_server(&world.backend, MIDDLE));
    let _new = tcp_server(&world.backend, MIDDLE + 1);
    let load = Load::new()
        .with_connections(&world.client, (RELAY, MIDDLE), 5)
        .with_connections(&world.client, (RELAY_V6, MIDDLE), 5)
        .with_datagrams(&world.client, (RELAY_V6, MIDDLE));
    load.run_on(100);
    for listen in [":2000-50000", ":30000-50000", ":32000", ":2000-61999"] {
        daemon.ctl.ok(&["set", "range", &format!("listen={listen}")]);
        load.run_on(100);
        Client::connect(&world.client, (RELAY_V6, MIDDLE)).and_then(Client::seen_as).expect("somebody new");
    }
    for number in 0..5 {
        daemon.ctl.ok(&["add", &format!("{}", 62_000 + number), "203.0.113.2:80"]);
    }
    load.run_on(100);
    load.finish();
    daemon.ctl.ok(&["set", "range", "to=203.0.113.2:2001"]);
    Client::connect(&world.client, (RELAY_V6, MIDDLE)).and_then(Client::seen_as).expect("the new backend");
    daemon.ctl.ok(&["rm", "range"]);
    assert!(Client::connect(&world.client, (RELAY_V6, MIDDLE)).is_err(), "nobody's any more");
}

#[test]
fn a_drain_keeps_old_clients() {
    let world = World::new();
    let daemon = world.start(RANGE);
    let (_tcp, _udp) = (tcp_server(&world.backend, MIDDLE), udp_server(&world.backend, MIDDLE));
    let mut stream =
        Client::connect(&world.client, (RELAY_V6, MIDDLE)).and_then(Client::start_echo).expect("echo");
    let known = Datagrams::new(&world.client, (RELAY_V6, MIDDLE));
    known.echo(b"before").expect("echo");
    daemon.ctl.ok(&["drain", "range"]);
    stream.echo(b"during").expect("a session goes on");
    known.echo(b"during").expect("a known client");
    assert!(Client::connect(&world.client, (RELAY_V6, MIDDLE)).is_err(), "nobody new");
    Datagrams::new(&world.client, (RELAY_V6, MIDDLE)).echo(b"new").expect_err("nobody new");
    assert!(daemon.ctl.counter("range", "/drops/draining") >= 1);
    daemon.ctl.ok(&["enable", "range"]);
    known.echo(b"after").expect("a known client");
    Client::connect(&world.client, (RELAY_V6, MIDDLE)).and_then(Client::seen_as).expect("everybody again");
    daemon.ctl.ok(&["rm", "range"]);
    assert!(stream.echo(b"gone").is_err(), "the rule takes its sessions along");
}

#[test]
fn a_killed_relayd_leaves_nothing_behind_and_the_next_one_serves() {
    let world = World::new();
    let mut daemon = world.start(&RANGE.replace("user", "auto"));
    let (_tcp, _udp) = (tcp_server(&world.backend, MIDDLE), udp_server(&world.backend, MIDDLE));
    let kernel = families().into_iter().fold(Load::new(), |load, relay| {
        load.with_connections(&world.client, (relay, MIDDLE), 5)
            .with_newcomers(&world.client, (relay, MIDDLE))
            .with_datagrams(&world.client, (relay, MIDDLE))
    });
    kernel.run_on(50);
    // what the host sends to itself is relayd's
    Client::connect(&world.relay, (RELAY_V6, MIDDLE)).and_then(Client::seen_as).expect("connect");
    for _ in 0..3 {
        daemon.kill();
        kernel.run_on(50);
        assert!(Client::connect(&world.relay, (RELAY_V6, MIDDLE)).is_err(), "nobody is there");
        assert_eq!(shared_pins(&world), 0);
        let own = world.relay.run(|| TcpListener::bind((RELAY_V6, 5000))).expect("bind");
        let greets = greeter(own);
        assert!(is_greeted(&world, (RELAY_V6, 5000).into()), "the relay's own");
        greets.join().expect("greeter");
        daemon.start_again(&world.relay);
        Client::connect(&world.relay, (RELAY_V6, MIDDLE)).and_then(Client::seen_as).expect("connect");
        Datagrams::new(&world.relay, (RELAY_V6, MIDDLE)).echo(b"hello").expect("echo");
    }
    kernel.finish();
    // what is held one by one and what is not change places
    fs::write(&daemon.config, settings(world.folder(), "") + &RANGE.replace("2000-61999", "32000"))
        .expect("config");
    daemon.ctl.ok(&["reload"]);
    Client::connect(&world.client, (RELAY_V6, MIDDLE)).and_then(Client::seen_as).expect("connect");
}
