//! nftables as JSON (`nft -j`), and in its text form: statements with `dnat`, one a line as `nft list ruleset` prints them, and `define`s.

mod json;

use std::collections::HashMap;

use super::nat::Nat;
use super::{Findings, Refusal, Source};

/// # Errors
///
/// A `$NAME` that no `define` has; JSON of another kind.
pub fn read(source: &Source, findings: &mut Findings) -> Result<(), Refusal> {
    if source.text.trim_start().starts_with('{') {
        return json::read(source, findings);
    }
    let mut names: HashMap<&str, &str> = HashMap::new();
    for (line, text) in source.lines() {
        if let Some((name, value)) = text.strip_prefix("define ").and_then(|rest| rest.split_once('=')) {
            names.insert(name.trim(), value.trim());
            continue;
        }
        let tokens = tokens(source, line, text, &names)?;
        let place = source.place(line);
        if tokens.iter().any(|token| token == "redirect") {
            findings.remark(&place, "not carried: redirect goes to this host itself");
        }
        if !tokens.iter().any(|token| token == "dnat") || text.starts_with("type ") {
            continue;
        }
        match dnat(&tokens) {
            Ok(nat) => nat.add(&place, findings),
            Err(why) => findings.remark(&place, format!("not carried: {why}")),
        }
    }
    Ok(())
}

/// Words, texts in quotes, braces and commas, with names put in.
fn tokens(
    source: &Source,
    line: usize,
    text: &str,
    names: &HashMap<&str, &str>,
) -> Result<Vec<String>, Refusal> {
    let (mut tokens, mut rest) = (Vec::new(), text);
    while let Some(first) = rest.chars().next() {
        let end = match first {
            '#' => break,
            '{' | '}' | ',' | ';' => 1,
            '"' => rest[1..]
                .find('"')
                .map(|at| at + 2)
                .ok_or_else(|| source.refuse(line, "the quote does not end"))?,
            c if c.is_whitespace() => {
                rest = rest.trim_start();
                continue;
            }
            _ => rest.find(|c: char| c.is_whitespace() || "{},;\"".contains(c)).unwrap_or(rest.len()),
        };
        let token = &rest[..end];
        rest = &rest[end..];
        match token.strip_prefix('$') {
            None => tokens.push(token.trim_matches('"').to_owned()),
            Some(named) => {
                // `$BACK:8443` is a name and a port
                let end = named.find(|c: char| !c.is_alphanumeric() && c != '_').unwrap_or(named.len());
                let (name, behind) = named.split_at(end);
                let value = names.get(name);
                let value =
                    value.ok_or_else(|| source.refuse(line, format!("${name} is not defined before")))?;
                let spaced =
                    format!("{value}{behind}").replace(['{', '}'], " ").replace(',', " , ").replace('"', "");
                let is_set = value.starts_with('{');
                tokens.extend(is_set.then(|| "{".to_owned()));
                tokens.extend(spaced.split_whitespace().map(ToOwned::to_owned));
                tokens.extend(is_set.then(|| "}".to_owned()));
            }
        }
    }
    Ok(tokens)
}

fn dnat(tokens: &[String]) -> Result<Nat, String> {
    let mut nat = Nat::default();
    let mut at = 0;
    let word = |at: usize| tokens.get(at).map_or("", String::as_str);
    // what opens the line: `add rule ip nat prerouting`
    if let "add" | "insert" = word(0) {
        at = if word(2) == "ip" || word(2) == "ip6" || word(2) == "inet" { 5 } else { 4 };
    }
    while at < tokens.len() {
        let (values, next) = match (word(at), word(at + 1)) {
            (protocol @ ("tcp" | "udp" | "th"), "dport") => {
                let _th_has_been_told = nat.protocol(protocol);
                let (ports, next) = set(tokens, at + 2);
                nat.ports = ports;
                (Vec::new(), next)
            }
            ("meta", "l4proto") | ("ip", "protocol") => {
                let (names, next) = set(tokens, at + 2);
                for name in &names {
                    if !nat.protocol(name) {
                        return Err(format!("protocol {name} is neither TCP nor UDP"));
                    }
                }
                (Vec::new(), next)
            }
            ("iifname" | "iif", _) => {
                let (names, next) = set(tokens, at + 1);
                nat.interface = names.first().cloned();
                (names, next)
            }
            ("ip" | "ip6", "daddr") => {
                let (addresses, next) = set(tokens, at + 2);
                nat.address = addresses.first().cloned();
                (addresses, next)
            }
            ("counter", "packets") => (Vec::new(), at + 5),
            ("counter" | "}" | ";", _) => (Vec::new(), at + 1),
            ("comment", _) => {
                nat.note = Some(word(at + 1).into());
                (Vec::new(), at + 2)
            }
            ("dnat", "ip" | "ip6") if word(at + 2) == "to" => (Vec::new(), target(tokens, at + 3, &mut nat)?),
            ("dnat", "to") => (Vec::new(), target(tokens, at + 2, &mut nat)?),
            ("", _) => break,
            (other, _) => return Err(format!("a rule has nothing like {other:?} here")),
        };
        if values.len() > 1
            || values.iter().any(|value| matches!(value.as_str(), "!=" | "==") || value.contains('/'))
        {
            return Err(format!("it matches {}; a rule has one", values.join(" ")));
        }
        at = next;
    }
    if nat.target.is_empty() { Err("its target is not an address".into()) } else { Ok(nat) }
}

/// The address; a map is none.
fn target(tokens: &[String], at: usize, nat: &mut Nat) -> Result<usize, String> {
    let text = tokens
        .get(at)
        .filter(|text| text.contains(['.', ':', '[']))
        .ok_or("its target is chosen by a map")?;
    nat.target.clone_from(text);
    Ok(at + 1)
}

/// `80`, or `{ 80, 443 }`, and what comes after. A sign before them is a value too, which nobody takes.
fn set(tokens: &[String], at: usize) -> (Vec<String>, usize) {
    match tokens.get(at).map(String::as_str) {
        Some("{") => {
            let length = tokens[at..].iter().take_while(|token| *token != "}").count();
            let values = tokens[at + 1..at + length].iter().filter(|token| *token != ",").cloned().collect();
            (values, at + length + 1)
        }
        Some(sign @ ("!=" | "<" | ">" | "<=" | ">=")) => {
            (vec![sign.into(), tokens.get(at + 1).cloned().unwrap_or_default()], at + 2)
        }
        Some(value) => (vec![value.into()], at + 1),
        None => (Vec::new(), at),
    }
}
