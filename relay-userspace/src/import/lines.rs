//! Plain lines, as people paste them: `port:host:port[:note]`.

use serde_json::json;

use super::{Findings, Refusal, Source};

/// # Errors
///
/// A line of another form.
pub fn read(source: &Source, findings: &mut Findings) -> Result<(), Refusal> {
    for (line, text) in source.lines() {
        let wrong = || {
            source.refuse(line, format!("{text:?} is not port:host:port[:note]; an IPv6 address goes in [ ]"))
        };
        let (port, rest) = text.split_once(':').ok_or_else(wrong)?;
        let split = match rest.strip_prefix('[') {
            Some(inner) => rest.split_at(inner.find("]:").ok_or_else(wrong)? + 2),
            None => rest.split_at(rest.find(':').ok_or_else(wrong)?),
        };
        let (host, rest) = (split.0, &split.1[1..]);
        let (to, note) = rest.split_once(':').unwrap_or((rest, ""));
        let mut keys =
            json!({ "listen": format!(":{}", port.trim()), "to": format!("{}:{}", host.trim(), to.trim()) });
        if !note.trim().is_empty() {
            keys["note"] = json!(note.trim());
        }
        findings.draft(source.place(line), keys);
    }
    Ok(())
}
