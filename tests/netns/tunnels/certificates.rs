//! Whose certificate is good for whom: authorities, names, times, pins, clients' own; and what happens when one is renewed.

use std::fs;

use harness::certificates::Authority;
use harness::openssl::{certificate, fingerprint, subject};
use harness::traffic::tcp_server;
use harness::world::RELAY;
use harness::{World, within};

use super::{
    BACKEND, EXIT, HOST, LIMIT, accept, connect, dial, drops, fails, is_clean, is_counted, own, rule, start,
    world,
};

/// The subject of the certificate that clients are shown now.
fn shown(world: &World) -> Option<String> {
    let pem = certificate(&world.client, (RELAY, 443).into(), HOST)?;
    Some(subject(&world.client, &pem))
}

#[test]
fn certificates_that_are_not_good() {
    let (world, authority) = world();
    let _server = tcp_server(&world.backend, 80);
    authority.issue_expired("expired", HOST);
    authority.issue("named", "example.org");
    Authority::new(world.folder(), "stranger").issue("foreign", HOST);
    let pin = format!("pin:sha256/{}", fingerprint(&world.client, &read(&world, "foreign.pem")));
    // the certificate, what is said of it, the reason and what else the log says
    let cases = [
        ("expired", "ca = \"ca.pem\"", "tls_certificate_expired", "renew"),
        ("named", "ca = \"ca.pem\"", "tls_wrong_name", "connect.sni"),
        ("foreign", "ca = \"ca.pem\"", "tls_unknown_ca", "connect.ca"),
        ("foreign", "verify = \"ca\"", "tls_unknown_ca", "connect.ca"),
        ("server", &format!("verify = \"{pin}\""), "tls_wrong_pin", "connect.verify"),
    ];
    let tunnels =
        ["tls", "wss"].into_iter().flat_map(|transport| cases.iter().map(move |case| (transport, case)));
    let mut rules = String::new();
    for (port, (transport, (file, verify, ..))) in (8000..).zip(tunnels.clone()) {
        let accept = accept(transport, "").replace("server.", &format!("{file}."));
        let connect = connect(transport, "").replace("ca = \"ca.pem\"", verify);
        rules += &rule(&format!("in-{port}"), port, &own(port + 1000), &connect);
        rules += &rule(&format!("out-{port}"), port + 1000, BACKEND, &accept);
    }
    let mut daemon = start(&world, &rules);
    for (port, (_, (_, _, reason, said))) in (8000..).zip(tunnels) {
        fails(&world, port, "a tunnel");
        is_counted(&mut daemon, &format!("in-{port}"), "backend_tls", &[reason, said]);
        is_counted(&mut daemon, &format!("out-{port}"), "client_tls", &["certificate"]);
    }
}

fn read(world: &World, name: &str) -> String {
    fs::read_to_string(world.folder().join(name)).expect(name)
}

/// The same certificates are good for whom they are said to be.
#[test]
fn certificates_that_are_good() {
    let (world, authority) = world();
    let _server = tcp_server(&world.backend, 80);
    authority.issue_expired("expired", HOST);
    authority.issue("address", "198.51.100.1");
    let pin_of = |name: &str| format!("pin:sha256/{}", fingerprint(&world.client, &read(&world, name)));
    let cases = [
        ("server", "ca = \"ca.pem\"".to_owned()),
        ("expired", "verify = \"insecure\"".to_owned()),
        ("expired", format!("verify = \"{}\"", pin_of("expired.pem"))),
        ("server", format!("verify = \"{}\"", pin_of("server.pem"))),
        ("address", "sni = \"198.51.100.1\", ca = \"ca.pem\"".to_owned()),
        // the backend's own address is what is asked for where nothing is said
        ("address", "ca = \"ca.pem\"".to_owned()),
    ];
    let mut rules = String::new();
    for (port, (file, verify)) in (8000..).zip(&cases) {
        let sni = if *file == "address" { String::new() } else { format!("sni = \"{HOST}\", ") };
        let connect = format!("connect = {{ transport = \"tls\", {sni}{verify} }}");
        rules += &rule(&format!("in-{port}"), port, &own(port + 1000), &connect);
        let accept = accept("tls", "").replace("server.", &format!("{file}."));
        rules += &rule(&format!("out-{port}"), port + 1000, BACKEND, &accept);
    }
    let daemon = start(&world, &rules);
    for (port, (file, verify)) in (8000..).zip(&cases) {
        dial(&world, port).upload(1000).unwrap_or_else(|error| panic!("{file}, {verify}: {error}"));
        is_clean(&daemon.ctl, &format!("in-{port}"));
    }
}

#[test]
fn clients_may_need_one_too() {
    let (world, authority) = world();
    let _server = tcp_server(&world.backend, 80);
    authority.issue("client", "client.test");
    Authority::new(world.folder(), "stranger").issue("foreign", "client.test");
    let mut rules = rule("out", 443, BACKEND, &accept("wss", "client_ca = \"ca.pem\""));
    let of = |file: &str| connect("wss", &format!("cert = \"{file}.pem\", key = \"{file}.key\""));
    for (port, name, leg) in
        [(80, "good", of("client")), (81, "none", connect("wss", "")), (82, "bad", of("foreign"))]
    {
        rules += &rule(name, port, EXIT, &leg);
    }
    let mut daemon = start(&world, &rules);
    dial(&world, 80).upload(100_000).expect("a client with the right one");
    is_clean(&daemon.ctl, "out");
    fails(&world, 81, "one without");
    is_counted(&mut daemon, "none", "backend_tls", &["tls_no_client_certificate", "connect.cert"]);
    is_counted(&mut daemon, "out", "client_tls", &["tls_no_client_certificate", "accept.client_ca"]);
    fails(&world, 82, "one with another's");
    within(LIMIT, "it is counted", &mut || drops(&daemon.ctl, "out", "client_tls") == 2);
    is_counted(&mut daemon, "bad", "backend_tls", &["connect.cert"]);
}

/// New tunnels see the new certificate, old ones go on; half a file changes nothing.
#[test]
fn renewed_under_way() {
    let (world, authority) = world();
    let _server = tcp_server(&world.backend, 80);
    let mut daemon = start(
        &world,
        &[rule("in", 80, EXIT, &connect("wss", "")), rule("out", 443, BACKEND, &accept("wss", ""))].concat(),
    );
    let mut old = dial(&world, 80).start_echo().expect("echo");
    assert_eq!(shown(&world).as_deref(), Some("server"));
    authority.issue("renewed", HOST);
    for end in ["key", "pem"] {
        fs::rename(
            world.folder().join(format!("renewed.{end}")),
            world.folder().join(format!("server.{end}")),
        )
        .expect("rename");
    }
    within(LIMIT, "the new certificate is shown", &mut || shown(&world).as_deref() == Some("renewed"));
    old.echo(b"as before").expect("an old tunnel");
    let mut next = dial(&world, 80).start_echo().expect("a new one");
    let whole = read(&world, "server.pem");
    fs::write(world.folder().join("server.pem"), &whole[..whole.len() / 2]).expect("half a file");
    within(LIMIT, "the log names the file", &mut || {
        daemon.log().lines().any(|line| line.contains("server.pem") && line.contains("stays in use"))
    });
    assert_eq!(shown(&world).as_deref(), Some("renewed"));
    dial(&world, 80).upload(1000).expect("a tunnel with the certificate that there was");
    authority.issue("server", HOST);
    within(LIMIT, "the last certificate is shown", &mut || shown(&world).as_deref() == Some("server"));
    old.echo(b"as ever").expect("an old tunnel");
    next.echo(b"as ever").expect("an old tunnel");
}

/// Without files there is one that nobody has signed: always the same, and `show` says how to know it.
#[test]
fn self_signed_and_pinned() {
    let (world, _authority) = world();
    let _server = tcp_server(&world.backend, 80);
    let out = rule("out", 443, BACKEND, "accept = { transport = \"tls\" }");
    let daemon = start(&world, &out);
    let served = certificate(&world.client, (RELAY, 443).into(), HOST).expect("a certificate");
    let print = format!("sha256/{}", fingerprint(&world.client, &served));
    let said = daemon.ctl.ok(&["show", "out"]);
    assert!(said.contains(&print), "{print}: {said}");
    let pinned = format!("connect = {{ transport = \"tls\", verify = \"pin:{print}\" }}");
    drop(daemon);
    let daemon = start(&world, &[out, rule("in", 80, EXIT, &pinned)].concat());
    dial(&world, 80).upload(100_000).expect("a tunnel to the same certificate");
    is_clean(&daemon.ctl, "in");
    let again = certificate(&world.client, (RELAY, 443).into(), HOST).expect("a certificate");
    assert_eq!(again, served, "it outlives relayd");
}

/// Files that are not there, or are no certificates, make a rule that does not serve and says why.
#[test]
fn files_that_are_none() {
    let (world, _authority) = world();
    fs::write(world.folder().join("empty.pem"), "").expect("file");
    let of =
        |cert: &str| format!("accept = {{ transport = \"tls\", cert = \"{cert}\", key = \"server.key\" }}");
    let rules = [
        rule("missing", 8001, BACKEND, &of("missing.pem")),
        rule("empty", 8002, BACKEND, &of("empty.pem")),
        rule("other", 8003, BACKEND, &of("ca.pem")),
        rule("good", 8004, BACKEND, &of("server.pem")),
    ];
    let daemon = start(&world, &rules.concat());
    for (name, file) in [("missing", "missing.pem"), ("empty", "empty.pem"), ("other", "ca.pem")] {
        let rule = daemon.ctl.rule(name);
        assert_ne!(rule["state"], "active", "{rule}");
        assert!(daemon.ctl.ok(&["show", name]).contains(file), "{rule}");
    }
    assert_eq!(daemon.ctl.rule("good")["state"], "active");
}
