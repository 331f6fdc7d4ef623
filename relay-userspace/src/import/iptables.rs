//! `iptables-save` and `ip6tables-save`: the DNAT lines of the table nat.

use super::nat::Nat;
use super::shell::words;
use super::{Findings, Refusal, Source};

/// # Errors
///
/// There is no table in it.
pub fn read(source: &Source, findings: &mut Findings) -> Result<(), Refusal> {
    let mut table = "";
    for (line, text) in source.lines() {
        if let Some(name) = text.strip_prefix('*') {
            table = name;
        } else if text.starts_with("-A ") && (table == "nat" || table.is_empty()) {
            rule(source, line, text, findings);
        } else if !text.starts_with([':', '-', '[']) && text != "COMMIT" {
            return Err(source.refuse(line, format!("{text:?} is not a line of iptables-save")));
        }
    }
    Ok(())
}

fn rule(source: &Source, line: usize, text: &str, findings: &mut Findings) {
    let place = source.place(line);
    let words = words(text);
    let has = |word: &str| words.iter().any(|known| known == word);
    if has("REDIRECT") {
        findings.remark(&place, "not carried: REDIRECT goes to this host itself");
    }
    if !has("DNAT") {
        return;
    }
    match dnat(&words) {
        Ok(nat) => nat.add(&place, findings),
        Err(why) => findings.remark(&place, format!("not carried: {why}")),
    }
}

fn dnat(words: &[String]) -> Result<Nat, String> {
    let mut nat = Nat::default();
    let mut words = words.iter().map(String::as_str);
    while let Some(word) = words.next() {
        let mut value = || words.next().ok_or_else(|| format!("{word} has no value"));
        match word {
            "-A" => {
                let chain = value()?;
                if chain == "OUTPUT" {
                    return Err("it is for what this host sends itself".into());
                }
            }
            "-m" | "-j" => drop(value()?),
            "-p" => {
                let name = value()?;
                if !nat.protocol(name) {
                    return Err(format!("protocol {name} is neither TCP nor UDP"));
                }
            }
            "-i" => nat.interface = Some(value()?.into()),
            "-d" => nat.address = Some(host(value()?)?),
            "--dport" | "--dports" => {
                nat.ports = value()?.split(',').map(|ports| ports.replace(':', "-")).collect()
            }
            "--comment" => nat.note = Some(value()?.into()),
            "--to-destination" => nat.target = value()?.into(),
            other => return Err(format!("a rule has nothing like {other}")),
        }
    }
    if nat.target.is_empty() { Err("it has no --to-destination".into()) } else { Ok(nat) }
}

/// An address with the length of all its bits, or none.
fn host(text: &str) -> Result<String, String> {
    match text.split_once('/') {
        None | Some((_, "32" | "128")) => Ok(text.split('/').next().unwrap_or(text).into()),
        Some(_) => Err(format!("{text} is more than one address")),
    }
}
