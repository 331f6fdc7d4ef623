//! From a table to a rule.

mod accept;
pub mod alert;
pub(super) mod balance;
mod check;
mod connect;
mod group;
mod limit;
mod places;
mod quota;
mod rate;
mod timeouts;
mod tunnel;
mod watch;
mod websocket;

use relay_common::net::Protocol;

pub use self::group::group;
pub use self::places::misfit;
pub use self::watch::watch;
use super::fields::Fields;
use super::node::{Node, Span, Table, Value};
use super::problem::Problems;
use crate::rule::{Listener, OnDown, PlaneChoice, Protocols, Rule, RuleName, UdpNat};

const NOTE_LENGTH: usize = 128;

/// Said of keys for TCP in a rule that has none.
const NO_TCP: &str = "this is TCP's, and the rule carries UDP alone";
const NO_TCP_HELP: &str = "leave it out, or have the rule carry TCP";

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
    let listen = places::listeners(&mut fields, problems);
    let mut to = places::backends(&mut fields, &listen, problems);
    let balance = balance::balance(&mut fields, &mut to, problems);
    let note = note(&mut fields, problems);
    let enabled = fields.bool("enabled", problems).unwrap_or(true);
    let force = fields.bool("force", problems).unwrap_or(false);
    let usual = if tunnel::is_said(&fields) { Protocols::Tcp } else { Protocols::default() };
    let protocols =
        fields.word("protocol", &["tcp", "udp", "tcp+udp"], Protocols::parse, problems).unwrap_or(usual);
    let plane =
        fields.word("plane", &["auto", "kernel", "user"], PlaneChoice::parse, problems).unwrap_or_default();
    let udp_nat =
        fields.word("udp_nat", &["restricted", "fullcone"], UdpNat::parse, problems).unwrap_or_default();
    let on_down = fields.word("on_down", &["keep", "reset"], OnDown::parse, problems).unwrap_or_default();
    let timeouts = timeouts::timeouts(&mut fields, problems);
    let accept = accept::accept(&mut fields, protocols, problems);
    let connect = connect::connect(&mut fields, protocols, problems);
    let check = check::check(&mut fields, protocols, connect.sends_datagrams(), problems);
    let limits = limit::limits(&mut fields, problems);
    let rates = rate::rates(&mut fields, problems);
    let quota = quota::quota(&mut fields, problems);
    let expires = quota::expires(&mut fields, problems);
    let group = group::of_rule(&mut fields, problems);
    let count_ports = fields.bool("count_ports", problems).unwrap_or(false);
    fields.finish(problems);
    if problems.list.len() > before {
        return None;
    }
    let name = match (name, fallback) {
        (Some(name), _) => name,
        (None, Some(fallback)) => fallback(listen.first()?),
        (None, None) => return None,
    };
    Some(Rule {
        name,
        note,
        enabled,
        listen: listen.into(),
        protocols,
        to: to.list.into(),
        balance,
        check: check.map(Box::new),
        plane,
        udp_nat,
        on_down,
        force,
        timeouts: timeouts.into(),
        accept: accept.into(),
        connect: connect.into(),
        limits,
        rates: rates.into(),
        quota: quota.map(Box::new),
        expires: expires.map(Box::new),
        group,
        count_ports,
        is_watch: false,
    })
}

fn name(fields: &mut Fields<'_>, optional: bool, problems: &mut Problems) -> Option<RuleName> {
    let Some((text, node)) = fields.text("name", problems) else {
        if !optional {
            let message = format!("the {} has no name", fields.subject);
            problems.add(fields.span.clone(), &fields.subject, message, Some(RuleName::FORM));
        }
        return None;
    };
    fields.subject = format!("{} {text:?}", fields.subject);
    let name = RuleName::parse(text);
    if name.is_none() {
        problems.at(node, "name", format!("{} is not a rule name", node.shown()), Some(RuleName::FORM));
    }
    name
}

fn note(fields: &mut Fields<'_>, problems: &mut Problems) -> Option<Box<str>> {
    let (text, node) = fields.text("note", problems)?;
    if text.chars().count() > NOTE_LENGTH || text.chars().any(char::is_control) {
        let message = format!("{} is not a note", node.shown());
        let help = "a note is one line of at most 128 characters";
        problems.at(node, &fields.subject_of("note"), message, Some(help));
        return None;
    }
    (!text.is_empty()).then(|| text.into())
}

/// A switch of TCP's.
fn tcp_switch(
    fields: &mut Fields<'_>,
    key: &'static str,
    protocols: Protocols,
    problems: &mut Problems,
) -> bool {
    let node = fields.peek(key);
    let is_on = fields.bool(key, problems).unwrap_or(false);
    if let (true, false, Some(node)) = (is_on, protocols.has(Protocol::Tcp), node) {
        problems.at(node, &fields.subject_of(key), NO_TCP, Some(NO_TCP_HELP));
    }
    is_on
}

/// A single value stands for a list of one.
fn one_or_more(node: &Node) -> Vec<&Node> {
    match &node.value {
        Value::Array(items) => items.iter().collect(),
        _ => vec![node],
    }
}
