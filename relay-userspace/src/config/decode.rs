//! From a table to a rule.

use std::time::Duration;

use super::fields::{Fields, Later};
use super::node::{Node, Span, Table, Value};
use super::problem::Problems;
use crate::rule::backend::BackendPorts;
use crate::rule::{Backend, Keepalive, Listener, PlaneChoice, Protocols, Rule, RuleName, Timeouts, UdpNat};

const NOTE_LENGTH: usize = 128;

/// Keys of the contract that have no meaning yet. Saying so beats ignoring them.
const LATER: &[Later] = &[
    Later { key: "group", default: None },
    Later { key: "balance", default: Some("roundrobin") },
    Later { key: "on_down", default: Some("keep") },
    Later { key: "count_ports", default: Some("false") },
    Later { key: "check", default: None },
    Later { key: "accept", default: None },
    Later { key: "connect", default: None },
    Later { key: "rate", default: None },
    Later { key: "quota", default: None },
    Later { key: "expires", default: None },
    Later { key: "limit", default: None },
];

const LATER_TIMEOUTS: &[Later] = &[Later { key: "handshake", default: None }];

const LATER_BACKEND: &[Later] =
    &[Later { key: "weight", default: Some("1") }, Later { key: "priority", default: Some("0") }];

/// A rule from its table. `fallback`: the name to give a rule that has none; a file must name its rules.
///
/// `None` if something in it is wrong; everything wrong with it has been noted by then.
pub fn rule(
    table: &Table,
    span: Option<Span>,
    fallback: Option<&dyn Fn(&Listener) -> RuleName>,
    problems: &mut Problems,
) -> Option<Rule> {
    let before = problems.list.len();
    let mut fields = Fields::new(table, span, "rule");
    let name = name(&mut fields, fallback.is_some(), problems);
    let listen = listeners(&mut fields, problems);
    let to = backends(&mut fields, &listen, problems);
    let note = note(&mut fields, problems);
    let enabled = fields.bool("enabled", problems).unwrap_or(true);
    let force = fields.bool("force", problems).unwrap_or(false);
    let protocols =
        fields.word("protocol", &["tcp", "udp", "tcp+udp"], Protocols::parse, problems).unwrap_or_default();
    let plane =
        fields.word("plane", &["auto", "kernel", "user"], PlaneChoice::parse, problems).unwrap_or_default();
    let udp_nat =
        fields.word("udp_nat", &["restricted", "fullcone"], UdpNat::parse, problems).unwrap_or_default();
    let timeouts = timeouts(&mut fields, problems);
    fields.finish(LATER, problems);
    if problems.list.len() > before {
        return None;
    }
    let name = match (name, fallback) {
        (Some(name), _) => name,
        (None, Some(fallback)) => fallback(listen.first()?),
        (None, None) => return None,
    };
    Some(Rule { name, note, enabled, listen, protocols, to, plane, udp_nat, force, timeouts })
}

fn name(fields: &mut Fields<'_>, optional: bool, problems: &mut Problems) -> Option<RuleName> {
    let Some((text, node)) = fields.text("name", problems) else {
        if !optional {
            problems.add(fields.span.clone(), &fields.subject, "the rule has no name", Some(RuleName::FORM));
        }
        return None;
    };
    fields.subject = format!("rule {text:?}");
    let name = RuleName::parse(text);
    if name.is_none() {
        problems.at(node, "name", format!("{} is not a rule name", node.shown()), Some(RuleName::FORM));
    }
    name
}

fn note(fields: &mut Fields<'_>, problems: &mut Problems) -> Option<String> {
    let (text, node) = fields.text("note", problems)?;
    if text.chars().count() > NOTE_LENGTH || text.chars().any(char::is_control) {
        let message = format!("{} is not a note", node.shown());
        let help = "a note is one line of at most 128 characters";
        problems.at(node, &fields.subject_of("note"), message, Some(help));
        return None;
    }
    (!text.is_empty()).then(|| text.to_owned())
}

fn listeners(fields: &mut Fields<'_>, problems: &mut Problems) -> Vec<Listener> {
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

/// A single value stands for a list of one.
fn one_or_more(node: &Node) -> Vec<&Node> {
    match &node.value {
        Value::Array(items) => items.iter().collect(),
        _ => vec![node],
    }
}

fn backends(fields: &mut Fields<'_>, listen: &[Listener], problems: &mut Problems) -> Vec<Backend> {
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
            fields.finish(LATER_BACKEND, problems);
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

fn timeouts(fields: &mut Fields<'_>, problems: &mut Problems) -> Timeouts {
    let mut timeouts = Timeouts::default();
    let Some(node) = fields.take("timeout") else { return timeouts };
    let Value::Table(table) = &node.value else {
        fields.wrong_kind("timeout", node, "a table", problems);
        return timeouts;
    };
    let mut inner = Fields::new(table, node.span.clone(), fields.subject_of("timeout"));
    let mut set = |key, slot: &mut Duration| {
        if let Some(duration) = inner.duration(key, problems) {
            *slot = duration;
        }
    };
    set("connect", &mut timeouts.connect);
    set("tcp_idle", &mut timeouts.tcp_idle);
    set("half_close", &mut timeouts.half_close);
    set("udp", &mut timeouts.udp);
    timeouts.keepalive = keepalive(&mut inner, problems);
    inner.finish(LATER_TIMEOUTS, problems);
    timeouts
}

fn keepalive(fields: &mut Fields<'_>, problems: &mut Problems) -> Keepalive {
    let mut keepalive = Keepalive::default();
    let Some(node) = fields.take("keepalive") else { return keepalive };
    let Value::Table(table) = &node.value else {
        fields.wrong_kind("keepalive", node, "a table", problems);
        return keepalive;
    };
    let mut inner = Fields::new(table, node.span.clone(), fields.subject_of("keepalive"));
    let mut set = |key, slot: &mut Duration| {
        if let Some(duration) = inner.seconds(key, Keepalive::LONGEST, problems) {
            *slot = duration;
        }
    };
    set("idle", &mut keepalive.idle);
    set("interval", &mut keepalive.interval);
    if let Some(count) = inner.integer("count", 1..=127, problems).and_then(|count| u8::try_from(count).ok())
    {
        keepalive.count = count;
    }
    inner.finish(&[], problems);
    keepalive
}
