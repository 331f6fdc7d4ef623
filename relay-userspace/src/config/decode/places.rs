//! Where a rule listens and where it goes: `listen` and `to`.

use super::super::fields::Fields;
use super::super::node::{Node, Value};
use super::super::problem::Problems;
use super::one_or_more;
use crate::rule::backend::BackendPorts;
use crate::rule::{Backend, Listener};

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

/// The backends of a rule, as far as they could be read.
#[derive(Default)]
pub struct Backends {
    pub list: Vec<Backend>,
    /// How many were written down.
    pub written: usize,
    /// One of them says its weight itself.
    pub are_weighed: bool,
}

pub fn backends(fields: &mut Fields<'_>, listen: &[Listener], problems: &mut Problems) -> Backends {
    let subject = fields.subject_of("to");
    let mut backends = Backends::default();
    let Some(node) = fields.take("to") else {
        let help = format!("write {}", Backend::FORMS);
        problems.add(fields.span.clone(), &subject, "the rule has no backend", Some(&help));
        return backends;
    };
    let items = one_or_more(node);
    backends.written = items.len();
    if items.is_empty() {
        let help = format!("write {}", Backend::FORMS);
        problems.at(node, &subject, "the list is empty", Some(&help));
    }
    if items.len() > Backend::MOST {
        let message = format!("the list has {} backends, and a rule may have {}", items.len(), Backend::MOST);
        problems.at(node, &subject, message, Some("leave some out"));
        return backends;
    }
    for item in items {
        let Some(backend) = backend(item, &subject, problems) else { continue };
        for listener in listen {
            if !backend.fits(listener.ports) {
                problems.at(item, &subject, misfit(&backend, listener), None);
            }
        }
        if let Some(twin) = backends.list.iter().find(|known| known.is_where(&backend, listen)) {
            let message = format!("\"{backend}\" is where \"{twin}\" is, which the list has already");
            let help = "leave one of them out; a `weight` gives a backend more";
            problems.at(item, &subject, message, Some(help));
        }
        backends.are_weighed |= has_weight(item);
        backends.list.push(backend);
    }
    backends
}

fn has_weight(node: &Node) -> bool {
    matches!(&node.value, Value::Table(table) if table.iter().any(|entry| entry.key == "weight"))
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
            let weight = fields.integer("weight", 0..=Backend::MOST_WEIGHT.into(), problems);
            let priority = fields.integer("priority", 0..=u16::MAX.into(), problems);
            fields.finish(problems);
            let number = |given: Option<i64>| u16::try_from(given?).ok();
            parsed.map(|backend| Backend {
                weight: number(weight).unwrap_or(backend.weight),
                priority: number(priority).unwrap_or(backend.priority),
                ..backend
            })
        }
        _ => {
            let message = format!("{} is {}, not a text or a table", node.shown(), node.kind());
            problems.at(node, subject, message, Some(r#"write { addr = "203.0.113.10:8388", weight = 2 }"#));
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

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    fn read(to: serde_json::Value) -> Result<Backends, String> {
        let node = Node::from_json(json!({ "to": to }));
        let Value::Table(table) = &node.value else { panic!("not a table") };
        let mut problems = Problems::default();
        let listen = [Listener::parse(":80").expect("listener")];
        let backends = backends(&mut Fields::new(table, None, ""), &listen, &mut problems);
        problems.into_result(backends).map_err(|problems| problems.to_string())
    }

    #[test]
    fn backends_are_texts_and_tables() {
        let read =
            read(json!(["a", { "addr": "b:81", "priority": 7 }, { "addr": "c", "weight": 0 }])).expect("to");
        let shares: Vec<_> = read.list.iter().map(|to| (to.to_string(), to.weight, to.priority)).collect();
        assert_eq!(shares, [("a".into(), 1, 0), ("b:81".into(), 1, 7), ("c".into(), 0, 0)]);
        assert!(read.are_weighed);
    }

    #[test]
    fn there_may_be_so_many() {
        let list = |count: usize| (0..count).map(|last| format!("10.0.0.{last}")).collect::<Vec<_>>();
        assert_eq!(read(json!(list(Backend::MOST))).expect("to").list.len(), Backend::MOST);
        assert_eq!(
            read(json!(list(Backend::MOST + 1))).err().as_deref(),
            Some("to: the list has 129 backends, and a rule may have 128; leave some out")
        );
    }
}
