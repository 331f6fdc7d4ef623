//! How clients are taken in: `accept = { ... }`.

use std::sync::Arc;

use super::super::fields::{Fields, Later};
use super::super::node::{Node, Value};
use super::super::problem::Problems;
use super::{one_or_more, tcp_switch};
use crate::rule::{Accept, AllowList, Network, Protocols};

const LATER: &[Later] = &[
    Later { key: "transport", default: Some("plain") },
    Later { key: "host", default: None },
    Later { key: "path", default: None },
    Later { key: "cert", default: None },
    Later { key: "key", default: None },
    Later { key: "client_ca", default: None },
    Later { key: "token", default: None },
    Later { key: "headers", default: None },
];

pub fn accept(fields: &mut Fields<'_>, protocols: Protocols, problems: &mut Problems) -> Accept {
    let mut accept = Accept::default();
    let Some(mut inner) = fields.table("accept", problems) else { return accept };
    accept.proxy_protocol = tcp_switch(&mut inner, "proxy_protocol", protocols, problems);
    accept.mptcp = tcp_switch(&mut inner, "mptcp", protocols, problems);
    accept.trusted = trusted(&mut inner, accept.proxy_protocol, problems);
    accept.allow = allow(&mut inner, problems);
    inner.finish(LATER, problems);
    accept
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
