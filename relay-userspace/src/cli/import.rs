//! `relayctl import` and `relayctl export realm`: what was found, what was left, and where it goes.

use std::fmt::Write as _;
use std::fs;
use std::io;
use std::path::Path;

use anyhow::Context as _;
use serde_json::json;

use super::args::{Format, Import};
use super::{Exit, print};
use crate::api::view::{ChangeView, RuleChange};
use crate::config::files::Config;
use crate::config::problem::{Problems, Source};
use crate::config::{edit, encode, save};
use crate::import::conflict::{self, OnConflict, Settled};
use crate::import::{self, Kind, Place, Remark, source};
use crate::rule::Rule;

/// What the files have.
pub struct Found {
    kind: Kind,
    rules: Vec<(Rule, Place)>,
    remarks: Vec<Remark>,
}

impl Found {
    /// # Errors
    ///
    /// What cannot be read, is broken, or is no rule, with file and line.
    pub fn read(args: &Import) -> anyhow::Result<Self> {
        let sources = source::read(&args.path)?;
        let (kind, findings) = import::read(args.kind, &sources)?;
        let rules = import::rules(&findings.drafts).map_err(anyhow::Error::msg)?;
        Ok(Self { kind, rules, remarks: findings.remarks })
    }

    /// The request for relayd.
    pub fn body(&self, how: OnConflict) -> String {
        let rules: Vec<_> = self.rules.iter().map(|(rule, _)| encode::to_json(rule)).collect();
        json!({ "rules": rules, "on_conflict": how }).to_string()
    }

    /// The report: where each rule comes from, what was left, and what has changed.
    pub fn shown(&self, view: &ChangeView, format: Format) -> String {
        let kind = format!("{:?}", self.kind).to_lowercase();
        match format {
            Format::Json => {
                let rules: Vec<_> = self
                    .rules
                    .iter()
                    .map(|(rule, from)| json!({ "name": rule.name.as_str(), "from": from }))
                    .collect();
                print::json(&json!({ "kind": kind, "rules": rules, "remarks": self.remarks, "change": view }))
            }
            Format::Tsv => print::change(view, format),
            Format::Table | Format::Wide => {
                let mut text = format!("read as {kind}: {} rules\n", self.rules.len());
                for (rule, from) in &self.rules {
                    let texts = |items: Vec<String>| items.join(", ");
                    let listen = texts(rule.listen.iter().map(ToString::to_string).collect());
                    let to = texts(rule.to.iter().map(ToString::to_string).collect());
                    let _infallible = writeln!(
                        text,
                        "  {}  {listen} {} -> {to}  ({}:{})",
                        rule.name, rule.protocols, from.file, from.line
                    );
                }
                for Remark { place, text: remark } in &self.remarks {
                    let _infallible = writeln!(text, "{}:{}: {remark}", place.file, place.line);
                }
                text + &print::change(view, format)
            }
        }
    }
}

/// Writes into a file, without relayd: checked as relayd would, and replaced in one step.
pub fn offline(found: &Found, args: &Import, file: &Path, format: Format) -> anyhow::Result<Exit> {
    let is_output = file == Path::new("-");
    let before = match fs::read_to_string(file) {
        _ if is_output => String::new(),
        Err(error) if error.kind() == io::ErrorKind::NotFound => String::new(),
        read => read.with_context(|| format!("cannot read {}", file.display()))?,
    };
    let config = parse(file, &before, is_output)?;
    let existing: Vec<&Rule> = config.rules.iter().map(|(rule, _)| &**rule).collect();
    let incoming = found.rules.iter().map(|(rule, _)| rule.clone()).collect();
    let settled = conflict::settle(&existing, incoming, args.on_conflict).map_err(anyhow::Error::msg)?;
    let text = edit::rewritten(&before, &settled.remove, &settled.add)
        .map_err(|why| anyhow::anyhow!("{}: {why}", file.display()))?;
    parse(file, &text, is_output)?;
    let mut view = change(settled, args.dry.dry_run);
    if is_output {
        super::commands::say(&found.shown(&view, Format::Table));
        return super::commands::write(&text);
    }
    if !args.dry.dry_run {
        save::save(file, &text).with_context(|| format!("cannot write {}", file.display()))?;
        view.saved = Some(file.display().to_string());
    }
    super::commands::write(&found.shown(&view, format))
}

/// With conf.d beside it, if it is a file.
fn parse(file: &Path, text: &str, is_alone: bool) -> Result<Config, Problems> {
    if is_alone {
        let sources = vec![Source { path: "standard output".into(), text: text.to_owned() }];
        return Config::parse(Problems { sources, list: Vec::new() });
    }
    Config::read_with(file, text)
}

fn change(settled: Settled, dry_run: bool) -> ChangeView {
    let removed = settled.remove.iter().map(|name| ("removed", name.to_string(), None));
    let added = settled.add.iter().map(|rule| ("added", rule.name.to_string(), Some(encode::to_json(rule))));
    let changes = removed.chain(added).map(|(action, name, after)| RuleChange {
        action: action.into(),
        name,
        after,
        ..RuleChange::default()
    });
    ChangeView { changes: changes.collect(), notes: settled.notes, dry_run, ..ChangeView::default() }
}

/// realm's configuration for the rules of a file, and what is said of those it cannot carry.
pub fn realm(file: &Path) -> Result<(String, String), Problems> {
    let config = Config::read(file)?;
    let (text, left) = import::to_realm(config.rules.iter().map(|(rule, _)| &**rule));
    Ok((text, left.iter().map(|line| format!("{line}\n")).collect()))
}
