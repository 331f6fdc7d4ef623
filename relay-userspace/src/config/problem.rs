//! What is wrong with a configuration: where, which value, and what would be right.

use std::fmt;
use std::path::PathBuf;

use super::node::{Node, Span};
use super::secrets;

/// One mistake.
#[derive(Clone, Debug, Eq, PartialEq)]
pub struct Problem {
    pub span: Option<Span>,
    /// What it is about: `rule "tokyo": listen`.
    pub subject: String,
    pub message: String,
    pub help: Option<String>,
}

impl fmt::Display for Problem {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        if !self.subject.is_empty() {
            write!(f, "{}: ", self.subject)?;
        }
        f.write_str(&self.message)?;
        match &self.help {
            Some(help) => write!(f, "; {help}"),
            None => Ok(()),
        }
    }
}

/// The text of a configuration file.
#[derive(Clone, Debug)]
pub struct Source {
    pub path: PathBuf,
    pub text: String,
}

/// All mistakes, and the files they were made in.
#[derive(Clone, Debug, Default)]
pub struct Problems {
    pub sources: Vec<Source>,
    pub list: Vec<Problem>,
}

/// A position in a file, both counted from 1; columns count characters.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub struct Position {
    pub line: usize,
    pub column: usize,
}

impl Problems {
    pub fn is_empty(&self) -> bool {
        self.list.is_empty()
    }

    /// Notes a mistake at a value.
    pub fn at(&mut self, node: &Node, subject: &str, message: impl Into<String>, help: Option<&str>) {
        self.add(node.span.clone(), subject, message, help);
    }

    pub fn add(&mut self, span: Option<Span>, subject: &str, message: impl Into<String>, help: Option<&str>) {
        self.list.push(Problem {
            span,
            subject: subject.into(),
            message: message.into(),
            help: help.map(Into::into),
        });
    }

    /// `file:line:column` of a problem.
    pub fn place(&self, problem: &Problem) -> Option<(&Source, Position)> {
        let span = problem.span.as_ref()?;
        let source = self.sources.get(span.source)?;
        Some((source, position(&source.text, span.bytes.start)))
    }

    /// `Err` with all problems if there are any.
    pub fn into_result<T>(self, value: T) -> Result<T, Self> {
        if self.is_empty() { Ok(value) } else { Err(self) }
    }
}

fn position(text: &str, offset: usize) -> Position {
    let before = text.get(..offset).unwrap_or(text);
    let line_start = before.rfind('\n').map_or(0, |newline| newline + 1);
    Position {
        line: before.bytes().filter(|&byte| byte == b'\n').count() + 1,
        column: before[line_start..].chars().count() + 1,
    }
}

/// Every problem with its place, the line it stands on without its secrets, and a mark under the value.
impl fmt::Display for Problems {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        for (index, problem) in self.list.iter().enumerate() {
            if index > 0 {
                writeln!(f)?;
            }
            match self.place(problem) {
                None => write!(f, "{problem}")?,
                Some((source, at)) => {
                    writeln!(f, "{}:{}:{}: {problem}", source.path.display(), at.line, at.column)?;
                    write_excerpt(f, &source.text, problem, at)?;
                }
            }
        }
        Ok(())
    }
}

impl std::error::Error for Problems {}

fn write_excerpt(f: &mut fmt::Formatter<'_>, text: &str, problem: &Problem, at: Position) -> fmt::Result {
    let line = without_secrets(text, at.line);
    let margin = at.line.to_string().len();
    let span = problem.span.as_ref().map_or(0..0, |span| span.bytes.clone());
    let marked = text.get(span).map_or(1, |value| value.lines().next().unwrap_or("").chars().count());
    let room = line.chars().count().saturating_sub(at.column - 1);
    // tabs stay tabs, so that the mark stands below the value whatever the terminal makes of them
    let indent: String =
        line.chars().take(at.column - 1).map(|c| if c == '\t' { '\t' } else { ' ' }).collect();
    let marks = "^".repeat(marked.clamp(1, room.max(1)));
    writeln!(f, "{} | {line}", at.line)?;
    write!(f, "{:margin$} | {indent}{marks}", "")
}

/// A line, counted from 1, with as many stars as its secrets have characters.
fn without_secrets(text: &str, number: usize) -> String {
    let line = text.lines().nth(number - 1).unwrap_or("");
    let start: usize = text.split_inclusive('\n').take(number - 1).map(str::len).sum();
    let secrets = secrets::find(text);
    let is_secret = |at: usize| secrets.iter().any(|secret| secret.contains(&(start + at)));
    line.char_indices().map(|(at, c)| if is_secret(at) { '*' } else { c }).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_problem_shows_its_line_and_value() {
        let text = "a = 1\nlisten = \"东京:80\" # x\n".to_owned();
        let start = text.find("\"东").expect("value");
        let end = text.find(" #").expect("end");
        let mut problems =
            Problems { sources: vec![Source { path: "relay.toml".into(), text }], list: vec![] };
        let span = Span { source: 0, bytes: start..end };
        problems.add(Some(span), "rule \"x\": listen", "\"东京:80\" is no listener", Some("write \":80\""));
        assert_eq!(
            problems.to_string(),
            "relay.toml:2:10: rule \"x\": listen: \"东京:80\" is no listener; write \":80\"\n\
             2 | listen = \"东京:80\" # x\n  \
               |          ^^^^^^^"
        );
    }

    #[test]
    fn secrets_are_not_shown() {
        let text = "[[rule]]\nconnect = { token = \"tökén\", headers = { a = \"sesame\" }, path = \"x\" }\n";
        let start = text.find("\"x\"").expect("value");
        let sources = vec![Source { path: "relay.toml".into(), text: text.into() }];
        let mut problems = Problems { sources, list: vec![] };
        problems.add(Some(Span { source: 0, bytes: start..start + 3 }), "", "no", None);
        assert_eq!(
            problems.to_string(),
            "relay.toml:2:65: no\n\
             2 | connect = { token = *******, headers = { a = ******** }, path = \"x\" }\n  \
               |                                                                 ^^^"
        );
    }
}
