//! Changing a list and keeping what is written around the items that stay: their comments, their lines, their spelling.

use serde_json::Value as Json;
use toml_edit::{Array, Value};

use super::super::encode::toml_value;
use super::super::patch::plain;

/// An item with what is written before it, and behind it on its line.
struct Item {
    lead: String,
    value: Value,
    rest: String,
}

/// Makes `array`, the value of `key`, the list `wanted`.
pub(super) fn merge(key: &str, array: &mut Array, wanted: &[Json]) {
    let (opening, mut old, closing) = taken_apart(array);
    let indent = old.last().map_or_else(String::new, |item| indentation(&item.lead));
    let lead = if indent.is_empty() { " ".to_owned() } else { indent };
    let items = wanted.iter().map(|wanted| {
        let name = plain(key, wanted);
        let known = old.iter().position(|item| plain(key, &json(&item.value)) == name);
        match known.map(|index| old.remove(index)) {
            Some(item) if json(&item.value) == *wanted => item,
            // a text that is the same in other words
            Some(item) if wanted.is_string() && item.value.as_inline_table().is_none() => item,
            Some(item) => Item { value: toml_value(wanted), ..item },
            None => Item { lead: lead.clone(), value: toml_value(wanted), rest: String::new() },
        }
    });
    let items: Vec<Item> = items.collect();
    put_together(array, opening, items, closing);
}

/// What follows the bracket on its line, the items, and what comes before the closing bracket.
fn taken_apart(array: &Array) -> (String, Vec<Item>, String) {
    let text = |raw: Option<&toml_edit::RawString>| raw.and_then(|raw| raw.as_str()).unwrap_or("").to_owned();
    let mut opening = String::new();
    let mut items: Vec<Item> = Vec::new();
    let mut suffix = String::new();
    for value in array.iter() {
        let between = suffix + &text(value.decor().prefix());
        suffix = text(value.decor().suffix());
        let (rest, lead) = split_line(&between);
        match items.last_mut() {
            Some(item) => item.rest = rest,
            None => opening = rest,
        }
        let mut value = value.clone();
        value.decor_mut().clear();
        items.push(Item { lead, value, rest: String::new() });
    }
    let (rest, closing) = split_line(&(suffix + &text(Some(array.trailing()))));
    if let Some(item) = items.last_mut() {
        item.rest = rest;
    }
    (opening, items, closing)
}

/// The rest of a line, and the following ones with the line break.
fn split_line(between: &str) -> (String, String) {
    let (rest, lead) = between.find('\n').map_or(("", between), |end| between.split_at(end));
    (rest.to_owned(), lead.to_owned())
}

/// The line break and blanks before an item that begins a line.
fn indentation(lead: &str) -> String {
    lead.rfind('\n').map_or_else(String::new, |start| lead[start..].to_owned())
}

fn put_together(array: &mut Array, opening: String, items: Vec<Item>, closing: String) {
    let comma = array.trailing_comma();
    let mut before = opening;
    array.clear();
    for (index, Item { lead, mut value, rest }) in items.into_iter().enumerate() {
        let is_first_of_line = index == 0 && before.is_empty();
        let lead = if is_first_of_line { lead.trim_start_matches(' ').to_owned() } else { lead };
        value.decor_mut().set_prefix(below(before, &lead));
        value.decor_mut().set_suffix("");
        array.push_formatted(value);
        before = rest;
    }
    array.set_trailing(below(before, &closing));
    array.set_trailing_comma(comma);
}

/// A comment ends with its line.
fn below(rest: String, next: &str) -> String {
    let needs_break = rest.contains('#') && !next.starts_with('\n');
    rest + if needs_break { "\n" } else { "" } + next
}

/// What an item says, without how it is written.
pub(super) fn json(value: &Value) -> Json {
    match value {
        Value::String(text) => Json::from(text.value().as_str()),
        Value::Integer(number) => Json::from(*number.value()),
        Value::Boolean(flag) => Json::from(*flag.value()),
        Value::InlineTable(table) => {
            Json::Object(table.iter().map(|(key, value)| (key.to_owned(), json(value))).collect())
        }
        // no list of a rule has such items
        Value::Float(_) | Value::Datetime(_) | Value::Array(_) => Json::Null,
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;
    use toml_edit::DocumentMut;

    fn merged(text: &str, wanted: Json) -> String {
        let mut document: DocumentMut = format!("to = {text}\n").parse().expect(text);
        let Json::Array(wanted) = wanted else { panic!("not a list") };
        merge("to", document["to"].as_array_mut().expect("list"), &wanted);
        let text = document.to_string();
        text.strip_prefix("to = ").expect("key").trim_end().to_owned()
    }

    const LIST: &str = "[ # all of them
  # the fast one
  \"10.0.0.1:80\",  # tokyo
  { addr = '10.0.0.2:80', weight = 2 },
  # the last one
  \"2001:db8::5\" # osaka
]";

    #[test]
    fn what_stays_is_not_touched() {
        let same = json!(["10.0.0.1:80", { "addr": "10.0.0.2:80", "weight": 2 }, "[2001:db8::5]"]);
        assert_eq!(merged(LIST, same), LIST);
    }

    #[test]
    fn items_come_and_go_with_their_comments() {
        let grown = json!(["10.0.0.1:80", { "addr": "10.0.0.2:80", "weight": 2 }, "[2001:db8::5]", "a"]);
        assert_eq!(merged(LIST, grown), LIST.replace("db8::5\" # osaka\n", "db8::5\", # osaka\n  \"a\"\n"));
        let lasting = json!([{ "addr": "10.0.0.2:80", "weight": 2 }, "[2001:db8::5]"]);
        let shrunk = LIST.replace("  # the fast one\n  \"10.0.0.1:80\",  # tokyo\n", "");
        assert_eq!(merged(LIST, lasting), shrunk);
        let first = LIST.split_once("  {").expect("second").0;
        assert_eq!(
            merged(LIST, json!(["10.0.0.1:80"])),
            format!("{}\n]", first.trim_end().replace("\",", "\""))
        );
    }

    #[test]
    fn a_weight_changes_one_item() {
        let weighed = json!([{ "addr": "10.0.0.1:80", "weight": 3 }, "10.0.0.2:80", "[2001:db8::5]"]);
        let expected = LIST
            .replace("\"10.0.0.1:80\"", "{ addr = \"10.0.0.1:80\", weight = 3 }")
            .replace("{ addr = '10.0.0.2:80', weight = 2 }", "\"10.0.0.2:80\"");
        assert_eq!(merged(LIST, weighed), expected);
    }

    #[test]
    fn lists_on_one_line_stay_there() {
        assert_eq!(merged("[\"a\"]", json!(["a", "b"])), "[\"a\", \"b\"]");
        assert_eq!(merged("[ \"a\", \"b\" ]", json!(["b", "c"])), "[\"b\", \"c\" ]");
        assert_eq!(merged("[\"a\", # one\n\"b\"]", json!(["b", "a"])), "[\n\"b\",\"a\" # one\n]");
        assert_eq!(merged("[]", json!(["a"])), "[\"a\"]");
    }
}
