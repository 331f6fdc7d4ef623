//! Telling by the content whose file it is.

use super::{Kind, Refusal, Source, realm};

/// # Errors
///
/// Nothing in it is like any of them.
pub fn guess(sources: &[Source]) -> Result<Kind, Refusal> {
    let Some(source) = sources.first() else { return Ok(Kind::Realm) };
    let text = &source.text;
    let is_rule = |source: &Source| source.text.contains("RULE_ID=") || source.text.contains("LISTEN_PORT=");
    if sources.iter().any(is_rule) {
        return Ok(Kind::Xwpf);
    }
    let mut lines = source.lines().map(|(_, line)| line);
    let any = |start: &str| text.lines().any(|line| line.trim_start().starts_with(start));
    let kind = if any("*nat") || any("-A PREROUTING") {
        Kind::Iptables
    } else if (any("table ") && text.contains("dnat")) || text.contains("\"nftables\"") {
        Kind::Nftables
    } else if any("RELAY_1=") || any("export RELAY_") {
        Kind::PortRelay
    } else if any("stream") && text.contains("proxy_pass") {
        Kind::Nginx
    } else if (any("listen ") || any("frontend ")) && any("server ") {
        Kind::Haproxy
    } else if realm::is_command(text)
        || text.contains("[[endpoints]]")
        || text.contains("\"endpoints\"")
        || text.contains("listening_")
    {
        Kind::Realm
    } else if lines
        .next()
        .is_some_and(|line| line.starts_with(|c: char| c.is_ascii_digit()) && line.contains(':'))
    {
        Kind::Lines
    } else {
        return Err(source.refuse(
            1,
            "it is not clear whose file this is; say it: realm, xwpf, port-relay, nftables, iptables, haproxy, nginx, lines",
        ));
    };
    Ok(kind)
}
