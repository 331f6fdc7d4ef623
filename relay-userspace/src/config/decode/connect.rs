//! How backends are reached: `connect = { ... }`.

use std::net::IpAddr;

use relay_common::net::Protocol;

use super::super::fields::{Fields, Later};
use super::super::problem::Problems;
use super::{NO_TCP, NO_TCP_HELP, tcp_switch};
use crate::rule::listen::is_interface_name;
use crate::rule::{Connect, Protocols, ProxyVersion};

const LATER: &[Later] = &[
    Later { key: "transport", default: Some("plain") },
    Later { key: "host", default: None },
    Later { key: "path", default: None },
    Later { key: "sni", default: None },
    Later { key: "verify", default: None },
    Later { key: "ca", default: None },
    Later { key: "cert", default: None },
    Later { key: "key", default: None },
    Later { key: "token", default: None },
    Later { key: "headers", default: None },
    Later { key: "mask", default: None },
    Later { key: "pool", default: Some("0") },
    Later { key: "mux", default: Some("false") },
    Later { key: "udp_over", default: None },
];

pub fn connect(fields: &mut Fields<'_>, protocols: Protocols, problems: &mut Problems) -> Connect {
    let mut connect = Connect::default();
    let Some(mut inner) = fields.table("connect", problems) else { return connect };
    connect.proxy_protocol = proxy_protocol(&mut inner, protocols, problems);
    connect.source = source(&mut inner, problems);
    connect.interface = interface(&mut inner, problems);
    connect.mptcp = tcp_switch(&mut inner, "mptcp", protocols, problems);
    inner.finish(LATER, problems);
    connect
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
