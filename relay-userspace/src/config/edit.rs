//! Changing one rule in a configuration file and nothing else: comments, order and spelling of the rest stay.
//!
//! The block of one rule is cut out of the text, changed by itself and put back, so that a file of ten thousand rules
//! is not taken apart for one of them.

mod list;

use std::fs;
use std::io;
use std::ops::Range;
use std::path::{Path, PathBuf};

use serde_json::{Map, Value as Json, json};
use toml::de::{DeTable, DeValue};
use toml_edit::{DocumentMut, Item, TableLike, Value};

use super::decode::balance;
use super::encode::{to_toml, toml_value};
use super::patch::weighed;
use super::save::Staged;
use crate::rule::{Balance, Rule, RuleName};

/// A change to a file.
#[derive(Clone, Debug)]
pub enum Edit<'a> {
    Add(&'a Rule),
    /// Keys to set; null removes one. Tables are merged.
    Set(&'a RuleName, &'a Map<String, Json>),
    Remove(&'a RuleName),
}

/// Why a file was not changed.
#[derive(Debug, thiserror::Error)]
pub enum EditError {
    #[error("{path}: {source}", path = path.display())]
    Io { path: PathBuf, source: io::Error },
    #[error("{path} is not TOML any more: {message}; mend it first", path = path.display())]
    Broken { path: PathBuf, message: String },
    #[error("rule \"{name}\" is not in {path} any more; it has been changed by hand, so reload first", path = path.display())]
    Missing { name: RuleName, path: PathBuf },
}

/// Makes a change in the file, up to the last step.
pub fn stage(path: &Path, edit: &Edit<'_>) -> Result<Staged, EditError> {
    let io_error = |source| EditError::Io { path: path.to_owned(), source };
    let text = match fs::read_to_string(path) {
        Ok(text) => text,
        Err(error) if error.kind() == io::ErrorKind::NotFound && matches!(edit, Edit::Add(_)) => {
            String::new()
        }
        Err(error) => return Err(io_error(error)),
    };
    let changed = change_text(&text, edit).map_err(|refused| match refused {
        Refused::Broken(message) => EditError::Broken { path: path.to_owned(), message },
        Refused::Missing(name) => EditError::Missing { name, path: path.to_owned() },
    })?;
    Staged::write(path, &changed).map_err(io_error)
}

/// Why a text was not changed.
#[derive(Debug, PartialEq)]
pub(super) enum Refused {
    Broken(String),
    Missing(RuleName),
}

/// The text with the change made.
pub(super) fn change_text(text: &str, edit: &Edit<'_>) -> Result<String, Refused> {
    let document = DeTable::parse(text).map_err(|error| Refused::Broken(error.message().to_owned()))?;
    let layout = Layout::of(text, document.get_ref());
    if layout.inline {
        return change_inline(text, edit);
    }
    match edit {
        Edit::Add(rule) => Ok(appended(text, rule)),
        Edit::Remove(name) => {
            let block = layout.block(text, name).ok_or_else(|| Refused::Missing((*name).clone()))?;
            Ok(format!("{}{}", &text[..block.start], &text[block.end..]))
        }
        Edit::Set(name, fields) => {
            let block = layout.block(text, name).ok_or_else(|| Refused::Missing((*name).clone()))?;
            let changed = set_in_block(&text[block.clone()], fields)?;
            Ok(format!("{}{changed}{}", &text[..block.start], &text[block.end..]))
        }
    }
}

/// The text with many rules taken out and many put in, at once.
///
/// # Errors
///
/// The text is no TOML, or a rule to take out is not in it: in words.
pub fn rewritten(text: &str, remove: &[RuleName], add: &[Rule]) -> Result<String, String> {
    let shown = |refused| match refused {
        Refused::Broken(message) => format!("it is not TOML any more: {message}; mend it first"),
        Refused::Missing(name) => format!("rule \"{name}\" is not in it; remove it where it is kept"),
    };
    let document =
        DeTable::parse(text).map_err(|error| shown(Refused::Broken(error.message().to_owned())))?;
    let layout = Layout::of(text, document.get_ref());
    if layout.inline {
        let edits = remove.iter().map(Edit::Remove).chain(add.iter().map(Edit::Add));
        return edits
            .into_iter()
            .try_fold(text.to_owned(), |text, edit| change_text(&text, &edit))
            .map_err(shown);
    }
    let mut blocks = Vec::with_capacity(remove.len());
    for name in remove {
        blocks.push(layout.block(text, name).ok_or_else(|| shown(Refused::Missing(name.clone())))?);
    }
    blocks.sort_by_key(|block| block.start);
    let mut changed = text.to_owned();
    for block in blocks.into_iter().rev() {
        changed.replace_range(block, "");
    }
    for rule in add {
        let gap = if changed.is_empty() || changed.ends_with("\n\n") {
            ""
        } else if changed.ends_with('\n') {
            "\n"
        } else {
            "\n\n"
        };
        changed += gap;
        changed += &to_toml(rule);
    }
    Ok(changed)
}

fn appended(text: &str, rule: &Rule) -> String {
    let gap = match text {
        "" => "",
        _ if text.ends_with("\n\n") => "",
        _ if text.ends_with('\n') => "\n",
        _ => "\n\n",
    };
    format!("{text}{gap}{}", to_toml(rule))
}

/// Where the rules of a file begin and end.
struct Layout {
    /// Rules written as `rule = [{ ... }]`.
    inline: bool,
    /// Name and offset of each `[[rule]]` header.
    rules: Vec<(String, usize)>,
    /// Offsets of all headers that are not part of a rule, sorted.
    headers: Vec<usize>,
}

impl Layout {
    fn of(text: &str, document: &DeTable<'_>) -> Self {
        let mut layout = Self { inline: false, rules: Vec::new(), headers: Vec::new() };
        for (key, value) in document {
            match value.get_ref() {
                DeValue::Array(items) if key.get_ref() == "rule" => {
                    // `rule = []`: no block can follow it
                    layout.inline |= items.is_empty();
                    for item in items.iter() {
                        layout.inline |= !text[item.span()].starts_with("[[");
                        layout.headers.push(item.span().start);
                        layout.rules.push((name_of(item.get_ref()), item.span().start));
                    }
                }
                DeValue::Array(items) => layout.headers.extend(items.iter().map(|item| item.span().start)),
                _ => layout.headers.push(line_start(text, key.span().start)),
            }
        }
        layout.headers.sort_unstable();
        layout
    }

    /// A rule's text: the comment lines right above its header, the header, and everything up to the next block.
    fn block(&self, text: &str, name: &RuleName) -> Option<Range<usize>> {
        let (_, header) = self.rules.iter().find(|(known, _)| known == name.as_str())?;
        let next = self.headers.iter().copied().find(|offset| offset > header);
        let end = next.map_or(text.len(), |next| comments_above(text, next));
        Some(comments_above(text, *header)..end)
    }
}

fn name_of(rule: &DeValue<'_>) -> String {
    match rule.get("name").map(|name| name.get_ref()) {
        Some(DeValue::String(name)) => name.to_string(),
        _ => String::new(),
    }
}

fn line_start(text: &str, offset: usize) -> usize {
    text[..offset].rfind('\n').map_or(0, |newline| newline + 1)
}

/// Where the run of comment lines that ends right above a header starts; a run at the top of the file is the file's.
fn comments_above(text: &str, header: usize) -> usize {
    let mut start = line_start(text, header);
    while start > 0 {
        let above = line_start(text, start - 1);
        if !text[above..start].trim_start().starts_with('#') {
            return start;
        }
        start = above;
    }
    line_start(text, header)
}

/// Sets keys in a text that holds one `[[rule]]`.
fn set_in_block(block: &str, fields: &Map<String, Json>) -> Result<String, Refused> {
    let mut document: DocumentMut =
        block.parse().map_err(|error: toml_edit::TomlError| Refused::Broken(error.message().to_owned()))?;
    if let Some(rule) =
        document.get_mut("rule").and_then(Item::as_array_of_tables_mut).and_then(|rules| rules.get_mut(0))
    {
        change_rule(rule, fields);
    }
    Ok(document.to_string())
}

fn change_rule(rule: &mut dyn TableLike, fields: &Map<String, Json>) {
    if fields.contains_key("to") || fields.contains_key("balance") {
        take_weights_along(rule);
    }
    // a kind alone is short for a table with it
    if fields.get("check").is_some_and(Json::is_object)
        && let Some(Item::Value(short)) = rule.get_mut("check")
        && let Some(kind) = short.as_str().map(ToOwned::to_owned)
    {
        let decor = short.decor().clone();
        *short = toml_value(&json!({ "kind": kind }));
        *short.decor_mut() = decor;
    }
    merge(rule, fields);
}

/// Weights by position (`balance = "roundrobin: 4, 2, 1"`) mean nothing beside another list: they go into `to` first.
fn take_weights_along(rule: &mut dyn TableLike) {
    let Some(Item::Value(text)) = rule.get("balance") else { return };
    let Some((word, Some(positions))) = text.as_str().map(balance::spelled) else { return };
    let (method, weights) = (balance::method(word), balance::weights(positions));
    let Some(weights) = weights.map(|(_, weight)| weight).collect::<Option<Vec<u16>>>() else { return };
    let to = match rule.get("to").cloned().map(Item::into_value) {
        Some(Ok(Value::Array(items))) => items.iter().map(list::json).collect(),
        Some(Ok(single)) => vec![list::json(&single)],
        _ => return,
    };
    let to = to.into_iter().zip(weights).map(|(item, weight)| weighed(item, weight)).collect();
    let own = [("to", to), ("balance", json!(method.map(Balance::as_str)))];
    merge(rule, &own.map(|(key, value)| (key.to_owned(), value)).into_iter().collect());
}

/// Files with `rule = [{ ... }]` are rare and short: they are taken apart whole.
fn change_inline(text: &str, edit: &Edit<'_>) -> Result<String, Refused> {
    let mut document: DocumentMut =
        text.parse().map_err(|error: toml_edit::TomlError| Refused::Broken(error.message().to_owned()))?;
    let Some(rules) = document.get_mut("rule").and_then(Item::as_array_mut) else {
        return Err(Refused::Broken("`rule` is neither `[[rule]]` nor a list".into()));
    };
    let find = |rules: &toml_edit::Array, name: &RuleName| {
        rules
            .iter()
            .position(|rule| {
                let rule = rule.as_inline_table().and_then(|rule| rule.get("name"));
                rule.and_then(Value::as_str) == Some(name.as_str())
            })
            .ok_or_else(|| Refused::Missing(name.clone()))
    };
    match edit {
        Edit::Add(rule) => {
            rules.push(toml_value(&Json::Object(super::encode::to_json(rule))));
        }
        Edit::Remove(name) => {
            let index = find(rules, name)?;
            rules.remove(index);
        }
        Edit::Set(name, fields) => {
            let index = find(rules, name)?;
            if let Some(rule) = rules.get_mut(index).and_then(Value::as_inline_table_mut) {
                change_rule(rule, fields);
            }
        }
    }
    Ok(document.to_string())
}

fn merge(table: &mut dyn TableLike, fields: &Map<String, Json>) {
    for (key, value) in fields {
        match (value, table.get_mut(key)) {
            (Json::Null, _) => {
                table.remove(key);
            }
            (Json::Object(inner), Some(item)) if item.is_table_like() => {
                if let Some(inner_table) = item.as_table_like_mut() {
                    merge(inner_table, inner);
                }
                if table.get(key).and_then(Item::as_table_like).is_some_and(TableLike::is_empty) {
                    table.remove(key);
                }
            }
            (Json::Object(inner), None) if inner.values().all(Json::is_null) => {}
            (Json::Array(items), Some(Item::Value(Value::Array(old)))) => list::merge(key, old, items),
            (value, Some(Item::Value(old))) => {
                let decor = old.decor().clone();
                *old = toml_value(value);
                *old.decor_mut() = decor;
            }
            (value, _) => {
                table.insert(key, Item::Value(toml_value(value)));
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::rule::{Backend, Listener};
    use serde_json::json;

    const FILE: &str = "\
# my relay
[log]
level = \"info\"

# the fast one
[[rule]]
name = \"a\"   # keep me
listen = \":80\"
to = [
  \"10.0.0.1:80\",  # tokyo
]
[rule.timeout]
udp = \"5s\"

# below a

# about b
[[rule]]
name = \"b\"
listen = \":81\"
to = \"10.0.0.2:80\"

[metrics]
listen = \"127.0.0.1:9464\"
";

    fn name(text: &str) -> RuleName {
        RuleName::parse(text).expect(text)
    }

    fn set(text: &str, rule: &str, fields: Json) -> String {
        let Json::Object(fields) = fields else { panic!("not an object") };
        change_text(text, &Edit::Set(&name(rule), &fields)).expect("set")
    }

    #[test]
    fn set_touches_one_value() {
        let changed = set(FILE, "b", json!({ "to": "10.0.0.3:80" }));
        assert_eq!(changed, FILE.replace("10.0.0.2:80", "10.0.0.3:80"));
        let changed = set(FILE, "a", json!({ "listen": ":8080", "timeout": { "udp": "9s" } }));
        assert_eq!(changed, FILE.replace("\":80\"", "\":8080\"").replace("\"5s\"", "\"9s\""));
    }

    #[test]
    fn set_adds_and_clears_keys() {
        let changed = set(FILE, "b", json!({ "enabled": false, "note": "香港" }));
        assert!(
            changed.contains("to = \"10.0.0.2:80\"\nenabled = false\nnote = \"香港\"\n\n[metrics]"),
            "{changed}"
        );
        assert_eq!(set(&changed, "b", json!({ "enabled": null, "note": null })), FILE);
        let changed = set(FILE, "a", json!({ "timeout": { "udp": null } }));
        assert!(!changed.contains("timeout"), "{changed}");
        // a table that is new has no key for what the patch clears
        let changed = set(FILE, "b", json!({ "connect": { "transport": "tls", "path": null } }));
        assert!(changed.contains("connect = { transport = \"tls\" }\n"), "{changed}");
    }

    #[test]
    fn a_list_keeps_its_lines() {
        let grown = set(FILE, "a", json!({ "to": ["10.0.0.1:80", "10.0.0.9:80"] }));
        assert_eq!(grown, FILE.replace("# tokyo\n", "# tokyo\n  \"10.0.0.9:80\",\n"));
        assert_eq!(set(&grown, "a", json!({ "to": ["10.0.0.1:80"] })), FILE);
    }

    #[test]
    fn weights_by_position_go_along() {
        let text = "to = [\"a:1\", \"b:1\"] # two\nbalance = \"iphash: 4, 1\" # mine\n";
        let file = format!("[[rule]]\nname = \"a\"\nlisten = \":80\"\n{text}");
        let own = "to = [{ addr = \"a:1\", weight = 4 }, { addr = \"b:1\", weight = 1 }] # two\n";
        let head = &file[..file.len() - text.len()];
        assert_eq!(set(&file, "a", json!({ "note": null })), file, "nothing else asks for it");
        let balanced = set(&file, "a", json!({ "balance": "first" }));
        assert_eq!(balanced, format!("{head}{own}balance = \"first\" # mine\n"));
        assert_eq!(set(&file, "a", json!({ "balance": null })), format!("{head}{own}"));
        let fewer = set(&file, "a", json!({ "to": [{ "addr": "a:1", "weight": 4 }] }));
        assert_eq!(
            fewer,
            format!("{head}to = [{{ addr = \"a:1\", weight = 4 }}] # two\nbalance = \"iphash\" # mine\n")
        );
        let tables = format!("{head}balance = \"off: 4\"\n[[rule.to]]\naddr = \"a:1\"\n");
        let changed = set(&tables, "a", json!({ "balance": "leastconn" }));
        assert_eq!(
            changed,
            format!("{head}balance = \"leastconn\"\nto = [{{ addr = \"a:1\", weight = 4 }}]\n")
        );
    }

    #[test]
    fn a_check_that_is_a_word_keeps_its_kind() {
        let file = "[[rule]]\nname = \"a\"\nlisten = \":80\"\nto = \"a\"\ncheck = \"http\" # it\n";
        let changed = set(file, "a", json!({ "check": { "path": "/up" } }));
        assert_eq!(changed, file.replace("\"http\"", "{ kind = \"http\", path = \"/up\" }"));
        assert_eq!(set(file, "a", json!({ "check": null })), file.replace("check = \"http\" # it\n", ""));
    }

    #[test]
    fn remove_takes_the_rule_and_its_comment() {
        let changed = change_text(FILE, &Edit::Remove(&name("b"))).expect("remove");
        let start = FILE.find("# about b").expect("b");
        let end = FILE.find("[metrics]").expect("metrics");
        assert_eq!(changed, format!("{}{}", &FILE[..start], &FILE[end..]));
        let changed = change_text(FILE, &Edit::Remove(&name("a"))).expect("remove");
        assert!(
            changed.starts_with("# my relay\n[log]\nlevel = \"info\"\n\n# about b\n[[rule]]"),
            "{changed}"
        );
    }

    #[test]
    fn the_files_own_head_comment_stays() {
        let file = "# my relay\n[[rule]]\nname = \"a\"\nlisten = \":80\"\nto = \"10.0.0.1\"\n";
        assert_eq!(change_text(file, &Edit::Remove(&name("a"))), Ok("# my relay\n".into()));
    }

    fn rule(text: &str) -> Rule {
        let listener = Listener::parse(":443").expect("listener");
        let backend = Backend::parse("10.0.0.9:443").expect("backend");
        Rule::new(name(text), vec![listener], vec![backend])
    }

    #[test]
    fn add_appends_a_block() {
        let added = "[[rule]]\nname = \"c\"\nlisten = \":443\"\nto = \"10.0.0.9:443\"\n";
        assert_eq!(change_text("", &Edit::Add(&rule("c"))), Ok(added.into()));
        assert_eq!(change_text(FILE, &Edit::Add(&rule("c"))), Ok(format!("{FILE}\n{added}")));
        assert_eq!(change_text("[log]", &Edit::Add(&rule("c"))), Ok(format!("[log]\n\n{added}")));
    }

    #[test]
    fn inline_rules_stay_inline() {
        let file = "rule = [{ name = \"a\", listen = \":80\", to = \"10.0.0.1\" }] # all\n";
        let changed = change_text(file, &Edit::Add(&rule("c"))).expect("add");
        assert!(changed.contains("name = \"c\"") && changed.contains("# all"), "{changed}");
        let changed = change_text(&changed, &Edit::Remove(&name("a"))).expect("remove");
        assert!(!changed.contains("\"a\""), "{changed}");
    }

    #[test]
    fn an_empty_list_takes_a_rule() {
        let changed = change_text("rule = [] # none\n", &Edit::Add(&rule("c"))).expect("add");
        assert!(changed.starts_with("rule = [{") && changed.ends_with("] # none\n"), "{changed}");
    }

    #[test]
    fn a_rule_that_is_gone_is_named() {
        assert_eq!(change_text(FILE, &Edit::Remove(&name("x"))), Err(Refused::Missing(name("x"))));
        assert!(matches!(change_text("a = ", &Edit::Remove(&name("x"))), Err(Refused::Broken(_))));
    }
}
