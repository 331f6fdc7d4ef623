//! `[[alert]]`: a channel, and what is sent there when. Whatever may be a key to somewhere is shown in no complaint.

mod mail;
mod web;

use std::collections::BTreeSet;
use std::path::{Path, PathBuf};
use std::time::Duration;

use jiff::tz::TimeZone;

use super::super::fields::{Fields, quoted};
use super::super::node::{Node, Span, Table, Value};
use super::super::problem::Problems;
use super::super::quantity::format_duration;
use super::one_or_more;
use crate::alert::channel::Channel;
use crate::alert::digest::Daily;
use crate::alert::kinds::{EventKind, EventKinds};
use crate::alert::secret::{Secret, Url};
use crate::alert::{Alert, AlertName};
use crate::rule::RuleName;

const LONGEST_GATHER: Duration = Duration::from_hours(1);
const LONGEST_INTERVAL: Duration = Duration::from_hours(24);
const LONGEST_SECRET: usize = 4096;

/// An alert from its table. Paths begin at `folder`.
///
/// `None` if something in it is wrong; everything wrong with it has been noted by then.
pub fn alert(table: &Table, span: Option<Span>, folder: &Path, problems: &mut Problems) -> Option<Alert> {
    let before = problems.list.len();
    let mut fields = Fields::new(table, span, "alert");
    let name = name(&mut fields, problems);
    let at = fields.peek("on");
    let events = events(&mut fields, problems);
    let rules = rules(&mut fields, problems);
    let digest = digest(&mut fields, problems);
    let zone = zone(&mut fields, problems);
    let gather = span_of(&mut fields, "gather", LONGEST_GATHER, problems).unwrap_or(Alert::GATHER);
    let min_interval =
        span_of(&mut fields, "min_interval", LONGEST_INTERVAL, problems).unwrap_or(Alert::MIN_INTERVAL);
    if let (Some(node), true, None) = (at, events.is_empty(), digest) {
        let help = "name some events, leave `on` out for all, or say when a `digest` is to come";
        problems.at(node, &fields.subject_of("on"), "nothing would ever be sent", Some(help));
    }
    // which keys there are, the kind says
    let channel = channel(&mut fields, folder, problems)?;
    fields.finish(problems);
    if problems.list.len() > before {
        return None;
    }
    Some(Alert { name: name?, channel: channel?, events, rules, digest, zone, gather, min_interval })
}

/// `None`: nobody knows of what kind it is. `Some(None)`: something is wrong with it.
fn channel(fields: &mut Fields<'_>, folder: &Path, problems: &mut Problems) -> Option<Option<Channel>> {
    if fields.peek("kind").is_none() {
        let help = format!("kind is one of {}", quoted(&Channel::KINDS));
        problems.add(fields.span.clone(), &fields.subject, "the alert has no kind", Some(&help));
        return None;
    }
    let known = |text: &str| Channel::KINDS.into_iter().find(|kind| *kind == text);
    let kind = fields.word("kind", &Channel::KINDS, known, problems)?;
    Some(match kind {
        "smtp" => mail::smtp(fields, folder, problems).map(|smtp| Channel::Smtp(Box::new(smtp))),
        kind => web::web(kind, fields, folder, problems).map(|web| Channel::Web(Box::new(web))),
    })
}

fn name(fields: &mut Fields<'_>, problems: &mut Problems) -> Option<AlertName> {
    let Some((text, node)) = fields.text("name", problems) else {
        problems.add(fields.span.clone(), &fields.subject, "the alert has no name", Some(AlertName::FORM));
        return None;
    };
    fields.subject = format!("alert {text:?}");
    let name = AlertName::parse(text);
    if name.is_none() {
        problems.at(node, "name", format!("{} is not an alert's name", node.shown()), Some(AlertName::FORM));
    }
    name
}

fn events(fields: &mut Fields<'_>, problems: &mut Problems) -> EventKinds {
    let Some(node) = fields.take("on") else { return EventKinds::all() };
    let mut kinds = Vec::new();
    for item in one_or_more(node) {
        match &item.value {
            Value::Text(text) => match EventKind::parse(text) {
                Some(kind) => kinds.push(kind),
                None => {
                    let message = format!("{} is no kind of event", item.shown());
                    let help = format!("it is one of {}", quoted(&EventKind::WORDS));
                    problems.at(item, &fields.subject_of("on"), message, Some(&help));
                }
            },
            _ => fields.wrong_kind("on", item, "a kind of event in quotes", problems),
        }
    }
    EventKinds::of(kinds)
}

/// One that there is no rule of is no mistake: rules come and go.
fn rules(fields: &mut Fields<'_>, problems: &mut Problems) -> Option<BTreeSet<RuleName>> {
    let node = fields.take("rules")?;
    let mut names = BTreeSet::new();
    for item in one_or_more(node) {
        match &item.value {
            Value::Text(text) => match RuleName::parse(text) {
                Some(name) => drop(names.insert(name)),
                None => {
                    let message = format!("{} is not a rule name", item.shown());
                    problems.at(item, &fields.subject_of("rules"), message, Some(RuleName::FORM));
                }
            },
            _ => fields.wrong_kind("rules", item, "a rule name in quotes", problems),
        }
    }
    Some(names)
}

fn digest(fields: &mut Fields<'_>, problems: &mut Problems) -> Option<Daily> {
    let (text, node) = fields.text("digest", problems)?;
    let digest = Daily::parse(text);
    if digest.is_none() {
        let message = format!("{} is no time for a digest", node.shown());
        problems.at(node, &fields.subject_of("digest"), message, Some(Daily::FORMS));
    }
    digest
}

fn zone(fields: &mut Fields<'_>, problems: &mut Problems) -> TimeZone {
    let own = || TimeZone::try_system().unwrap_or(TimeZone::UTC);
    let Some((text, node)) = fields.text("tz", problems) else { return own() };
    TimeZone::get(text).unwrap_or_else(|_unknown| {
        let message = format!("{} is not a time zone", node.shown());
        let help = r#"write one such as "Asia/Shanghai" or "UTC"; leave it out for the host's"#;
        problems.at(node, &fields.subject_of("tz"), message, Some(help));
        own()
    })
}

fn span_of(
    fields: &mut Fields<'_>,
    key: &'static str,
    longest: Duration,
    problems: &mut Problems,
) -> Option<Duration> {
    let at = fields.peek(key);
    let duration = fields.duration(key, problems)?;
    if let (Some(node), true) = (at, duration > longest) {
        let help = format!("{} is the longest", format_duration(longest));
        problems.at(node, &fields.subject_of(key), format!("{} is too long", node.shown()), Some(&help));
    }
    Some(duration)
}

/// A text that is not shown: of visible characters, not empty.
fn secret(fields: &mut Fields<'_>, key: &'static str, problems: &mut Problems) -> Option<Secret> {
    let (text, _) = hidden(fields, key, problems)?;
    Some(Secret::new(text))
}

/// The same, and where it stands.
fn hidden<'a>(
    fields: &mut Fields<'a>,
    key: &'static str,
    problems: &mut Problems,
) -> Option<(&'a str, &'a Node)> {
    let node = fields.take(key)?;
    match &node.value {
        Value::Text(text)
            if (1..=LONGEST_SECRET).contains(&text.len()) && !text.chars().any(char::is_control) =>
        {
            return Some((text, node));
        }
        Value::Text(_) => {
            let help = format!("write 1 to {LONGEST_SECRET} visible characters");
            problems.at(node, &fields.subject_of(key), "this cannot be one", Some(&help));
        }
        _ => problems.at(node, &fields.subject_of(key), "this is not a text in quotes", None),
    }
    None
}

/// A URL that is not shown.
fn url(fields: &mut Fields<'_>, key: &'static str, problems: &mut Problems) -> Option<Url> {
    let (text, node) = hidden(fields, key, problems)?;
    let url = Url::parse(text);
    if url.is_none() {
        problems.at(node, &fields.subject_of(key), "this is not a URL of http or https", Some(Url::FORMS));
    }
    url
}

/// Says that a kind cannot do without a key, unless there is one that is wrong.
fn needed<T>(
    found: Option<T>,
    was_there: bool,
    key: &str,
    fields: &Fields<'_>,
    problems: &mut Problems,
) -> Option<T> {
    if found.is_none() && !was_there {
        let message = format!("there is no `{key}`, and this kind needs one");
        problems.add(fields.span.clone(), &fields.subject, message, Some("see `man relay.toml`"));
    }
    found
}

/// Beside the file that names it.
fn ca(fields: &mut Fields<'_>, folder: &Path, problems: &mut Problems) -> Option<PathBuf> {
    let (text, node) = fields.text("ca", problems)?;
    if text.is_empty() {
        let message = format!("{} is no file", node.shown());
        problems.at(
            node,
            &fields.subject_of("ca"),
            message,
            Some("write the path of a file with certificates in PEM"),
        );
    }
    Some(folder.join(text))
}

#[cfg(test)]
mod tests;
