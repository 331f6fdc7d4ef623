//! Live flows: what can be asked (`GET /v1/flows?rule=web&client=198.51.100.0/24&limit=20`), and the answer.

use serde::{Deserialize, Serialize};

use super::problem::{ApiProblem, Code};
use crate::flows::{Best, Flow, Place, Plane, Query, Sort};
use crate::rule::RuleName;
use relay_common::net::Protocol;

/// Flows of an answer where nobody says how many.
pub const USUAL_LIMIT: usize = 100;
/// No answer has more.
pub const MOST: usize = 10_000;

/// The question, as it comes.
#[derive(Debug, Default, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Params {
    rule: Option<String>,
    client: Option<String>,
    backend: Option<String>,
    protocol: Option<String>,
    plane: Option<String>,
    sort: Option<String>,
    limit: Option<String>,
}

/// Live flows.
#[derive(Clone, Debug, Deserialize, PartialEq, Serialize)]
pub struct FlowsView {
    pub flows: Vec<FlowView>,
    /// How many there are that were asked for.
    pub matched: u64,
    /// Not all of them are in this answer.
    pub truncated: bool,
}

/// One of them.
#[derive(Clone, Debug, Deserialize, PartialEq, Serialize)]
pub struct FlowView {
    pub rule: String,
    /// kernel, user
    pub plane: String,
    /// tcp, udp
    pub protocol: String,
    pub client: String,
    /// The address and port that the client asked.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub listen: Option<String>,
    /// Absent: it has none yet.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub backend: Option<String>,
    /// opening, open, closing
    pub state: String,
    pub age_seconds: u64,
    pub idle_seconds: u64,
    /// ip: bytes of IP packets (kernel plane); payload (user plane)
    pub unit: String,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub ingress_bytes: Option<u64>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub egress_bytes: Option<u64>,
}

impl Params {
    /// # Errors
    ///
    /// Something in it is not what it is said to be.
    pub fn into_query(self) -> Result<Query, ApiProblem> {
        let limit = self.limit.as_deref().map(|text| parse("limit", text, limit)).transpose()?;
        Ok(Query {
            rule: self.rule.as_deref().map(|text| parse("rule", text, rule)).transpose()?,
            client: self.client.as_deref().map(|text| parse("client", text, client)).transpose()?,
            backend: self.backend.as_deref().map(|text| parse("backend", text, backend)).transpose()?,
            protocol: self.protocol.as_deref().map(|text| parse("protocol", text, protocol)).transpose()?,
            plane: self.plane.as_deref().map(|text| parse("plane", text, plane)).transpose()?,
            sort: self.sort.as_deref().map(|text| parse("sort", text, sort)).transpose()?.unwrap_or_default(),
            limit: limit.unwrap_or(USUAL_LIMIT),
        })
    }
}

pub(super) fn parse<T>(
    key: &str,
    text: &str,
    read: fn(&str) -> Result<T, &'static str>,
) -> Result<T, ApiProblem> {
    read(text).map_err(|form| ApiProblem::new(Code::Invalid, format!("{key}: {text:?} is not {form}")))
}

pub(super) fn rule(text: &str) -> Result<RuleName, &'static str> {
    RuleName::parse(text).ok_or("a rule's name")
}

/// An address or a network.
pub fn client(text: &str) -> Result<ipnet::IpNet, &'static str> {
    Query::parse_clients(text).ok_or("an address or a network such as 198.51.100.0/24")
}

/// An address, with or without a port.
pub fn backend(text: &str) -> Result<Place, &'static str> {
    Place::parse(text).ok_or("an address such as 203.0.113.10, 203.0.113.10:80 or [2001:db8::1]:80")
}

pub(super) fn protocol(text: &str) -> Result<Protocol, &'static str> {
    Protocol::ALL.into_iter().find(|protocol| protocol.as_str() == text).ok_or("tcp or udp")
}

pub(super) fn plane(text: &str) -> Result<Plane, &'static str> {
    Plane::parse(text).ok_or("kernel or user")
}

fn sort(text: &str) -> Result<Sort, &'static str> {
    Sort::parse(text).ok_or("bytes, age or new")
}

fn limit(text: &str) -> Result<usize, &'static str> {
    let limit = text.parse().ok().filter(|limit| (1..=MOST).contains(limit));
    limit.ok_or("a number from 1 to 10000")
}

impl From<Best> for FlowsView {
    fn from(best: Best) -> Self {
        let matched = best.offered();
        let flows: Vec<FlowView> = best.into_flows().into_iter().map(FlowView::from).collect();
        Self { truncated: (flows.len() as u64) < matched, matched, flows }
    }
}

impl From<Flow> for FlowView {
    fn from(flow: Flow) -> Self {
        let unit = match flow.plane {
            Plane::Kernel => "ip",
            Plane::User => "payload",
        };
        Self {
            rule: flow.rule.to_string(),
            plane: flow.plane.as_str().into(),
            protocol: flow.protocol.as_str().into(),
            client: flow.client.to_string(),
            listen: flow.listen.map(|listen| listen.to_string()),
            backend: flow.backend.map(|backend| backend.to_string()),
            state: flow.state.as_str().into(),
            age_seconds: flow.age.as_secs(),
            idle_seconds: flow.idle.as_secs(),
            unit: unit.into(),
            ingress_bytes: flow.bytes[0],
            egress_bytes: flow.bytes[1],
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_asked_wrongly_is_named() {
        let ask = |text: &str| -> Result<Query, String> {
            let params: Params = serde_json::from_str(text).expect(text);
            params.into_query().map_err(|problem| problem.detail)
        };
        let query = ask(r#"{ "rule": "web", "client": "198.51.100.7", "sort": "age" }"#).expect("query");
        assert_eq!((query.limit, query.sort), (USUAL_LIMIT, Sort::Age));
        for (text, part) in [
            (r#"{ "rule": "a b" }"#, "rule: \"a b\" is not a rule's name"),
            (r#"{ "client": "x" }"#, "client: \"x\" is not an address or a network"),
            (r#"{ "backend": "web:80" }"#, "backend: \"web:80\" is not an address"),
            (r#"{ "protocol": "icmp" }"#, "protocol: \"icmp\" is not tcp or udp"),
            (r#"{ "plane": "auto" }"#, "plane: \"auto\" is not kernel or user"),
            (r#"{ "sort": "name" }"#, "sort: \"name\" is not bytes, age or new"),
            (r#"{ "limit": "0" }"#, "limit: \"0\" is not a number from 1 to 10000"),
            (r#"{ "limit": "10001" }"#, "limit: \"10001\""),
        ] {
            let problem = ask(text).expect_err(text);
            assert!(problem.contains(part), "{text}: {problem}");
        }
    }
}
