//! Taking a table apart key by key; what is left over is unknown.

use std::time::Duration;

use super::node::{Entry, Node, Span, Table, Value};
use super::problem::Problems;
use super::quantity::{DURATION_FORMS, parse_duration};

/// Keys of a table, as they are being taken.
pub struct Fields<'a> {
    entries: Vec<Option<&'a Entry>>,
    known: Vec<&'static str>,
    /// What the table is, for error texts: `rule "tokyo"`.
    pub subject: String,
    /// Where the table stands.
    pub span: Option<Span>,
}

impl<'a> Fields<'a> {
    pub fn new(table: &'a Table, span: Option<Span>, subject: impl Into<String>) -> Self {
        Self { entries: table.iter().map(Some).collect(), known: Vec::new(), subject: subject.into(), span }
    }

    /// `subject: key`, or the key alone.
    pub fn subject_of(&self, key: &str) -> String {
        if self.subject.is_empty() { key.to_owned() } else { format!("{}: {key}", self.subject) }
    }

    /// Takes a key; null counts as absent.
    pub fn take(&mut self, key: &'static str) -> Option<&'a Node> {
        if !self.known.contains(&key) {
            self.known.push(key);
        }
        let slot = self.entries.iter_mut().find(|slot| slot.is_some_and(|entry| entry.key == key))?;
        let node = &slot.take()?.node;
        (node.value != Value::Null).then_some(node)
    }

    /// A key that has not been taken yet; null counts as absent.
    pub fn peek(&self, key: &str) -> Option<&'a Node> {
        let entry = self.entries.iter().flatten().find(|entry| entry.key == key)?;
        (entry.node.value != Value::Null).then_some(&entry.node)
    }

    /// A table inside this one.
    pub fn table(&mut self, key: &'static str, problems: &mut Problems) -> Option<Self> {
        let node = self.take(key)?;
        if let Value::Table(table) = &node.value {
            return Some(Fields::new(table, node.span.clone(), self.subject_of(key)));
        }
        self.wrong_kind(key, node, "a table", problems);
        None
    }

    pub fn text(&mut self, key: &'static str, problems: &mut Problems) -> Option<(&'a str, &'a Node)> {
        let node = self.take(key)?;
        if let Value::Text(text) = &node.value {
            return Some((text, node));
        }
        self.wrong_kind(key, node, "a text in quotes", problems);
        None
    }

    pub fn bool(&mut self, key: &'static str, problems: &mut Problems) -> Option<bool> {
        let node = self.take(key)?;
        if let Value::Bool(value) = node.value {
            return Some(value);
        }
        self.wrong_kind(key, node, "true or false", problems);
        None
    }

    pub fn integer(
        &mut self,
        key: &'static str,
        range: std::ops::RangeInclusive<i64>,
        problems: &mut Problems,
    ) -> Option<i64> {
        let node = self.take(key)?;
        match node.value {
            Value::Integer(value) if range.contains(&value) => Some(value),
            _ => {
                let wanted = format!("a whole number from {} to {}", range.start(), range.end());
                self.wrong_kind(key, node, &wanted, problems);
                None
            }
        }
    }

    pub fn duration(&mut self, key: &'static str, problems: &mut Problems) -> Option<Duration> {
        let (text, node) = self.text(key, problems)?;
        let (message, help) = match parse_duration(text) {
            Some(duration) if !duration.is_zero() => return Some(duration),
            Some(_) => ("is no time at all", "leave the key out for the usual time"),
            None => ("is not a duration", DURATION_FORMS),
        };
        problems.at(node, &self.subject_of(key), format!("{} {message}", node.shown()), Some(help));
        None
    }

    /// A duration of whole seconds, up to `longest`.
    pub fn seconds(
        &mut self,
        key: &'static str,
        longest: Duration,
        problems: &mut Problems,
    ) -> Option<Duration> {
        let at = self.peek(key);
        let duration = self.duration(key, problems)?;
        if duration.subsec_nanos() == 0 && duration <= longest {
            return Some(duration);
        }
        if let Some(node) = at {
            let help = format!("the kernel takes whole seconds up to {}", longest.as_secs());
            let message = format!("{} is not possible here", node.shown());
            problems.at(node, &self.subject_of(key), message, Some(&help));
        }
        None
    }

    /// One of a few words.
    pub fn word<T>(
        &mut self,
        key: &'static str,
        words: &[&str],
        parse: impl Fn(&str) -> Option<T>,
        problems: &mut Problems,
    ) -> Option<T> {
        let (text, node) = self.text(key, problems)?;
        let parsed = parse(text);
        if parsed.is_none() {
            let help = format!("it is one of {}", quoted(words));
            let message = format!("{} is not known here", node.shown());
            problems.at(node, &self.subject_of(key), message, Some(&help));
        }
        parsed
    }

    /// Notes that a value is of the wrong kind.
    pub fn wrong_kind(&self, key: &str, node: &Node, wanted: &str, problems: &mut Problems) {
        let message = format!("{} is {}, not {wanted}", node.shown(), node.kind());
        problems.at(node, &self.subject_of(key), message, None);
    }

    /// Complains about everything that was not taken.
    pub fn finish(self, problems: &mut Problems) {
        for entry in self.entries.iter().flatten() {
            let keys = self.known.iter().copied();
            let help = match nearest(&entry.key, keys.clone()) {
                Some(near) => format!("did you mean `{near}`?"),
                None => format!("known are {}", keys.collect::<Vec<_>>().join(", ")),
            };
            let message = format!("there is no key `{}`", entry.key);
            problems.add(entry.key_span.clone(), &self.subject, message, Some(&help));
        }
    }
}

/// `"a", "b" or "c"`.
pub fn quoted(words: &[&str]) -> String {
    let mut text = String::new();
    for (index, word) in words.iter().enumerate() {
        text += match index {
            0 => "",
            _ if index + 1 == words.len() => " or ",
            _ => ", ",
        };
        text += &format!("\"{word}\"");
    }
    text
}

/// The word that a typing mistake was most likely meant to be.
pub fn nearest<'a>(typed: &str, words: impl Iterator<Item = &'a str>) -> Option<&'a str> {
    words
        .map(|word| (distance(typed, word), word))
        .filter(|(distance, word)| *distance <= 1 + word.len() / 4)
        .min_by_key(|(distance, _)| *distance)
        .map(|(_, word)| word)
}

/// Levenshtein distance in bytes.
fn distance(a: &str, b: &str) -> usize {
    let mut row: Vec<usize> = (0..=b.len()).collect();
    for (i, x) in a.bytes().enumerate() {
        let mut diagonal = row[0];
        row[0] = i + 1;
        for (j, y) in b.bytes().enumerate() {
            let substitute = diagonal + usize::from(x != y);
            diagonal = row[j + 1];
            row[j + 1] = substitute.min(row[j] + 1).min(diagonal + 1);
        }
    }
    row[b.len()]
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn typing_mistakes_are_recognised() {
        let words = ["listen", "protocol", "to", "note"];
        assert_eq!(nearest("protocoll", words.into_iter()), Some("protocol"));
        assert_eq!(nearest("listem", words.into_iter()), Some("listen"));
        assert_eq!(nearest("bandwidth", words.into_iter()), None);
    }

    #[test]
    fn words_are_listed_as_people_do() {
        assert_eq!(quoted(&["a"]), "\"a\"");
        assert_eq!(quoted(&["a", "b", "c"]), "\"a\", \"b\" or \"c\"");
    }
}
