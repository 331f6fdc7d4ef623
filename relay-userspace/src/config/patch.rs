//! Changes of single keys of a rule: `key=value`, `to+=`, `to-=`, JSON merge patches (RFC 7396).

use serde_json::{Map, Value, json};

use super::decode;
use super::node::{Node, Value as NodeValue};
use super::problem::Problems;
use crate::rule::{Backend, Listener, Network, Rule};

/// `to+` and `to-` as the list that they make of `to`, in tables too.
pub fn spelled_out(
    before: &Map<String, Value>,
    fields: Map<String, Value>,
) -> Result<Map<String, Value>, Problems> {
    let mut problems = Problems::default();
    let spelled = spell(before, fields, &mut problems);
    problems.into_result(spelled)
}

fn spell(
    before: &Map<String, Value>,
    fields: Map<String, Value>,
    problems: &mut Problems,
) -> Map<String, Value> {
    let mut spelled = Map::new();
    for (key, value) in fields {
        let (name, grow) = match (key.strip_suffix('+'), key.strip_suffix('-')) {
            (Some(name), _) => (name, true),
            (_, Some(name)) => (name, false),
            _ => {
                let value = match value {
                    Value::Object(inner) => {
                        let nothing = Map::new();
                        let before = before.get(&key).and_then(Value::as_object).unwrap_or(&nothing);
                        Value::Object(spell(before, inner, problems))
                    }
                    value => value,
                };
                spelled.insert(key, value);
                continue;
            }
        };
        let current = spelled.get(name).or_else(|| before.get(name)).cloned().unwrap_or(json!([]));
        let mut list = as_list(current);
        let items = as_list(value);
        if grow {
            list.extend(items);
        } else {
            let unwanted: Vec<Value> = items.iter().map(|item| plain(name, item)).collect();
            for item in unwanted.iter().filter(|item| !list.contains(item)) {
                let has = list.iter().map(Value::to_string).collect::<Vec<_>>().join(", ");
                problems.add(
                    None,
                    name,
                    format!("{item} is not in the list"),
                    Some(&format!("it has {has}")),
                );
            }
            list.retain(|item| !unwanted.contains(item));
        }
        spelled.insert(name.to_owned(), Value::Array(list));
    }
    spelled
}

/// A list's item as rules print it: `80` is `:80`.
fn plain(key: &str, item: &Value) -> Value {
    let text = match item {
        Value::String(text) => text.clone(),
        other => other.to_string(),
    };
    let printed = match key {
        "listen" => Listener::parse(&text).ok().map(|listener| listener.to_string()),
        "allow" => Network::parse(&text).ok().map(|network| network.to_string()),
        "to" => Backend::parse(&text).ok().map(|backend| backend.to_string()),
        "trusted" => Network::parse(&text).ok().map(|network| network.to_string()),
        _ => None,
    };
    printed.map_or_else(|| item.clone(), Value::String)
}

fn as_list(value: Value) -> Vec<Value> {
    match value {
        Value::Array(items) => items,
        value => vec![value],
    }
}

/// A rule with some keys replaced.
pub fn patched(mut rule: Map<String, Value>, fields: &Map<String, Value>) -> Result<Rule, Problems> {
    merge(&mut rule, fields);
    let node = Node::from_json(Value::Object(rule));
    let mut problems = Problems::default();
    let NodeValue::Table(table) = &node.value else { return Err(problems) };
    decode::rule(table, None, None, &mut problems).ok_or(problems)
}

/// JSON merge patch (RFC 7396).
fn merge(target: &mut Map<String, Value>, patch: &Map<String, Value>) {
    for (key, value) in patch {
        match (target.get_mut(key), value) {
            (_, Value::Null) => {
                target.remove(key);
            }
            (Some(Value::Object(inner)), Value::Object(patch)) => merge(inner, patch),
            (None, Value::Object(patch)) => {
                let mut inner = Map::new();
                merge(&mut inner, patch);
                target.insert(key.clone(), Value::Object(inner));
            }
            _ => {
                target.insert(key.clone(), value.clone());
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn object(value: Value) -> Map<String, Value> {
        let Value::Object(map) = value else { panic!("not an object: {value}") };
        map
    }

    #[test]
    fn lists_grow_and_shrink() {
        let before = object(json!({ "to": "a:1", "listen": [":1", ":2"] }));
        let fields = object(json!({ "to+": "b:1", "listen-": ":1", "note": "x" }));
        let spelled = spelled_out(&before, fields).expect("fields");
        assert_eq!(Value::Object(spelled), json!({ "to": ["a:1", "b:1"], "listen": [":2"], "note": "x" }));
        for same in [json!({ "listen-": "1" }), json!({ "listen-": 1 }), json!({ "listen-": ["*:1"] })] {
            let spelled = spelled_out(&before, object(same)).expect("fields");
            assert_eq!(Value::Object(spelled), json!({ "listen": [":2"] }));
        }
        let before_tables = object(json!({ "accept": { "trusted": "10.0.0.0/8" } }));
        let fields = object(json!({ "accept": { "trusted+": ["192.0.2.1"] }, "timeout": { "udp": "5s" } }));
        let spelled = spelled_out(&before_tables, fields).expect("fields");
        assert_eq!(
            Value::Object(spelled),
            json!({ "accept": { "trusted": ["10.0.0.0/8", "192.0.2.1"] }, "timeout": { "udp": "5s" } })
        );
        let before_networks = object(json!({ "accept": { "allow": ["192.0.2.1", "10.0.0.0/8"] } }));
        let spelled =
            spelled_out(&before_networks, object(json!({ "accept": { "allow-": "192.0.2.1/32" } })));
        assert_eq!(Value::Object(spelled.expect("fields")), json!({ "accept": { "allow": ["10.0.0.0/8"] } }));
        let absent = spelled_out(&before, object(json!({ "listen-": ":3" }))).expect_err("absent");
        assert_eq!(absent.to_string(), "listen: \":3\" is not in the list; it has \":1\", \":2\"");
    }

    #[test]
    fn patches_merge_tables_and_clear_with_null() {
        let mut rule = object(json!({ "a": 1, "timeout": { "udp": "5s", "tcp_idle": "1h" } }));
        merge(
            &mut rule,
            &object(json!({ "a": null, "b": 2, "timeout": { "udp": null }, "rate": { "x": 1 } })),
        );
        assert_eq!(
            Value::Object(rule),
            json!({ "timeout": { "tcp_idle": "1h" }, "b": 2, "rate": { "x": 1 } })
        );
    }
}
