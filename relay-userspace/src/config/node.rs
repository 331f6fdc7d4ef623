//! A configuration value with the place it was written at, whatever it was written in.

use std::ops::Range;

use toml::de::{DeTable, DeValue};

/// Which source file, and which bytes of it.
#[derive(Clone, Debug, Eq, PartialEq)]
pub struct Span {
    pub source: usize,
    pub bytes: Range<usize>,
}

/// A value and, if it came from a file, where it stands there.
#[derive(Clone, Debug, PartialEq)]
pub struct Node {
    pub span: Option<Span>,
    pub value: Value,
}

#[derive(Clone, Debug, PartialEq)]
pub enum Value {
    Null,
    Bool(bool),
    Integer(i64),
    Float(f64),
    Text(String),
    Array(Vec<Node>),
    Table(Table),
    /// A TOML date or time, as written.
    Datetime(String),
}

/// Keys in the order they were written.
pub type Table = Vec<Entry>;

#[derive(Clone, Debug, PartialEq)]
pub struct Entry {
    pub key: String,
    pub key_span: Option<Span>,
    pub node: Node,
}

impl Node {
    pub const fn new(value: Value) -> Self {
        Self { span: None, value }
    }

    pub fn text(text: impl Into<String>) -> Self {
        Self::new(Value::Text(text.into()))
    }

    /// What kind of value this is, for error texts.
    pub const fn kind(&self) -> &'static str {
        match self.value {
            Value::Null => "null",
            Value::Bool(_) => "a true or false",
            Value::Integer(_) => "a whole number",
            Value::Float(_) => "a number",
            Value::Text(_) => "a text",
            Value::Array(_) => "a list",
            Value::Table(_) => "a table",
            Value::Datetime(_) => "a date",
        }
    }

    /// The value as the user would write it, cut to a readable length.
    pub fn shown(&self) -> String {
        let full = match &self.value {
            Value::Null => "null".into(),
            Value::Bool(value) => value.to_string(),
            Value::Integer(value) => value.to_string(),
            Value::Float(value) => value.to_string(),
            Value::Text(text) => format!("{text:?}"),
            Value::Datetime(text) => text.clone(),
            Value::Array(items) => {
                format!("[{}]", items.iter().map(Self::shown).collect::<Vec<_>>().join(", "))
            }
            Value::Table(entries) => {
                let entries: Vec<String> =
                    entries.iter().map(|entry| format!("{} = {}", entry.key, entry.node.shown())).collect();
                format!("{{ {} }}", entries.join(", "))
            }
        };
        if full.chars().count() <= 80 { full } else { full.chars().take(79).chain(['…']).collect() }
    }

    /// From a parsed TOML document.
    pub fn from_toml(source: usize, bytes: Range<usize>, value: DeValue<'_>) -> Self {
        let value = match value {
            DeValue::String(text) => Value::Text(text.into_owned()),
            DeValue::Integer(integer) => match i64::from_str_radix(integer.as_str(), integer.radix()) {
                Ok(number) => Value::Integer(number),
                // beyond 64 bits: keep what was written, no field takes it
                Err(_too_large) => Value::Datetime(integer.as_str().to_owned()),
            },
            DeValue::Float(float) => float.as_str().parse().map_or(Value::Null, Value::Float),
            DeValue::Boolean(value) => Value::Bool(value),
            DeValue::Datetime(datetime) => Value::Datetime(datetime.to_string()),
            DeValue::Array(items) => Value::Array(
                items
                    .into_iter()
                    .map(|item| Self::from_toml(source, item.span(), item.into_inner()))
                    .collect(),
            ),
            DeValue::Table(table) => Value::Table(table_from_toml(source, table)),
        };
        Self { span: Some(Span { source, bytes }), value }
    }

    /// From the body of an API request.
    pub fn from_json(value: serde_json::Value) -> Self {
        use serde_json::Value as Json;
        Self::new(match value {
            Json::Null => Value::Null,
            Json::Bool(value) => Value::Bool(value),
            Json::Number(number) => match number.as_i64() {
                Some(integer) => Value::Integer(integer),
                None => Value::Float(number.as_f64().unwrap_or(f64::NAN)),
            },
            Json::String(text) => Value::Text(text),
            Json::Array(items) => Value::Array(items.into_iter().map(Self::from_json).collect()),
            Json::Object(entries) => Value::Table(
                entries
                    .into_iter()
                    .map(|(key, value)| Entry { key, key_span: None, node: Self::from_json(value) })
                    .collect(),
            ),
        })
    }
}

/// The entries of a parsed TOML table.
pub fn table_from_toml(source: usize, table: DeTable<'_>) -> Table {
    table
        .into_iter()
        .map(|(key, value)| {
            let key_span = Some(Span { source, bytes: key.span() });
            let bytes = value.span();
            Entry {
                key: key.into_inner().into_owned(),
                key_span,
                node: Node::from_toml(source, bytes, value.into_inner()),
            }
        })
        .collect()
}
