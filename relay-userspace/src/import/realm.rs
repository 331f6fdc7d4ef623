//! realm's configuration: TOML, JSON, the older JSON with lists of ports, and its command line.

mod command;
mod legacy;
pub(super) mod transport;

use serde_json::{Map, Value as Json, json};
use toml::de::DeTable;

pub(super) use self::command::is_one as is_command;
use super::{Findings, Place, Refusal, Source, address, one_or_list};
use crate::config::node::{Node, Table, Value, table_from_toml};

/// # Errors
///
/// It is neither TOML nor JSON, or an endpoint has no `listen` or `remote`.
pub fn read(source: &Source, findings: &mut Findings) -> Result<(), Refusal> {
    let table = parse(source)?;
    if find(&table, "listening_ports").is_some() {
        return legacy::read(source, &table, findings);
    }
    for entry in &table {
        if !matches!(entry.key.as_str(), "endpoints" | "network") {
            let place = source.place(line(source, &entry.node));
            findings.remark(&place, format!("{} is not carried: relay.toml has its own", entry.key));
        }
    }
    let none = Table::new();
    let network = find(&table, "network").and_then(as_table).unwrap_or(&none);
    let Some(Node { value: Value::Array(endpoints), .. }) = find(&table, "endpoints") else {
        return Err(source.refuse(1, "there are no endpoints; is it realm's?"));
    };
    for endpoint in endpoints {
        let place = source.place(line(source, endpoint));
        let own = as_table(endpoint).ok_or_else(|| refusal(&place, "an endpoint is a table"))?;
        let keys = Endpoint { own, network, place: &place, findings }.keys()?;
        findings.draft(place, Json::Object(keys));
    }
    Ok(())
}

/// realm tries TOML, then JSON; which it is shows in how it begins.
fn parse(source: &Source) -> Result<Table, Refusal> {
    let is_command = command::is_one(&source.text);
    if is_command || source.text.trim_start().starts_with('{') {
        let value = if is_command {
            command::configuration(source)?
        } else {
            serde_json::from_str(&source.text)
                .map_err(|error| source.refuse(error.line(), format!("this is not JSON: {error}")))?
        };
        return match Node::from_json(value).value {
            Value::Table(table) => Ok(table),
            _ => Err(source.refuse(1, "this is no JSON object")),
        };
    }
    DeTable::parse(&source.text).map(|table| table_from_toml(0, table.into_inner())).map_err(|error| {
        let line = error.span().map_or(1, |span| source.line_of(span.start));
        source.refuse(line, format!("this is not TOML: {}", error.message()))
    })
}

fn refusal(place: &Place, text: &str) -> Refusal {
    Refusal { place: place.clone(), text: text.into() }
}

fn line(source: &Source, node: &Node) -> usize {
    node.span.as_ref().map_or(1, |span| source.line_of(span.bytes.start))
}

fn find<'a>(table: &'a Table, key: &str) -> Option<&'a Node> {
    table.iter().find(|entry| entry.key == key).map(|entry| &entry.node)
}

const fn as_table(node: &Node) -> Option<&Table> {
    if let Value::Table(table) = &node.value { Some(table) } else { None }
}

fn as_text(node: &Node) -> Option<&str> {
    if let Value::Text(text) = &node.value { Some(text) } else { None }
}

struct Endpoint<'a> {
    own: &'a Table,
    /// What holds where the endpoint says nothing.
    network: &'a Table,
    place: &'a Place,
    findings: &'a mut Findings,
}

/// What an endpoint may have.
const KNOWN: [&str; 12] = [
    "listen",
    "local",
    "remote",
    "extra_remotes",
    "balance",
    "through",
    "interface",
    "listen_interface",
    "listen_transport",
    "remote_transport",
    "network",
    "transport",
];
/// What `network` may have that has a key here.
const CARRIED: [&str; 11] = [
    "no_tcp",
    "use_udp",
    "send_proxy",
    "send_proxy_version",
    "accept_proxy",
    "send_mptcp",
    "accept_mptcp",
    "tcp_timeout",
    "udp_timeout",
    "tcp_keepalive",
    "tcp_keepalive_probe",
];

impl<'a> Endpoint<'a> {
    fn keys(mut self) -> Result<Map<String, Json>, Refusal> {
        let mut keys = Map::new();
        self.complain();
        keys.insert("listen".into(), json!(self.listen()?));
        let remote = self.text("remote").ok_or_else(|| refusal(self.place, "the endpoint has no remote"))?;
        let mut to = vec![self.address(remote)?];
        let extra = self.list("extra_remotes");
        match self.text("balance") {
            Some(balance) => {
                for text in extra {
                    to.push(self.address(text)?);
                }
                if to.len() > 1 {
                    keys.insert("balance".into(), json!(balance));
                }
            }
            None if !extra.is_empty() => {
                self.remark("extra_remotes without balance are not carried: realm never used them")
            }
            None => {}
        }
        keys.insert("to".into(), one_or_list(to));
        let (mut accept, mut connect) = (Map::new(), Map::new());
        self.tunnels(&mut accept, &mut connect)?;
        let protocol = self.protocol(!accept.is_empty() || !connect.is_empty())?;
        keys.insert("protocol".into(), json!(protocol));
        self.ways(&mut connect);
        if protocol != "udp" {
            self.streams(&mut accept, &mut connect);
        }
        for (key, table) in [("accept", accept), ("connect", connect), ("timeout", self.timeouts(protocol))] {
            if !table.is_empty() {
                keys.insert(key.into(), Json::Object(table));
            }
        }
        Ok(keys)
    }

    fn remark(&mut self, text: &str) {
        self.findings.remark(self.place, text);
    }

    fn text(&self, key: &str) -> Option<&'a str> {
        find(self.own, key).and_then(as_text)
    }

    fn list(&self, key: &str) -> Vec<&'a str> {
        match find(self.own, key).map(|node| &node.value) {
            Some(Value::Array(items)) => items.iter().filter_map(as_text).collect(),
            _ => Vec::new(),
        }
    }

    /// A field of `network`: the endpoint's own, or the one for all.
    fn field(&self, key: &str) -> Option<&'a Node> {
        let own = find(self.own, "network").and_then(as_table).and_then(|table| find(table, key));
        own.or_else(|| find(self.network, key))
    }

    fn is_on(&self, key: &str) -> bool {
        self.field(key).is_some_and(|node| node.value == Value::Bool(true))
    }

    fn number(&self, key: &str) -> Option<i64> {
        if let Some(Node { value: Value::Integer(number), .. }) = self.field(key) {
            Some(*number)
        } else {
            None
        }
    }

    fn address(&self, text: &str) -> Result<String, Refusal> {
        let (host, port) =
            address(text).ok_or_else(|| refusal(self.place, &format!("{text:?} is not host:port")))?;
        Ok(format!("{host}:{port}"))
    }

    /// Where it accepts; `[::]` takes IPv4 too, as with realm.
    fn listen(&mut self) -> Result<String, Refusal> {
        let text = self.text("listen").or_else(|| self.text("local"));
        let text = text.ok_or_else(|| refusal(self.place, "the endpoint has no listen"))?;
        let (host, port) =
            address(text).ok_or_else(|| refusal(self.place, &format!("{text:?} is not host:port")))?;
        let any = matches!(host.as_str(), "" | "[::]" | "[]" | "::");
        match self.text("listen_interface") {
            Some(interface) => {
                if !any && host != "0.0.0.0" {
                    self.remark(&format!(
                        "the address {host} is not carried: a rule listens on an interface or an address"
                    ));
                }
                Ok(format!("%{interface}:{port}"))
            }
            None if any => Ok(format!(":{port}")),
            None => Ok(format!("{host}:{port}")),
        }
    }

    /// Which protocols; realm's tunnels carry TCP, and UDP goes beside them.
    fn protocol(&mut self, has_tunnel: bool) -> Result<&'static str, Refusal> {
        let misplaced = find(self.own, "transport").and_then(as_table);
        let meant = |key: &str| {
            misplaced.and_then(|table| find(table, key)).is_some_and(|node| node.value == Value::Bool(true))
        };
        let udp = self.is_on("use_udp") || meant("use_udp");
        if misplaced.is_some() {
            self.remark("realm ignores [endpoints.transport]; it is taken as it was meant");
        }
        match (!self.is_on("no_tcp") && !meant("no_tcp"), udp) {
            (true, true) if has_tunnel => {
                self.remark(
                    "UDP is not carried: realm sends it beside the tunnel; add a rule of its own for it",
                );
                Ok("tcp")
            }
            (true, true) => Ok("tcp+udp"),
            (true, false) => Ok("tcp"),
            (false, true) => Ok("udp"),
            (false, false) => {
                Err(refusal(self.place, "the endpoint has no_tcp, and no use_udp: it carries nothing"))
            }
        }
    }

    fn tunnels(
        &mut self,
        accept: &mut Map<String, Json>,
        connect: &mut Map<String, Json>,
    ) -> Result<(), Refusal> {
        if let Some(text) = self.text("listen_transport") {
            transport::accept(text, self.place, accept, self.findings)?;
        }
        if let Some(text) = self.text("remote_transport") {
            transport::connect(text, self.place, connect, self.findings)?;
        }
        Ok(())
    }

    /// From which address and interface backends are reached.
    fn ways(&self, connect: &mut Map<String, Json>) {
        if let Some(through) = self.text("through") {
            // an address, maybe with a port that nobody needs
            let alone = through.trim_matches(['[', ']']).parse::<std::net::IpAddr>().map(|ip| ip.to_string());
            let with_port = through.parse::<std::net::SocketAddr>().map(|end| end.ip().to_string());
            connect
                .insert("source".into(), json!(alone.or(with_port).unwrap_or_else(|_| through.to_owned())));
        }
        if let Some(interface) = self.text("interface") {
            connect.insert("interface".into(), json!(interface));
        }
    }

    /// What only TCP has.
    fn streams(&self, accept: &mut Map<String, Json>, connect: &mut Map<String, Json>) {
        if self.is_on("send_proxy") {
            connect.insert("proxy_protocol".into(), json!(self.number("send_proxy_version").unwrap_or(2)));
        }
        let switched = |key: &str, own: &str| self.is_on(key).then(|| (own.to_owned(), json!(true)));
        accept.extend(switched("accept_proxy", "proxy_protocol"));
        accept.extend(switched("accept_mptcp", "mptcp"));
        connect.extend(switched("send_mptcp", "mptcp"));
    }

    fn timeouts(&self, protocol: &str) -> Map<String, Json> {
        let mut timeout = Map::new();
        let seconds = |key: &str| {
            self.number(key).filter(|&seconds| seconds > 0).map(|seconds| json!(format!("{seconds}s")))
        };
        if protocol != "tcp" {
            timeout.extend(seconds("udp_timeout").map(|time| ("udp".to_owned(), time)));
        }
        if protocol != "udp" {
            timeout.extend(seconds("tcp_timeout").map(|time| ("connect".to_owned(), time)));
            let mut keepalive = Map::new();
            if let Some(time) = seconds("tcp_keepalive") {
                keepalive.insert("idle".into(), time.clone());
                keepalive.insert("interval".into(), time);
            }
            if let Some(count) = self.number("tcp_keepalive_probe").filter(|&count| count > 0) {
                keepalive.insert("count".into(), json!(count));
            }
            if !keepalive.is_empty() {
                timeout.insert("keepalive".into(), Json::Object(keepalive));
            }
        }
        timeout
    }

    /// Says which keys mean nothing here.
    fn complain(&mut self) {
        for entry in self.own.iter().filter(|entry| !KNOWN.contains(&entry.key.as_str())) {
            self.remark(&format!("{} is not carried: realm ignores it too", entry.key));
        }
        let own = find(self.own, "network").and_then(as_table);
        for entry in own.into_iter().chain([self.network]).flatten() {
            if !CARRIED.contains(&entry.key.as_str()) {
                self.remark(&format!("network.{} is not carried: Relay has nothing like it", entry.key));
            }
        }
    }
}
