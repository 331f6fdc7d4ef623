//! realm's words for tunnels: `ws;host=h;path=/p;tls;sni=s;insecure`.

use serde_json::{Map, Value as Json, json};

use super::super::{Findings, Place, Refusal};
use super::refusal;

type Keys = Map<String, Json>;

/// What backends are reached through.
pub fn connect(text: &str, place: &Place, keys: &mut Keys, findings: &mut Findings) -> Result<(), Refusal> {
    for (word, value) in words(text, place, keys)? {
        match (word, value) {
            ("host" | "path" | "sni", Some(value)) => drop(keys.insert(word.into(), json!(value))),
            ("insecure", None) => drop(keys.insert("verify".into(), json!("insecure"))),
            _ => findings.remark(place, format!("remote_transport: {word} is not carried")),
        }
    }
    Ok(())
}

/// What clients come through.
pub fn accept(text: &str, place: &Place, keys: &mut Keys, findings: &mut Findings) -> Result<(), Refusal> {
    let words = words(text, place, keys)?;
    let is_tls = keys.get("transport").is_some_and(|transport| transport == "tls");
    for (word, value) in words {
        match (word, value) {
            ("host" | "path" | "cert" | "key", Some(value)) => drop(keys.insert(word.into(), json!(value))),
            // the name of the certificate that it signs itself
            ("servername", Some(value)) if is_tls => drop(keys.insert("host".into(), json!(value))),
            _ => findings.remark(place, format!("listen_transport: {word} is not carried")),
        }
    }
    Ok(())
}

/// Sets `transport`; the other words are left.
fn words<'a>(
    text: &'a str,
    place: &Place,
    keys: &mut Keys,
) -> Result<Vec<(&'a str, Option<&'a str>)>, Refusal> {
    let split = |word: &'a str| {
        word.split_once('=').map_or((word, None), |(word, value)| (word.trim(), Some(value.trim())))
    };
    let mut words: Vec<_> =
        text.split(';').map(str::trim).filter(|word| !word.is_empty()).map(split).collect();
    let has = |word: &str| words.contains(&(word, None));
    let transport = match (has("ws"), has("tls")) {
        (true, true) => "wss",
        (true, false) => "ws",
        (false, true) => "tls",
        (false, false) => return Err(refusal(place, &format!("transport {text:?} is neither ws nor tls"))),
    };
    keys.insert("transport".into(), json!(transport));
    words.retain(|word| !matches!(word, ("ws" | "tls", None)));
    Ok(words)
}
