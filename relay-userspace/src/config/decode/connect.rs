//! How backends are reached: `connect = { ... }`.

use std::net::IpAddr;
use std::path::PathBuf;
use std::sync::Arc;

use relay_common::net::Protocol;

use super::super::fields::Fields;
use super::super::problem::Problems;
use super::tunnel::{Belongs, alpn, certificate, file, host_name, transport, udp_over};
use super::{NO_TCP, NO_TCP_HELP, tcp_switch, websocket};
use crate::rule::listen::is_interface_name;
use crate::rule::{
    Connect, ConnectTls, ConnectTunnel, ConnectWs, MaskChoice, Protocols, ProxyVersion, Transport, Verify,
};

/// What only some transports have.
const OF_TRANSPORTS: &[Belongs] = &[
    Belongs::to_tls("sni"),
    Belongs::to_tls("verify"),
    Belongs::to_tls("ca"),
    Belongs::to_tls("cert"),
    Belongs::to_tls("key"),
    Belongs::to_tls("alpn"),
    Belongs::to_ws("host"),
    Belongs::to_ws("path"),
    Belongs::to_ws("token"),
    Belongs::to_ws("headers"),
    Belongs::to_ws("mask"),
    Belongs::to_tunnels("mux"),
    Belongs::to_tunnels("pool"),
    Belongs::to_tunnels("udp_over"),
];

pub fn connect(fields: &mut Fields<'_>, protocols: Protocols, problems: &mut Problems) -> Connect {
    let mut connect = Connect::default();
    let Some(mut inner) = fields.table("connect", problems) else { return connect };
    connect.tunnel = tunnel(&mut inner, protocols, problems).map(Arc::new);
    let pool = inner.peek("pool");
    connect.pool = inner.integer("pool", 0..=Connect::MOST_POOL.into(), problems).map_or(0, number);
    connect.proxy_protocol = proxy_protocol(&mut inner, protocols, problems);
    connect.source = source(&mut inner, problems);
    connect.interface = interface(&mut inner, problems);
    connect.mptcp = tcp_switch(&mut inner, "mptcp", protocols, problems);
    if let Some((message, help)) = alone(&connect)
        && let Some(node) = pool
    {
        problems.at(node, &inner.subject_of("pool"), message, Some(help));
    }
    inner.finish(problems);
    connect
}

/// Of a range that has been looked at.
fn number(value: i64) -> u8 {
    u8::try_from(value).unwrap_or(u8::MAX)
}

/// Why tunnels cannot be held open, and what helps.
fn alone(connect: &Connect) -> Option<(&'static str, &'static str)> {
    match connect {
        Connect { pool: 0, .. } => None,
        Connect { proxy_protocol: Some(_), .. } => Some((
            "a header that names the client goes ahead of the tunnel, which cannot be opened before the client is there",
            "leave out one of `pool` and `proxy_protocol`",
        )),
        Connect { tunnel: Some(tunnel), .. } if tunnel.mux => Some((
            "with `mux` new clients go through a tunnel that is open anyway",
            "leave out one of `pool` and `mux`",
        )),
        _ => None,
    }
}

fn tunnel(fields: &mut Fields<'_>, protocols: Protocols, problems: &mut Problems) -> Option<ConnectTunnel> {
    let said = fields.peek("transport");
    let transport = transport(fields, OF_TRANSPORTS, problems);
    let verify = verify(fields, problems);
    let tls = ConnectTls {
        sni: host_name(fields, "sni", problems),
        verify,
        ca: ca(fields, verify, problems),
        identity: certificate(fields, problems),
        alpn: alpn(fields, transport, problems),
    };
    let host = websocket::host(fields, problems).map(|(text, _)| text);
    let path = websocket::path(fields, problems);
    let token = websocket::token(fields, problems);
    let headers = websocket::headers(fields, token.is_some(), problems);
    let words = MaskChoice::ALL.map(MaskChoice::as_str);
    let mask = fields.word("mask", &words, MaskChoice::parse, problems).unwrap_or_default();
    let ws = ConnectWs { host, path, headers, token, mask };
    let tunnel = ConnectTunnel {
        tls: transport.has_tls().then_some(tls),
        ws: transport.has_ws().then_some(ws),
        udp_over: udp_over(fields, (transport, said), protocols, problems),
        mux: mux(fields, protocols, problems),
    };
    (transport != Transport::Plain).then_some(tunnel)
}

/// Whether many clients share a connection. Who comes in with others cannot be announced ahead of the tunnel.
fn mux(fields: &mut Fields<'_>, protocols: Protocols, problems: &mut Problems) -> bool {
    let node = fields.peek("mux");
    let mux = tcp_switch(fields, "mux", protocols, problems);
    if let (true, Some(node), Some(_)) = (mux, node, fields.peek("proxy_protocol")) {
        let message = "many clients share a connection, and `proxy_protocol` names one ahead of it";
        let help = "leave out `mux`, or `proxy_protocol`";
        problems.at(node, &fields.subject_of("mux"), message, Some(help));
    }
    mux
}

fn verify(fields: &mut Fields<'_>, problems: &mut Problems) -> Verify {
    let Some((text, node)) = fields.text("verify", problems) else { return Verify::default() };
    let parsed = Verify::parse(text);
    if parsed.is_none() {
        let message = format!("{} is not known here", node.shown());
        let help = format!("it is one of {}", Verify::FORMS);
        problems.at(node, &fields.subject_of("verify"), message, Some(&help));
    }
    parsed.unwrap_or_default()
}

fn ca(fields: &mut Fields<'_>, verify: Verify, problems: &mut Problems) -> Option<PathBuf> {
    let node = fields.peek("ca");
    let ca = file(fields, "ca", problems)?;
    if let (Some(node), Verify::Insecure | Verify::Pin(_)) = (node, verify) {
        let message = "it says who may sign the certificate, and `verify` does not ask for that";
        let help = "leave it out, or say verify = \"ca\"";
        problems.at(node, &fields.subject_of("ca"), message, Some(help));
    }
    Some(ca)
}

fn source(fields: &mut Fields<'_>, problems: &mut Problems) -> Option<IpAddr> {
    let (text, node) = fields.text("source", problems)?;
    let parsed = text.parse::<IpAddr>().map(|address| address.to_canonical());
    let source = parsed.ok().filter(|address| !address.is_unspecified() && !address.is_multicast());
    if source.is_none() {
        let help = "write one of the host's addresses, such as \"192.0.2.9\" or \"2001:db8::9\"";
        let message = format!("{} is not an address of a host", node.shown());
        problems.at(node, &fields.subject_of("source"), message, Some(help));
    }
    source
}

fn interface(fields: &mut Fields<'_>, problems: &mut Problems) -> Option<Box<str>> {
    let (text, node) = fields.text("interface", problems)?;
    if is_interface_name(text) {
        return Some(text.into());
    }
    let help = "a name is at most 15 characters, no slash, no space; `ip link` lists them";
    let message = format!("{} is no interface name", node.shown());
    problems.at(node, &fields.subject_of("interface"), message, Some(help));
    None
}

fn proxy_protocol(
    fields: &mut Fields<'_>,
    protocols: Protocols,
    problems: &mut Problems,
) -> Option<ProxyVersion> {
    let node = fields.peek("proxy_protocol");
    let number = fields.integer("proxy_protocol", 1..=2, problems)?;
    if let (false, Some(node)) = (protocols.has(Protocol::Tcp), node) {
        problems.at(node, &fields.subject_of("proxy_protocol"), NO_TCP, Some(NO_TCP_HELP));
    }
    ProxyVersion::ALL.into_iter().find(|version| i64::from(version.number()) == number)
}
