//! Walking the way that a session would go, for somebody who wants to know where it ends: one step after the other, each
//! with its time and its cause. Nobody's session, so nothing is counted and nobody is judged by it.

mod datagram;
mod dial;
mod payload;
mod remedy;
mod wrap;

use std::net::SocketAddr;
use std::sync::Arc;
use std::time::{Duration, Instant};

pub use self::datagram::{Question, ask};
use self::payload::Line;
use super::proxy_protocol::{self, Header, Origin};
use super::tcp::socket::Leg;
use super::tunnel::purpose::Purpose;
use crate::rule::{Connect, ConnectTunnel, Timeouts};

/// Where a backend is reached, and by what.
#[derive(Clone, Copy, Debug)]
pub struct Way<'a> {
    pub address: SocketAddr,
    /// The backend's host as the rule has it.
    pub host: &'a str,
    pub connect: &'a Connect,
    pub timeouts: &'a Timeouts,
    /// What connections are wrapped in, with its paths whole.
    pub tunnel: Option<&'a Arc<ConnectTunnel>>,
}

/// One step of a walk.
#[derive(Clone, Debug, Eq, PartialEq)]
pub struct Step {
    pub stage: Stage,
    pub outcome: Outcome,
    /// What was found, or what is wrong, in a sentence.
    pub text: String,
    pub took: Option<Duration>,
}

#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub enum Stage {
    /// A rule's own ports.
    Listen,
    /// What its clients are shown.
    Certificate,
    Dns,
    Connect,
    Proxy,
    Tls,
    Websocket,
    /// Streams of many clients in it.
    Mux,
    /// What lies within all that.
    Payload,
    Udp,
}

#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub enum Outcome {
    Passed,
    /// It cannot be tried; the reason's stable name.
    Skipped(&'static str),
    Failed {
        /// The cause's stable name.
        code: &'static str,
        /// The keys of the rule that may not match the other end.
        options: &'static [&'static str],
    },
}

impl Stage {
    /// What it is called, which stays.
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Listen => "listen",
            Self::Certificate => "certificate",
            Self::Dns => "dns",
            Self::Connect => "connect",
            Self::Proxy => "proxy",
            Self::Tls => "tls",
            Self::Websocket => "websocket",
            Self::Mux => "mux",
            Self::Payload => "payload",
            Self::Udp => "udp",
        }
    }
}

impl Step {
    pub fn passed(stage: Stage, text: impl Into<String>) -> Self {
        Self { stage, outcome: Outcome::Passed, text: text.into(), took: None }
    }

    pub fn skipped(stage: Stage, code: &'static str, text: impl Into<String>) -> Self {
        Self { stage, outcome: Outcome::Skipped(code), text: text.into(), took: None }
    }

    pub fn failed(
        stage: Stage,
        code: &'static str,
        options: &'static [&'static str],
        text: impl Into<String>,
    ) -> Self {
        Self { stage, outcome: Outcome::Failed { code, options }, text: text.into(), took: None }
    }

    /// The same with the time since `begun`.
    pub fn since(self, begun: Instant) -> Self {
        Self { took: Some(begun.elapsed()), ..self }
    }

    pub const fn is_failed(&self) -> bool {
        matches!(self.outcome, Outcome::Failed { .. })
    }
}

/// Goes the way of a TCP session to a backend, as far as it leads.
pub async fn walk(way: Way<'_>) -> Vec<Step> {
    let mut steps = Vec::new();
    if let Some(line) = open(way, Purpose::Session, &mut steps).await {
        let begun = Instant::now();
        steps.push(payload::listen(line, way).await.since(begun));
    }
    steps
}

/// Goes the way of datagrams that a tunnel carries, as far as there is somebody who takes them.
pub async fn walk_for_datagrams(way: Way<'_>) -> Vec<Step> {
    let mut steps = Vec::new();
    if let Some(line) = open(way, Purpose::Datagrams, &mut steps).await {
        line.end().await;
        steps.push(Step::passed(Stage::Udp, "the other end takes datagrams through the tunnel"));
    }
    steps
}

/// Connects, and opens what the rule wraps connections in. `None`: it came to nothing, and the last step says why.
async fn open(way: Way<'_>, purpose: Purpose, steps: &mut Vec<Step>) -> Option<Line> {
    let begun = Instant::now();
    let stream = match dial::dial(way).await {
        Ok(stream) => stream,
        Err(step) => {
            steps.push(step.since(begun));
            return None;
        }
    };
    steps.push(Step::passed(Stage::Connect, "connected").since(begun));
    let leg = Leg::new(stream);
    let header = header(way.connect);
    if let Some(version) = way.connect.proxy_protocol {
        let text = format!("a header of version {} (of our own: LOCAL) goes ahead", version.number());
        steps.push(Step::passed(Stage::Proxy, text));
    }
    match way.tunnel {
        None => Some(Line::plain(leg, header)),
        Some(tunnel) => wrap::wrap(way, (tunnel, purpose), leg, &header, steps).await,
    }
}

/// What a backend is sent first, if the rule says so.
fn header(connect: &Connect) -> Vec<u8> {
    let header = Header { origin: Origin::Local, tlvs: Vec::new() };
    connect.proxy_protocol.map(|version| proxy_protocol::write(&header, version)).unwrap_or_default()
}
