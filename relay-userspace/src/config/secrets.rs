//! Where secrets stand in a file, so that its lines can be shown without them.

use std::ops::Range;

use toml::de::DeTable;

use super::node::{Node, Span, Value, table_from_toml};

/// Keys of alerts that are secrets whole: beside tokens and passwords everything that may have one in it.
const OF_ALERTS: [&str; 11] =
    ["api_base", "body", "headers", "key", "password", "proxy", "secret", "server", "token", "topic", "url"];

/// The bytes of each token, of what each header says, and of whatever leads to an alert's channel.
pub fn find(text: &str) -> Vec<Range<usize>> {
    // what cannot be read is not found
    let (document, _errors) = DeTable::parse_recoverable(text);
    let mut found = Vec::new();
    collect(&Value::Table(table_from_toml(0, document.into_inner())), &mut found);
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
