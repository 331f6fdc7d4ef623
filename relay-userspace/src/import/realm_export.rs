//! Rules for realm: those that it can carry, as its TOML.

use serde_json::{Value as Json, json};

use crate::config::encode::{to_json, toml_value};
use crate::rule::Rule;

/// What realm's `network` has of a rule's protocols.
const KNOWN: [&str; 6] = ["name", "note", "listen", "protocol", "to", "balance"];

/// realm's configuration, and for each rule that it cannot carry why.
pub fn to_realm<'a>(rules: impl IntoIterator<Item = &'a Rule>) -> (String, Vec<String>) {
    let (mut text, mut left) = (String::new(), Vec::new());
    for rule in rules {
        match endpoint(rule) {
            Ok(block) => text += &block,
            Err(why) => left.push(format!("rule \"{}\" is left out: {why}", rule.name)),
        }
    }
    (text, left)
}

fn endpoint(rule: &Rule) -> Result<String, String> {
    if !rule.enabled {
        return Err("it is switched off".into());
    }
    if rule.listen.iter().any(|listener| !listener.ports.is_single()) {
        return Err("realm has no ranges of ports".into());
    }
    let keys = to_json(rule);
    if let Some(key) = keys.keys().find(|key| !KNOWN.contains(&key.as_str())) {
        return Err(format!("realm has nothing like `{key}`"));
    }
    if rule.to.iter().any(|backend| backend.priority != 0) {
        return Err("realm knows no priorities".into());
    }
    let remotes: Vec<String> = rule.to.iter().map(|backend| remote(rule, &backend.to_string())).collect();
    let protocols = rule.protocols.as_str();
    let mut text = String::new();
    for listener in &rule.listen {
        let listen = listener.to_string();
        let mut lines = vec![];
        match listen.strip_prefix('%').and_then(|rest| rest.rsplit_once(':')) {
            Some((interface, port)) => {
                lines.push(("listen", json!(format!("[::]:{port}"))));
                lines.push(("listen_interface", json!(interface)));
            }
            None if listen.starts_with(':') => lines.push(("listen", json!(format!("[::]{listen}")))),
            None => lines.push(("listen", json!(listen))),
        }
        lines.push(("remote", json!(remotes[0])));
        if remotes.len() > 1 {
            lines.push(("extra_remotes", json!(remotes[1..])));
            lines.push(("balance", json!(balance(rule)?)));
        }
        lines.push(("network", network(protocols)));
        text += "[[endpoints]]\n";
        for (key, value) in lines {
            text += &format!("{key} = {}\n", toml_value(&value));
        }
        text.push('\n');
    }
    Ok(text)
}

/// A backend without a port has the listener's.
fn remote(rule: &Rule, backend: &str) -> String {
    let has_port = backend.rsplit_once(':').is_some_and(|(_, port)| port.parse::<u16>().is_ok());
    if has_port { backend.into() } else { format!("{backend}:{}", rule.listen[0].ports.first()) }
}

fn network(protocols: &str) -> Json {
    json!({ "no_tcp": protocols == "udp", "use_udp": protocols != "tcp" })
}

fn balance(rule: &Rule) -> Result<String, String> {
    let weights: Vec<String> = rule.to.iter().map(|backend| backend.weight.to_string()).collect();
    match rule.balance.as_str() {
        word @ ("roundrobin" | "iphash") => Ok(format!("{word}: {}", weights.join(", "))),
        "first" => Err("realm has no way to go to the next backend when the first is down".into()),
        other => Err(format!("realm cannot balance by {other}")),
    }
}
