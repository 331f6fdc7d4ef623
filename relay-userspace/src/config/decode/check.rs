//! How backends are judged: `check = { kind = "http", ... }`, or its kind alone.

use std::ops::RangeInclusive;
use std::time::Duration;

use relay_common::net::Protocol;

use super::super::fields::{Fields, quoted};
use super::super::node::{Entry, Node, Table, Value};
use super::super::problem::Problems;
use super::super::quantity::{BYTES_FORMS, DURATION_FORMS, parse_bytes, parse_duration};
use crate::rule::{Check, CheckKind, Failback, HttpCheck, Protocols, StatusRange};

const KINDS: [&str; 5] = ["passive", "tcp", "tls", "http", "udp"];
/// Keys that only some kinds have, and which.
const OF_KINDS: &[(&str, &[&str])] = &[
    ("interval", &["tcp", "tls", "http", "udp"]),
    ("timeout", &["tcp", "tls", "http", "udp"]),
    ("port", &["tcp", "tls", "http", "udp"]),
    ("sni", &["tls"]),
    ("verify", &["tls"]),
    ("tls", &["http"]),
    ("host", &["http"]),
    ("path", &["http"]),
    ("status", &["http"]),
    ("body", &["http"]),
    ("send", &["udp"]),
    ("expect", &["udp"]),
];

const SHORTEST_INTERVAL: Duration = Duration::from_millis(100);
const LONGEST: Duration = Duration::from_secs(30 * 86_400);
/// In a row.
const COUNTS: RangeInclusive<i64> = 1..=100;
/// What goes into a datagram on any way.
const MOST_BYTES: usize = 1200;
const STATUS_CODES: RangeInclusive<u16> = 100..=599;

/// `through_tunnel`: that is how the rule's datagrams reach backends.
pub fn check(
    fields: &mut Fields<'_>,
    protocols: Protocols,
    through_tunnel: bool,
    problems: &mut Problems,
) -> Option<Check> {
    let node = fields.take("check")?;
    let subject = fields.subject_of("check");
    let of_kind_alone: Table;
    let table = match &node.value {
        Value::Table(table) => table,
        Value::Text(_) => {
            of_kind_alone = vec![Entry { key: "kind".into(), key_span: None, node: node.clone() }];
            &of_kind_alone
        }
        _ => {
            fields.wrong_kind("check", node, "a table or the name of a kind", problems);
            return None;
        }
    };
    let mut inner = Fields::new(table, node.span.clone(), subject);
    let kind = kind(&mut inner, node, (protocols, through_tunnel), problems)?;
    let usual = Check::default();
    let check = Check {
        interval: time(&mut inner, "interval", SHORTEST_INTERVAL, problems).unwrap_or(usual.interval),
        timeout: time(&mut inner, "timeout", Duration::from_millis(1), problems).unwrap_or(usual.timeout),
        fall: count(&mut inner, "fall", problems).unwrap_or(usual.fall),
        rise: count(&mut inner, "rise", problems).unwrap_or(usual.rise),
        cooldown: time(&mut inner, "cooldown", Duration::ZERO, problems).unwrap_or(usual.cooldown),
        failback: failback(&mut inner, problems),
        port: port(&mut inner, problems),
        kind: question(kind, &mut inner, node, problems)?,
    };
    inner.finish(problems);
    Some(check)
}

/// The kind's name; keys of other kinds are complained of, and taken away.
fn kind(
    fields: &mut Fields<'_>,
    whole: &Node,
    (protocols, through_tunnel): (Protocols, bool),
    problems: &mut Problems,
) -> Option<&'static str> {
    let at = fields.peek("kind").unwrap_or(whole);
    let is_given = fields.peek("kind").is_some();
    let known = |text: &str| KINDS.into_iter().find(|kind| *kind == text);
    let kind = match is_given {
        true => fields.word("kind", &KINDS, known, problems)?,
        false if protocols == Protocols::Udp => "passive",
        false => "tcp",
    };
    let misfit = match kind {
        "passive" => None,
        "udp" if !protocols.has(Protocol::Udp) => Some(("UDP", "TCP", r#""tcp", "tls", "http""#)),
        "udp" if through_tunnel => {
            let message = "a check of kind \"udp\" asks backends in clear, and the rule's datagrams go through a tunnel";
            let help =
                "say kind = \"passive\" (a tunnel that cannot be opened is a failure) or, for TCP, \"tcp\"";
            problems.at(at, &fields.subject_of("kind"), message, Some(help));
            None
        }
        "udp" => None,
        _ if !protocols.has(Protocol::Tcp) => Some(("TCP", "UDP", r#""udp""#)),
        _ => None,
    };
    if let Some((judged, carried, kinds)) = misfit {
        let message =
            format!("a check of kind \"{kind}\" judges {judged}, and the rule carries {carried} alone");
        let help = format!("say kind = {kinds} or \"passive\"");
        problems.at(at, &fields.subject_of("kind"), message, Some(&help));
    }
    for (key, kinds) in OF_KINDS.iter().filter(|(_, kinds)| !kinds.contains(&kind)) {
        if let Some(node) = fields.take(key) {
            let message = format!("a check of kind \"{kind}\" has no `{key}`");
            let help = format!("it belongs to kind = {}", quoted(kinds));
            problems.at(node, &fields.subject_of(key), message, Some(&help));
        }
    }
    Some(kind)
}

/// What is asked, with what belongs to it.
fn question(kind: &str, fields: &mut Fields<'_>, whole: &Node, problems: &mut Problems) -> Option<CheckKind> {
    Some(match kind {
        "tls" => CheckKind::Tls {
            sni: word(fields, "sni", problems),
            verify: fields.bool("verify", problems).unwrap_or(false),
        },
        "http" => CheckKind::Http(http(fields, problems)),
        "udp" => CheckKind::Udp {
            send: match fields.peek("send") {
                Some(_) => bytes(fields, "send", problems)?,
                None => {
                    let message = "a check of kind \"udp\" needs `send`: what to ask with";
                    problems.at(whole, &fields.subject_of("send"), message, Some(BYTES_FORMS));
                    return None;
                }
            },
            expect: expect(fields, problems),
        },
        "tcp" => CheckKind::Tcp,
        _ => CheckKind::Passive,
    })
}

fn http(fields: &mut Fields<'_>, problems: &mut Problems) -> HttpCheck {
    let usual = HttpCheck::default();
    HttpCheck {
        tls: fields.bool("tls", problems).unwrap_or(usual.tls),
        host: word(fields, "host", problems),
        path: path(fields, problems).unwrap_or(usual.path),
        status: status(fields, problems).unwrap_or(usual.status),
        body: body(fields, problems),
    }
}

/// Something that goes into a header: no blanks, nothing that ends it.
fn word(fields: &mut Fields<'_>, key: &'static str, problems: &mut Problems) -> Option<Box<str>> {
    let (text, node) = fields.text(key, problems)?;
    if !text.is_empty() && text.len() <= 255 && text.bytes().all(|byte| byte.is_ascii_graphic()) {
        return Some(text.into());
    }
    let message = format!("{} is not the name of a host", node.shown());
    problems.at(node, &fields.subject_of(key), message, Some(r#"write one such as "www.example.com""#));
    None
}

fn path(fields: &mut Fields<'_>, problems: &mut Problems) -> Option<Box<str>> {
    let (text, node) = fields.text("path", problems)?;
    if text.starts_with('/') && text.bytes().all(|byte| byte.is_ascii_graphic()) {
        return Some(text.into());
    }
    let message = format!("{} is not the path of a page", node.shown());
    let help = r#"write one that begins with a slash, such as "/health"; what is not ASCII as %E6%B8%AF"#;
    problems.at(node, &fields.subject_of("path"), message, Some(help));
    None
}

/// `200`, `200-399`.
fn status(fields: &mut Fields<'_>, problems: &mut Problems) -> Option<StatusRange> {
    let node = fields.take("status")?;
    let text = match &node.value {
        Value::Text(text) => text.clone(),
        Value::Integer(code) => code.to_string(),
        _ => {
            fields.wrong_kind("status", node, "a text", problems);
            return None;
        }
    };
    let (first, last) = text.split_once('-').unwrap_or((&text, &text));
    let code = |text: &str| text.parse().ok().filter(|code| STATUS_CODES.contains(code));
    if let (Some(first), Some(last)) = (code(first), code(last))
        && first <= last
    {
        return Some(StatusRange(first..=last));
    }
    let message = format!("{} is no range of status codes", node.shown());
    problems.at(node, &fields.subject_of("status"), message, Some(r#"write one such as "200" or "200-399""#));
    None
}

fn body(fields: &mut Fields<'_>, problems: &mut Problems) -> Option<Box<str>> {
    let (text, node) = fields.text("body", problems)?;
    let is_some = !text.is_empty();
    if !is_some {
        let help = "leave the key out if any will do";
        problems.at(node, &fields.subject_of("body"), "every page has nothing in it", Some(help));
    }
    is_some.then(|| text.into())
}

fn expect(fields: &mut Fields<'_>, problems: &mut Problems) -> Option<Box<[u8]>> {
    let node = fields.peek("expect")?;
    let expect = bytes(fields, "expect", problems)?;
    if expect.is_empty() {
        let help = "leave the key out if any will do";
        problems.at(node, &fields.subject_of("expect"), "every answer has nothing in it", Some(help));
    }
    Some(expect)
}

fn bytes(fields: &mut Fields<'_>, key: &'static str, problems: &mut Problems) -> Option<Box<[u8]>> {
    let (text, node) = fields.text(key, problems)?;
    let bytes = parse_bytes(text);
    match &bytes {
        None => {
            let message = format!("{} is no row of bytes", node.shown());
            problems.at(node, &fields.subject_of(key), message, Some(BYTES_FORMS));
        }
        Some(bytes) if bytes.len() > MOST_BYTES => {
            let message = format!("it has {} bytes, and may have {MOST_BYTES}", bytes.len());
            problems.at(node, &fields.subject_of(key), message, Some("ask with less"));
        }
        Some(_) => {}
    }
    bytes
}

fn time(
    fields: &mut Fields<'_>,
    key: &'static str,
    shortest: Duration,
    problems: &mut Problems,
) -> Option<Duration> {
    let (text, node) = fields.text(key, problems)?;
    let time = parse_duration(text);
    let (message, help) = match time {
        None => ("is not a duration", DURATION_FORMS),
        Some(time) if time > LONGEST => ("is too long", "the longest is 30d"),
        Some(time) if time >= shortest => return Some(time),
        Some(time) if time.is_zero() => ("is no time at all", "leave the key out for the usual time"),
        Some(_) => ("is too short", "the shortest is 100ms"),
    };
    problems.at(node, &fields.subject_of(key), format!("{} {message}", node.shown()), Some(help));
    None
}

fn count(fields: &mut Fields<'_>, key: &'static str, problems: &mut Problems) -> Option<u32> {
    u32::try_from(fields.integer(key, COUNTS, problems)?).ok()
}

fn port(fields: &mut Fields<'_>, problems: &mut Problems) -> Option<u16> {
    u16::try_from(fields.integer("port", 1..=u16::MAX.into(), problems)?).ok()
}

fn failback(fields: &mut Fields<'_>, problems: &mut Problems) -> Failback {
    let Some((text, node)) = fields.text("failback", problems) else { return Failback::default() };
    match (text, parse_duration(text)) {
        ("auto", _) => Failback::Auto,
        ("manual", _) => Failback::Manual,
        (_, Some(delay)) if !delay.is_zero() && delay <= LONGEST => Failback::Delay(delay),
        _ => {
            let message = format!("{} is not known here", node.shown());
            let help = r#"it is "auto", "manual", or a time to wait, from "1ms" to "30d", such as "5m""#;
            problems.at(node, &fields.subject_of("failback"), message, Some(help));
            Failback::default()
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::config::node::Node;
    use serde_json::json;

    fn read(check: serde_json::Value, protocols: Protocols) -> Result<Check, String> {
        let table = Node::from_json(json!({ "check": check }));
        let Value::Table(table) = &table.value else { panic!("not a table") };
        let mut problems = Problems::default();
        let mut fields = Fields::new(table, None, "");
        let check = super::check(&mut fields, protocols, false, &mut problems);
        problems.into_result(()).map_err(|problems| problems.to_string())?;
        Ok(check.expect("a check"))
    }

    #[test]
    fn a_word_is_a_check_with_everything_as_usual() {
        assert_eq!(read(json!("tcp"), Protocols::Both), Ok(Check::default()));
        let http = Check { kind: CheckKind::Http(HttpCheck::default()), ..Check::default() };
        assert_eq!(read(json!("http"), Protocols::Tcp), Ok(http));
        let passive = Check { kind: CheckKind::Passive, rise: 3, ..Check::default() };
        assert_eq!(read(json!({ "rise": 3 }), Protocols::Udp), Ok(passive));
    }

    #[test]
    fn every_kind_has_keys_of_its_own() {
        let kind = |check| read(check, Protocols::Both).map(|check| check.kind);
        assert_eq!(
            kind(json!({ "kind": "tls", "sni": "h.example", "verify": true })),
            Ok(CheckKind::Tls { sni: Some("h.example".into()), verify: true })
        );
        let status = StatusRange(204..=204);
        assert_eq!(
            kind(json!({ "kind": "http", "path": "/up", "status": 204, "body": "fine", "tls": true })),
            Ok(CheckKind::Http(HttpCheck {
                tls: true,
                path: "/up".into(),
                status,
                body: Some("fine".into()),
                ..HttpCheck::default()
            }))
        );
        assert_eq!(
            kind(json!({ "kind": "udp", "send": "hex:00ff", "expect": "pong" })),
            Ok(CheckKind::Udp { send: [0, 255].into(), expect: Some(b"pong"[..].into()) })
        );
    }

    #[test]
    fn mistakes_say_what_would_be_right() {
        for (check, protocols, said) in [
            (json!(5), Protocols::Both, "check: 5 is a whole number, not a table or the name of a kind"),
            (
                json!("off"),
                Protocols::Both,
                "check: kind: \"off\" is not known here; it is one of \"passive\", ",
            ),
            (
                json!({ "kind": "tcp", "path": "/" }),
                Protocols::Both,
                "check: path: a check of kind \"tcp\" has no `path`; it belongs to kind = \"http\"",
            ),
            (
                json!({ "kind": "passive", "interval": "5s" }),
                Protocols::Both,
                "has no `interval`; it belongs to kind = \"tcp\", \"tls\", \"http\" or \"udp\"",
            ),
            (json!("tcp"), Protocols::Udp, "judges TCP, and the rule carries UDP alone; say kind = \"udp\""),
            (
                json!({ "kind": "udp", "send": "x" }),
                Protocols::Tcp,
                "judges UDP, and the rule carries TCP alone",
            ),
            (json!("udp"), Protocols::Both, "check: send: a check of kind \"udp\" needs `send`"),
            (
                json!({ "kind": "udp", "send": "hex:0" }),
                Protocols::Both,
                "\"hex:0\" is no row of bytes; write a text",
            ),
            (
                json!({ "kind": "udp", "send": "x", "expect": "" }),
                Protocols::Both,
                "every answer has nothing in it",
            ),
            (json!({ "interval": "99ms" }), Protocols::Both, "\"99ms\" is too short; the shortest is 100ms"),
            (json!({ "timeout": "0s" }), Protocols::Both, "\"0s\" is no time at all"),
            (json!({ "cooldown": "31d" }), Protocols::Both, "\"31d\" is too long; the longest is 30d"),
            (
                json!({ "fall": 101 }),
                Protocols::Both,
                "101 is a whole number, not a whole number from 1 to 100",
            ),
            (
                json!({ "failback": "never" }),
                Protocols::Both,
                "\"never\" is not known here; it is \"auto\", ",
            ),
            (json!({ "kind": "http", "path": "up" }), Protocols::Both, "\"up\" is not the path of a page"),
            (json!({ "kind": "http", "status": "399-200" }), Protocols::Both, "is no range of status codes"),
            (json!({ "intervall": "5s" }), Protocols::Both, "did you mean `interval`?"),
        ] {
            let error = read(check.clone(), protocols).expect_err("a mistake");
            assert!(error.contains(said), "{check}: {error}");
        }
        assert!(read(json!({ "cooldown": "0s" }), Protocols::Both).is_ok());
    }
}
