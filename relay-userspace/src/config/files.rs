//! Reading `relay.toml` and the files in `conf.d` beside it.

use std::fs;
use std::io;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use toml::de::DeTable;

use super::decode;
use super::fields::nearest;
use super::node::{Entry, Node, Span, Value, table_from_toml};
use super::problem::{Problem, Problems, Source};
use super::settings::Settings;
use crate::rule::{Rule, overlap};

/// A whole configuration: settings and rules, each rule with the file it came from.
#[derive(Clone, Debug, Default)]
pub struct Config {
    pub settings: Settings,
    pub rules: Vec<(Arc<Rule>, Origin)>,
}

/// Where a rule is kept.
#[derive(Clone, Debug, Default, Eq, PartialEq)]
pub enum Origin {
    File(Arc<Path>),
    /// Given on relayd's command line: changes are not saved.
    #[default]
    CommandLine,
}

/// Tables that a later version will understand.
const LATER_TABLES: &[&str] = &["dns", "group", "watch", "alert", "firewall", "mptcp"];
const TABLES: &[&str] = &["daemon", "log", "metrics", "rule"];

impl Config {
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

    /// Parses texts that are already in memory: `problems.sources`.
    pub fn parse(mut problems: Problems) -> Result<Self, Problems> {
        let mut reader = Reader::default();
        for source in 0..problems.sources.len() {
            let text = std::mem::take(&mut problems.sources[source].text);
            reader.read(source, &text, &mut problems);
            problems.sources[source].text = text;
        }
        reader.check(&mut problems);
        let Reader { config, .. } = reader;
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

#[derive(Default)]
struct Reader {
    config: Config,
    /// Where each rule's name stands, in the order of `config.rules`.
    names: Vec<Option<Span>>,
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
        if entry.key == "rule" {
            self.rules(&entry.node, path, problems);
            return;
        }
        if let Some((_, _first)) = self.seen.iter().find(|(key, _)| *key == entry.key) {
            let message = format!("`[{}]` stands in two files", entry.key);
            problems.add(entry.key_span.clone(), "", message, Some("keep one of them"));
        }
        self.seen.push((entry.key.clone(), entry.key_span.clone()));
        match entry.key.as_str() {
            "daemon" => self.config.settings.daemon(&entry.node, problems),
            "log" => self.config.settings.log(&entry.node, problems),
            "metrics" => self.config.settings.metrics(&entry.node, problems),
            later if LATER_TABLES.contains(&later) => {
                let message = format!("`{later}` is not built yet");
                problems.add(entry.key_span, "", message, Some("leave it out"));
            }
            unknown => {
                let help = match nearest(unknown, TABLES.iter().copied()) {
                    Some(near) => format!("did you mean `{near}`?"),
                    None => "known are [daemon], [log], [metrics] and [[rule]]".into(),
                };
                problems.add(entry.key_span, "", format!("there is no table `{unknown}`"), Some(&help));
            }
        }
    }

    fn rules(&mut self, node: &Node, path: &Arc<Path>, problems: &mut Problems) {
        let Value::Array(items) = &node.value else {
            problems.at(node, "rule", "rules are written as `[[rule]]`", None);
            return;
        };
        for item in items {
            let Value::Table(table) = &item.value else {
                problems.at(item, "rule", "rules are written as `[[rule]]`", None);
                continue;
            };
            if let Some(rule) = decode::rule(table, item.span.clone(), None, problems) {
                let name = table.iter().find(|entry| entry.key == "name");
                self.names.push(name.and_then(|entry| entry.node.span.clone()));
                self.config.rules.push((Arc::new(rule), Origin::File(path.clone())));
            }
        }
    }

    /// What only shows when all rules are read: two with one name, two that want the same port.
    fn check(&self, problems: &mut Problems) {
        let rules = &self.config.rules;
        let mut by_name: Vec<usize> = (0..rules.len()).collect();
        by_name.sort_by_key(|&index| (&rules[index].0.name, index));
        for pair in by_name.windows(2) {
            let (first, second) = (pair[0], pair[1]);
            if rules[first].0.name == rules[second].0.name {
                let message = format!("two rules are called {:?}", rules[second].0.name.as_str());
                let help = self.also(first, problems);
                problems.add(self.names[second].clone(), "", message, Some(&help));
            }
        }
        for found in overlap::find(rules.iter().map(|(rule, _)| &**rule)) {
            let (first, second) = (&rules[found.first.0].0, &rules[found.second.0].0);
            let message = format!(
                "\"{}\" takes {}/{} that rule {:?} has as \"{}\"",
                found.second.1,
                found.ports,
                found.protocol,
                first.name.as_str(),
                found.first.1,
            );
            let subject = format!("rule {:?}: listen", second.name.as_str());
            let help = self.also(found.first.0, problems);
            problems.add(self.names[found.second.0].clone(), &subject, message, Some(&help));
        }
    }

    fn also(&self, index: usize, problems: &Problems) -> String {
        let problem = Problem {
            span: self.names[index].clone(),
            subject: String::new(),
            message: String::new(),
            help: None,
        };
        match problems.place(&problem) {
            Some((source, at)) => format!("the other one is at {}:{}", source.path.display(), at.line),
            None => "rename or remove one of them".into(),
        }
    }
}
