//! How clients are taken in: `accept = { ... }`.

use std::sync::Arc;

use relay_common::net::Protocol;

use super::super::fields::Fields;
use super::super::node::{Node, Value};
use super::super::problem::Problems;
use super::tunnel::{Belongs, alpn, certificate, file, host_name, transport, udp_over, unbracketed};
use super::{one_or_more, tcp_switch, websocket};
use crate::rule::{
    Accept, AcceptTls, AcceptTunnel, AcceptWs, AllowList, Identity, Network, Protocols, Transport,
};

/// What only some transports have. A host is also whose certificate a self-signed one is.
const OF_TRANSPORTS: &[Belongs] = &[
    Belongs::to_tls("cert"),
    Belongs::to_tls("key"),
    Belongs::to_tls("client_ca"),
    Belongs::to_tls("alpn"),
    Belongs::to_ws("path"),
    Belongs::to_ws("token"),
    Belongs::to_ws("headers"),
    Belongs::to_tunnels("udp_over"),
];

pub fn accept(fields: &mut Fields<'_>, protocols: Protocols, problems: &mut Problems) -> Accept {
    let mut accept = Accept::default();
    let Some(mut inner) = fields.table("accept", problems) else { return accept };
    accept.tunnel = tunnel(&mut inner, protocols, problems).map(Arc::new);
    accept.proxy_protocol = tcp_switch(&mut inner, "proxy_protocol", protocols, problems);
    accept.mptcp = tcp_switch(&mut inner, "mptcp", protocols, problems);
    accept.trusted = trusted(&mut inner, accept.proxy_protocol, problems);
    accept.allow = allow(&mut inner, problems);
    inner.finish(problems);
    accept
}

fn tunnel(fields: &mut Fields<'_>, protocols: Protocols, problems: &mut Problems) -> Option<AcceptTunnel> {
    let said = fields.peek("transport");
    let transport = transport(fields, OF_TRANSPORTS, problems);
    let (host, name) = host(fields, transport, problems);
    let tls = AcceptTls {
        identity: identity(fields, name, problems),
        client_ca: file(fields, "client_ca", problems),
        alpn: alpn(fields, transport, problems),
    };
    let path = websocket::path(fields, problems);
    let token = websocket::token(fields, problems);
    let headers = websocket::headers(fields, token.is_some(), problems);
    let ws = AcceptWs { host, path, headers, token };
    let udp_over = udp_over(fields, (transport, said), protocols, problems);
    if let (Transport::Tls | Transport::Ws | Transport::Wss, Some(node)) = (transport, said)
        && !protocols.has(Protocol::Tcp)
    {
        // whatever it carries
        let message = "a tunnel comes in over TCP, and the rule has none";
        problems.at(node, &fields.subject_of("transport"), message, Some("say protocol = \"tcp+udp\""));
    }
    let tunnel = AcceptTunnel {
        tls: transport.has_tls().then_some(tls),
        ws: transport.has_ws().then_some(ws),
        udp_over,
    };
    (transport != Transport::Plain).then_some(tunnel)
}

/// What a WebSocket client must ask for; and whose certificate to make, unless there is one.
fn host(
    fields: &mut Fields<'_>,
    transport: Transport,
    problems: &mut Problems,
) -> (Option<Box<str>>, Option<Box<str>>) {
    let Some(node) = fields.peek("host") else {
        fields.take("host");
        return (None, None);
    };
    match transport {
        Transport::Plain => {
            let help = "leave it out, or say transport = \"ws\" or \"wss\"";
            problems.at(node, &fields.subject_of("host"), "transport = \"plain\" has no `host`", Some(help));
            fields.take("host");
            (None, None)
        }
        Transport::Tls => {
            if fields.peek("cert").is_some() {
                let message =
                    "with TLS alone it is the name in a self-signed certificate, and there is `cert`";
                problems.at(node, &fields.subject_of("host"), message, Some("leave one of them out"));
            }
            (None, host_name(fields, "host", problems))
        }
        Transport::Ws | Transport::Wss => match websocket::host(fields, problems) {
            Some((text, host)) => (Some(text), Some(unbracketed(&host))),
            None => (None, None),
        },
    }
}

fn identity(fields: &mut Fields<'_>, name: Option<Box<str>>, problems: &mut Problems) -> Identity {
    match certificate(fields, problems) {
        Some((cert, key)) => Identity::Files { cert, key },
        None => Identity::SelfSigned { name: name.unwrap_or_else(|| Identity::USUAL_NAME.into()) },
    }
}

fn trusted(fields: &mut Fields<'_>, proxy_protocol: bool, problems: &mut Problems) -> Option<AllowList> {
    let node = fields.take("trusted")?;
    let subject = fields.subject_of("trusted");
    if !proxy_protocol {
        let help = "say proxy_protocol = true, or leave it out";
        problems.at(
            node,
            &subject,
            "it says who may send a PROXY protocol header, and none is expected",
            Some(help),
        );
    }
    networks(node, &subject, problems)
}

fn allow(fields: &mut Fields<'_>, problems: &mut Problems) -> Option<Arc<AllowList>> {
    let node = fields.take("allow")?;
    networks(node, &fields.subject_of("allow"), problems).map(Arc::new)
}

/// A list of networks; what is wrong with it is noted.
fn networks(node: &Node, subject: &str, problems: &mut Problems) -> Option<AllowList> {
    let items = one_or_more(node);
    if items.is_empty() {
        problems.at(
            node,
            subject,
            "the list is empty, so nobody could get in",
            Some("leave the key out, or name somebody"),
        );
        return None;
    }
    if items.len() > AllowList::MOST {
        let message = format!("the list has {} networks, and may have {}", items.len(), AllowList::MOST);
        problems.at(node, subject, message, Some("fewer and wider networks do the same"));
        return None;
    }
    let networks = items.into_iter().filter_map(|item| network(item, subject, problems)).collect();
    Some(AllowList::new(networks))
}

fn network(node: &Node, subject: &str, problems: &mut Problems) -> Option<Network> {
    let Value::Text(text) = &node.value else {
        problems.at(node, subject, format!("{} is {}, not a text", node.shown(), node.kind()), None);
        return None;
    };
    match Network::parse(text) {
        Ok(network) => Some(network),
        Err(error) => {
            let help = format!("write {}", Network::FORMS);
            problems.at(node, subject, format!("{} is not a network: {error}", node.shown()), Some(&help));
            None
        }
    }
}
