//! `relayctl flows` and `GET /v1/flows`: live flows and sessions as both planes know them.

use std::net::SocketAddr;

use harness::http::Http;
use harness::traffic::{Client, Datagrams, tcp_server, text, udp_server};
use harness::world::{BACKEND, BACKEND_V6, RELAY, RELAY_V6};
use harness::{Ctl, World, eventually};
use serde_json::{Value, json};

const RULES: &str = "[[rule]]\nname = \"web\"\nlisten = \":8080\"\nto = \"203.0.113.2:80\"\n\
                     [[rule]]\nname = \"six\"\nlisten = \":8086\"\nto = \"[2001:db8:2::2]:80\"\nprotocol = \"tcp\"\n\
                     [[rule]]\nname = \"user\"\nlisten = \":8081\"\nto = \"203.0.113.2:80\"\nplane = \"user\"\n";

fn echo(world: &World, to: impl Into<SocketAddr>, bytes: usize) -> Client {
    let client = Client::connect(&world.client, to).and_then(Client::start_echo);
    let mut client = client.expect("an echo");
    client.echo(&text(bytes)).expect("an echo");
    client
}

fn flows(ctl: &Ctl, args: &[&str]) -> Vec<Value> {
    let answer = ctl.json(&[&["flows"], args].concat());
    answer["flows"].as_array().expect("flows").clone()
}

/// The flow of a client's socket.
fn of<'a>(flows: &'a [Value], client: &Client) -> &'a Value {
    let own = client.0.local_addr().expect("address").to_string();
    flows.iter().find(|flow| flow["client"] == own).unwrap_or_else(|| panic!("{own} is not in {flows:?}"))
}

/// Both ways.
fn bytes(flow: &Value) -> u64 {
    flow["ingress_bytes"].as_u64().unwrap_or(0) + flow["egress_bytes"].as_u64().unwrap_or(0)
}

fn datagrams_are_of_their_planes(udp: &[Value]) {
    let planes: Vec<_> =
        udp.iter().map(|flow| (&flow["rule"], &flow["plane"], bytes(flow) >= 1200)).collect();
    let (web, kernel_plane, user_rule) = (json!("web"), json!("kernel"), json!("user"));
    assert!(
        planes.contains(&(&web, &kernel_plane, true)) && planes.contains(&(&user_rule, &user_rule, true)),
        "{udp:?}"
    );
}

#[test]
fn flows_of_both_planes_are_shown_with_their_ends() {
    let world = World::new();
    let daemon = world.start(RULES);
    let _servers = (tcp_server(&world.backend, 80), udp_server(&world.backend, 80));
    let ctl = &daemon.ctl;
    assert_eq!(ctl.ok(&["flows"]), "no flows\n");
    let kernel = echo(&world, (RELAY, 8080), 2000);
    let kernel_v6 = echo(&world, (RELAY_V6, 8080), 100);
    let six = echo(&world, (RELAY, 8086), 100);
    let all_six = echo(&world, (RELAY_V6, 8086), 100);
    let user = echo(&world, (RELAY, 8081), 5000);
    let user_v6 = echo(&world, (RELAY_V6, 8081), 100);
    let datagrams = [8080, 8081].map(|port| Datagrams::new(&world.client, (RELAY, port)));
    for socket in &datagrams {
        socket.echo(&text(300)).expect("datagram");
        socket.echo(&text(300)).expect("datagram");
    }
    let all = flows(ctl, &[]);
    assert_eq!(all.len(), 8, "{all:?}");
    let v4 = SocketAddr::from((BACKEND, 80)).to_string();
    let v6 = SocketAddr::from((BACKEND_V6, 80)).to_string();
    for (client, rule, plane, asked, backend) in [
        (&kernel, "web", "kernel", SocketAddr::from((RELAY, 8080)), &v4),
        (&kernel_v6, "web", "kernel", (RELAY_V6, 8080).into(), &v4),
        (&six, "six", "kernel", (RELAY, 8086).into(), &v6),
        (&all_six, "six", "kernel", (RELAY_V6, 8086).into(), &v6),
        (&user, "user", "user", (RELAY, 8081).into(), &v4),
        (&user_v6, "user", "user", (RELAY_V6, 8081).into(), &v4),
    ] {
        let flow = of(&all, client);
        let found = [
            &flow["rule"],
            &flow["plane"],
            &flow["protocol"],
            &flow["listen"],
            &flow["backend"],
            &flow["state"],
        ];
        assert_eq!(json!(found), json!([rule, plane, "tcp", asked.to_string(), backend, "open"]), "{flow}");
        assert!(
            flow["age_seconds"].as_u64() < Some(60) && flow["idle_seconds"].as_u64() < Some(60),
            "{flow}"
        );
    }
    // what the echo takes beyond its text: an order of 9 bytes and one byte
    let user = of(&all, &user);
    assert_eq!(
        json!([user["ingress_bytes"], user["egress_bytes"], user["unit"]]),
        json!([5010, 5001, "payload"])
    );
    let kernel = of(&all, &kernel);
    assert!(
        kernel["ingress_bytes"].as_u64() > Some(2010) && kernel["egress_bytes"].as_u64() > Some(2001),
        "{kernel}"
    );
    assert_eq!(kernel["unit"], "ip");
    assert!(all.is_sorted_by_key(|flow| std::cmp::Reverse(bytes(flow))), "the most bytes first: {all:?}");
    datagrams_are_of_their_planes(&flows(ctl, &["--protocol", "udp"]));
    drop(datagrams);
}

#[test]
fn some_are_asked_for_and_no_more_than_so_many_come() {
    let world = World::new();
    let daemon = world.start(RULES);
    let _server = tcp_server(&world.backend, 80);
    let ctl = &daemon.ctl;
    let mut open: Vec<Client> = (0..6).map(|_| echo(&world, (RELAY, 8080), 10)).collect();
    open.extend((0..3).map(|_| echo(&world, (RELAY, 8081), 10)));
    for (args, count) in [
        (&["web"][..], 6),
        (&["user"], 3),
        (&["six"], 0),
        (&["--plane", "kernel"], 6),
        (&["--client", "198.51.100.0/24"], 9),
        (&["--client", "198.51.100.3"], 0),
        (&["--backend", "203.0.113.2"], 9),
        (&["--backend", "203.0.113.2:81"], 0),
        (&["--protocol", "udp"], 0),
    ] {
        assert_eq!(flows(ctl, args).len(), count, "{args:?}");
    }
    let some = ctl.json(&["flows", "web", "--limit", "2", "--sort", "new"]);
    assert_eq!((&some["matched"], &some["truncated"]), (&json!(6), &json!(true)), "{some}");
    assert_eq!(some["flows"].as_array().map(Vec::len), Some(2));
    let table = ctl.ok(&["flows", "--limit", "1"]);
    assert!(table.starts_with("RULE") && table.ends_with("1 of 9 flows; --limit shows more\n"), "{table}");
    assert!(ctl.ok(&["flows", "-o", "wide"]).contains("198.51.100.1:8080"));
    let tsv = ctl.ok(&["flows", "-o", "tsv"]);
    assert!(tsv.lines().count() == 10 && tsv.lines().all(|line| line.split('\t').count() == 12), "{tsv}");
    drop(open);
    eventually("sessions that have ended are gone", || flows(ctl, &["--plane", "user"]).is_empty());
    ctl.fails(1, &["flows", "nosuch"]);
    let said = ctl.fails(2, &["flows", "--client", "somebody"]);
    assert!(said.contains("an address or a network such as"), "{said}");
    let answer = Http::unix(&ctl.socket).get("/v1/flows?limit=many");
    assert_eq!((answer.status, answer.json()["code"].clone()), (400, json!("invalid")), "{answer:?}");
}
