//! What a leg says of its WebSocket: host, path, token, headers. Whatever is let in here can stand in a head of HTTP/1.1.

use super::super::fields::Fields;
use super::super::node::{Entry, Value};
use super::super::problem::Problems;
use crate::rule::tunnel::USUAL_PATH;
use crate::rule::{Backend, BackendPorts, Host};

// with these a head has less than 8 KiB and 32 headers, which is what realm reads
const LONGEST_PATH: usize = 1024;
const LONGEST_TOKEN: usize = 512;
const LONGEST_HEADERS: usize = 4096;
const MOST_HEADERS: usize = 20;

/// Headers that the handshake writes itself, beside all of `sec-websocket-`.
const OWN_HEADERS: [&str; 5] = ["connection", "content-length", "host", "transfer-encoding", "upgrade"];

type Header = (Box<str>, Box<str>);

/// As it is compared, byte by byte; and the host that it names.
pub fn host(fields: &mut Fields<'_>, problems: &mut Problems) -> Option<(Box<str>, Host)> {
    let (text, node) = fields.text("host", problems)?;
    if let Ok(Backend { host, ports: BackendPorts::Same | BackendPorts::From(_), .. }) = Backend::parse(text)
    {
        return Some((text.into(), host));
    }
    let message = format!("{} is not the name of a host", node.shown());
    let help =
        r#"write one such as "www.example.com" or "www.example.com:8443", as it stands in the Host header"#;
    problems.at(node, &fields.subject_of("host"), message, Some(help));
    None
}

/// With its query, if there is one.
pub fn path(fields: &mut Fields<'_>, problems: &mut Problems) -> Box<str> {
    let Some((text, node)) = fields.text("path", problems) else { return USUAL_PATH.into() };
    let is_plain = |byte: u8| byte.is_ascii_graphic() && byte != b'#';
    if !text.starts_with('/') || !text.bytes().all(is_plain) {
        let message = format!("{} is not the path of a WebSocket", node.shown());
        let help = r#"write one that begins with a slash, such as "/ws"; what is not ASCII as %E6%B8%AF"#;
        problems.at(node, &fields.subject_of("path"), message, Some(help));
    } else if text.len() > LONGEST_PATH {
        let message = format!("it has {} bytes, and may have {LONGEST_PATH}", text.len());
        problems.at(node, &fields.subject_of("path"), message, Some("choose a shorter one"));
    }
    text.into()
}

/// It is never shown, in no complaint either.
pub fn token(fields: &mut Fields<'_>, problems: &mut Problems) -> Option<Box<str>> {
    let node = fields.take("token")?;
    let subject = fields.subject_of("token");
    match &node.value {
        Value::Text(text) if (1..=LONGEST_TOKEN).contains(&text.len()) && is_plain(text) => {
            return Some(text.as_str().into());
        }
        Value::Text(_) => {
            let help = format!("it has 1 to {LONGEST_TOKEN} characters of printable ASCII, no blanks");
            problems.at(node, &subject, "this is not a token", Some(&help));
        }
        _ => problems.at(node, &subject, "this is not a text in quotes", None),
    }
    None
}

fn is_plain(text: &str) -> bool {
    text.bytes().all(|byte| byte.is_ascii_graphic())
}

/// Headers that go beside the handshake's own, in their order. `has_token`: one of them is taken.
pub fn headers(fields: &mut Fields<'_>, has_token: bool, problems: &mut Problems) -> Vec<Header> {
    let Some(node) = fields.take("headers") else { return Vec::new() };
    let subject = fields.subject_of("headers");
    let Value::Table(table) = &node.value else {
        let help = r#"write a table such as { user-agent = "curl/8.5.0" }"#;
        problems.at(node, &subject, "this is not a table", Some(help));
        return Vec::new();
    };
    let mut headers: Vec<Header> = Vec::new();
    for entry in table.iter().filter(|entry| entry.node.value != Value::Null) {
        match header(entry, has_token, &headers) {
            Ok(header) => headers.push(header),
            Err((message, help)) => {
                problems.at(&entry.node, &format!("{subject}: {}", entry.key), message, Some(help))
            }
        }
    }
    let length: usize = headers.iter().map(|(name, value)| name.len() + value.len() + ": \r\n".len()).sum();
    if headers.len() > MOST_HEADERS || length > LONGEST_HEADERS {
        let message = format!("these are {} headers of {length} bytes together", headers.len());
        let help = format!("there may be {MOST_HEADERS}, of {LONGEST_HEADERS} bytes together");
        problems.at(node, &subject, message, Some(&help));
    }
    headers
}

/// A header; or what is wrong with it, and what would be right. Its value is not shown: it may be a secret.
fn header(entry: &Entry, has_token: bool, before: &[Header]) -> Result<Header, (&'static str, &'static str)> {
    let name = entry.key.as_str();
    let is = |other: &str| name.eq_ignore_ascii_case(other);
    let is_own = OWN_HEADERS.into_iter().any(is) || name.to_ascii_lowercase().starts_with("sec-websocket-");
    if name.is_empty() || !name.bytes().all(is_token_byte) {
        return Err(("this is not the name of a header", "letters, digits and - will do: \"user-agent\""));
    }
    if is("host") {
        return Err(("the handshake writes it itself", "`host` says what it is to be"));
    }
    if is_own {
        return Err(("the handshake writes it itself", "leave it out"));
    }
    if is("authorization") && has_token {
        return Err(("the token stands in it", "keep one of `token` and this header"));
    }
    if before.iter().any(|(known, _)| is(known)) {
        return Err(("it is there already: capitals make no difference", "keep one of them"));
    }
    match &entry.node.value {
        Value::Text(text) if is_header_value(text) => Ok((name.into(), text.as_str().into())),
        Value::Text(_) => Err((
            "what it says cannot stand in a header",
            "write printable ASCII, without blanks at either end and without line breaks",
        )),
        _ => Err(("what it says is not a text", "put it in quotes")),
    }
}

/// RFC 9110 section 5.6.2.
fn is_token_byte(byte: u8) -> bool {
    byte.is_ascii_alphanumeric() || b"!#$%&'*+-.^_`|~".contains(&byte)
}

fn is_header_value(text: &str) -> bool {
    let is_inside = text.trim() == text && !text.is_empty();
    is_inside && text.bytes().all(|byte| byte.is_ascii_graphic() || byte == b' ')
}
