//! The PROXY protocol with HAProxy at the other end.

use std::net::SocketAddr;

use harness::World;
use harness::haproxy::{self, Haproxy, WHO, who};
use harness::traffic::{Client, Datagrams, udp_server};
use harness::world::{RELAY, RELAY_V6};

fn text(client: SocketAddr, destination: SocketAddr) -> String {
    format!("{} {} {} {}", client.ip(), client.port(), destination.ip(), destination.port())
}

#[test]
fn a_backend_learns_who_the_client_is() {
    if haproxy::is_missing() {
        return;
    }
    let world = World::new();
    let daemon = world.start(
        "[[rule]]\nname = \"web\"\nlisten = \":8080\"\nto = \"203.0.113.2:80\"\nconnect = { proxy_protocol = 1 }\n",
    );
    let front = format!("frontend who\n  bind :::80 v4v6 accept-proxy\n  {WHO}");
    let _haproxy = Haproxy::start(&world.backend, world.folder(), 80, &front);
    let _udp = udp_server(&world.backend, 80);
    for version in ["1", "2"] {
        daemon.ctl.ok(&["set", "web", &format!("connect.proxy_protocol={version}")]);
        for to in [SocketAddr::from((RELAY, 8080)), SocketAddr::from((RELAY_V6, 8080))] {
            let client = Client::connect(&world.client, to).expect("connect");
            let own = client.0.local_addr().expect("address");
            assert_eq!(who(&client.0).expect("an answer"), text(own, to), "version {version}");
            Datagrams::new(&world.client, to).echo(b"no header here").expect("echo");
        }
    }
    let rule = daemon.ctl.rule("web");
    assert_eq!(rule["plane"]["ipv4"]["plane"], "user", "{rule}");
    let reason = rule["plane"]["ipv4"]["reason"].as_str().unwrap_or_default();
    assert!(
        reason.contains("connect.proxy_protocol") && reason.contains("UDP stays in the kernel"),
        "{rule}"
    );
    let explained = daemon.ctl.ok(&["explain", "web"]);
    assert!(explained.contains("port 8080/udp goes to 203.0.113.2:80"), "{explained}");
    daemon.ctl.ok(&["set", "web", "connect.proxy_protocol="]);
    assert_eq!(daemon.ctl.rule("web")["plane"]["ipv4"]["plane"], "kernel");
}
