//! Services that are spoken to by HTTP: what each has to be told.

use std::path::Path;

use http::{HeaderName, HeaderValue, Method};

use super::super::super::fields::{Fields, quoted};
use super::super::super::node::{Node, Value};
use super::super::super::problem::Problems;
use super::{ca, hidden, needed, secret, url};
use crate::alert::channel::{Body, HiddenTemplate, Proxy, Service, Web, Webhook};
use crate::alert::secret::{Secret, Url};
use crate::alert::template::{Field, Format, Template, percent};

const TELEGRAM: &str = "https://api.telegram.org";
const WECOM: &str = "https://qyapi.weixin.qq.com/cgi-bin/webhook/send";
const NTFY: &str = "https://ntfy.sh";
const BARK: &str = "https://api.day.app";
const METHODS: [&str; 4] = ["GET", "POST", "PUT", "PATCH"];
/// Headers that the request writes itself.
const OWN_HEADERS: [&str; 4] = ["connection", "content-length", "host", "transfer-encoding"];

/// The keys of a kind other than `smtp`.
pub fn web(kind: &str, fields: &mut Fields<'_>, folder: &Path, problems: &mut Problems) -> Option<Web> {
    let proxy = proxy(fields, problems);
    let at = fields.peek("ca");
    let ca = ca(fields, folder, problems);
    let service = match kind {
        "telegram" => telegram(fields, problems),
        "wecom" => wecom(fields, problems).map(|url| Service::Wecom { url }),
        "feishu" => signed(fields, problems).map(|(url, secret)| Service::Feishu { url, secret }),
        "dingtalk" => signed(fields, problems).map(|(url, secret)| Service::Dingtalk { url, secret }),
        "discord" => needed_url(fields, problems).map(|url| Service::Discord { url }),
        "slack" => needed_url(fields, problems).map(|url| Service::Slack { url }),
        "ntfy" => ntfy(fields, problems),
        "bark" => bark(fields, problems),
        _ => webhook(fields, problems).map(Service::Webhook),
    }?;
    if let (Some(node), false) = (at, service.is_secure()) {
        let help = "leave it out, or write a URL that begins with https";
        problems.at(node, &fields.subject_of("ca"), "the URL has no TLS", Some(help));
    }
    Some(Web { service, proxy, ca })
}

fn proxy(fields: &mut Fields<'_>, problems: &mut Problems) -> Option<Proxy> {
    let (text, node) = hidden(fields, "proxy", problems)?;
    let proxy = Proxy::parse(text);
    if proxy.is_none() {
        problems.at(node, &fields.subject_of("proxy"), "this is not a proxy", Some(Proxy::FORMS));
    }
    proxy
}

fn needed_url(fields: &mut Fields<'_>, problems: &mut Problems) -> Option<Url> {
    let was_there = fields.peek("url").is_some();
    let found = url(fields, "url", problems);
    needed(found, was_there, "url", fields, problems)
}

fn needed_secret(fields: &mut Fields<'_>, key: &'static str, problems: &mut Problems) -> Option<Secret> {
    let was_there = fields.peek(key).is_some();
    let found = secret(fields, key, problems);
    needed(found, was_there, key, fields, problems)
}

/// A URL, or else the service's own.
fn url_or(fields: &mut Fields<'_>, key: &'static str, usual: &str, problems: &mut Problems) -> Option<Url> {
    let was_there = fields.peek(key).is_some();
    let found = url(fields, key, problems);
    if was_there { found } else { Url::parse(usual) }
}

fn telegram(fields: &mut Fields<'_>, problems: &mut Problems) -> Option<Service> {
    let at = fields.peek("token");
    let token = needed_secret(fields, "token", problems);
    let is_token = |text: &str| {
        text.split_once(':').is_some_and(|(id, key)| {
            let is_key = |byte: u8| byte.is_ascii_alphanumeric() || b"_-".contains(&byte);
            !id.is_empty()
                && id.bytes().all(|byte| byte.is_ascii_digit())
                && !key.is_empty()
                && key.bytes().all(is_key)
        })
    };
    if let (Some(node), Some(token)) = (at, &token)
        && !is_token(token.expose())
    {
        let help = "@BotFather gives one such as 123456789:AAE...";
        problems.at(node, &fields.subject_of("token"), "this is not the token of a bot", Some(help));
    }
    let chat = chat(fields, problems);
    let api_base = url_or(fields, "api_base", TELEGRAM, problems);
    Some(Service::Telegram { token: token?, chat: chat?, api_base: api_base? })
}

/// A number, also in quotes, or the name of a channel.
fn chat(fields: &mut Fields<'_>, problems: &mut Problems) -> Option<Box<str>> {
    let at = fields.peek("chat");
    let found = fields.take("chat").and_then(|node| match &node.value {
        Value::Integer(number) => Some(number.to_string().into()),
        Value::Text(text) if text.parse::<i64>().is_ok() || (text.starts_with('@') && text.len() > 1) => {
            Some(text.as_str().into())
        }
        _ => {
            let message = format!("{} is not a chat", node.shown());
            let help = r#"write its number, such as -1001234567890, or the name of a channel, "@name""#;
            problems.at(node, &fields.subject_of("chat"), message, Some(help));
            None
        }
    });
    needed(found, at.is_some(), "chat", fields, problems)
}

/// By its key or by its whole URL.
fn wecom(fields: &mut Fields<'_>, problems: &mut Problems) -> Option<Url> {
    match (fields.peek("key"), fields.peek("url")) {
        (Some(_), Some(node)) => {
            let help = "the URL has the key in it; leave one of them out";
            problems.at(node, &fields.subject_of("url"), "there is a `key` as well", Some(help));
            // both are keys of this kind
            let _said = (fields.take("key"), fields.take("url"));
            None
        }
        (Some(_), None) => {
            fields.take("url");
            let key = secret(fields, "key", problems)?;
            Url::parse(&format!("{WECOM}?key={}", percent(key.expose())))
        }
        (None, _) => {
            fields.take("key");
            let was_there = fields.peek("url").is_some();
            let found = url(fields, "url", problems);
            needed(found, was_there, "key", fields, problems)
        }
    }
}

fn signed(fields: &mut Fields<'_>, problems: &mut Problems) -> Option<(Url, Option<Secret>)> {
    let url = needed_url(fields, problems);
    let secret = secret(fields, "secret", problems);
    Some((url?, secret))
}

/// A server and a topic, or one URL of both.
fn ntfy(fields: &mut Fields<'_>, problems: &mut Problems) -> Option<Service> {
    let (at, at_url) = (fields.peek("topic"), fields.peek("url"));
    let topic = secret(fields, "topic", problems);
    let url = url_or(fields, "url", NTFY, problems);
    let token = secret(fields, "token", problems);
    let url = url?;
    let (url, topic) = match (at, topic) {
        (Some(_), topic) => (url, topic?),
        (None, _) => {
            let whole = url.expose();
            let split = at_url.and_then(|_| whole.rsplit_once('/')).filter(|(_, topic)| is_topic(topic));
            let Some((server, topic)) = split else {
                return needed(None, false, "topic", fields, problems);
            };
            (Url::parse(server)?, Secret::new(topic))
        }
    };
    if !is_topic(topic.expose())
        && let Some(node) = at
    {
        let help = "a topic is 1 to 64 of A-Z a-z 0-9 _ -";
        problems.at(node, &fields.subject_of("topic"), "this is not a topic", Some(help));
    }
    Some(Service::Ntfy { url, topic, token })
}

fn is_topic(text: &str) -> bool {
    let is_plain = |byte: u8| byte.is_ascii_alphanumeric() || b"_-".contains(&byte);
    (1..=64).contains(&text.len()) && text.bytes().all(is_plain)
}

fn bark(fields: &mut Fields<'_>, problems: &mut Problems) -> Option<Service> {
    let server = url_or(fields, "server", BARK, problems);
    let key = needed_secret(fields, "key", problems);
    Some(Service::Bark { server: server?, key: key? })
}

fn webhook(fields: &mut Fields<'_>, problems: &mut Problems) -> Option<Webhook> {
    let url = webhook_url(fields, problems);
    let parse = |text: &str| METHODS.contains(&text).then(|| Method::from_bytes(text.as_bytes()).ok())?;
    let method = fields.word("method", &METHODS, parse, problems).unwrap_or(Method::POST);
    let headers = headers(fields, problems);
    let body = body(fields, &method, problems);
    Some(Webhook { url: url?, method, headers: headers?, body: body? })
}

fn webhook_url(fields: &mut Fields<'_>, problems: &mut Problems) -> Option<HiddenTemplate> {
    let was_there = fields.peek("url").is_some();
    let found = hidden(fields, "url", problems).and_then(|(text, node)| {
        let template = template(text, "url", node, fields, problems)?;
        let filled = template.fill(Format::Form, |_| "sample".into());
        // who is spoken to is no matter of events
        let is_fixed = |part: &str| !part.split('/').nth(2).is_some_and(|host| host.contains("{{"));
        if Url::parse(&filled).is_none() || !is_fixed(text) {
            problems.at(
                node,
                &fields.subject_of("url"),
                "this is not a URL of http or https",
                Some(Url::FORMS),
            );
            return None;
        }
        Some(HiddenTemplate(template))
    });
    needed(found, was_there, "url", fields, problems)
}

fn template(
    text: &str,
    key: &str,
    node: &Node,
    fields: &Fields<'_>,
    problems: &mut Problems,
) -> Option<Template> {
    let noted = |error: &dyn std::fmt::Display, problems: &mut Problems| {
        problems.at(node, &fields.subject_of(key), error.to_string(), Some(Template::FORMS));
    };
    Template::parse(text).map_err(|error| noted(&error, problems)).ok()
}

fn headers(fields: &mut Fields<'_>, problems: &mut Problems) -> Option<Vec<(HeaderName, Secret)>> {
    let Some(node) = fields.take("headers") else { return Some(Vec::new()) };
    let subject = fields.subject_of("headers");
    let Value::Table(table) = &node.value else {
        let help = r#"write a table such as { authorization = "Bearer ..." }"#;
        problems.at(node, &subject, "this is not a table", Some(help));
        return None;
    };
    let mut headers = Vec::new();
    for entry in table {
        let name = HeaderName::from_bytes(entry.key.as_bytes()).ok();
        let name = name.filter(|name| !OWN_HEADERS.contains(&name.as_str()));
        let value = match &entry.node.value {
            Value::Text(text) if HeaderValue::from_str(text).is_ok() => Some(Secret::new(text.as_str())),
            _ => None,
        };
        match (name, value) {
            (Some(name), Some(value)) => headers.push((name, value)),
            (None, _) => {
                let message = format!("{:?} cannot be set", entry.key);
                let help = format!("write the name of a header that is not one of {}", quoted(&OWN_HEADERS));
                problems.add(entry.key_span.clone(), &subject, message, Some(&help));
            }
            (_, None) => {
                let message = format!("this is not what a header {:?} can say", entry.key);
                problems.at(&entry.node, &subject, message, Some("write one line of ASCII in quotes"));
            }
        }
    }
    Some(headers)
}

fn body(fields: &mut Fields<'_>, method: &Method, problems: &mut Problems) -> Option<Body> {
    let at_format = fields.peek("format");
    let format = fields.word("format", &Format::WORDS, Format::parse, problems).unwrap_or_default();
    let Some(node) = fields.take("body") else {
        if let Some(node) = at_format {
            let help = "leave it out: without a `body` everything is sent as JSON";
            problems.at(node, &fields.subject_of("format"), "there is no `body` of that format", Some(help));
        }
        return Some(if *method == Method::GET { Body::None } else { Body::Whole });
    };
    let subject = fields.subject_of("body");
    let Value::Text(text) = &node.value else {
        problems.at(node, &subject, "this is not a text in quotes", None);
        return None;
    };
    if *method == Method::GET {
        let help = "put placeholders into the URL, or choose another method";
        problems.at(node, &subject, "a GET has no body", Some(help));
        return None;
    }
    let template = template(text, "body", node, fields, problems)?;
    if format == Format::Json {
        // a number may stand by itself
        let sample = template.fill(format, |field| if field == Field::Count { "1" } else { "x" }.into());
        if let Err(error) = serde_json::from_str::<serde_json::Value>(&sample) {
            let message = format!("filled in, this is not JSON: {error}");
            let help = "placeholders go inside of strings; or say format = \"form\" or \"plain\"";
            problems.at(node, &subject, message, Some(help));
            return None;
        }
    }
    Some(Body::Filled(HiddenTemplate(template), format))
}
