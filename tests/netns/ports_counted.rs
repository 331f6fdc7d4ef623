//! `count_ports`: each port of a range counts what it carries, on either plane, and their sum is the rule's.

use std::net::{IpAddr, SocketAddr};

use harness::http::Http;
use harness::traffic::{Client, Datagrams, tcp_server, text, udp_server};
use harness::world::{RELAY, RELAY_V6};
use harness::{Daemon, World, eventually};
use serde_json::Value;

const FAMILIES: [IpAddr; 2] = [IpAddr::V4(RELAY), IpAddr::V6(RELAY_V6)];

fn rules(plane: &str) -> String {
    format!(
        "[[rule]]\nname = \"many\"\nlisten = \":8080-8083\"\nto = \"203.0.113.2:80\"\nplane = \"{plane}\"\ncount_ports = true\n"
    )
}

/// Connections and datagrams, whole and in fragments, to one port.
fn traffic(world: &World, port: u16, bytes: u64) {
    for relay in FAMILIES {
        let connect = || Client::connect(&world.client, (relay, port)).expect("connect");
        connect().upload(bytes).expect("upload");
        connect().download(bytes).expect("download");
        let socket = Datagrams::new(&world.client, SocketAddr::from((relay, port)));
        for size in [1, 1400, 9000] {
            socket.echo_patiently(&text(size)).expect("an echo");
        }
    }
}

/// Packets and bytes, in and out.
fn figures(view: &Value) -> [u64; 4] {
    ["/ingress/packets", "/ingress/bytes", "/egress/packets", "/egress/bytes"]
        .map(|pointer| view.pointer(pointer).and_then(Value::as_u64).expect("a number"))
}

fn ports(daemon: &Daemon) -> Vec<(u64, [u64; 4])> {
    let views = daemon.ctl.json(&["show", "many", "--ports"]);
    let one = |view: &Value| (view["port"].as_u64().expect("a port"), figures(view));
    views.as_array().expect("ports").iter().map(one).collect()
}

fn sum(ports: &[(u64, [u64; 4])]) -> [u64; 4] {
    std::array::from_fn(|at| ports.iter().map(|(_, figures)| figures[at]).sum())
}

#[test]
fn ports_of_a_range_are_counted_one_by_one() {
    for plane in ["kernel", "user"] {
        let world = World::new();
        let _servers =
            [80, 82].map(|port| (tcp_server(&world.backend, port), udp_server(&world.backend, port)));
        let mut daemon = world.start(&rules(plane));
        traffic(&world, 8080, 1 << 20);
        traffic(&world, 8082, 4 << 20);
        // the last segments of a connection come after its data
        eventually("the ports' sum is the rule's", || {
            sum(&ports(&daemon)) == figures(&daemon.ctl.rule("many")["counters"])
        });
        let counted = ports(&daemon);
        assert_eq!(counted.iter().map(|(port, _)| *port).collect::<Vec<_>>(), [8080, 8082], "{plane}");
        let [small, large] = [counted[0].1, counted[1].1];
        assert!(
            (2 << 20..3 << 20).contains(&small[1]) && (8 << 20..9 << 20).contains(&large[1]),
            "{plane}: {counted:?}"
        );
        assert!(large[3] > 8 << 20, "{plane}: {counted:?}");
        let metrics = Http::unix(&daemon.ctl.socket).get("/metrics").body;
        let line = format!(
            "relay_port_bytes_total{{rule=\"many\",port=\"8082\",direction=\"egress\"}} {}",
            large[3]
        );
        assert!(metrics.contains(&line), "{plane}: {metrics}");
        // for ever: also when relayd has died, and when the rule has gone
        daemon.kill();
        daemon.start_again(&world.relay);
        eventually("totals are there again", || sum(&ports(&daemon)) >= sum(&counted));
        eventually("the history has them", || {
            let view = daemon.ctl.json(&["history", "many", "--port", "8082", "--by", "day"]);
            view["rows"]
                .as_array()
                .is_some_and(|rows| rows.iter().map(|row| figures(row)[3]).sum::<u64>() >= large[3])
        });
        daemon.ctl.ok(&["rm", "many"]);
        assert_eq!(sum(&ports(&daemon)), sum(&counted), "{plane}");
        assert!(daemon.ctl.ok(&["show", "many", "--ports"]).contains("8082"), "{plane}");
    }
}
