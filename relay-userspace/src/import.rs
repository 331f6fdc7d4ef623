//! Rules of other tools, read and never run: from their files to rules in Relay's own form.
//!
//! An importer makes [`Draft`]s: keys of a `[[rule]]`, and where they come from. What it cannot carry it says in a
//! [`Remark`]. The one decoder of the configuration then checks the drafts, as it checks all else.

mod auto;
mod bundle;
pub mod conflict;
mod haproxy;
mod iptables;
mod lines;
mod nat;
mod nftables;
mod nginx;
mod port_relay;
mod realm;
mod realm_export;
mod shell;
pub mod source;
mod xwpf;

use std::collections::HashSet;

use serde::Serialize;
use serde_json::{Map, Value as Json, json};

pub use self::realm_export::to_realm;
pub use self::source::Source;
use crate::config::decode;
use crate::config::node::{Node, Value};
use crate::config::problem::Problems;
use crate::rule::{Rule, RuleName};

/// Whose files they are.
#[derive(Clone, Copy, Debug, Eq, PartialEq, clap::ValueEnum)]
pub enum Kind {
    /// Find out by the content
    Auto,
    /// realm: TOML, JSON, its old form with ranges, a folder of them, or a command line
    Realm,
    /// xwPF's folder of rules, or its bundle (.tar.gz)
    Xwpf,
    /// port-relay's .env
    PortRelay,
    /// A ruleset of nftables, as `nft list ruleset` prints it, with -j or without
    Nftables,
    /// What iptables-save or ip6tables-save prints
    Iptables,
    /// HAProxy: listen, frontend and backend of TCP
    Haproxy,
    /// nginx: its stream block
    Nginx,
    /// Lines: port:host:port[:note]
    Lines,
}

/// A line of a file, counted from 1.
#[derive(Clone, Debug, Eq, PartialEq, Serialize)]
pub struct Place {
    pub file: String,
    pub line: usize,
}

/// Something that is not carried, or not as it was.
#[derive(Clone, Debug, Eq, PartialEq, Serialize)]
pub struct Remark {
    #[serde(flatten)]
    pub place: Place,
    pub text: String,
}

/// A rule to be.
#[derive(Clone, Debug, PartialEq)]
pub struct Draft {
    pub place: Place,
    /// Keys of a `[[rule]]`; `name` may be missing.
    pub keys: Map<String, Json>,
}

/// What was found in files.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Findings {
    pub drafts: Vec<Draft>,
    pub remarks: Vec<Remark>,
}

/// Why nothing was taken from a file.
#[derive(Clone, Debug, Eq, PartialEq, thiserror::Error)]
#[error("{}:{}: {text}", .place.file, .place.line)]
pub struct Refusal {
    pub place: Place,
    pub text: String,
}

/// More rules than this are no configuration of one host.
const MOST_RULES: usize = 100_000;

impl Findings {
    pub fn draft(&mut self, place: Place, keys: Json) {
        if let Json::Object(keys) = keys {
            self.drafts.push(Draft { place, keys });
        }
    }

    pub fn remark(&mut self, place: &Place, text: impl Into<String>) {
        self.remarks.push(Remark { place: place.clone(), text: text.into() });
    }
}

/// Finds rules in files of one kind; what `auto` took them for comes along.
///
/// # Errors
///
/// A file is not of that kind, or is broken: with its line. Nothing is taken from the others then.
pub fn read(kind: Kind, sources: &[Source]) -> Result<(Kind, Findings), Refusal> {
    let kind = if kind == Kind::Auto { auto::guess(sources)? } else { kind };
    let mut findings = Findings::default();
    if kind == Kind::Xwpf {
        xwpf::read(sources, &mut findings)?;
        return Ok((kind, findings));
    }
    for source in sources {
        // a folder of realm's has files of others, which realm leaves alone
        if kind == Kind::Realm && sources.len() > 1 && source.file.ends_with(".conf") {
            continue;
        }
        match kind {
            Kind::Auto | Kind::Realm => realm::read(source, &mut findings)?,
            Kind::PortRelay => port_relay::read(source, &mut findings)?,
            Kind::Nftables => nftables::read(source, &mut findings)?,
            Kind::Iptables => iptables::read(source, &mut findings)?,
            Kind::Haproxy => haproxy::read(source, &mut findings)?,
            Kind::Nginx => nginx::read(source, &mut findings)?,
            Kind::Lines => lines::read(source, &mut findings)?,
            // all its files at once
            Kind::Xwpf => {}
        }
        if findings.drafts.len() > MOST_RULES {
            return Err(
                source.refuse(1, format!("there are more than {MOST_RULES} rules; import fewer at once"))
            );
        }
    }
    Ok((kind, findings))
}

/// Rules from drafts, each with its place. Those without a name get their first port for one.
///
/// # Errors
///
/// All that the decoder does not take, with places, one a line.
pub fn rules(drafts: &[Draft]) -> Result<Vec<(Rule, Place)>, String> {
    let given = drafts.iter().filter_map(|draft| draft.keys.get("name")?.as_str().map(str::to_owned));
    let mut names: HashSet<String> = given.collect();
    let (mut rules, mut wrong) = (Vec::with_capacity(drafts.len()), Vec::new());
    for draft in drafts {
        let mut problems = Problems::default();
        let node = Node::from_json(Json::Object(draft.keys.clone()));
        let Value::Table(table) = &node.value else { continue };
        let named = |listener: &crate::rule::Listener| fresh(&listener.ports.to_string(), &names);
        match decode::rule(table, None, Some(&named), &mut problems) {
            Some(rule) => {
                names.insert(rule.name.to_string());
                rules.push((rule, draft.place.clone()));
            }
            None => wrong.extend(
                problems
                    .list
                    .iter()
                    .map(|problem| format!("{}:{}: {problem}", draft.place.file, draft.place.line)),
            ),
        }
    }
    if wrong.is_empty() { Ok(rules) } else { Err(wrong.join("\n")) }
}

/// A name like `base` that nobody has: `base`, `base-2`, `base-3` ...
pub fn fresh(base: &str, taken: &HashSet<String>) -> RuleName {
    let free = |text: &String| !taken.contains(text);
    let numbered = (2_u32..).map(|number| format!("{base}-{number}"));
    let mut names = std::iter::once(base.to_owned()).chain(numbered).filter(free);
    names
        .find_map(|text| RuleName::parse(&text))
        .unwrap_or_else(|| unreachable!("a port range is a rule name"))
}

/// `host:port`, with brackets where they belong: split at the last colon, as realm does.
fn address(text: &str) -> Option<(String, &str)> {
    let (host, port) = text.trim().rsplit_once(':')?;
    let host = host.trim_start_matches('[').trim_end_matches(']');
    let host = if host.contains(':') { format!("[{host}]") } else { host.to_owned() };
    Some((host, port))
}

/// One backend, or a list of them.
fn one_or_list(mut items: Vec<String>) -> Json {
    if items.len() == 1 { json!(items.remove(0)) } else { json!(items) }
}

#[cfg(test)]
pub mod tests;
