//! xwPF's rules: files `rule-N.conf` of KEY=value in a folder, or in its bundle. Files with one port are one rule.

use std::collections::HashMap;
use std::net::IpAddr;

use serde_json::{Map, Value as Json, json};

use super::realm::transport;
use super::shell::assignment;
use super::{Findings, Place, Refusal, Source, one_or_list};

/// What a rule's file has, and where.
struct File<'a> {
    place: Place,
    keys: HashMap<&'a str, &'a str>,
}

/// # Errors
///
/// A line that is not KEY=value or would run something, a rule without a port or target; no rule at all.
pub fn read(sources: &[Source], findings: &mut Findings) -> Result<(), Refusal> {
    let mut ports: Vec<(&str, Vec<File<'_>>)> = Vec::new();
    for source in sources {
        let name = source.file.rsplit(['/', ':']).next().unwrap_or_default();
        if !(name.starts_with("rule-") || sources.len() == 1) {
            if name != "metadata.txt" {
                findings.remark(&source.place(1), "the file is not carried: it has no rules");
            }
            continue;
        }
        let mut keys = HashMap::new();
        for (line, text) in source.lines() {
            let (key, value) = assignment(source, line, text)?;
            keys.insert(key, value);
        }
        let file = File { place: source.place(1), keys };
        let port = file.get("LISTEN_PORT");
        if port.is_empty() {
            return Err(source.refuse(1, "the rule has no LISTEN_PORT"));
        }
        match ports.iter_mut().find(|(known, files)| *known == port && files[0].is_exit() == file.is_exit()) {
            Some((_, files)) => files.push(file),
            None => ports.push((port, vec![file])),
        }
    }
    if ports.is_empty() {
        let file = sources.first().map_or_else(String::new, |source| source.file.clone());
        return Err(Refusal { place: Place { file, line: 1 }, text: "there is no rule-*.conf".into() });
    }
    for (port, files) in ports {
        rule(port, &files, findings)?;
    }
    Ok(())
}

impl<'a> File<'a> {
    fn get(&self, key: &str) -> &'a str {
        self.keys.get(key).copied().unwrap_or_default()
    }

    /// The far end of a tunnel.
    fn is_exit(&self) -> bool {
        self.get("RULE_ROLE") == "2"
    }

    fn is_enabled(&self) -> bool {
        self.get("ENABLED") != "false"
    }
}

/// One rule of all files that have its port.
fn rule(port: &str, files: &[File<'_>], findings: &mut Findings) -> Result<(), Refusal> {
    let first = &files[0];
    let place = &first.place;
    let enabled: Vec<&File<'_>> = files.iter().filter(|file| file.is_enabled()).collect();
    let mut keys = Map::new();
    keys.insert("listen".into(), json!(listen(first, port)));
    if enabled.is_empty() {
        keys.insert("enabled".into(), json!(false));
    }
    let of: Vec<&File<'_>> = if enabled.is_empty() { files.iter().collect() } else { enabled };
    let targets = targets(&of)?;
    let (to, is_weighted) = weighted(first, &targets);
    if targets.len() > 1 {
        keys.insert("balance".into(), json!(balance(first)));
        if first.get("BALANCE_MODE") == "active-standby" && is_weighted {
            findings.remark(place, "WEIGHTS are carried, and mean nothing to the first that answers");
        }
    }
    keys.insert("to".into(), to);
    let note: Vec<&str> =
        files.iter().map(|file| file.get("RULE_NOTE")).filter(|note| !note.is_empty()).collect();
    if let Some(note) = note.first() {
        keys.insert("note".into(), json!(note));
    }
    let (mut accept, mut connect) = (Map::new(), Map::new());
    tunnel(first, &mut accept, &mut connect, findings)?;
    let has_tunnel = !accept.is_empty() || !connect.is_empty();
    keys.insert("protocol".into(), json!(if has_tunnel { "tcp" } else { "tcp+udp" }));
    extras(first, &mut accept, &mut connect);
    for (key, table) in [("accept", accept), ("connect", connect), ("check", check(first))] {
        if !table.is_empty() {
            keys.insert(key.into(), Json::Object(table));
        }
    }
    findings.draft(place.clone(), Json::Object(keys));
    Ok(())
}

/// `LISTEN_IP` is an address, an interface, or `::` for all.
fn listen(file: &File<'_>, port: &str) -> String {
    match file.get("LISTEN_IP") {
        "" | "::" => format!(":{port}"),
        host => match host.parse::<IpAddr>() {
            Ok(IpAddr::V6(address)) => format!("[{address}]:{port}"),
            Ok(IpAddr::V4(address)) => format!("{address}:{port}"),
            Err(_) => format!("%{host}:{port}"),
        },
    }
}

/// Backends of all files, each once, in order. `TARGET_STATES` says which of them are meant, in either of its forms.
fn targets(files: &[&File<'_>]) -> Result<Vec<String>, Refusal> {
    let mut targets: Vec<String> = Vec::new();
    for file in files {
        let states = file.get("TARGET_STATES");
        let is_balanced = !matches!(file.get("BALANCE_MODE"), "" | "off");
        let found: Vec<String> = if file.is_exit() {
            split(file.get("FORWARD_TARGET")).map(ToOwned::to_owned).collect()
        } else if is_balanced && !states.is_empty() && !states.starts_with("target_") {
            split(states).map(ToOwned::to_owned).collect()
        } else {
            let port = file.get("REMOTE_PORT");
            let is_on = |index: usize| !split(states).any(|state| state == format!("target_{index}:false"));
            let hosts = split(file.get("REMOTE_HOST")).enumerate().filter(|(index, _)| is_on(*index));
            hosts.map(|(_, host)| with_port(host, port)).collect()
        };
        if found.is_empty() {
            return Err(Refusal { place: file.place.clone(), text: "the rule has no target".into() });
        }
        for target in found {
            if !targets.contains(&target) {
                targets.push(target);
            }
        }
    }
    Ok(targets)
}

fn split(text: &str) -> impl Iterator<Item = &str> {
    text.split(',').map(str::trim).filter(|part| !part.is_empty())
}

fn with_port(host: &str, port: &str) -> String {
    if host.contains(':') && !host.starts_with('[') {
        format!("[{host}]:{port}")
    } else {
        format!("{host}:{port}")
    }
}

/// Weights are a list as long as the targets, or mean nothing.
fn weighted(file: &File<'_>, targets: &[String]) -> (Json, bool) {
    let weights: Vec<u32> = split(file.get("WEIGHTS")).filter_map(|weight| weight.parse().ok()).collect();
    if weights.len() != targets.len() || targets.len() < 2 {
        return (one_or_list(targets.to_vec()), false);
    }
    let pairs = targets.iter().zip(weights).map(|(addr, weight)| json!({ "addr": addr, "weight": weight }));
    (pairs.collect(), true)
}

fn balance(file: &File<'_>) -> &'static str {
    match file.get("BALANCE_MODE") {
        "iphash" => "iphash",
        "active-standby" | "off" | "" => "first",
        _ => "roundrobin",
    }
}

/// The security level in realm's words.
fn tunnel(
    file: &File<'_>,
    accept: &mut Map<String, Json>,
    connect: &mut Map<String, Json>,
    findings: &mut Findings,
) -> Result<(), Refusal> {
    /// What xwPF fills in.
    const USUAL_HOST: &str = "www.tesla.com";
    let or = |keys: &[&str], usual: &str| {
        let said = keys.iter().map(|key| file.get(key)).find(|value| !value.is_empty());
        said.unwrap_or(usual).to_owned()
    };
    let (host, name) =
        (or(&["WS_HOST", "TLS_SERVER_NAME"], USUAL_HOST), or(&["TLS_SERVER_NAME"], USUAL_HOST));
    let ws = format!("ws;host={host};path={}", or(&["WS_PATH"], "/ws"));
    let own = format!("tls;cert={};key={}", file.get("TLS_CERT_PATH"), file.get("TLS_KEY_PATH"));
    let (client, server) = match file.get("SECURITY_LEVEL") {
        "" | "standard" => return Ok(()),
        "ws" => (ws.clone(), ws),
        "tls_self" => (format!("tls;sni={name};insecure"), format!("tls;servername={name}")),
        "tls_ca" => (format!("tls;sni={name}"), own),
        "ws_tls_self" => (format!("{ws};tls;sni={name};insecure"), format!("{ws};tls;servername={name}")),
        "ws_tls_ca" => (format!("{ws};tls;sni={name}"), format!("{ws};{own}")),
        other => {
            let text = format!("SECURITY_LEVEL {other:?} is none of xwPF's");
            return Err(Refusal { place: file.place.clone(), text });
        }
    };
    if file.is_exit() {
        transport::accept(&server, &file.place, accept, findings)
    } else {
        transport::connect(&client, &file.place, connect, findings)
    }
}

/// MPTCP, the PROXY protocol, and where backends are reached from.
fn extras(file: &File<'_>, accept: &mut Map<String, Json>, connect: &mut Map<String, Json>) {
    let mptcp = file.get("MPTCP_MODE");
    if matches!(mptcp, "send" | "both") {
        connect.insert("mptcp".into(), json!(true));
    }
    if matches!(mptcp, "accept" | "both") {
        accept.insert("mptcp".into(), json!(true));
    }
    if let Some((version, way)) = file.get("PROXY_MODE").split_once('_') {
        if matches!(way, "send" | "both") {
            connect.insert("proxy_protocol".into(), json!(if version == "v1" { 1 } else { 2 }));
        }
        if matches!(way, "accept" | "both") {
            accept.insert("proxy_protocol".into(), json!(true));
        }
    }
    match file.get("THROUGH_IP") {
        "" | "::" | "0.0.0.0" => {}
        through if through.parse::<IpAddr>().is_ok() => drop(connect.insert("source".into(), json!(through))),
        through => drop(connect.insert("interface".into(), json!(through))),
    }
}

fn check(file: &File<'_>) -> Map<String, Json> {
    let mut check = Map::new();
    if file.get("FAILOVER_ENABLED") != "true" {
        return check;
    }
    check.insert("kind".into(), json!("tcp"));
    let number = |key: &str| file.get(key).parse::<u32>().ok().filter(|&number| number > 0);
    for (theirs, ours) in [("HEALTH_CHECK_INTERVAL", "interval"), ("CONNECTION_TIMEOUT", "timeout")] {
        check.extend(number(theirs).map(|seconds| (ours.to_owned(), json!(format!("{seconds}s")))));
    }
    for (theirs, ours) in [("FAILURE_THRESHOLD", "fall"), ("SUCCESS_THRESHOLD", "rise")] {
        check.extend(number(theirs).map(|count| (ours.to_owned(), json!(count))));
    }
    check
}
