//! realm's command line: `realm -l 0.0.0.0:80 -r 203.0.113.7:80 -u`.

use serde_json::{Map, Value as Json, json};

use super::super::shell::words;
use super::super::{Refusal, Source};

/// Options with a value, and the endpoint's keys for them.
const VALUES: [(&str, &str, &str); 7] = [
    ("-l", "--listen", "listen"),
    ("-r", "--remote", "remote"),
    ("-x", "--through", "through"),
    ("-i", "--interface", "interface"),
    ("-e", "--listen-interface", "listen_interface"),
    ("-a", "--listen-transport", "listen_transport"),
    ("-b", "--remote-transport", "remote_transport"),
];
/// Switches, and values of `network`.
const SWITCHES: [(&str, &str, &str); 6] = [
    ("-u", "--udp", "use_udp"),
    ("-t", "--ntcp", "no_tcp"),
    ("", "--send-proxy", "send_proxy"),
    ("", "--accept-proxy", "accept_proxy"),
    ("", "--send-mptcp", "send_mptcp"),
    ("", "--accept-mptcp", "accept_mptcp"),
];
const NUMBERS: [(&str, &str); 5] = [
    ("--tcp-timeout", "tcp_timeout"),
    ("--udp-timeout", "udp_timeout"),
    ("--tcp-keepalive", "tcp_keepalive"),
    ("--tcp-keepalive-probe", "tcp_keepalive_probe"),
    ("--send-proxy-version", "send_proxy_version"),
];

/// Whether a text is a command that starts realm.
pub fn is_one(text: &str) -> bool {
    let first = text.split_whitespace().next().unwrap_or_default();
    first.rsplit('/').next() == Some("realm") && !text.contains("[[")
}

/// The configuration that the command's options are.
///
/// # Errors
///
/// An option that realm does not have, or one without its value.
pub fn configuration(source: &Source) -> Result<Json, Refusal> {
    let words = words(&source.text.replace("\\\n", " "));
    let (mut endpoint, mut network) = (Map::new(), Map::new());
    let mut words = words.iter().map(String::as_str).skip(1);
    while let Some(option) = words.next() {
        let (option, joined) =
            option.split_once('=').map_or((option, None), |(name, value)| (name, Some(value)));
        let mut value = || {
            let value = joined.or_else(|| words.next());
            value.ok_or_else(|| source.refuse(1, format!("{option} has no value")))
        };
        if let Some((.., key)) = VALUES.iter().find(|(short, long, _)| option == *short || option == *long) {
            endpoint.insert((*key).into(), json!(value()?));
        } else if let Some((_, key)) = NUMBERS.iter().find(|(long, _)| option == *long) {
            let text = value()?;
            let number: u32 = text.parse().map_err(|_no_number| {
                source.refuse(1, format!("{option}: {text:?} is not a whole number"))
            })?;
            network.insert((*key).into(), json!(number));
        } else if let Some((.., key)) =
            SWITCHES.iter().find(|(short, long, _)| option == *short || option == *long)
        {
            network.insert((*key).into(), json!(true));
        } else {
            return Err(source.refuse(1, format!("{option:?} is no option of realm's that makes a rule")));
        }
    }
    endpoint.insert("network".into(), Json::Object(network));
    Ok(json!({ "endpoints": [endpoint] }))
}
