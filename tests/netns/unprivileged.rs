//! An ordinary user's relayd carries every kind of rule, on ports that it may bind.

use std::io::{BufRead as _, BufReader, Write as _};
use std::net::{IpAddr, Ipv4Addr, SocketAddr, TcpListener};

use harness::dns::{NameServer, Says};
use harness::traffic::{Client, Datagrams, tcp_server, udp_server};
use harness::world::{BACKEND, CLIENT, RELAY, RELAY_V6};
use harness::{World, eventually};

const SECOND: Ipv4Addr = Ipv4Addr::new(203, 0, 113, 9);

const RULES: &str = "
[[rule]]
name = \"announced\"
listen = \":8081\"
to = \"203.0.113.2:80\"
accept = { proxy_protocol = true, trusted = [\"198.51.100.0/24\", \"2001:db8:1::/64\"], allow = [\"192.0.2.0/24\"] }

[[rule]]
name = \"announces\"
listen = \":8082\"
to = \"203.0.113.2:82\"
connect = { proxy_protocol = 1 }

[[rule]]
name = \"listed\"
listen = \":8083\"
to = \"203.0.113.2:80\"
accept = { allow = [\"192.0.2.0/24\"] }

[[rule]]
name = \"limited\"
listen = \":8084\"
to = \"203.0.113.2:80\"
limit = { connections = 1 }

[[rule]]
name = \"source\"
listen = \":8085\"
to = \"203.0.113.2:80\"
connect = { source = \"203.0.113.9\", interface = \"inside\" }

[[rule]]
name = \"multipath\"
listen = \":8086\"
to = \"203.0.113.2:80\"
accept = { mptcp = true }
connect = { mptcp = true }

[[rule]]
name = \"named\"
listen = [\":8087\", \":20000-20009\"]
to = \"backend.test:80\"
udp_nat = \"fullcone\"
";

fn clients(port: u16) -> [SocketAddr; 2] {
    [(RELAY, port).into(), (RELAY_V6, port).into()]
}

fn carries(world: &World, port: u16) {
    for to in clients(port) {
        let upload = Client::connect(&world.client, to).and_then(|client| client.upload(100_000));
        upload.unwrap_or_else(|error| panic!("{to}: {error}"));
        let echo = Datagrams::new(&world.client, to).echo_patiently(b"hello");
        echo.unwrap_or_else(|error| panic!("{to}: {error}"));
    }
}

fn refuses(world: &World, port: u16) {
    for to in clients(port) {
        let upload = Client::connect(&world.client, to).and_then(|client| client.upload(1));
        assert!(upload.is_err(), "{to} is not for this client");
    }
}

#[test]
fn an_ordinary_user_carries_every_rule() {
    let world = World::new();
    let names = NameServer::start(&world.relay, world.folder());
    names.says("backend.test", Says::Address(BACKEND));
    world.relay.add_address("inside", SECOND, 24);
    let daemon = world.start_unprivileged(RULES);
    let (_tcp, _udp) = (tcp_server(&world.backend, 80), udp_server(&world.backend, 80));
    eventually("the name has an address", || daemon.ctl.rule("named")["state"] == "active");
    let rules = daemon.ctl.json(&["list"]);
    for rule in rules.as_array().expect("rules") {
        assert_eq!(
            (&rule["state"], &rule["plane"]["ipv4"]["plane"]),
            (&"active".into(), &"user".into()),
            "{rule}"
        );
    }
    for port in [8086, 8087, 20_000] {
        carries(&world, port);
    }
    for to in clients(8081) {
        let mut client = Client::connect(&world.client, to).expect("connect");
        client.0.write_all(b"PROXY TCP4 192.0.2.7 192.0.2.8 1000 8081\r\n").expect("header");
        client.upload(1000).expect("who is announced is on the list");
    }
    refuses(&world, 8081);
    announces(&world);
    refuses(&world, 8083);
    assert_eq!(daemon.ctl.counter("listed", "/drops/not_allowed"), 2);
    daemon.ctl.ok(&["set", "listed", "accept.allow=198.51.100.0/24,2001:db8:1::/64"]);
    carries(&world, 8083);
    let mut first =
        Client::connect(&world.client, (RELAY, 8084)).and_then(Client::start_echo).expect("connect");
    first.echo(b"hello").expect("echo");
    refuses(&world, 8084);
    assert_eq!(daemon.ctl.counter("limited", "/drops/limit_connections"), 2);
    carries(&world, 8085);
    let seen = Client::connect(&world.client, (RELAY_V6, 8085)).and_then(Client::seen_as).expect("connect");
    assert_eq!(seen.ip(), IpAddr::from(SECOND));
}

/// The backend is told who the client is.
fn announces(world: &World) {
    let backend = world.backend.run(|| TcpListener::bind((BACKEND, 82))).expect("bind");
    let client = Client::connect(&world.client, (RELAY, 8082)).expect("connect");
    let (stream, _) = backend.accept().expect("accept");
    let mut header = String::new();
    BufReader::new(stream).read_line(&mut header).expect("header");
    let own = client.0.local_addr().expect("address");
    assert_eq!(header, format!("PROXY TCP4 {CLIENT} {RELAY} {} 8082\r\n", own.port()));
}
