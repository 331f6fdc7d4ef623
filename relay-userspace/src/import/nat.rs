//! Destination NAT as firewalls have it, before it is a rule: one protocol, one match, one target.

use serde_json::json;

use super::{Findings, Place};

/// Packets to `on` and `ports` go to `host`, at `to` if it says a port.
#[derive(Clone, Debug, Default)]
pub struct Nat {
    pub tcp: bool,
    pub udp: bool,
    pub interface: Option<String>,
    pub address: Option<String>,
    /// `80` or `1000-2000`.
    pub ports: Vec<String>,
    pub target: String,
    pub note: Option<String>,
}

impl Nat {
    /// Takes a match of one protocol's port.
    pub fn protocol(&mut self, name: &str) -> bool {
        match name {
            "tcp" => self.tcp = true,
            "udp" => self.udp = true,
            _ => return false,
        }
        true
    }

    /// Becomes a draft, or one with a draft that differs in the protocol alone.
    pub fn add(self, place: &Place, findings: &mut Findings) {
        match self.keys() {
            Err(why) => findings.remark(place, format!("not carried: {why}")),
            Ok((protocol, mut keys)) => {
                let twin = findings.drafts.iter_mut().rev().take(NEAR).find(|draft| {
                    let other = draft.keys.get("protocol").and_then(|known| known.as_str());
                    other
                        .is_some_and(|other| other != protocol && other != "tcp+udp" && protocol != "tcp+udp")
                        && ["listen", "to"].iter().all(|key| draft.keys.get(*key) == keys.get(key))
                });
                if let Some(twin) = twin {
                    twin.keys.insert("protocol".into(), json!("tcp+udp"));
                    return;
                }
                keys["protocol"] = json!(protocol);
                findings.draft(place.clone(), keys);
            }
        }
    }

    fn keys(self) -> Result<(&'static str, serde_json::Value), String> {
        let protocol = match (self.tcp, self.udp) {
            (true, true) => "tcp+udp",
            (true, false) => "tcp",
            (false, true) => "udp",
            (false, false) => return Err("it says neither TCP nor UDP".into()),
        };
        if self.ports.is_empty() {
            return Err("it says no port; Relay's rules are for ports".into());
        }
        let on = match (&self.interface, &self.address) {
            (Some(_), Some(_)) => {
                return Err("it wants both an interface and an address; a rule has one of them".into());
            }
            (Some(interface), None) => format!("%{interface}"),
            (None, Some(address)) if address.contains(':') => format!("[{address}]"),
            (None, Some(address)) => address.clone(),
            (None, None) => String::new(),
        };
        let to = self.to()?;
        let listen: Vec<String> = self.ports.iter().map(|ports| format!("{on}:{ports}")).collect();
        let mut keys = json!({ "listen": super::one_or_list(listen), "to": to });
        if let Some(note) = self.note {
            keys["note"] = json!(note);
        }
        Ok((protocol, keys))
    }

    /// The backend; a port behind many ports is one only if all are kept.
    fn to(&self) -> Result<String, String> {
        let target = &self.target;
        let (host, port) = match target.strip_prefix('[') {
            Some(inner) => inner.split_once(']').ok_or("its target lacks a ]")?,
            None if target.matches(':').count() == 1 => {
                target.split_at(target.find(':').unwrap_or(target.len()))
            }
            None => (target.as_str(), ""),
        };
        let host = if host.contains(':') { format!("[{host}]") } else { host.to_owned() };
        let port = port.trim_start_matches(':');
        match (port, self.ports.as_slice()) {
            ("", _) => Ok(host),
            (port, [only]) if only == port && port.contains('-') => Ok(host),
            (port, [only]) if !only.contains('-') && !port.contains('-') => Ok(format!("{host}:{port}")),
            (port, ports) => Err(format!(
                "ports {} all go to {port}, and a range goes to as many ports; write rules for it",
                ports.join(", ")
            )),
        }
    }
}

/// A twin stands near: files say TCP, then UDP.
const NEAR: usize = 64;
