//! HAProxy's `listen`, `frontend` and `backend` sections of TCP.

use std::collections::HashMap;

use serde_json::{Map, Value as Json, json};

use super::{Findings, Place, Refusal, Source, one_or_list};

#[derive(Clone, Debug, Default)]
struct Section {
    kind: String,
    name: String,
    line: usize,
    is_http: bool,
    binds: Vec<String>,
    mptcp: bool,
    accepts_proxy: bool,
    balance: Option<&'static str>,
    servers: Vec<Server>,
    default_backend: Option<String>,
    timeouts: Map<String, Json>,
}

#[derive(Clone, Debug)]
struct Server {
    address: String,
    weight: Option<u32>,
    is_backup: bool,
    is_checked: bool,
    /// Of the PROXY protocol that it is sent.
    proxy: Option<u8>,
}

/// # Errors
///
/// A server without an address; nothing like HAProxy's sections.
pub fn read(source: &Source, findings: &mut Findings) -> Result<(), Refusal> {
    let sections = sections(source, findings)?;
    if !sections.iter().any(|section| section.kind == "listen" || section.kind == "frontend") {
        return Err(source.refuse(1, "there is neither a listen nor a frontend in it"));
    }
    let backends: HashMap<&str, &Section> = sections
        .iter()
        .filter(|section| section.kind == "backend")
        .map(|section| (&*section.name, section))
        .collect();
    for front in sections.iter().filter(|section| section.kind == "listen" || section.kind == "frontend") {
        let place = source.place(front.line);
        let behind = match &front.default_backend {
            None => front,
            Some(name) => match backends.get(name.as_str()) {
                Some(section) => section,
                None => return Err(source.refuse(front.line, format!("there is no backend {name:?}"))),
            },
        };
        if front.is_http || behind.is_http {
            findings.remark(
                &place,
                format!("{} is not carried: it is HTTP, and Relay forwards ports", front.name),
            );
        } else if front.binds.is_empty() || behind.servers.is_empty() {
            findings.remark(&place, format!("{} is not carried: it has no bind, or no server", front.name));
        } else {
            let keys = rule(front, behind, &place, findings);
            findings.draft(place, keys);
        }
    }
    Ok(())
}

fn rule(front: &Section, behind: &Section, place: &Place, findings: &mut Findings) -> Json {
    let backend = |server: &Server| match (server.weight, server.is_backup) {
        (None, false) => json!(server.address),
        (weight, is_backup) => {
            json!({ "addr": server.address, "weight": weight.unwrap_or(1), "priority": u32::from(is_backup) })
        }
    };
    let servers = &behind.servers;
    let mut keys = json!({ "listen": one_or_list(front.binds.clone()), "protocol": "tcp",
        "to": servers.iter().map(backend).collect::<Vec<_>>() });
    if !front.name.is_empty() {
        keys["note"] = json!(front.name);
    }
    if servers.len() > 1 {
        keys["balance"] = json!(behind.balance.or(front.balance).unwrap_or("roundrobin"));
        if !servers.iter().any(|server| server.is_checked) {
            findings.remark(place, "its servers had no check; they are checked now, see `check`");
        }
    }
    if front.accepts_proxy {
        keys["accept"]["proxy_protocol"] = json!(true);
    }
    if front.mptcp {
        keys["accept"]["mptcp"] = json!(true);
    }
    if let Some(version) = servers[0].proxy {
        if servers.iter().any(|server| server.proxy != Some(version)) {
            findings.remark(place, "its servers differ in the PROXY protocol; all get the first one's");
        }
        keys["connect"]["proxy_protocol"] = json!(version);
    }
    let timeouts: Map<String, Json> =
        behind.timeouts.clone().into_iter().chain(front.timeouts.clone()).collect();
    if !timeouts.is_empty() {
        keys["timeout"] = Json::Object(timeouts);
    }
    keys
}

fn sections(source: &Source, findings: &mut Findings) -> Result<Vec<Section>, Refusal> {
    let mut sections: Vec<Section> = Vec::new();
    // what holds where a section says nothing
    let mut defaults = Section { is_http: false, ..Section::default() };
    for (line, text) in source.lines() {
        let text = text.split(" #").next().unwrap_or(text);
        let words: Vec<&str> = text.split_whitespace().collect();
        let place = source.place(line);
        match words.as_slice() {
            [kind @ ("listen" | "frontend" | "backend"), name, ..] => sections.push(Section {
                kind: (*kind).into(),
                name: (*name).into(),
                line,
                binds: Vec::new(),
                ..defaults.clone()
            }),
            [kind @ ("defaults" | "global" | "userlist" | "peers" | "resolvers" | "cache"), ..] => {
                sections.push(Section { kind: (*kind).into(), line, ..Section::default() });
            }
            words => {
                let Some(section) = sections.last_mut() else {
                    return Err(source.refuse(line, format!("{text:?} stands before any section")));
                };
                line_of(section, words, &place, findings).map_err(|why| source.refuse(line, why))?;
                if section.kind == "defaults" {
                    defaults = Section { kind: String::new(), ..section.clone() };
                }
            }
        }
    }
    Ok(sections)
}

/// What else such a section may have changes nothing of where bytes go.
const QUIET: [&str; 12] = [
    "log",
    "option",
    "maxconn",
    "retries",
    "stats",
    "description",
    "id",
    "errorfile",
    "timeout",
    "no",
    "fullconn",
    "hash-type",
];

fn line_of(
    section: &mut Section,
    words: &[&str],
    place: &Place,
    findings: &mut Findings,
) -> Result<(), String> {
    if section.kind == "global" {
        return Ok(());
    }
    match words {
        ["mode", mode] => section.is_http = *mode == "http",
        ["bind", addresses, options @ ..] => {
            section.accepts_proxy |= options.contains(&"accept-proxy");
            section.mptcp |= addresses.starts_with("mptcp");
            if options.contains(&"ssl") {
                findings
                    .remark(place, "ssl is not carried: set accept.transport, accept.cert and accept.key");
            }
            section.binds.extend(addresses.split(',').map(bind));
        }
        ["server" | "default-server", ..] if words.len() < 3 => {
            return Err("a server has a name and an address".into());
        }
        ["server", _, address, options @ ..] => section.servers.push(server(address, options)),
        ["balance", how, ..] => {
            section.balance = Some(match *how {
                "source" => "iphash",
                "leastconn" => "leastconn",
                "first" => "first",
                _ => "roundrobin",
            });
        }
        ["default_backend", name] => section.default_backend = Some((*name).into()),
        ["timeout", what @ ("connect" | "client" | "server"), time] => {
            let key = if *what == "connect" { "connect" } else { "tcp_idle" };
            let is_number = time.bytes().all(|byte| byte.is_ascii_digit());
            let time = if is_number { format!("{time}ms") } else { (*time).to_owned() };
            section.timeouts.insert(key.into(), json!(time));
        }
        [word, ..] if QUIET.contains(word) => {}
        [word, ..] => findings.remark(place, format!("{word} is not carried")),
        [] => {}
    }
    Ok(())
}

/// `*:80`, `:80`, `0.0.0.0:80`, `[::]:80`, `ipv4@1.2.3.4:80`.
fn bind(text: &str) -> String {
    let text = text.split_once('@').map_or(text, |(_, address)| address);
    match text.rsplit_once(':') {
        Some(("*" | "" | "::" | "[::]", port)) => format!(":{port}"),
        Some((host, port)) if host.contains(':') && !host.starts_with('[') => format!("[{host}]:{port}"),
        _ => text.to_owned(),
    }
}

fn server(address: &str, options: &[&str]) -> Server {
    let after =
        |word: &str| options.iter().position(|option| *option == word).and_then(|at| options.get(at + 1));
    let proxy = match options {
        _ if options.contains(&"send-proxy") => Some(1),
        _ if options.contains(&"send-proxy-v2") => Some(2),
        _ => None,
    };
    Server {
        address: address.split_once('@').map_or(address, |(_, address)| address).to_owned(),
        weight: after("weight").and_then(|weight| weight.parse().ok()),
        is_backup: options.contains(&"backup"),
        is_checked: options.contains(&"check"),
        proxy,
    }
}
