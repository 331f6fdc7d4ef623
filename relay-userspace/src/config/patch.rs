//! Changes of single keys of a rule: `key=value`, `to+=`, `to-=`, JSON merge patches (RFC 7396).

use serde_json::{Map, Value, json};

use super::decode::{self, balance};
use super::node::{Node, Value as NodeValue};
use super::problem::Problems;
use crate::rule::{Backend, Listener, Network, Rule, Transport};

/// `to+` and `to-` as the list that they make of `to`, in tables too, and weights by position as those of `to`.
pub fn spelled_out(
    before: &Map<String, Value>,
    mut fields: Map<String, Value>,
) -> Result<Map<String, Value>, Problems> {
    let mut problems = Problems::default();
    // a backend is replaced whole: what one was says nothing of another
    if let Some(to @ Value::Object(_)) = fields.get_mut("to") {
        *to = json!([to]);
    }
    let is_whole = fields.contains_key("to");
    let mut spelled = spell(before, fields, &mut problems);
    weigh(before, &mut spelled, is_whole);
    keep_limit(before, &mut spelled);
    keep_protocol(before, &mut spelled);
    problems.into_result(spelled)
}

/// `balance = "roundrobin: 4, 2, 1"` weighs what `to` has by now. Where that cannot be, it is left as it is, for the decoder to
/// say why. `is_whole`: `to` was given anew, so weights in it were, too.
fn weigh(before: &Map<String, Value>, fields: &mut Map<String, Value>, is_whole: bool) {
    let Some((word, Some(positions))) = fields.get("balance").and_then(Value::as_str).map(balance::spelled)
    else {
        return;
    };
    let has_weight = |item: &Value| item.get("weight").is_some();
    let to = fields.get("to").or_else(|| before.get("to"));
    let Some((to, method)) = to.cloned().map(as_list).zip(balance::method(word)) else { return };
    let weights: Option<Vec<u16>> = balance::weights(positions).map(|(_, weight)| weight).collect();
    let Some(weights) = weights.filter(|weights| weights.len() == to.len()) else { return };
    if is_whole && to.iter().any(has_weight) {
        return;
    }
    let weighed = to.into_iter().zip(weights).map(|(item, weight)| weighed(item, weight)).collect();
    fields.insert("to".into(), weighed);
    fields.insert("balance".into(), json!(method.as_str()));
}

/// A quota may be written as its limit alone, beside which no other key of it can stand: that becomes a table with the limit in it.
fn keep_limit(before: &Map<String, Value>, fields: &mut Map<String, Value>) {
    const KEY: &str = "limit";
    let limit = before.get("quota").and_then(|quota| quota.get(KEY));
    if let (Some(Value::Object(quota)), Some(limit)) = (fields.get_mut("quota"), limit)
        && !quota.contains_key(KEY)
    {
        quota.insert(KEY.into(), limit.clone());
    }
}

/// A rule with a tunnel carries TCP alone without saying so. When it has none any more, that must be said, so that the file says
/// what is live.
fn keep_protocol(before: &Map<String, Value>, fields: &mut Map<String, Value>) {
    if fields.contains_key("protocol") || !has_tunnel(before) {
        return;
    }
    let mut after = before.clone();
    merge(&mut after, fields);
    if let (false, Some(protocol)) = (has_tunnel(&after), before.get("protocol")) {
        fields.insert("protocol".into(), protocol.clone());
    }
}

fn has_tunnel(rule: &Map<String, Value>) -> bool {
    let transports = ["accept", "connect"].map(|leg| rule.get(leg).and_then(|leg| leg.get("transport")));
    transports.into_iter().flatten().any(|transport| transport != Transport::Plain.as_str())
}

/// A backend with a weight of its own.
pub(super) fn weighed(item: Value, weight: u16) -> Value {
    let mut table = match item {
        Value::Object(table) => table,
        addr => Map::from_iter([("addr".to_owned(), addr)]),
    };
    table.insert("weight".into(), json!(weight));
    Value::Object(table)
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
            let unwanted: Vec<String> = items.iter().map(|item| plain(name, item)).collect();
            let known: Vec<String> = list.iter().map(|item| plain(name, item)).collect();
            for item in unwanted.iter().filter(|item| !known.contains(item)) {
                let help = format!("it has {}", quoted(&known));
                problems.add(None, name, format!("{item:?} is not in the list"), Some(&help));
            }
            list.retain(|item| !unwanted.contains(&plain(name, item)));
        }
        spelled.insert(name.to_owned(), Value::Array(list));
    }
    spelled
}

/// What a list's item is called, as rules print it: `80` is `:80`, and a backend its address, whatever its weight.
pub(super) fn plain(key: &str, item: &Value) -> String {
    let named = item.get("addr").filter(|_| key == "to").unwrap_or(item);
    let text = match named {
        Value::String(text) => text.clone(),
        other => other.to_string(),
    };
    let printed = match key {
        "listen" => Listener::parse(&text).ok().map(|listener| listener.to_string()),
        "allow" | "trusted" => Network::parse(&text).ok().map(|network| network.to_string()),
        "to" => Backend::parse(&text).ok().map(|backend| backend.to_string()),
        _ => None,
    };
    printed.unwrap_or(text)
}

fn quoted(texts: &[String]) -> String {
    texts.iter().map(|text| format!("{text:?}")).collect::<Vec<_>>().join(", ")
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
        let fields = object(json!({ "to+": [{ "addr": "b:1", "weight": 2 }, "c:1"] }));
        let spelled = spelled_out(&before, fields).expect("fields");
        assert_eq!(Value::Object(spelled), json!({ "to": ["a:1", { "addr": "b:1", "weight": 2 }, "c:1"] }));
        let several = object(json!({ "to": [{ "addr": "[2001:db8::5]", "weight": 2 }, "a:1", "b:1"] }));
        let spelled = spelled_out(&several, object(json!({ "to-": ["2001:db8::5", "b:1"] })));
        assert_eq!(Value::Object(spelled.expect("fields")), json!({ "to": ["a:1"] }));
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
    fn a_backend_inherits_nothing() {
        let before = object(json!({ "to": { "addr": "a:1", "weight": 4 } }));
        let spelled = spelled_out(&before, object(json!({ "to": { "addr": "b:1" } }))).expect("fields");
        assert_eq!(Value::Object(spelled), json!({ "to": [{ "addr": "b:1" }] }));
    }

    #[test]
    fn weights_by_position_become_the_backends_own() {
        let weighed = json!({ "to": [{ "addr": "a:1", "weight": 4 }, { "addr": "b:1", "priority": 1, "weight": 2 }],
            "balance": "iphash" });
        let before = object(json!({ "to": ["a:1", { "addr": "b:1", "weight": 7, "priority": 1 }] }));
        let by_position = || object(json!({ "balance": "iphash: 4, 2" }));
        assert_eq!(Value::Object(spelled_out(&before, by_position()).expect("fields")), weighed);
        let with_list =
            object(json!({ "to": ["a:1", { "addr": "b:1", "priority": 1 }], "balance": "iphash:4,2" }));
        assert_eq!(Value::Object(spelled_out(&before, with_list).expect("fields")), weighed);
        // for the decoder to refuse
        for wrong in [
            json!({ "balance": "iphash: 4" }),
            json!({ "balance": "best: 4, 2" }),
            json!({ "balance": "iphash: 4, x" }),
            json!({ "balance": "iphash: 4, 2", "to": ["a:1", { "addr": "b:1", "weight": 1 }] }),
        ] {
            let spelled = spelled_out(&before, object(wrong.clone())).expect("fields");
            assert_eq!(Value::Object(spelled), wrong);
        }
    }

    #[test]
    fn what_a_tunnel_carried_goes_on_without_it() {
        let before = object(json!({ "protocol": "tcp", "connect": { "transport": "wss", "path": "/ws" } }));
        let plain = json!({ "connect": { "transport": null, "path": null } });
        for cleared in [json!({ "connect": null }), plain, json!({ "connect": { "transport": "plain" } })] {
            let spelled = spelled_out(&before, object(cleared)).expect("fields");
            assert_eq!(spelled.get("protocol"), Some(&json!("tcp")), "{spelled:?}");
        }
        for other in [json!({ "connect": { "transport": "tls" } }), json!({ "note": "x" })] {
            assert_eq!(spelled_out(&before, object(other.clone())).expect("fields"), object(other));
        }
        let chosen = json!({ "connect": null, "protocol": null });
        assert_eq!(spelled_out(&before, object(chosen.clone())).expect("fields"), object(chosen));
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
