//! Each kind of probe against endpoints that answer as they should, otherwise, or not.

use std::net::UdpSocket;
use std::sync::Arc;
use std::time::Duration;

use super::{Case, LOCALHOST, hosts, probe, quick};
use crate::rule::{CheckKind, Connect, HttpCheck, ProxyVersion};

fn verdict(address: std::net::SocketAddr, kind: CheckKind) -> Option<String> {
    Case::verdict(probe(address, quick(kind)))
}

fn http(check: HttpCheck) -> CheckKind {
    CheckKind::Http(check)
}

fn udp(expect: Option<&[u8]>) -> CheckKind {
    CheckKind::Udp { send: b"ping".as_slice().into(), expect: expect.map(Into::into) }
}

fn error(text: &str) -> Option<String> {
    Some(text.to_owned())
}

#[test]
fn tcp() {
    assert_eq!(verdict(hosts::mute(), CheckKind::Tcp), None);
    assert_eq!(verdict(hosts::refusing(), CheckKind::Tcp), error("connection refused"));
    let (silent, _sockets) = hosts::silent();
    assert_eq!(verdict(silent, CheckKind::Tcp), error("no answer in time"));
}

#[test]
fn another_port_may_be_asked() {
    let port = Some(hosts::mute().port());
    let mut check = quick(CheckKind::Tcp);
    check.port = port;
    assert_eq!(Case::verdict(probe(hosts::refusing(), check)), None);
}

#[test]
fn probes_leave_as_sessions_do() {
    let bound = |connect: Connect| {
        let connect = Arc::new(connect);
        Case::verdict(crate::health::Probe { connect, ..probe(hosts::mute(), quick(CheckKind::Tcp)) })
    };
    let from = |source: &str| Connect { source: source.parse().ok(), ..Connect::default() };
    assert_eq!(bound(from("127.0.0.9")), None);
    assert_eq!(bound(from("192.0.2.77")), error("cannot be reached: Cannot assign requested address"));
    let by = |name: &str| Connect { interface: Some(name.into()), ..Connect::default() };
    assert_eq!(bound(by("lo")), None);
    assert_eq!(bound(by("nowhere0")), error("cannot be reached: No such device"));
}

#[test]
fn tls() {
    let name = Some("backend.test".into());
    let tls = |sni, verify| quick(CheckKind::Tls { sni, verify });
    let (address, roots) = hosts::https("backend.test", "");
    assert_eq!(Case::verdict(probe(address, tls(None, false))), None);
    // nobody has vouched for it
    let verdict = Case::verdict(probe(address, tls(name.clone(), true))).expect("an error");
    assert!(verdict.starts_with("TLS: invalid peer certificate"), "{verdict}");
    let verified = |sni| Case::trusting(roots.clone()).verdict_of(probe(address, tls(sni, true)));
    assert_eq!(verified(name), None);
    let verdict = verified(Some("other.test".into())).expect("an error");
    assert!(verdict.starts_with("TLS: invalid peer certificate"), "{verdict}");
    // the backend's own name will do
    let named = crate::health::Probe { name: Some("backend.test".into()), ..probe(address, tls(None, true)) };
    assert_eq!(Case::trusting(roots).verdict_of(named), None);
}

#[test]
fn tls_that_is_none() {
    let tls = || CheckKind::Tls { sni: None, verify: false };
    let verdict_of_ssh = verdict(hosts::says("SSH-2.0-OpenSSH_9.6\r\n"), tls()).expect("an error");
    assert!(verdict_of_ssh.starts_with("TLS: "), "{verdict_of_ssh}");
    // it closes before it has read what it was sent
    assert_eq!(verdict(hosts::mute(), tls()), error("connection reset"));
    assert_eq!(verdict(hosts::refusing(), tls()), error("connection refused"));
}

#[test]
fn http_status_and_body() {
    let ok = "HTTP/1.1 200 OK\r\nContent-Length: 9\r\n\r\nall well\n";
    let body = |text: &str| http(HttpCheck { body: Some(text.into()), ..HttpCheck::default() });
    for closes in [true, false] {
        assert_eq!(verdict(hosts::http(ok, closes), http(HttpCheck::default())), None);
        assert_eq!(verdict(hosts::http(ok, closes), body("well")), None);
        let lacks = error("the body does not contain what check.body says");
        assert_eq!(verdict(hosts::http(ok, closes), body("ill")), lacks);
    }
    let ssh = verdict(hosts::says("SSH-2.0-OpenSSH_9.6\r\n"), http(HttpCheck::default()));
    assert_eq!(ssh, error("the answer is not HTTP: invalid HTTP version"));
    assert_eq!(verdict(hosts::says(""), http(HttpCheck::default())), error("no answer in time"));
    let busy = hosts::http("HTTP/1.1 503 Service Unavailable\r\n\r\n", true);
    assert_eq!(verdict(busy, http(HttpCheck::default())), error("HTTP status 503"));
    assert_eq!(verdict(hosts::refusing(), http(HttpCheck::default())), error("connection refused"));
}

/// However fast it comes, others have their turns.
#[test]
fn an_endpoint_that_never_comes_to_the_point() {
    let much = error("the endpoint sends on and on, and no answer");
    let body = HttpCheck { body: Some("word".into()), ..HttpCheck::default() };
    let chunked = "HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n";
    for (check, head, text) in [
        (HttpCheck::default(), "", "HTTP/1.1 102 Processing\r\n\r\n"),
        (body, chunked, "1;extension=of-a-chunk-of-one-byte\r\nx\r\n"),
    ] {
        let mut check = quick(http(check));
        // time is not what ends it
        check.timeout = Duration::from_secs(600);
        assert_eq!(Case::verdict(probe(hosts::goes_on(head, text), check)), much);
    }
}

#[test]
fn http_over_tls() {
    let check = HttpCheck {
        tls: true,
        host: Some("backend.test:8443".into()),
        body: Some("well".into()),
        ..HttpCheck::default()
    };
    let (well, _) = hosts::https("backend.test", "HTTP/1.1 200 OK\r\n\r\nall well\n");
    assert_eq!(verdict(well, http(check.clone())), None);
    let (ill, _) = hosts::https("backend.test", "HTTP/1.1 200 OK\r\n\r\nall ill\n");
    assert_eq!(verdict(ill, http(check)), error("the body does not contain what check.body says"));
}

#[test]
fn what_an_endpoint_is_asked() {
    let (address, requests) = hosts::asked();
    let check = HttpCheck { path: "/healthz?x=1".into(), ..HttpCheck::default() };
    assert_eq!(verdict(address, http(check)), None);
    let request = requests.recv().expect("request");
    let (first, rest) = request.split_once("\r\n").expect("lines");
    assert_eq!(first, "GET /healthz?x=1 HTTP/1.1");
    assert!(rest.starts_with(&format!("Host: {address}\r\n")), "{rest}");
    assert!(rest.contains("\r\nConnection: close\r\n"), "{rest}");

    // a backend that is told its clients is told that nobody is one
    let (address, requests) = hosts::asked();
    let connect = Arc::new(Connect { proxy_protocol: Some(ProxyVersion::V1), ..Connect::default() });
    let probe = crate::health::Probe { connect, ..probe(address, quick(http(HttpCheck::default()))) };
    assert_eq!(Case::verdict(probe), None);
    let request = requests.recv().expect("request");
    assert!(request.starts_with("PROXY UNKNOWN\r\nGET / HTTP/1.1\r\n"), "{request}");
}

#[test]
fn udp_answers() {
    assert_eq!(verdict(hosts::udp(b"pong"), udp(None)), None);
    assert_eq!(verdict(hosts::udp(b"pong"), udp(Some(b"on"))), None);
    let other = error("the answer does not contain what check.expect says");
    assert_eq!(verdict(hosts::udp(b"pong"), udp(Some(b"ping"))), other);
    let silent = UdpSocket::bind((LOCALHOST, 0)).expect("socket");
    assert_eq!(verdict(silent.local_addr().expect("address"), udp(None)), error("no answer in time"));
    let refusing = silent.local_addr().expect("address");
    drop(silent);
    assert_eq!(verdict(refusing, udp(None)), error("connection refused"));
}

#[test]
fn a_probe_has_its_time_and_no_more() {
    let (silent, _sockets) = hosts::silent();
    let case = Case::new();
    let mut check = quick(CheckKind::Tcp);
    check.timeout = Duration::from_millis(200);
    let began = std::time::Instant::now();
    assert_eq!(case.verdict_of(probe(silent, check)), error("no answer in time"));
    let took = began.elapsed();
    assert!((200..400).contains(&took.as_millis()), "{took:?}");
}
