//! realm's older JSON: lists of addresses and ports, with ranges, paired by position.

use serde_json::json;

use super::super::{Findings, Refusal, Source};
use super::{as_text, find};
use crate::config::node::{Table, Value};

/// # Errors
///
/// A list is missing or empty.
pub fn read(source: &Source, table: &Table, findings: &mut Findings) -> Result<(), Refusal> {
    let list = |key: &str| -> Result<Vec<&str>, Refusal> {
        let items = match find(table, key).map(|node| &node.value) {
            Some(Value::Array(items)) => items.iter().filter_map(as_text).collect(),
            _ => Vec::new(),
        };
        if items.is_empty() { Err(source.refuse(1, format!("{key} is missing or empty"))) } else { Ok(items) }
    };
    let (addresses, ports) = (list("listening_addresses")?, list("listening_ports")?);
    let (remotes, remote_ports) = (list("remote_addresses")?, list("remote_ports")?);
    for (index, port) in ports.iter().enumerate() {
        // what a list lacks is its first item, as with realm
        let at = |list: &[&str]| (*list.get(index).unwrap_or(&list[0])).to_owned();
        let bracketed = |host: String| if host.contains(':') { format!("[{host}]") } else { host };
        let host = at(&addresses);
        let on = if host == "::" { String::new() } else { bracketed(host) };
        // a range starts at its first port, and is as wide as the listener's
        let to = at(&remote_ports);
        let first = to.split('-').next().unwrap_or(&to).to_owned();
        let width = |ports: &str| {
            let (low, high) = ports.split_once('-').unwrap_or((ports, ports));
            high.parse::<u16>().ok().zip(low.parse::<u16>().ok()).map(|(high, low)| high.saturating_sub(low))
        };
        if width(port) != width(&to) {
            return Err(source.refuse(1, format!("{port} and {to} are not equally many ports")));
        }
        let remote = bracketed(at(&remotes));
        findings.draft(
            source.place(1),
            json!({ "listen": format!("{on}:{port}"), "to": format!("{remote}:{first}"), "protocol": "tcp+udp" }),
        );
    }
    Ok(())
}
