//! port-relay's `.env`: `RELAY_1="50025;25;host;TCP"`. Scripts source it; here it is text, and only known keys are read.

use serde_json::{Map, Value as Json, json};

use super::shell::assignment;
use super::{Findings, Refusal, Source};

const TIMES: [(&str, &str); 2] = [("KEEPALIVE_IDLE", "idle"), ("KEEPALIVE_INTVL", "interval")];

/// # Errors
///
/// A line that is not KEY=value, a value that a shell would run, a relay of another form.
pub fn read(source: &Source, findings: &mut Findings) -> Result<(), Refusal> {
    let (mut relays, mut timeout, mut keepalive) = (Vec::new(), Map::new(), Map::new());
    for (line, text) in source.lines() {
        let (key, value) = assignment(source, line, text)?;
        let number = || {
            value
                .parse::<u32>()
                .map_err(|_no_number| source.refuse(line, format!("{key}: {value:?} is not a whole number")))
        };
        let time = TIMES.iter().find(|(known, _)| *known == key);
        if key.strip_prefix("RELAY_").is_some_and(|number| number.bytes().all(|byte| byte.is_ascii_digit())) {
            relays.push((line, value));
        } else if let Some((_, own)) = time {
            keepalive.insert((*own).into(), json!(format!("{}s", number()?)));
        } else if key == "KEEPALIVE_CNT" {
            keepalive.insert("count".into(), json!(number()?));
        } else if key == "CONNECT_TIMEOUT" {
            timeout.insert("connect".into(), json!(format!("{}s", number()?)));
        } else {
            findings.remark(
                &source.place(line),
                format!("{key} is not carried: Relay has its own logs and checks"),
            );
        }
    }
    if !keepalive.is_empty() {
        timeout.insert("keepalive".into(), Json::Object(keepalive));
    }
    for (line, value) in relays {
        findings.draft(source.place(line), relay(source, line, value, &timeout)?);
    }
    Ok(())
}

fn relay(source: &Source, line: usize, value: &str, timeout: &Map<String, Json>) -> Result<Json, Refusal> {
    let parts: Vec<&str> = value.split(';').map(str::trim).collect();
    let &[listen, port, host, protocol] = parts.as_slice() else {
        return Err(source.refuse(line, format!("{value:?} is not listen;port;host;TCP or UDP")));
    };
    let host = if host.contains(':') && !host.starts_with('[') { format!("[{host}]") } else { host.into() };
    let protocol = protocol.to_ascii_lowercase();
    let protocol = if protocol == "both" || protocol == "tcp/udp" { "tcp+udp".into() } else { protocol };
    let mut keys =
        json!({ "listen": format!(":{listen}"), "to": format!("{host}:{port}"), "protocol": protocol });
    let mut timeout = timeout.clone();
    if protocol == "udp" {
        // connecting and keeping alive are TCP's
        timeout.clear();
    }
    if !timeout.is_empty() {
        keys["timeout"] = Json::Object(timeout);
    }
    Ok(keys)
}
