//! What `nft -j list ruleset` prints: the same statements as JSON (libnftables-json(5)).

use serde_json::Value as Json;

use super::super::nat::Nat;
use super::super::{Findings, Refusal, Source};

/// # Errors
///
/// It is not JSON, or not nftables'.
pub fn read(source: &Source, findings: &mut Findings) -> Result<(), Refusal> {
    let ruleset: Json = serde_json::from_str(&source.text)
        .map_err(|error| source.refuse(error.line(), format!("this is not JSON: {error}")))?;
    let Some(items) = ruleset.get("nftables").and_then(Json::as_array) else {
        return Err(source.refuse(1, "there is no \"nftables\" in it"));
    };
    for (index, rule) in items.iter().enumerate().filter_map(|(index, item)| Some((index, item.get("rule")?)))
    {
        let statements = rule.get("expr").and_then(Json::as_array).map(Vec::as_slice).unwrap_or_default();
        // all of it stands on one line, mostly: the item's number says more
        let place = source.place(index + 1);
        let has = |key: &str| statements.iter().any(|statement| statement.get(key).is_some());
        if has("redirect") {
            findings.remark(&place, "not carried: redirect goes to this host itself");
        }
        if !has("dnat") {
            continue;
        }
        match dnat(statements, rule.get("comment").and_then(Json::as_str)) {
            Ok(nat) => nat.add(&place, findings),
            Err(why) => findings.remark(&place, format!("not carried: {why}")),
        }
    }
    Ok(())
}

fn dnat(statements: &[Json], comment: Option<&str>) -> Result<Nat, String> {
    let mut nat = Nat { note: comment.map(Into::into), ..Nat::default() };
    for statement in statements {
        if let Some(parts) = statement.get("match") {
            take(parts, &mut nat)?;
        } else if let Some(target) = statement.get("dnat") {
            nat.target = self::target(target)?;
        } else if statement.get("counter").is_none() {
            let name =
                statement.as_object().and_then(|object| object.keys().next()).map_or("", String::as_str);
            return Err(format!("a rule has nothing like {name:?}"));
        }
    }
    Ok(nat)
}

/// One match.
fn take(parts: &Json, nat: &mut Nat) -> Result<(), String> {
    let text = |pointer: &str| parts.pointer(pointer).and_then(Json::as_str).unwrap_or_default();
    if !matches!(text("/op"), "==" | "in") {
        return Err(format!("it matches with {:?}; a rule has one value", text("/op")));
    }
    let values = values(parts.get("right").unwrap_or(&Json::Null))?;
    let only = || match values.as_slice() {
        [only] if !only.contains('/') => Ok(only.clone()),
        _ => Err(format!("it matches {}; a rule has one", values.join(" "))),
    };
    let [protocol, field] = [text("/left/payload/protocol"), text("/left/payload/field")];
    match (protocol, field, text("/left/meta/key")) {
        ("tcp" | "udp" | "th", "dport", _) => {
            let _th_has_been_told = nat.protocol(protocol);
            nat.ports = values;
        }
        ("ip" | "ip6", "daddr", _) => nat.address = Some(only()?),
        ("ip", "protocol", _) | (_, _, "l4proto") => {
            if let Some(other) = values.iter().find(|name| !nat.protocol(name)) {
                return Err(format!("protocol {other} is neither TCP nor UDP"));
            }
        }
        (_, _, "iifname" | "iif") => nat.interface = Some(only()?),
        (_, _, key) => return Err(format!("a rule has nothing like {protocol} {field}{key} to match")),
    }
    Ok(())
}

/// `80`, `"eth0"`, a range, a prefix, or a set of them.
fn values(right: &Json) -> Result<Vec<String>, String> {
    match right {
        Json::String(text) => Ok(vec![text.clone()]),
        Json::Number(number) => Ok(vec![number.to_string()]),
        Json::Array(items) => {
            items.iter().map(values).collect::<Result<Vec<_>, _>>().map(|lists| lists.concat())
        }
        Json::Object(object) => match (object.get("set"), object.get("range"), object.get("prefix")) {
            (Some(set), ..) => values(set),
            (_, Some(range), _) => Ok(vec![values(range)?.join("-")]),
            (.., Some(prefix)) => {
                let [address, length] = ["addr", "len"].map(|key| prefix.get(key).unwrap_or(&Json::Null));
                Ok(vec![[values(address)?.concat(), values(length)?.concat()].join("/")])
            }
            _ => Err("it matches what a rule cannot".into()),
        },
        _ => Err("it matches what a rule cannot".into()),
    }
}

/// `addr` and `port`; a map is none.
fn target(dnat: &Json) -> Result<String, String> {
    let part = |key: &str| dnat.get(key).map(values).transpose();
    let chosen = |_| "its target is chosen by a map".to_owned();
    let address = part("addr").map_err(chosen)?.unwrap_or_default().concat();
    if address.is_empty() {
        return Err("its target is not an address".into());
    }
    let address = if address.contains(':') { format!("[{address}]") } else { address };
    Ok(match part("port").map_err(chosen)? {
        Some(port) => format!("{address}:{}", port.concat()),
        None => address,
    })
}
