//! From a rule back to the grammar: as JSON for the API, as TOML for the file.

pub mod alert;
mod shown;
mod tunnel;

use std::fmt::Write as _;

use serde_json::{Map, Value as Json, json};

pub use self::shown::shown;
use super::quantity::{format_bytes, format_duration, format_rate, format_size};
use crate::rule::quota::{Counted, Over, Reset};
use crate::rule::{
    Accept, Backend, Balance, Check, CheckKind, Connect, Expiry, Failback, Group, GroupName, HttpCheck,
    Keepalive, OnDown, PlaneChoice, Quota, Rates, Rule, StatusRange, Timeouts, UdpNat,
};

/// The rule as an API body, with its secrets; what is at its default is left out, but for the identity of the rule.
pub fn to_json(rule: &Rule) -> Map<String, Json> {
    let mut map = Map::new();
    map.insert("name".into(), json!(rule.name.as_str()));
    if let Some(note) = &rule.note {
        map.insert("note".into(), json!(note));
    }
    if !rule.enabled {
        map.insert("enabled".into(), json!(false));
    }
    map.insert("listen".into(), texts(&rule.listen));
    map.insert("protocol".into(), json!(rule.protocols.as_str()));
    if rule.count_ports {
        map.insert("count_ports".into(), json!(true));
    }
    if rule.is_watch {
        return map;
    }
    map.insert("to".into(), one_or_list(rule.to.iter().map(backend).collect()));
    if rule.balance != Balance::default() {
        map.insert("balance".into(), json!(rule.balance.as_str()));
    }
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
    if let Some(given) = &rule.check {
        map.insert("check".into(), Json::Object(check(given)));
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
    terms(rule, &mut map);
    map
}

/// What its traffic may be.
fn terms(rule: &Rule, map: &mut Map<String, Json>) {
    let limits: Map<String, Json> =
        rule.limits.set().map(|(key, most)| (key.to_owned(), json!(most))).collect();
    if !limits.is_empty() {
        map.insert("limit".into(), Json::Object(limits));
    }
    insert_rates(*rule.rates, map);
    insert_ends(rule.quota.as_deref(), rule.expires.as_deref(), map);
    if let Some(group) = &rule.group {
        map.insert("group".into(), json!(group.as_str()));
    }
}

fn insert_rates(rates: Rates, map: &mut Map<String, Json>) {
    let rates: Map<String, Json> =
        rates.set().map(|(key, rate)| (key.to_owned(), json!(format_rate(rate)))).collect();
    if !rates.is_empty() {
        map.insert("rate".into(), Json::Object(rates));
    }
}

fn insert_ends(quota: Option<&Quota>, expires: Option<&Expiry>, map: &mut Map<String, Json>) {
    if let Some(quota) = quota {
        map.insert("quota".into(), Json::Object(quota_keys(quota)));
    }
    if let Some(expires) = expires {
        map.insert("expires".into(), json!(expires.to_string()));
    }
}

/// What is not as usual, beside the limit.
fn quota_keys(quota: &Quota) -> Map<String, Json> {
    let mut map = Map::from_iter([("limit".to_owned(), json!(format_size(quota.limit)))]);
    if quota.count != Counted::default() {
        map.insert("count".into(), json!(quota.count.as_str()));
    }
    if quota.reset != Reset::default() {
        map.insert("reset".into(), json!(quota.reset.to_string()));
    }
    if let Some(zone) = quota.zone.name() {
        map.insert("tz".into(), json!(zone));
    }
    if quota.over != Over::default() {
        map.insert("over".into(), json!(quota.over.to_string()));
    }
    if *quota.warn != Quota::USUAL_WARN {
        map.insert("warn".into(), json!(quota.warn));
    }
    map
}

fn one_or_list(mut items: Vec<Json>) -> Json {
    if items.len() == 1 { items.remove(0) } else { Json::Array(items) }
}

fn texts<T: ToString>(items: &[T]) -> Json {
    one_or_list(items.iter().map(|item| json!(item.to_string())).collect())
}

/// A text while nothing but its place is said of it.
fn backend(backend: &Backend) -> Json {
    let mut map = Map::from_iter([("addr".to_owned(), json!(backend.to_string()))]);
    if backend.weight != Backend::USUAL_WEIGHT {
        map.insert("weight".into(), json!(backend.weight));
    }
    if backend.priority != 0 {
        map.insert("priority".into(), json!(backend.priority));
    }
    if map.len() == 1 { json!(backend.to_string()) } else { Json::Object(map) }
}

/// Always with its kind, since what else it may have goes by that.
fn check(check: &Check) -> Map<String, Json> {
    let usual = Check::default();
    let mut map = Map::from_iter([("kind".to_owned(), json!(check.kind.as_str()))]);
    for (key, value, usual) in [
        ("interval", check.interval, usual.interval),
        ("timeout", check.timeout, usual.timeout),
        ("cooldown", check.cooldown, usual.cooldown),
    ] {
        if value != usual {
            map.insert(key.into(), json!(format_duration(value)));
        }
    }
    for (key, value, usual) in [("fall", check.fall, usual.fall), ("rise", check.rise, usual.rise)] {
        if value != usual {
            map.insert(key.into(), json!(value));
        }
    }
    match check.failback {
        Failback::Auto => {}
        Failback::Manual => {
            map.insert("failback".into(), json!("manual"));
        }
        Failback::Delay(delay) => {
            map.insert("failback".into(), json!(format_duration(delay)));
        }
    }
    map.extend(check.port.map(|port| ("port".to_owned(), json!(port))));
    map.extend(question(&check.kind));
    map
}

/// What only some kinds of checks have.
fn question(kind: &CheckKind) -> Map<String, Json> {
    let mut map = Map::new();
    let mut put = |key: &str, value: Option<Json>| map.extend(value.map(|value| (key.to_owned(), value)));
    match kind {
        CheckKind::Passive | CheckKind::Tcp => {}
        CheckKind::Tls { sni, verify } => {
            put("sni", sni.as_ref().map(|sni| json!(sni)));
            put("verify", verify.then(|| json!(true)));
        }
        CheckKind::Http(http) => {
            let usual = HttpCheck::default();
            put("tls", http.tls.then(|| json!(true)));
            put("host", http.host.as_ref().map(|host| json!(host)));
            put("path", (http.path != usual.path).then(|| json!(http.path)));
            put("status", (http.status != usual.status).then(|| json!(status(&http.status))));
            put("body", http.body.as_ref().map(|body| json!(body)));
        }
        CheckKind::Udp { send, expect } => {
            put("send", Some(json!(format_bytes(send))));
            put("expect", expect.as_ref().map(|expect| json!(format_bytes(expect))));
        }
    }
    map
}

fn status(StatusRange(codes): &StatusRange) -> String {
    let (first, last) = (codes.start(), codes.end());
    if first == last { first.to_string() } else { format!("{first}-{last}") }
}

fn accept(accept: &Accept) -> Map<String, Json> {
    let mut map = Map::new();
    if let Some(given) = &accept.tunnel {
        tunnel::accept(given, &mut map);
    }
    if accept.proxy_protocol {
        map.insert("proxy_protocol".into(), json!(true));
    }
    if accept.mptcp {
        map.insert("mptcp".into(), json!(true));
    }
    if let Some(trusted) = &accept.trusted {
        map.insert("trusted".into(), texts(trusted.networks()));
    }
    if let Some(allow) = &accept.allow {
        map.insert("allow".into(), texts(allow.networks()));
    }
    map
}

fn connect(connect: &Connect) -> Map<String, Json> {
    let mut map = Map::new();
    if let Some(given) = &connect.tunnel {
        tunnel::connect(given, &mut map);
    }
    if let Some(version) = connect.proxy_protocol {
        map.insert("proxy_protocol".into(), json!(version.number()));
    }
    if let Some(source) = connect.source {
        map.insert("source".into(), json!(source.to_string()));
    }
    if let Some(interface) = &connect.interface {
        map.insert("interface".into(), json!(interface));
    }
    if connect.pool > 0 {
        map.insert("pool".into(), json!(connect.pool));
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

/// The group as a `[[group]]` block.
pub fn group_to_toml(name: &GroupName, group: &Group) -> String {
    let mut map = Map::from_iter([("name".to_owned(), json!(name.as_str()))]);
    insert_rates(group.rates, &mut map);
    insert_ends(group.quota.as_deref(), group.expires.as_deref(), &mut map);
    let mut text = String::from("[[group]]\n");
    for (key, value) in map {
        let _infallible = writeln!(text, "{key} = {}", toml_value(&value));
    }
    text
}

/// The rule as a `[[rule]]` block, or `[[watch]]`.
pub fn to_toml(rule: &Rule) -> String {
    let mut text = format!("[[{}]]\n", rule.kind());
    for (key, value) in to_json(rule) {
        if key == "protocol" && value == "tcp+udp" {
            continue;
        }
        let _infallible = writeln!(text, "{key} = {}", toml_value(&value));
    }
    text
}

/// A JSON value in TOML notation: what [`to_json`] makes, or a patch, whose nulls say that a key is not there (RFC 7396).
pub fn toml_value(value: &Json) -> toml_edit::Value {
    match value {
        Json::Bool(value) => (*value).into(),
        Json::Number(number) => number.as_i64().unwrap_or_default().into(),
        Json::String(text) => text.as_str().into(),
        Json::Array(items) => items.iter().map(toml_value).collect::<toml_edit::Array>().into(),
        Json::Object(entries) => {
            let table: toml_edit::InlineTable = entries
                .iter()
                .filter(|(_, value)| !value.is_null())
                .map(|(key, value)| (key.as_str(), toml_value(value)))
                .collect();
            table.into()
        }
        Json::Null => "".into(),
    }
}
