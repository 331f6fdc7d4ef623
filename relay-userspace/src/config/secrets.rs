//! Where secrets stand in a file, so that its lines can be shown without them.

use std::ops::Range;

use toml::de::DeTable;

use super::node::{Node, Span, Value, table_from_toml};

/// Keys of alerts that are secrets whole: beside tokens and passwords everything that may have one in it.
const OF_ALERTS: [&str; 11] =
    ["api_base", "body", "headers", "key", "password", "proxy", "secret", "server", "token", "topic", "url"];

/// The bytes of each token, of what each header says, and of whatever leads to an alert's channel.
pub fn find(text: &str) -> Vec<Range<usize>> {
    let (document, errors) = DeTable::parse_recoverable(text);
    // of what cannot be read lines say enough
    let mut found = if errors.is_empty() { Vec::new() } else { by_line(text) };
    collect(&Value::Table(table_from_toml(0, document.into_inner())), &mut found);
    found
}

/// What stands behind the keys of secrets, each on a line of its own.
fn by_line(text: &str) -> Vec<Range<usize>> {
    let mut found = Vec::new();
    let mut start = 0;
    for line in text.split_inclusive('\n') {
        if let Some((key, value)) = line.split_once('=')
            && OF_ALERTS.iter().any(|known| key.trim() == *known || key.trim().starts_with("headers."))
        {
            let value_start = start + line.len() - value.trim_start().len();
            found.push(value_start..start + line.trim_end().len());
        }
        start += line.len();
    }
    found
}

fn collect(value: &Value, found: &mut Vec<Range<usize>>) {
    match value {
        Value::Table(entries) => {
            for entry in entries {
                match (entry.key.as_str(), &entry.node.value) {
                    ("token", _) => found.extend(place(&entry.node)),
                    ("alert", Value::Array(alerts)) => {
                        alerts.iter().for_each(|alert| collect_of_alert(&alert.value, found));
                    }
                    ("alert", alert) => collect_of_alert(alert, found),
                    ("headers", Value::Table(headers)) => {
                        found.extend(headers.iter().filter_map(|header| place(&header.node)));
                    }
                    (_, value) => collect(value, found),
                }
            }
        }
        Value::Array(items) => items.iter().for_each(|item| collect(&item.value, found)),
        _ => {}
    }
}

fn collect_of_alert(alert: &Value, found: &mut Vec<Range<usize>>) {
    let Value::Table(entries) = alert else { return };
    let secrets = entries.iter().filter(|entry| OF_ALERTS.contains(&entry.key.as_str()));
    for entry in secrets {
        match &entry.node.value {
            // `headers.authorization = ...` stands in pieces
            Value::Table(inner) => found.extend(inner.iter().filter_map(|entry| place(&entry.node))),
            _ => found.extend(place(&entry.node)),
        }
    }
}

fn place(node: &Node) -> Option<Range<usize>> {
    node.span.clone().map(|Span { bytes, .. }| bytes)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn hidden(text: &str) -> String {
        let found = find(text);
        let is_hidden = |at: usize| found.iter().any(|range| range.contains(&at));
        text.char_indices().map(|(at, letter)| if is_hidden(at) { '*' } else { letter }).collect()
    }

    #[test]
    fn what_leads_to_a_channel_is_hidden() {
        for (text, shown) in [
            ("[[alert]]\nname = \"a\"\nurl = \"b\"\n", "[[alert]]\nname = \"a\"\nurl = ***\n"),
            (
                "[[alert]]\nheaders.x = \"b\"\nbody = \'\'\'\nc\'\'\'",
                "[[alert]]\nheaders.x = ***\nbody = ********",
            ),
            ("alert = [{ key = \"b\", name = \"a\" }]", "alert = [{ key = ***, name = \"a\" }]"),
            ("alert = { proxy = \"b\" }", "alert = { proxy = *** }"),
            ("[[rule]]\naccept = { key = \"k.pem\" }", "[[rule]]\naccept = { key = \"k.pem\" }"),
            // not TOML
            ("[[alert]]\nname = \"a\n  token =  \"b \nkind", "[[alert]]\nname = \"a\n  token =  ***\nkind"),
        ] {
            assert_eq!(hidden(text), shown, "{text}");
        }
    }
}
