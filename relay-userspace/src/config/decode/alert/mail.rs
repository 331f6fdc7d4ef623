//! A mail server and whom it is to write to.

use std::net::IpAddr;
use std::path::Path;

use lettre::message::Mailbox;

use super::super::super::fields::Fields;
use super::super::super::node::{Node, Value};
use super::super::super::problem::Problems;
use super::super::one_or_more;
use super::{ca, needed, secret};
use crate::alert::channel::{Security, Smtp};
use crate::alert::secret::Secret;
use crate::rule::{Backend, BackendPorts, Host};

const MAILBOXES: &str = r#"write "relay@example.com" or "Relay <relay@example.com>""#;

/// The keys of the kind `smtp`.
pub fn smtp(fields: &mut Fields<'_>, folder: &Path, problems: &mut Problems) -> Option<Smtp> {
    let security =
        fields.word("tls", &Security::WORDS, Security::parse, problems).unwrap_or(Security::Implicit);
    let host = host(fields, problems);
    let port = fields.integer("port", 1..=65_535, problems).and_then(|port| u16::try_from(port).ok());
    let at_ca = fields.peek("ca");
    let ca = ca(fields, folder, problems);
    if let (Some(node), Security::None) = (at_ca, security) {
        let help = "leave it out, or choose another `tls`";
        problems.at(node, &fields.subject_of("ca"), "there is no TLS", Some(help));
    }
    let login = login(fields, problems);
    if let (Some(host), Security::None, Some((_, _, node))) = (&host, security, &login)
        && !is_here(host)
    {
        let help = r#"choose tls = "starttls" or "implicit""#;
        problems.at(node, &fields.subject_of("password"), "it would go in clear", Some(help));
    }
    let (at_from, at_to) = (fields.peek("from").is_some(), fields.peek("to").is_some());
    let from = fields.take("from").and_then(|node| mailbox(node, "from", fields, problems));
    let from = needed(from, at_from, "from", fields, problems);
    let to = to(fields, problems);
    let to = needed(to, at_to, "to", fields, problems);
    Some(Smtp {
        host: host?,
        port: port.unwrap_or_else(|| security.port()),
        security,
        login: login.map(|(user, password, _)| (user, password)),
        from: from?,
        to: to?,
        ca,
    })
}

fn host(fields: &mut Fields<'_>, problems: &mut Problems) -> Option<Box<str>> {
    let was_there = fields.peek("host").is_some();
    let found = fields.text("host", problems).and_then(|(text, node)| match Backend::parse(text) {
        Ok(Backend { host: Host::Address(address), ports: BackendPorts::Same, .. }) => {
            Some(address.to_string().into())
        }
        Ok(Backend { host: Host::Name(name), ports: BackendPorts::Same, .. }) => Some(name),
        _ => {
            let message = format!("{} is not the name or address of a host", node.shown());
            let help = r#"write one such as "mail.example.com"; its port goes into `port`"#;
            problems.at(node, &fields.subject_of("host"), message, Some(help));
            None
        }
    });
    needed(found, was_there, "host", fields, problems)
}

/// Whether a host is this one.
fn is_here(host: &str) -> bool {
    host == "localhost" || host.parse::<IpAddr>().is_ok_and(|address| address.is_loopback())
}

/// User, password, and where that stands.
type Login<'a> = (Box<str>, Secret, &'a Node);

/// Both or none.
fn login<'a>(fields: &mut Fields<'a>, problems: &mut Problems) -> Option<Login<'a>> {
    let (at_user, at_password) = (fields.peek("user"), fields.peek("password"));
    let user = fields.text("user", problems).map(|(text, _)| text);
    let password = secret(fields, "password", problems);
    match (at_user, at_password) {
        (Some(node), None) => {
            problems.at(
                node,
                &fields.subject_of("user"),
                "there is no `password`",
                Some("write both or none"),
            );
            None
        }
        (None, Some(node)) => {
            problems.at(
                node,
                &fields.subject_of("password"),
                "there is no `user`",
                Some("write both or none"),
            );
            None
        }
        _ => Some((user?.into(), password?, at_password?)),
    }
}

fn mailbox(node: &Node, key: &str, fields: &Fields<'_>, problems: &mut Problems) -> Option<Mailbox> {
    let found = match &node.value {
        Value::Text(text) => text.parse().ok(),
        _ => None,
    };
    if found.is_none() {
        let message = format!("{} is not a mail address", node.shown());
        problems.at(node, &fields.subject_of(key), message, Some(MAILBOXES));
    }
    found
}

fn to(fields: &mut Fields<'_>, problems: &mut Problems) -> Option<Vec<Mailbox>> {
    let node = fields.take("to")?;
    let items = one_or_more(node);
    if items.is_empty() {
        problems.at(node, &fields.subject_of("to"), "the list is empty", Some(MAILBOXES));
        return None;
    }
    let found: Vec<Option<Mailbox>> =
        items.into_iter().map(|item| mailbox(item, "to", fields, problems)).collect();
    found.into_iter().collect()
}
