//! nginx's `stream` block: servers that listen and pass on, and upstreams.

use std::collections::HashMap;

use serde_json::{Value as Json, json};

use super::{Draft, Findings, Place, Refusal, Source, one_or_list};

/// A directive: its words, and what stands in its braces.
#[derive(Debug)]
struct Directive {
    line: usize,
    words: Vec<String>,
    block: Vec<Self>,
}

/// Braces in braces: no configuration has more.
const DEEPEST: usize = 16;

/// # Errors
///
/// There is no `stream` in it, a brace or a semicolon is missing, a server passes to nobody.
pub fn read(source: &Source, findings: &mut Findings) -> Result<(), Refusal> {
    let mut tokens = tokens(source)?;
    tokens.reverse();
    let all = block(source, &mut tokens, 0)?;
    let mut streams = all.iter().filter(|directive| directive.name() == "stream").peekable();
    if streams.peek().is_none() {
        return Err(source.refuse(1, "there is no stream { } in it"));
    }
    for stream in streams {
        let upstreams: HashMap<&str, &Directive> = stream
            .block
            .iter()
            .filter(|directive| directive.name() == "upstream")
            .filter_map(|directive| Some((directive.words.get(1)?.as_str(), directive)))
            .collect();
        for directive in &stream.block {
            let place = source.place(directive.line);
            match directive.name() {
                "server" => server(source, directive, &upstreams, findings)?,
                "upstream" => {}
                name => findings.remark(&place, format!("{name} is not carried")),
            }
        }
    }
    Ok(())
}

impl Directive {
    fn name(&self) -> &str {
        self.words.first().map_or("", String::as_str)
    }

    fn value(&self) -> &str {
        self.words.get(1).map_or("", String::as_str)
    }
}

fn server(
    source: &Source,
    server: &Directive,
    upstreams: &HashMap<&str, &Directive>,
    findings: &mut Findings,
) -> Result<(), Refusal> {
    let place = source.place(server.line);
    let (mut listen, mut udp, mut to) = (Vec::new(), false, None);
    let mut keys = json!({});
    for directive in &server.block {
        let value = directive.value();
        match directive.name() {
            "listen" => {
                let options = directive.words.get(2..).unwrap_or_default();
                udp |= options.iter().any(|option| option == "udp");
                if options.iter().any(|option| option == "proxy_protocol") {
                    keys["accept"]["proxy_protocol"] = json!(true);
                }
                if options.iter().any(|option| option == "ssl") {
                    findings.remark(
                        &place,
                        "ssl is not carried: set accept.transport, accept.cert and accept.key",
                    );
                }
                listen.push(on(value));
            }
            "proxy_pass" => to = Some(value),
            "proxy_protocol" if value == "on" => keys["connect"]["proxy_protocol"] = json!(1),
            "proxy_bind" => keys["connect"]["source"] = json!(value),
            "proxy_timeout" => keys["timeout"]["tcp_idle"] = json!(time(value)),
            "proxy_connect_timeout" => keys["timeout"]["connect"] = json!(time(value)),
            name => findings.remark(&source.place(directive.line), format!("{name} is not carried")),
        }
    }
    let to = to.ok_or_else(|| source.refuse(server.line, "the server has no proxy_pass"))?;
    if to.contains('$') || to.starts_with("unix:") || listen.iter().any(|listen| listen.starts_with("unix:"))
    {
        findings
            .remark(&place, format!("not carried: {to} is chosen by a variable, or a socket of this host"));
        return Ok(());
    }
    listen.dedup();
    keys["listen"] = one_or_list(listen);
    keys["protocol"] = json!(if udp { "udp" } else { "tcp" });
    match upstreams.get(to) {
        None => keys["to"] = json!(to),
        Some(upstream) => behind(upstream, &mut keys, &place, findings),
    }
    if udp && let Some(idle) = keys["timeout"]["tcp_idle"].as_str().map(ToOwned::to_owned) {
        keys["timeout"] = json!({ "udp": idle });
    }
    if keys["timeout"].is_null()
        && let Some(keys) = keys.as_object_mut()
    {
        keys.shift_remove("timeout");
    }
    add(place, keys, findings);
    Ok(())
}

/// TCP and UDP on one port are two servers there, and one rule here.
fn add(place: Place, keys: Json, findings: &mut Findings) {
    let is_like = |draft: &&mut Draft| {
        let is_same = ["listen", "to", "balance"].iter().all(|key| draft.keys.get(*key) == keys.get(key));
        draft.place.file == place.file && is_same && draft.keys.get("protocol") != keys.get("protocol")
    };
    match findings.drafts.iter_mut().find(is_like) {
        Some(twin) => drop(twin.keys.insert("protocol".into(), json!("tcp+udp"))),
        None => findings.draft(place, keys),
    }
}

fn behind(upstream: &Directive, keys: &mut Json, place: &Place, findings: &mut Findings) {
    let (mut to, mut balance) = (Vec::new(), "roundrobin");
    for directive in &upstream.block {
        match (directive.name(), directive.value()) {
            ("server", address) => {
                let option = |name: &str| directive.words.iter().find_map(|word| word.strip_prefix(name));
                let is_backup = directive.words.iter().any(|word| word == "backup");
                if directive.words.iter().any(|word| word == "down") {
                    findings.remark(place, format!("{address} is not carried: it is marked as down"));
                    continue;
                }
                let weight: Option<u32> = option("weight=").and_then(|weight| weight.parse().ok());
                to.push(if weight.is_some() || is_backup {
                    json!({ "addr": address, "weight": weight.unwrap_or(1), "priority": u32::from(is_backup) })
                } else {
                    json!(address)
                });
            }
            ("least_conn", _) => balance = "leastconn",
            ("hash", _) => balance = "iphash",
            ("zone" | "random", _) => {}
            (name, _) => findings.remark(place, format!("{name} is not carried")),
        }
    }
    if to.len() > 1 {
        keys["balance"] = json!(balance);
    }
    keys["to"] = Json::Array(to);
}

/// `80`, `*:80`, `[::]:80`, `192.0.2.1:80`.
fn on(text: &str) -> String {
    match text.rsplit_once(':') {
        Some(("*" | "0.0.0.0" | "[::]", port)) => format!(":{port}"),
        None if text.bytes().all(|byte| byte.is_ascii_digit() || byte == b'-') => format!(":{text}"),
        _ => text.to_owned(),
    }
}

/// A number alone is seconds.
fn time(text: &str) -> String {
    if text.bytes().all(|byte| byte.is_ascii_digit()) { format!("{text}s") } else { text.to_owned() }
}

/// Words, braces and semicolons with their lines; comments are left out.
fn tokens(source: &Source) -> Result<Vec<(usize, String)>, Refusal> {
    let mut tokens = Vec::new();
    for (line, text) in source.lines() {
        let mut rest = text;
        while let Some(first) = rest.chars().next() {
            let end = match first {
                '#' => break,
                '{' | '}' | ';' => 1,
                '"' | '\'' => {
                    let inner =
                        rest[1..].find(first).ok_or_else(|| source.refuse(line, "the quote does not end"))?;
                    tokens.push((line, rest[1..=inner].to_owned()));
                    rest = &rest[inner + 2..];
                    continue;
                }
                c if c.is_whitespace() => {
                    rest = rest.trim_start();
                    continue;
                }
                _ => rest.find(|c: char| c.is_whitespace() || "{};".contains(c)).unwrap_or(rest.len()),
            };
            tokens.push((line, rest[..end].to_owned()));
            rest = &rest[end..];
        }
    }
    Ok(tokens)
}

/// Directives up to the brace that ends them. `tokens`: the next one last.
fn block(
    source: &Source,
    tokens: &mut Vec<(usize, String)>,
    depth: usize,
) -> Result<Vec<Directive>, Refusal> {
    let mut directives = Vec::new();
    let mut words: Vec<String> = Vec::new();
    while let Some((line, token)) = tokens.pop() {
        if depth > DEEPEST {
            return Err(source.refuse(line, format!("braces go deeper than {DEEPEST}")));
        }
        match token.as_str() {
            ";" => directives.push(Directive { line, words: std::mem::take(&mut words), block: Vec::new() }),
            "{" => {
                let block = block(source, tokens, depth + 1)?;
                directives.push(Directive { line, words: std::mem::take(&mut words), block });
            }
            "}" if depth > 0 && words.is_empty() => return Ok(directives),
            "}" => return Err(source.refuse(line, "a } too many, or a ; is missing before it")),
            _ => words.push(token),
        }
    }
    if depth > 0 || !words.is_empty() {
        let last = source.text.lines().count().max(1);
        return Err(source.refuse(last, "the file ends before a ; or a }"));
    }
    Ok(directives)
}
