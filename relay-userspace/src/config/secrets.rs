//! Where secrets stand in a file, so that its lines can be shown without them.

use std::ops::Range;

use toml::de::DeTable;

use super::node::{Node, Span, Value, table_from_toml};

/// The bytes of each token, and of what each header says.
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

fn place(node: &Node) -> Option<Range<usize>> {
    node.span.clone().map(|Span { bytes, .. }| bytes)
}
