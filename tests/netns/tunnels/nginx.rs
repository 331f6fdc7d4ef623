//! nginx between two ends of a tunnel, as a front that ends TLS; and as server and client of plain TLS.

use harness::http::Http;
use harness::kaminari::Kaminari;
use harness::nginx::{Nginx, websocket_proxy};
use harness::traffic::{Client, tcp_server};
use harness::world::RELAY;

use super::{BACKEND, accept, carries, connect, dial, fails, is_clean, is_counted, rule, start, world};

const FILES: (&str, &str) = ("server.pem", "server.key");
/// Where nginx is.
const FRONT: &str = "\"203.0.113.2:443\"";

/// One relayd is before nginx and behind it: wss to it, ws from it.
#[test]
fn a_front_between_two_relays() {
    let (world, _authority) = world();
    let _server = tcp_server(&world.backend, 80);
    let proxy = websocket_proxy(443, FILES, "203.0.113.1:8443");
    let _nginx = Nginx::start(&world.backend, world.folder(), 443, &proxy);
    let masking = |mask: &str| connect("wss", &format!("mask = \"{mask}\", token = \"secret\""));
    let rules = [
        rule("zeros", 80, FRONT, &masking("auto")),
        rule("random", 81, FRONT, &masking("random")),
        rule("out", 8443, BACKEND, &accept("ws", "token = \"secret\"")),
    ];
    let daemon = start(&world, &rules.concat());
    for (port, name) in [(80, "zeros"), (81, "random")] {
        carries(name, &|| dial(&world, port));
        is_clean(&daemon.ctl, name);
    }
    is_clean(&daemon.ctl, "out");
}

/// What nginx answers for a tunnel that it does not know, or that is not behind it any more.
#[test]
fn a_front_that_answers_for_somebody_else() {
    let (world, _authority) = world();
    let proxy = websocket_proxy(443, FILES, "203.0.113.2:9");
    let _nginx = Nginx::start(&world.backend, world.folder(), 443, &proxy);
    let lost = connect("wss", "").replace("/tunnel", "/elsewhere");
    let rules = [rule("lost", 80, FRONT, &lost), rule("gone", 81, FRONT, &connect("wss", ""))];
    let mut daemon = start(&world, &rules.concat());
    for (port, name, said) in [(80, "lost", ["404", "connect.path"]), (81, "gone", ["502", "proxy"])] {
        fails(&world, port, name);
        is_counted(&mut daemon, name, "backend_ws", &said);
    }
}

/// kaminari goes through nginx to us, and through nginx we go to kaminari.
#[test]
fn a_front_between_kaminari_and_relay() {
    let (world, _authority) = world();
    let _server = tcp_server(&world.backend, 80);
    let servers =
        [websocket_proxy(443, FILES, "203.0.113.1:8443"), websocket_proxy(444, FILES, "127.0.0.1:8444")];
    let _nginx = Nginx::start(&world.backend, world.folder(), 443, &servers.concat());
    let options = "ws;host=relay.test;path=/tunnel";
    let _server_side = Kaminari::server(&world.backend, 8444, ([127, 0, 0, 1], 80).into(), options);
    let daemon = start(
        &world,
        &[
            rule("in", 80, "\"203.0.113.2:444\"", &connect("wss", "")),
            rule("out", 8443, BACKEND, &accept("ws", "")),
        ]
        .concat(),
    );
    dial(&world, 80).upload(1 << 20).expect("upload");
    dial(&world, 80).download(1 << 20).expect("download");
    let wrapping = format!("{options};tls;sni=relay.test;insecure");
    let _client_side = Kaminari::client(&world.relay, 8080, ([203, 0, 113, 2], 443).into(), &wrapping);
    let local = || Client::connect(&world.relay, ([127, 0, 0, 1], 8080)).expect("connect");
    local().upload(1 << 20).expect("upload");
    local().download(1 << 20).expect("download");
    is_clean(&daemon.ctl, "in");
    is_clean(&daemon.ctl, "out");
}

/// A web server with TLS behind us, and nginx as a client before a rule that ends TLS.
#[test]
fn web_servers_and_clients() {
    let (world, _authority) = world();
    let plain = "server { listen 80; location / { return 200 \"plain\"; } }\n";
    let sealed = "server { listen 443 ssl; ssl_certificate server.pem; ssl_certificate_key server.key;\n\
                  location / { return 200 \"sealed\"; } }\n";
    let _web = Nginx::start(&world.backend, world.folder(), 80, &[plain, sealed].concat());
    let rules = [rule("in", 80, FRONT, &connect("tls", "")), rule("out", 443, BACKEND, &accept("tls", ""))];
    let daemon = start(&world, &rules.concat());
    assert_eq!(Http::tcp(&world.client, (RELAY, 80).into()).get("/").body, "sealed");
    let front = "server { listen 8080; location / { proxy_pass https://198.51.100.1:443;\n\
                 proxy_ssl_verify on; proxy_ssl_trusted_certificate ca.pem; proxy_ssl_name relay.test;\n\
                 proxy_ssl_server_name on; } }\n";
    let _front = Nginx::start(&world.client, world.folder(), 8080, front);
    let mut front = Http::tcp(&world.client, ([127, 0, 0, 1], 8080).into());
    for _ in 0..3 {
        let answer = front.get("/");
        assert_eq!((answer.status, answer.body.as_str()), (200, "plain"));
    }
    is_clean(&daemon.ctl, "in");
    is_clean(&daemon.ctl, "out");
}
