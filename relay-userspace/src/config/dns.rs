//! `[dns]`: how the names of backends are looked up.

use std::net::{IpAddr, SocketAddr};
use std::time::Duration;

use super::fields::Fields;
use super::node::{Node, Value};
use super::problem::Problems;
use super::quantity::format_duration;

/// How names are looked up.
#[derive(Clone, Debug, Eq, PartialEq)]
pub struct Dns {
    /// Empty: those of /etc/resolv.conf.
    pub servers: Vec<SocketAddr>,
    /// An answer holds at least so long,
    pub min_ttl: Duration,
    /// and at most so long, whatever its own time is.
    pub max_ttl: Duration,
    pub prefer: Prefer,
}

impl Default for Dns {
    fn default() -> Self {
        Self {
            servers: Vec::new(),
            min_ttl: Duration::from_secs(5),
            max_ttl: Duration::from_secs(300),
            prefer: Prefer::Ipv4,
        }
    }
}

/// The family to try first where a name has both.
#[derive(Clone, Copy, Debug, Default, Eq, PartialEq)]
pub enum Prefer {
    #[default]
    Ipv4,
    Ipv6,
}

impl Prefer {
    pub fn parse(text: &str) -> Option<Self> {
        match text {
            "ipv4" => Some(Self::Ipv4),
            "ipv6" => Some(Self::Ipv6),
            _ => None,
        }
    }
}

const DNS_PORT: u16 = 53;
const SHORTEST: Duration = Duration::from_secs(1);

impl Dns {
    pub(super) fn read(&mut self, mut fields: Fields<'_>, problems: &mut Problems) {
        if let Some(node) = fields.take("servers") {
            self.servers = servers(&fields, node, problems);
        }
        let place = fields.peek("min_ttl").or(fields.peek("max_ttl"));
        for (key, slot) in [("min_ttl", &mut self.min_ttl), ("max_ttl", &mut self.max_ttl)] {
            let Some(node) = fields.peek(key) else { continue };
            match fields.duration(key, problems) {
                Some(time) if time < SHORTEST => {
                    let message = format!("{} is too short", node.shown());
                    problems.at(node, &fields.subject_of(key), message, Some("\"1s\" is the shortest"));
                }
                Some(time) => *slot = time,
                None => {}
            }
        }
        if let (Some(node), true) = (place, self.min_ttl > self.max_ttl) {
            let [min, max] = [self.min_ttl, self.max_ttl].map(format_duration);
            let message = format!("min_ttl ({min}) is longer than max_ttl ({max})");
            problems.at(node, &fields.subject, message, Some("make it shorter, or max_ttl longer"));
        }
        if let Some(prefer) = fields.word("prefer", &["ipv4", "ipv6"], Prefer::parse, problems) {
            self.prefer = prefer;
        }
        fields.finish(problems);
    }
}

fn servers(fields: &Fields<'_>, node: &Node, problems: &mut Problems) -> Vec<SocketAddr> {
    let Value::Array(items) = &node.value else {
        fields.wrong_kind("servers", node, "a list of addresses", problems);
        return Vec::new();
    };
    let mut servers = Vec::new();
    for item in items {
        match &item.value {
            Value::Text(text) => match server(text) {
                Some(server) => servers.push(server),
                None => {
                    let message = format!("{} is not the address of a name server", item.shown());
                    let help = r#"write "192.0.2.53", "192.0.2.53:5353" or "[2001:db8::53]:53""#;
                    problems.at(item, &fields.subject_of("servers"), message, Some(help));
                }
            },
            _ => fields.wrong_kind("servers", item, "an address in quotes", problems),
        }
    }
    servers
}

fn server(text: &str) -> Option<SocketAddr> {
    let address = text.parse::<IpAddr>().map(|address| SocketAddr::new(address, DNS_PORT));
    let server = address.or_else(|_with_port| text.parse()).ok()?;
    (server.port() != 0 && !server.ip().is_unspecified()).then_some(server)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn servers_with_and_without_a_port() {
        for (text, read) in [
            ("192.0.2.53", Some("192.0.2.53:53")),
            ("192.0.2.53:5353", Some("192.0.2.53:5353")),
            ("2001:db8::53", Some("[2001:db8::53]:53")),
            ("[2001:db8::53]:5353", Some("[2001:db8::53]:5353")),
            ("192.0.2.53:0", None),
            ("0.0.0.0", None),
            ("dns.example.com", None),
        ] {
            assert_eq!(server(text).map(|server| server.to_string()).as_deref(), read, "{text}");
        }
    }
}
