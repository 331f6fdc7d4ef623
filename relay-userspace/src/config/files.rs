//! Reading `relay.toml` and the files in `conf.d` beside it.

use std::collections::BTreeSet;
use std::fs;
use std::io;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use toml::de::DeTable;

use super::decode;
use super::fields::nearest;
use super::node::{Entry, Node, Span, Table, Value, table_from_toml};
use super::problem::{Problem, Problems, Source};
use super::settings::Settings;
use crate::alert::desk::Alerts;
use crate::rule::{Group, GroupName, Groups, Rule, counting, overlap};

/// A whole configuration: settings, alerts, and rules, each rule with the file it came from.
#[derive(Clone, Debug, Default)]
pub struct Config {
    pub settings: Settings,
    pub alerts: Alerts,
    pub rules: Vec<(Arc<Rule>, Origin)>,
    pub groups: Groups,
}

/// Where a rule is kept.
#[derive(Clone, Debug, Default, Eq, PartialEq)]
pub enum Origin {
    File(Arc<Path>),
    /// Given on relayd's command line: changes are not saved.
    #[default]
    CommandLine,
}

impl Origin {
    /// Where the rule's relative paths begin: beside its file, or where relayd was started.
    pub fn folder(&self) -> &Path {
        match self {
            Self::File(path) => path.parent().unwrap_or(Path::new("")),
            Self::CommandLine => Path::new(""),
        }
    }
}

/// Tables that a later version will understand.
const LATER_TABLES: &[&str] = &["firewall", "mptcp"];
const TABLES: &[&str] = &["alert", "daemon", "dns", "group", "log", "metrics", "rule", "watch"];
/// As many as there are meters for, of which the first stands for none.
const MOST_GROUPS: usize = relay_common::meter::GROUPS as usize - 1;

impl Config {
    /// Whether anything has a quota.
    pub fn has_quotas(&self) -> bool {
        self.rules.iter().any(|(rule, _)| rule.quota.is_some())
            || self.groups.values().any(|group| group.quota.is_some())
    }

    /// Reads the main file and `conf.d/*.toml` beside it, in name order. A missing main file is a problem.
    pub fn read(main: &Path) -> Result<Self, Problems> {
        let mut problems = Problems::default();
        read_source(main.to_owned(), &mut problems);
        Self::read_rest(main, problems)
    }

    /// The same, as if the main file held `text`.
    pub fn read_with(main: &Path, text: &str) -> Result<Self, Problems> {
        let mut problems = Problems::default();
        problems.sources.push(Source { path: main.to_owned(), text: text.to_owned() });
        Self::read_rest(main, problems)
    }

    fn read_rest(main: &Path, mut problems: Problems) -> Result<Self, Problems> {
        match conf_d(main) {
            Ok(paths) => paths.into_iter().for_each(|path| read_source(path, &mut problems)),
            Err(error) => unreadable(&main.with_file_name("conf.d"), &error, &mut problems),
        }
        if problems.is_empty() { Self::parse(problems) } else { Err(problems) }
    }

    /// The configuration with rules from a command line added; they must get along with those from files.
    pub fn with_typed(mut self, typed: &[(Arc<Rule>, Origin)]) -> Result<Self, Problems> {
        let mut problems = Problems::default();
        for (rule, origin) in typed {
            if self.rules.iter().any(|(known, _)| known.name == rule.name) {
                let message = format!("two rules are called {:?}", rule.name.as_str());
                problems.add(None, "-l", message, Some("keep one of them"));
            }
            if let Some(group) = rule.group.as_ref().filter(|group| !self.groups.contains_key(*group)) {
                problems.add(None, "-l", no_group(group), Some(NO_GROUP));
            }
            self.rules.push((rule.clone(), origin.clone()));
            let rules: Vec<&Rule> = self.rules.iter().map(|(rule, _)| &**rule).collect();
            for found in overlap::find_with(&rules, rules.len() - 1) {
                problems.add(None, "-l", found.shown(&found.second, &rules), Some("choose other ports"));
            }
        }
        problems.into_result(self)
    }

    /// Parses texts that are already in memory: `problems.sources`.
    pub fn parse(mut problems: Problems) -> Result<Self, Problems> {
        let mut reader = Reader::default();
        for source in 0..problems.sources.len() {
            let text = std::mem::take(&mut problems.sources[source].text);
            reader.read(source, &text, &mut problems);
            problems.sources[source].text = text;
        }
        reader.check(&mut problems);
        let Reader { mut config, groups, .. } = reader;
        config.groups = Arc::new(groups.into_iter().collect());
        // as they stand in the files, not as the decoder met them
        problems.list.sort_by_key(|problem| {
            problem.span.as_ref().map_or((usize::MAX, 0), |span| (span.source, span.bytes.start))
        });
        problems.into_result(config)
    }
}

/// The `*.toml` files in `conf.d` beside the main file; none if there is no such folder.
fn conf_d(main: &Path) -> io::Result<Vec<PathBuf>> {
    let entries = match fs::read_dir(main.with_file_name("conf.d")) {
        Ok(entries) => entries,
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(Vec::new()),
        Err(error) => return Err(error),
    };
    let mut paths: Vec<PathBuf> = entries.map(|entry| Ok(entry?.path())).collect::<io::Result<_>>()?;
    paths.retain(|path| path.extension().is_some_and(|extension| extension == "toml"));
    paths.sort();
    Ok(paths)
}

fn read_source(path: PathBuf, problems: &mut Problems) {
    match fs::read_to_string(&path) {
        Ok(text) => problems.sources.push(Source { path, text }),
        Err(error) => unreadable(&path, &error, problems),
    }
}

fn unreadable(path: &Path, error: &io::Error, problems: &mut Problems) {
    problems.add(None, &path.display().to_string(), format!("cannot be read: {error}"), None);
}

/// A name, and where it stands.
type Named = (String, Option<Span>);

#[derive(Default)]
struct Reader {
    config: Config,
    /// Where each rule's name stands, in the order of `config.rules`.
    places: Vec<Option<Span>>,
    /// All names, those of rules with mistakes too.
    names: Vec<Named>,
    /// The same of alerts and groups.
    alert_names: Vec<Named>,
    group_names: Vec<Named>,
    groups: Vec<(GroupName, Group)>,
    /// Settings tables seen so far, and where.
    seen: Vec<(String, Option<Span>)>,
}

impl Reader {
    fn read(&mut self, source: usize, text: &str, problems: &mut Problems) {
        let path: Arc<Path> = problems.sources[source].path.as_path().into();
        let (document, errors) = DeTable::parse_recoverable(text);
        for error in &errors {
            let span = error.span().map(|bytes| Span { source, bytes });
            problems.list.push(Problem {
                span,
                subject: String::new(),
                message: format!("this is not TOML: {}", error.message()),
                help: None,
            });
        }
        if !errors.is_empty() {
            return;
        }
        for entry in table_from_toml(source, document.into_inner()) {
            self.top_level(entry, &path, problems);
        }
    }

    fn top_level(&mut self, entry: Entry, path: &Arc<Path>, problems: &mut Problems) {
        if let "rule" | "watch" = entry.key.as_str() {
            self.rules(&entry, path, problems);
            return;
        }
        if entry.key == "group" {
            self.groups(&entry.node, problems);
            return;
        }
        if entry.key == "alert" {
            self.alerts(&entry.node, path, problems);
            return;
        }
        if let Some((_, _first)) = self.seen.iter().find(|(key, _)| *key == entry.key) {
            let message = format!("`[{}]` stands in two files", entry.key);
            problems.add(entry.key_span.clone(), "", message, Some("keep one of them"));
        }
        self.seen.push((entry.key.clone(), entry.key_span.clone()));
        match entry.key.as_str() {
            "daemon" => self.config.settings.daemon(&entry.node, problems),
            "dns" => self.config.settings.dns(&entry.node, problems),
            "log" => self.config.settings.log(&entry.node, problems),
            "metrics" => self.config.settings.metrics(&entry.node, problems),
            later if LATER_TABLES.contains(&later) => {
                let message = format!("`{later}` is not built yet");
                problems.add(entry.key_span, "", message, Some("leave it out"));
            }
            unknown => {
                let help = match nearest(unknown, TABLES.iter().copied()) {
                    Some(near) => format!("did you mean `{near}`?"),
                    None => "known are [daemon], [dns], [log], [metrics], [[alert]], [[rule]], [[watch]] and [[group]]".into(),
                };
                problems.add(entry.key_span, "", format!("there is no table `{unknown}`"), Some(&help));
            }
        }
    }

    /// Rules, or watches.
    fn rules(&mut self, entry: &Entry, path: &Arc<Path>, problems: &mut Problems) {
        let is_watch = entry.key == "watch";
        for (item, table) in tables(&entry.node, &entry.key, problems) {
            let name = name_of(table);
            self.names.extend(name.and_then(named));
            let rule = if is_watch {
                decode::watch(table, item.span.clone(), problems)
            } else {
                decode::rule(table, item.span.clone(), None, problems)
            };
            if let Some(rule) = rule {
                self.places.push(name.and_then(|name| name.span.clone()));
                self.config.rules.push((Arc::new(rule), Origin::File(path.clone())));
            }
        }
    }

    fn groups(&mut self, node: &Node, problems: &mut Problems) {
        for (item, table) in tables(node, "group", problems) {
            self.group_names.extend(name_of(table).and_then(named));
            self.groups.extend(decode::group(table, item.span.clone(), problems));
        }
    }

    fn alerts(&mut self, node: &Node, path: &Path, problems: &mut Problems) {
        let folder = path.parent().unwrap_or(Path::new(""));
        for (item, table) in tables(node, "alert", problems) {
            self.alert_names.extend(name_of(table).and_then(named));
            let alert = decode::alert::alert(table, item.span.clone(), folder, problems);
            self.config.alerts.extend(alert.map(Arc::new));
        }
    }

    /// Rules whose group there is not, and more groups than there may be.
    fn check_groups(&self, problems: &mut Problems) {
        let known: BTreeSet<&str> = self.group_names.iter().map(|(name, _)| &**name).collect();
        for ((rule, _), place) in self.config.rules.iter().zip(&self.places) {
            if let Some(group) = rule.group.as_ref().filter(|group| !known.contains(group.as_str())) {
                let subject = format!("rule {:?}: group", rule.name.as_str());
                problems.add(place.clone(), &subject, no_group(group), Some(NO_GROUP));
            }
        }
        if let Some((_, place)) = self.group_names.get(MOST_GROUPS) {
            let message =
                format!("there are {} groups, and there may be {MOST_GROUPS}", self.group_names.len());
            problems.add(place.clone(), "group", message, Some("leave some out"));
        }
    }

    /// What only shows when all rules are read: two with one name, two that want the same port, a group that there is not.
    fn check(&self, problems: &mut Problems) {
        self.check_groups(problems);
        if let Some((index, text)) = counting::too_many(self.config.rules.iter().map(|(rule, _)| &**rule)) {
            let subject = format!("rule {:?}: count_ports", self.config.rules[index].0.name.as_str());
            problems.add(self.places[index].clone(), &subject, text, Some(counting::TOO_MANY));
        }
        refuse_twins("rules", &self.names, problems);
        refuse_twins("alerts", &self.alert_names, problems);
        refuse_twins("groups", &self.group_names, problems);
        let rules: Vec<&Rule> = self.config.rules.iter().map(|(rule, _)| &**rule).collect();
        for found in overlap::find(rules.iter().copied()) {
            let (first, second) = (found.first.0, found.second.0);
            let subject = format!("rule {:?}: listen", rules[second].name.as_str());
            let help = also(&self.places[first], problems);
            problems.add(
                self.places[second].clone(),
                &subject,
                found.shown(&found.second, &rules),
                Some(&help),
            );
        }
    }
}

/// What helps then.
pub const NO_GROUP: &str = "write a `[[group]]` with that name, or leave `group` out";

/// What is said of a group that there is not.
pub fn no_group(group: &GroupName) -> String {
    format!("there is no group {:?}", group.as_str())
}

/// The tables of `[[KEY]]`.
fn tables<'a>(node: &'a Node, key: &str, problems: &mut Problems) -> Vec<(&'a Node, &'a Table)> {
    let wrong = |at: &Node, problems: &mut Problems| {
        let plural = if key == "watch" { "watches".to_owned() } else { format!("{key}s") };
        problems.at(at, key, format!("{plural} are written as `[[{key}]]`"), None);
    };
    let Value::Array(items) = &node.value else {
        wrong(node, problems);
        return Vec::new();
    };
    let mut found = Vec::new();
    for item in items {
        match &item.value {
            Value::Table(table) => found.push((item, table)),
            _ => wrong(item, problems),
        }
    }
    found
}

fn name_of(table: &Table) -> Option<&Node> {
    table.iter().find(|entry| entry.key == "name").map(|entry| &entry.node)
}

fn named(name: &Node) -> Option<Named> {
    match &name.value {
        Value::Text(text) => Some((text.clone(), name.span.clone())),
        _ => None,
    }
}

fn refuse_twins(what: &str, names: &[Named], problems: &mut Problems) {
    let mut names: Vec<&Named> = names.iter().collect();
    names.sort_by_key(|(name, _)| name);
    for pair in names.windows(2) {
        let ((first, place), (second, span)) = (pair[0], pair[1]);
        if first == second {
            let message = format!("two {what} are called {second:?}");
            problems.add(span.clone(), "", message, Some(&also(place, problems)));
        }
    }
}

/// Where the other one of two is.
fn also(place: &Option<Span>, problems: &Problems) -> String {
    let (subject, message) = (String::new(), String::new());
    let problem = Problem { span: place.clone(), subject, message, help: None };
    match problems.place(&problem) {
        Some((source, at)) => format!("the other one is at {}:{}", source.path.display(), at.line),
        None => "rename or remove one of them".into(),
    }
}
