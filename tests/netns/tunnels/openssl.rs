//! OpenSSL at the other end of TLS, 1.2 and 1.3, in both roles.

use harness::openssl::Openssl;
use harness::traffic::{tcp_server, text};
use harness::world::RELAY;

use super::{BACKEND, accept, connect, dial, drops, is_clean, is_counted, rule, start, world};

const VERSIONS: [&str; 2] = ["-tls1_2", "-tls1_3"];
const VERIFYING: [&str; 5] = ["-CAfile", "ca.pem", "-verify_return_error", "-servername", "relay.test"];

#[test]
fn s_client_to_a_rule() {
    let (world, _authority) = world();
    let _server = tcp_server(&world.backend, 80);
    let daemon = start(&world, &rule("out", 443, BACKEND, &accept("tls", "")));
    for version in VERSIONS {
        let dial = || {
            let args = [&VERIFYING[..], &[version]].concat();
            Openssl::client(&world.client, world.folder(), (RELAY, 443).into(), &args)
        };
        let (_openssl, client) = dial();
        client.upload((2 << 20) + 3).unwrap_or_else(|error| panic!("{version}: {error}"));
        let (_openssl, client) = dial();
        client.download((2 << 20) + 5).unwrap_or_else(|error| panic!("{version}: {error}"));
        let (_openssl, client) = dial();
        let mut client = client.start_echo().expect("echo");
        [1, 16_384, 16_385, 100_000].into_iter().for_each(|length| client.echo(&text(length)).expect("echo"));
    }
    is_clean(&daemon.ctl, "out");
}

#[test]
fn a_rule_to_s_server() {
    let (world, _authority) = world();
    let _server = tcp_server(&world.backend, 80);
    let daemon = start(&world, &rule("in", 80, "\"203.0.113.2:443\"", &connect("tls", "")));
    let files = ["-cert", "server.pem", "-key", "server.key"];
    for version in VERSIONS {
        let serve = || {
            let args = [&files[..], &[version]].concat();
            Openssl::server(&world.backend, world.folder(), 443, 80, &args)
        };
        let failed = |error| panic!("{version}: {error}");
        let openssl = serve();
        dial(&world, 80).upload((2 << 20) + 3).unwrap_or_else(failed);
        drop(openssl);
        let openssl = serve();
        dial(&world, 80).download((2 << 20) + 5).unwrap_or_else(failed);
        drop(openssl);
    }
    is_clean(&daemon.ctl, "in");
}

/// Whatever both know is taken; where there is nothing, there is no tunnel.
#[test]
fn application_protocols_are_agreed_on() {
    let (world, _authority) = world();
    let _server = tcp_server(&world.backend, 80);
    let daemon =
        start(&world, &rule("out", 443, BACKEND, &accept("tls", "alpn = [\"relay\", \"http/1.1\"]")));
    for offered in ["http/1.1", "h2,relay"] {
        let args = [&VERIFYING[..], &["-alpn", offered]].concat();
        let (_openssl, client) = Openssl::client(&world.client, world.folder(), (RELAY, 443).into(), &args);
        client.upload(1000).unwrap_or_else(|error| panic!("{offered}: {error}"));
    }
    is_clean(&daemon.ctl, "out");
    let (_openssl, client) =
        Openssl::client(&world.client, world.folder(), (RELAY, 443).into(), &["-alpn", "h3"]);
    client.upload(1000).expect_err("no common protocol");
    super::within(super::LIMIT, "it is counted", &mut || drops(&daemon.ctl, "out", "client_tls") == 1);
}

/// Versions that nobody should speak any more.
#[test]
fn old_versions_are_refused() {
    let (world, _authority) = world();
    let mut daemon = start(&world, &rule("out", 443, BACKEND, &accept("tls", "")));
    let args = ["-tls1_1", "-cipher", "DEFAULT@SECLEVEL=0"];
    let (_openssl, client) = Openssl::client(&world.client, world.folder(), (RELAY, 443).into(), &args);
    client.upload(1000).expect_err("an old version");
    is_counted(&mut daemon, "out", "client_tls", &["tls_no_common_version", "1.2"]);
}
