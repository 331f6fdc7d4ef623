//! Live flows and sessions of both planes, and finding some among very many. Pure.

use std::cmp::{Ordering, Reverse};
use std::collections::BinaryHeap;
use std::net::{IpAddr, SocketAddr};
use std::time::Duration;

use ipnet::IpNet;
use relay_common::net::Protocol;

use crate::rule::RuleName;

/// A flow of the kernel plane or a session of the user plane.
#[derive(Clone, Debug, PartialEq)]
pub struct Flow {
    pub rule: RuleName,
    pub protocol: Protocol,
    pub plane: Plane,
    pub client: SocketAddr,
    /// The address and port that the client asked.
    pub listen: Option<SocketAddr>,
    /// `None`: it has none yet.
    pub backend: Option<SocketAddr>,
    pub state: State,
    pub age: Duration,
    /// Since the last packet, to the second or so.
    pub idle: Duration,
    /// From the client, to the client: of IP packets in the kernel, of payload here. `None`: not known.
    pub bytes: [Option<u64>; 2],
}

#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub enum Plane {
    Kernel,
    User,
}

/// How far a flow is.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub enum State {
    /// The client has not proven that it gets answers, or there is no backend yet.
    Opening,
    Open,
    /// One side of a TCP connection has ended its stream.
    Closing,
}

/// Which flows somebody wants to see. `None`: any.
#[derive(Clone, Debug, Default)]
pub struct Query {
    pub rule: Option<RuleName>,
    pub client: Option<IpNet>,
    pub backend: Option<Place>,
    pub protocol: Option<Protocol>,
    pub plane: Option<Plane>,
    pub sort: Sort,
    /// No more than so many.
    pub limit: usize,
}

/// An address, with a port or with any.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub struct Place {
    pub address: IpAddr,
    pub port: Option<u16>,
}

/// What comes first.
#[derive(Clone, Copy, Debug, Default, Eq, PartialEq)]
pub enum Sort {
    /// Most bytes, both ways together.
    #[default]
    Bytes,
    /// Oldest.
    Age,
    /// Youngest.
    New,
}

impl Plane {
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Kernel => "kernel",
            Self::User => "user",
        }
    }

    pub fn parse(text: &str) -> Option<Self> {
        [Self::Kernel, Self::User].into_iter().find(|plane| plane.as_str() == text)
    }
}

impl State {
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Opening => "opening",
            Self::Open => "open",
            Self::Closing => "closing",
        }
    }
}

impl Sort {
    pub fn parse(text: &str) -> Option<Self> {
        Some(match text {
            "bytes" => Self::Bytes,
            "age" => Self::Age,
            "new" => Self::New,
            _ => return None,
        })
    }

    fn rank(self, flow: &Flow) -> u64 {
        let age = u64::try_from(flow.age.as_millis()).unwrap_or(u64::MAX);
        match self {
            Self::Bytes => flow.bytes.iter().flatten().sum(),
            Self::Age => age,
            Self::New => u64::MAX - age,
        }
    }
}

impl Place {
    /// `203.0.113.10`, `203.0.113.10:80`, `2001:db8::1`, `[2001:db8::1]:80`.
    pub fn parse(text: &str) -> Option<Self> {
        if let Ok(address) = text.parse() {
            return Some(Self { address, port: None });
        }
        let socket: SocketAddr = text.parse().ok()?;
        Some(Self { address: socket.ip(), port: Some(socket.port()) })
    }

    pub fn is(&self, at: SocketAddr) -> bool {
        self.address == at.ip().to_canonical() && self.port.is_none_or(|port| port == at.port())
    }
}

impl Query {
    /// An address, or a network, of clients.
    pub fn parse_clients(text: &str) -> Option<IpNet> {
        text.parse().ok().or_else(|| text.parse::<IpAddr>().ok().map(IpNet::from))
    }

    pub fn takes_rule(&self, rule: &RuleName) -> bool {
        self.rule.as_ref().is_none_or(|wanted| wanted == rule)
    }

    pub fn takes_protocol(&self, protocol: Protocol) -> bool {
        self.protocol.is_none_or(|wanted| wanted == protocol)
    }

    pub fn takes_plane(&self, plane: Plane) -> bool {
        self.plane.is_none_or(|wanted| wanted == plane)
    }

    pub fn takes_client(&self, client: IpAddr) -> bool {
        self.client.as_ref().is_none_or(|net| net.contains(&client.to_canonical()))
    }

    pub fn takes_backend(&self, backend: Option<SocketAddr>) -> bool {
        self.backend.is_none_or(|place| backend.is_some_and(|backend| place.is(backend)))
    }
}

/// The first flows of all that are offered, in memory for so many.
#[derive(Debug)]
pub struct Best {
    sort: Sort,
    limit: usize,
    /// The last of them on top.
    kept: BinaryHeap<Reverse<Ranked>>,
    offered: u64,
}

#[derive(Debug)]
struct Ranked {
    rank: u64,
    /// Of those alike the first one offered.
    number: Reverse<u64>,
    flow: Flow,
}

impl Ord for Ranked {
    fn cmp(&self, other: &Self) -> Ordering {
        (self.rank, self.number).cmp(&(other.rank, other.number))
    }
}

impl PartialOrd for Ranked {
    fn partial_cmp(&self, other: &Self) -> Option<Ordering> {
        Some(self.cmp(other))
    }
}

impl PartialEq for Ranked {
    fn eq(&self, other: &Self) -> bool {
        self.cmp(other).is_eq()
    }
}

impl Eq for Ranked {}

impl Best {
    pub const fn new(sort: Sort, limit: usize) -> Self {
        Self { sort, limit, kept: BinaryHeap::new(), offered: 0 }
    }

    pub fn offer(&mut self, flow: Flow) {
        let ranked = Ranked { rank: self.sort.rank(&flow), number: Reverse(self.offered), flow };
        self.offered += 1;
        if self.kept.len() < self.limit {
            self.kept.push(Reverse(ranked));
        } else if let Some(mut last) = self.kept.peek_mut()
            && ranked > last.0
        {
            *last = Reverse(ranked);
        }
    }

    /// How many were offered.
    pub const fn offered(&self) -> u64 {
        self.offered
    }

    /// In order.
    pub fn into_flows(self) -> Vec<Flow> {
        self.kept.into_sorted_vec().into_iter().map(|Reverse(ranked)| ranked.flow).collect()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn flow(port: u16, bytes: u64, age: u64) -> Flow {
        Flow {
            rule: RuleName::parse("web").expect("name"),
            protocol: Protocol::Tcp,
            plane: Plane::User,
            client: (IpAddr::from([198, 51, 100, 7]), port).into(),
            listen: None,
            backend: None,
            state: State::Open,
            age: Duration::from_secs(age),
            idle: Duration::ZERO,
            bytes: [Some(bytes), None],
        }
    }

    fn first(sort: Sort, limit: usize) -> Vec<u16> {
        let mut best = Best::new(sort, limit);
        for (port, bytes, age) in [(1, 10, 3), (2, 30, 1), (3, 20, 2), (4, 30, 9), (5, 0, 5)] {
            best.offer(flow(port, bytes, age));
        }
        assert_eq!(best.offered(), 5);
        best.into_flows().iter().map(|flow| flow.client.port()).collect()
    }

    #[test]
    fn the_first_of_many_are_kept_in_order() {
        assert_eq!(first(Sort::Bytes, 3), [2, 4, 3]);
        assert_eq!(first(Sort::Age, 2), [4, 5]);
        assert_eq!(first(Sort::New, 10), [2, 3, 1, 5, 4]);
        assert_eq!(first(Sort::Bytes, 0), [0; 0]);
    }

    #[test]
    fn places_and_networks() {
        let at: SocketAddr = "203.0.113.2:80".parse().expect("address");
        for (text, is) in [("203.0.113.2", true), ("203.0.113.2:80", true), ("203.0.113.2:81", false)] {
            assert_eq!(Place::parse(text).map(|place| place.is(at)), Some(is), "{text}");
        }
        let v6: SocketAddr = "[2001:db8::1]:80".parse().expect("address");
        assert_eq!(Place::parse("[2001:db8::1]:80").map(|place| place.is(v6)), Some(true));
        assert_eq!((Place::parse("web"), Query::parse_clients("x/8")), (None, None));
        let client = Query::parse_clients("198.51.100.0/24");
        let query = Query { client, ..Query::default() };
        assert!(query.takes_client(IpAddr::from([198, 51, 100, 9])));
        assert!(query.takes_client("::ffff:198.51.100.9".parse().expect("address")));
        assert!(!query.takes_client(IpAddr::from([198, 51, 101, 9])));
        assert!(query.takes_backend(None));
    }
}
