//! What both legs of a rule say of their tunnels: the transport, which keys go with it, and those of TLS.

use std::path::PathBuf;

use relay_common::net::Protocol;

use super::super::fields::{Fields, quoted};
use super::super::node::{Node, Value};
use super::super::problem::Problems;
use super::one_or_more;
use crate::rule::{Backend, BackendPorts, Host, Protocols, Transport, UdpOver};

/// A key that only some transports have, and which.
pub struct Belongs {
    key: &'static str,
    to: &'static [Transport],
}

impl Belongs {
    pub const fn to_tls(key: &'static str) -> Self {
        Self { key, to: &[Transport::Tls, Transport::Wss] }
    }

    pub const fn to_ws(key: &'static str) -> Self {
        Self { key, to: &[Transport::Ws, Transport::Wss] }
    }

    pub const fn to_tunnels(key: &'static str) -> Self {
        Self { key, to: &Transport::TUNNELS }
    }
}

/// RFC 7301 section 3.1.
const LONGEST_ALPN: usize = 255;
const MOST_ALPN: usize = 16;
/// What a WebSocket's handshake is written in.
const OF_WEBSOCKETS: &str = "http/1.1";

/// Whether a rule's table says that a leg of it has a tunnel: which protocols it carries goes by that.
pub fn is_said(rule: &Fields<'_>) -> bool {
    let is_tunnel = |leg: &Node| {
        let Value::Table(table) = &leg.value else { return false };
        let transport = table.iter().find(|entry| entry.key == "transport").map(|entry| &entry.node.value);
        matches!(transport, Some(Value::Text(text)) if text != Transport::Plain.as_str())
    };
    ["accept", "connect"].into_iter().filter_map(|leg| rule.peek(leg)).any(is_tunnel)
}

/// A leg's transport, and complaints of keys that it does not have, which are taken away.
pub fn transport(fields: &mut Fields<'_>, keys: &[Belongs], problems: &mut Problems) -> Transport {
    if fields.peek("transport").is_none() {
        fields.take("transport");
        misplaced(fields, Transport::Plain, keys, problems);
        return Transport::Plain;
    }
    let words = Transport::ALL.map(Transport::as_str);
    // with one that nobody knows any key may be right
    let Some(transport) = fields.word("transport", &words, Transport::parse, problems) else {
        return Transport::Wss;
    };
    misplaced(fields, transport, keys, problems);
    transport
}

/// Which way UDP goes beside a tunnel, or through it. That it is not wrapped has to be said. `said`: where the transport is.
pub fn udp_over(
    fields: &mut Fields<'_>,
    (transport, said): (Transport, Option<&Node>),
    protocols: Protocols,
    problems: &mut Problems,
) -> Option<UdpOver> {
    let node = fields.peek("udp_over");
    let words = UdpOver::ALL.map(UdpOver::as_str);
    let over = fields.word("udp_over", &words, UdpOver::parse, problems);
    if transport == Transport::Plain {
        return None;
    }
    match (node, said) {
        (Some(node), _) if !protocols.has(Protocol::Udp) => {
            let help = "leave it out, or say protocol = \"tcp+udp\"";
            problems.at(node, &fields.subject_of("udp_over"), "the rule carries no UDP", Some(help));
        }
        (None, Some(node)) if protocols.has(Protocol::Udp) => {
            let message = "the rule carries UDP, and does not say whether that goes through the tunnel, too";
            let help = "say udp_over = \"tunnel\" (both ends must be Relays), udp_over = \"plain\" (beside it, as it is), or \
                        protocol = \"tcp\"";
            problems.at(node, &fields.subject_of("transport"), message, Some(help));
        }
        _ => {}
    }
    over
}

fn misplaced(fields: &mut Fields<'_>, transport: Transport, keys: &[Belongs], problems: &mut Problems) {
    for Belongs { key, to } in keys.iter().filter(|belongs| !belongs.to.contains(&transport)) {
        let Some(node) = fields.take(key) else { continue };
        let words = to.iter().copied().map(Transport::as_str).collect::<Vec<_>>();
        let words = quoted(&words);
        let message = format!("transport = \"{}\" has no `{key}`", transport.as_str());
        let help = format!("leave it out, or say transport = {words}");
        problems.at(node, &fields.subject_of(key), message, Some(&help));
    }
}

/// A file. Where a relative path begins is known when the rule is carried out.
pub fn file(fields: &mut Fields<'_>, key: &'static str, problems: &mut Problems) -> Option<PathBuf> {
    let (text, node) = fields.text(key, problems)?;
    if !text.is_empty() && !text.contains('\0') {
        return Some(text.into());
    }
    let message = format!("{} is not a file", node.shown());
    let help = "write its path; one without a slash in front begins at the folder of the configuration file";
    problems.at(node, &fields.subject_of(key), message, Some(help));
    None
}

/// `cert` and `key`, both or neither.
pub fn certificate(fields: &mut Fields<'_>, problems: &mut Problems) -> Option<(PathBuf, PathBuf)> {
    let (given, subject) = ([fields.peek("cert"), fields.peek("key")], fields.subject.clone());
    let (cert, key) = (file(fields, "cert", problems), file(fields, "key", problems));
    let alone = match given {
        [Some(node), None] => Some((node, "cert", "`key` is missing: the file with the certificate's key")),
        [None, Some(node)] => Some((node, "key", "`cert` is missing: the file with the key's certificate")),
        _ => None,
    };
    if let Some((node, present, message)) = alone {
        let help = "name both files; they may be one and the same";
        problems.at(node, &format!("{subject}: {present}"), message, Some(help));
    }
    cert.zip(key)
}

/// What to agree on in the TLS handshake, in order of preference.
pub fn alpn(fields: &mut Fields<'_>, transport: Transport, problems: &mut Problems) -> Vec<Box<str>> {
    let Some(node) = fields.take("alpn") else { return Vec::new() };
    let items = one_or_more(node);
    let name = |item: &Node| match &item.value {
        Value::Text(text) if is_alpn(text) => Some(text.as_str().into()),
        _ => None,
    };
    let subject = fields.subject_of("alpn");
    for item in items.iter().filter(|item| name(item).is_none()) {
        let message = format!("{} is not the name of a protocol", item.shown());
        problems.at(item, &subject, message, Some(r#"write one such as "http/1.1" or "h2""#));
    }
    if items.len() > MOST_ALPN {
        let message = format!("the list has {} protocols, and may have {MOST_ALPN}", items.len());
        problems.at(node, &subject, message, Some("name those that the other end may want"));
    }
    let names: Vec<Box<str>> = items.into_iter().filter_map(name).collect();
    let has = |protocol: &str| names.iter().any(|name| **name == *protocol);
    if transport.has_ws() && has("h2") && !has(OF_WEBSOCKETS) {
        let message = "a WebSocket begins in HTTP/1.1, and who agrees to \"h2\" expects HTTP/2";
        problems.at(node, &subject, message, Some("say alpn = \"http/1.1\", or leave it out"));
    }
    names
}

fn is_alpn(text: &str) -> bool {
    (1..=LONGEST_ALPN).contains(&text.len()) && text.bytes().all(|byte| byte.is_ascii_graphic())
}

/// The name of a host or its address, as TLS knows it: without a port, without brackets.
pub fn host_name(fields: &mut Fields<'_>, key: &'static str, problems: &mut Problems) -> Option<Box<str>> {
    let (text, node) = fields.text(key, problems)?;
    if let Ok(Backend { host, ports: BackendPorts::Same, .. }) = Backend::parse(text) {
        return Some(unbracketed(&host));
    }
    let message = format!("{} is not the name of a host", node.shown());
    let help = r#"write one such as "www.example.com", without a port"#;
    problems.at(node, &fields.subject_of(key), message, Some(help));
    None
}

/// As it stands in certificates.
pub fn unbracketed(host: &Host) -> Box<str> {
    match host {
        Host::Name(name) => name.clone(),
        Host::Address(address) => address.to_string().into(),
    }
}

#[cfg(test)]
mod tests;
