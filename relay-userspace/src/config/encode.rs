//! From a rule back to the grammar: as JSON for the API, as TOML for the file.

use std::fmt::Write as _;

use serde_json::{Map, Value as Json, json};

use super::quantity::format_duration;
use crate::rule::{Accept, Connect, Keepalive, OnDown, PlaneChoice, Rule, Timeouts, UdpNat};

/// The rule as an API body; what is at its default is left out, but for the identity of the rule.
pub fn to_json(rule: &Rule) -> Map<String, Json> {
    let mut map = Map::new();
    map.insert("name".into(), json!(rule.name.as_str()));
    if let Some(note) = &rule.note {
        map.insert("note".into(), json!(note));
    }
    if !rule.enabled {
        map.insert("enabled".into(), json!(false));
    }
    map.insert("listen".into(), one_or_list(rule.listen.iter().map(ToString::to_string).collect()));
    map.insert("protocol".into(), json!(rule.protocols.as_str()));
    map.insert("to".into(), one_or_list(rule.to.iter().map(ToString::to_string).collect()));
    if rule.plane != PlaneChoice::Auto {
        map.insert("plane".into(), json!(rule.plane.as_str()));
    }
    if rule.udp_nat != UdpNat::default() {
        map.insert("udp_nat".into(), json!(rule.udp_nat.as_str()));
    }
    if rule.on_down != OnDown::default() {
        map.insert("on_down".into(), json!(rule.on_down.as_str()));
    }
    if rule.force {
        map.insert("force".into(), json!(true));
    }
    let timeouts = timeouts(&rule.timeouts);
    if !timeouts.is_empty() {
        map.insert("timeout".into(), Json::Object(timeouts));
    }
    let accept = accept(&rule.accept);
    if !accept.is_empty() {
        map.insert("accept".into(), Json::Object(accept));
    }
    let connect = connect(&rule.connect);
    if !connect.is_empty() {
        map.insert("connect".into(), Json::Object(connect));
    }
    let limits: Map<String, Json> =
        rule.limits.set().map(|(key, most)| (key.to_owned(), json!(most))).collect();
    if !limits.is_empty() {
        map.insert("limit".into(), Json::Object(limits));
    }
    map
}

fn one_or_list(mut texts: Vec<String>) -> Json {
    if texts.len() == 1 { json!(texts.remove(0)) } else { json!(texts) }
}

fn accept(accept: &Accept) -> Map<String, Json> {
    let mut map = Map::new();
    if accept.proxy_protocol {
        map.insert("proxy_protocol".into(), json!(true));
    }
    if accept.mptcp {
        map.insert("mptcp".into(), json!(true));
    }
    if let Some(trusted) = &accept.trusted {
        let networks = trusted.networks().iter().map(ToString::to_string).collect();
        map.insert("trusted".into(), one_or_list(networks));
    }
    if let Some(allow) = &accept.allow {
        let networks = allow.networks().iter().map(ToString::to_string).collect();
        map.insert("allow".into(), one_or_list(networks));
    }
    map
}

fn connect(connect: &Connect) -> Map<String, Json> {
    let mut map = Map::new();
    if let Some(version) = connect.proxy_protocol {
        map.insert("proxy_protocol".into(), json!(version.number()));
    }
    if let Some(source) = connect.source {
        map.insert("source".into(), json!(source.to_string()));
    }
    if let Some(interface) = &connect.interface {
        map.insert("interface".into(), json!(interface));
    }
    if connect.mptcp {
        map.insert("mptcp".into(), json!(true));
    }
    map
}

fn timeouts(timeouts: &Timeouts) -> Map<String, Json> {
    let defaults = Timeouts::default();
    let mut map = Map::new();
    for (key, value, default) in [
        ("connect", timeouts.connect, defaults.connect),
        ("handshake", timeouts.handshake, defaults.handshake),
        ("tcp_idle", timeouts.tcp_idle, defaults.tcp_idle),
        ("half_close", timeouts.half_close, defaults.half_close),
        ("udp", timeouts.udp, defaults.udp),
    ] {
        if value != default {
            map.insert(key.into(), json!(format_duration(value)));
        }
    }
    let keepalive = keepalive(timeouts.keepalive);
    if !keepalive.is_empty() {
        map.insert("keepalive".into(), Json::Object(keepalive));
    }
    map
}

fn keepalive(keepalive: Keepalive) -> Map<String, Json> {
    let defaults = Keepalive::default();
    let mut map = Map::new();
    for (key, value, default) in
        [("idle", keepalive.idle, defaults.idle), ("interval", keepalive.interval, defaults.interval)]
    {
        if value != default {
            map.insert(key.into(), json!(format_duration(value)));
        }
    }
    if keepalive.count != defaults.count {
        map.insert("count".into(), json!(keepalive.count));
    }
    map
}

/// The rule as a `[[rule]]` block.
pub fn to_toml(rule: &Rule) -> String {
    let mut text = String::from("[[rule]]\n");
    for (key, value) in to_json(rule) {
        if key == "protocol" && value == "tcp+udp" {
            continue;
        }
        let _infallible = writeln!(text, "{key} = {}", toml_value(&value));
    }
    text
}

/// A JSON value in TOML notation. Only what [`to_json`] makes.
pub fn toml_value(value: &Json) -> toml_edit::Value {
    match value {
        Json::Bool(value) => (*value).into(),
        Json::Number(number) => number.as_i64().unwrap_or_default().into(),
        Json::String(text) => text.as_str().into(),
        Json::Array(items) => items.iter().map(toml_value).collect::<toml_edit::Array>().into(),
        Json::Object(entries) => {
            let table: toml_edit::InlineTable =
                entries.iter().map(|(key, value)| (key.as_str(), toml_value(value))).collect();
            table.into()
        }
        Json::Null => "".into(),
    }
}
