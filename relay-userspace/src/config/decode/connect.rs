//! How backends are reached: `connect = { ... }`.

use relay_common::net::Protocol;

use super::super::fields::{Fields, Later};
use super::super::problem::Problems;
use super::{NO_TCP, NO_TCP_HELP};
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
    Later { key: "source", default: None },
    Later { key: "interface", default: None },
    Later { key: "mptcp", default: Some("false") },
];

pub fn connect(fields: &mut Fields<'_>, protocols: Protocols, problems: &mut Problems) -> Connect {
    let mut connect = Connect::default();
    let Some(mut inner) = fields.table("connect", problems) else { return connect };
    connect.proxy_protocol = proxy_protocol(&mut inner, protocols, problems);
    inner.finish(LATER, problems);
    connect
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
