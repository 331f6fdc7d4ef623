//! Where a rule listens and where it goes: `listen` and `to`.

use super::super::fields::{Fields, Later};
use super::super::node::{Node, Value};
use super::super::problem::Problems;
use super::one_or_more;
use crate::rule::backend::BackendPorts;
use crate::rule::{Backend, Listener};

const LATER: &[Later] =
    &[Later { key: "weight", default: Some("1") }, Later { key: "priority", default: Some("0") }];

pub fn listeners(fields: &mut Fields<'_>, problems: &mut Problems) -> Vec<Listener> {
    let subject = fields.subject_of("listen");
    let Some(node) = fields.take("listen") else {
        let help = format!("write {}", Listener::FORMS);
        problems.add(fields.span.clone(), &subject, "the rule listens nowhere", Some(&help));
        return Vec::new();
    };
    let items = one_or_more(node);
    if items.is_empty() {
        problems.at(node, &subject, "the list is empty", None);
    }
    items.into_iter().filter_map(|item| listener(item, &subject, problems)).collect()
}

fn listener(node: &Node, subject: &str, problems: &mut Problems) -> Option<Listener> {
    let text = match &node.value {
        Value::Text(text) => text.clone(),
        Value::Integer(port) => port.to_string(),
        _ => {
            problems.at(node, subject, format!("{} is {}, not a text", node.shown(), node.kind()), None);
            return None;
        }
    };
    match Listener::parse(&text) {
        Ok(listener) => Some(listener),
        Err(error) => {
            let help = format!("write {}", Listener::FORMS);
            problems.at(node, subject, format!("{} is not a listener: {error}", node.shown()), Some(&help));
            None
        }
    }
}

pub fn backends(fields: &mut Fields<'_>, listen: &[Listener], problems: &mut Problems) -> Vec<Backend> {
    let subject = fields.subject_of("to");
    let Some(node) = fields.take("to") else {
        let help = format!("write {}", Backend::FORMS);
        problems.add(fields.span.clone(), &subject, "the rule has no backend", Some(&help));
        return Vec::new();
    };
    let items = one_or_more(node);
    if items.is_empty() {
        problems.at(node, &subject, "the list is empty", None);
    }
    if items.len() > 1 {
        let help = "give one backend";
        problems.at(node, &subject, "several backends for one rule are not built yet", Some(help));
    }
    let mut backends = Vec::new();
    for item in items {
        let Some(backend) = backend(item, &subject, problems) else { continue };
        for listener in listen {
            if !backend.fits(listener.ports) {
                problems.at(item, &subject, misfit(&backend, listener), None);
            }
        }
        backends.push(backend);
    }
    backends
}

/// Why a listener's ports have no place at a backend.
pub fn misfit(backend: &Backend, listener: &Listener) -> String {
    match backend.ports {
        BackendPorts::Range(range) => format!(
            "the ranges differ in width: \"{listener}\" has {} ports, \"{backend}\" has {}",
            listener.ports.len(),
            range.len()
        ),
        BackendPorts::From(port) => format!(
            "the {} ports of \"{listener}\" do not fit above port {port}; the highest start is {}",
            listener.ports.len(),
            u32::from(u16::MAX) + 1 - listener.ports.len()
        ),
        BackendPorts::Same => String::new(),
    }
}

/// A text, or a table with `addr`.
fn backend(node: &Node, subject: &str, problems: &mut Problems) -> Option<Backend> {
    match &node.value {
        Value::Text(text) => parse_backend(text, node, subject, problems),
        Value::Table(table) => {
            let mut fields = Fields::new(table, node.span.clone(), subject);
            let parsed = match fields.text("addr", problems) {
                Some((text, node)) => parse_backend(text, node, subject, problems),
                None => {
                    problems.at(node, subject, "the backend has no `addr`", None);
                    None
                }
            };
            fields.finish(LATER, problems);
            parsed
        }
        _ => {
            problems.at(node, subject, format!("{} is {}, not a text", node.shown(), node.kind()), None);
            None
        }
    }
}

fn parse_backend(text: &str, node: &Node, subject: &str, problems: &mut Problems) -> Option<Backend> {
    match Backend::parse(text) {
        Ok(backend) => Some(backend),
        Err(error) => {
            let help = format!("write {}", Backend::FORMS);
            problems.at(node, subject, format!("{} is not a backend: {error}", node.shown()), Some(&help));
            None
        }
    }
}
