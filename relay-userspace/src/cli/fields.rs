//! `key=value` words to the JSON that the API takes.

use serde_json::{Map, Value, json};

use super::Misuse;

/// Keys that hold true or false.
const SWITCHES: &[&str] = &[
    "enabled",
    "force",
    "count_ports",
    "accept.proxy_protocol",
    "accept.mptcp",
    "check.tls",
    "check.verify",
    "connect.mptcp",
];
/// Keys that hold lists; commas separate their items.
const LISTS: &[&str] = &["listen", "to", "accept.trusted", "accept.allow", "accept.alpn", "connect.alpn"];
/// Keys that hold whole numbers.
const NUMBERS: &[&str] = &[
    "check.fall",
    "check.port",
    "check.rise",
    "connect.pool",
    "connect.proxy_protocol",
    "timeout.keepalive.count",
    "limit.connections",
    "limit.connections_per_ip",
    "limit.new_flows",
    "limit.new_flows_per_ip",
];

/// All words as one object. Dots make tables, an empty value clears.
pub fn parse(words: &[String]) -> Result<Map<String, Value>, Misuse> {
    let mut fields = Map::new();
    for word in words {
        let Some((key, value)) = word.split_once('=') else {
            return Err(Misuse(format!("{word:?} is not KEY=VALUE, such as note=hello")));
        };
        if key.trim_end_matches(['+', '-']).is_empty() || key.split('.').any(str::is_empty) {
            return Err(Misuse(format!("{word:?} has no key before the =")));
        }
        if !put(&mut fields, key, typed(key, value)) {
            return Err(Misuse(format!("{word:?} sets again what another word has set")));
        }
    }
    Ok(fields)
}

/// False if the key, or a table above it, has a value already.
fn put(fields: &mut Map<String, Value>, key: &str, value: Value) -> bool {
    match key.split_once('.') {
        None => fields.insert(key.to_owned(), value).is_none(),
        Some((table, rest)) => {
            let inner = fields.entry(table).or_insert_with(|| json!({}));
            inner.as_object_mut().is_some_and(|inner| put(inner, rest, value))
        }
    }
}

fn typed(key: &str, value: &str) -> Value {
    let name = key.trim_end_matches(['+', '-']);
    if value.is_empty() {
        return Value::Null;
    }
    if LISTS.contains(&name) && (value.contains(',') || name != key) {
        return value.split(',').map(|item| json!(item.trim())).collect();
    }
    match (value.parse::<bool>(), value.parse::<i64>()) {
        (Ok(value), _) if SWITCHES.contains(&name) => json!(value),
        (_, Ok(value)) if NUMBERS.contains(&name) => json!(value),
        _ => json!(value),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn fields(words: &[&str]) -> Value {
        let words: Vec<String> = words.iter().map(ToString::to_string).collect();
        Value::Object(parse(&words).expect("fields"))
    }

    #[test]
    fn words_become_json() {
        assert_eq!(
            fields(&["note=a = b", "enabled=false", "timeout.udp=5s", "timeout.tcp_idle=", "to=a:1,b:2"]),
            json!({ "note": "a = b", "enabled": false, "timeout": { "udp": "5s", "tcp_idle": null },
                "to": ["a:1", "b:2"] })
        );
        assert_eq!(
            fields(&["to+=c:3", "listen-=:80", "note=true"]),
            json!({ "to+": ["c:3"], "listen-": [":80"], "note": "true" })
        );
        assert_eq!(
            fields(&["accept.proxy_protocol=true", "accept.trusted+=10.0.0.0/8", "connect.proxy_protocol=2"]),
            json!({ "accept": { "proxy_protocol": true, "trusted+": ["10.0.0.0/8"] },
                "connect": { "proxy_protocol": 2 } })
        );
        assert_eq!(
            fields(&[
                "connect.transport=wss",
                "connect.alpn=h2,http/1.1",
                "connect.headers.user-agent=curl/8"
            ]),
            json!({ "connect": { "transport": "wss", "alpn": ["h2", "http/1.1"],
                "headers": { "user-agent": "curl/8" } } })
        );
        assert_eq!(
            fields(&[
                "check.kind=http",
                "check.fall=3",
                "check.tls=true",
                "check.status=200",
                "balance=iphash: 2, 1"
            ]),
            json!({ "check": { "kind": "http", "fall": 3, "tls": true, "status": "200" },
                "balance": "iphash: 2, 1" })
        );
    }

    #[test]
    fn other_words_are_refused() {
        for word in ["note", "=x", "+=x", ".udp=x", "timeout.=x"] {
            assert!(parse(&[word.to_owned()]).is_err(), "{word}");
        }
        for words in [["note=a", "note=b"], ["timeout=", "timeout.udp=5s"], ["timeout.udp=5s", "timeout="]] {
            assert!(parse(&words.map(str::to_owned)).is_err(), "{words:?}");
        }
    }
}
