//! Events: what may happen to a flow, as those who watch are told, and which of it they ask for.

use std::net::{IpAddr, SocketAddr};
use std::time::{Duration, SystemTime};

use ipnet::IpNet;
use relay_common::net::Protocol;

use crate::connections::Ended;
use crate::flows::Plane;
use crate::rule::RuleName;

/// Something that has happened.
#[derive(Clone, Debug, PartialEq)]
pub struct Event {
    /// When relayd heard of it; of the kernel plane that is up to a tenth of a second later.
    pub at: SystemTime,
    /// `None`: a packet that could not be laid at a rule's door.
    pub rule: Option<RuleName>,
    pub plane: Plane,
    /// `None`: a packet of ICMP, or one that is not known.
    pub protocol: Option<Protocol>,
    /// Of a packet that was dropped, who sent it.
    pub client: Option<SocketAddr>,
    /// The address and port that the client asked; of a packet that was dropped, where it was going.
    pub listen: Option<SocketAddr>,
    /// `None`: it has none.
    pub backend: Option<SocketAddr>,
    pub what: What,
}

#[derive(Clone, Debug, PartialEq)]
pub enum What {
    /// The first packet of a flow, or a session that has been let in.
    Opened,
    /// The client has proven that it gets the answers; a session has its backend.
    Proven,
    Closed {
        /// Client to backend, backend to client.
        bytes: [u64; 2],
        lasted: Duration,
        reason: &'static str,
    },
    /// A new flow that was not let in.
    Refused { reason: &'static str },
    /// Packets, or datagrams, that went nowhere.
    Dropped { reason: &'static str, packets: u64 },
}

/// The same without its particulars.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
#[repr(u8)]
pub enum Kind {
    Opened = 0,
    Proven = 1,
    Closed = 2,
    Refused = 3,
    Dropped = 4,
}

/// Some kinds.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub struct Kinds(u8);

/// What somebody wants to see. `None`: any.
#[derive(Clone, Debug, Default)]
pub struct Filter {
    pub rule: Option<RuleName>,
    pub client: Option<IpNet>,
    pub protocol: Option<Protocol>,
    pub plane: Option<Plane>,
    pub kinds: Kinds,
}

impl Kind {
    pub const ALL: [Self; 5] = [Self::Opened, Self::Proven, Self::Closed, Self::Refused, Self::Dropped];

    pub const NAMES: [&str; 5] = [
        Self::ALL[0].as_str(),
        Self::ALL[1].as_str(),
        Self::ALL[2].as_str(),
        Self::ALL[3].as_str(),
        Self::ALL[4].as_str(),
    ];

    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Opened => "opened",
            Self::Proven => "proven",
            Self::Closed => "closed",
            Self::Refused => "refused",
            Self::Dropped => "dropped",
        }
    }

    pub fn parse(text: &str) -> Option<Self> {
        Self::ALL.into_iter().find(|kind| kind.as_str() == text)
    }

    /// Whether something was turned away.
    pub const fn is_drop(self) -> bool {
        matches!(self, Self::Refused | Self::Dropped)
    }
}

impl Default for Kinds {
    fn default() -> Self {
        Self::of(&Kind::ALL)
    }
}

impl Kinds {
    pub fn of(kinds: &[Kind]) -> Self {
        Self(kinds.iter().fold(0, |bits, &kind| bits | 1 << kind as u8))
    }

    pub const fn has(self, kind: Kind) -> bool {
        self.0 & 1 << kind as u8 != 0
    }

    /// Whether some of them are of flows, and some of what is turned away.
    pub(super) fn sorts(self) -> [bool; 2] {
        [false, true].map(|is_drop| Kind::ALL.iter().any(|kind| self.has(*kind) && kind.is_drop() == is_drop))
    }
}

impl What {
    pub const fn kind(&self) -> Kind {
        match self {
            Self::Opened => Kind::Opened,
            Self::Proven => Kind::Proven,
            Self::Closed { .. } => Kind::Closed,
            Self::Refused { .. } => Kind::Refused,
            Self::Dropped { .. } => Kind::Dropped,
        }
    }
}

impl Event {
    /// Something about a session of the user plane.
    pub fn of_session(rule: &RuleName, protocol: Protocol, client: Option<SocketAddr>, what: What) -> Self {
        Self {
            at: SystemTime::now(),
            rule: Some(rule.clone()),
            plane: Plane::User,
            protocol: Some(protocol),
            client: client.map(canonical),
            listen: None,
            backend: None,
            what,
        }
    }

    /// A flow or session that is over.
    pub fn closed(ended: Ended) -> Self {
        let Ended { rule, plane, protocol, client, backend, bytes, lasted, reason } = ended;
        Self {
            at: SystemTime::now(),
            rule: Some(rule),
            plane,
            protocol: Some(protocol),
            client: Some(canonical(client)),
            listen: None,
            backend: backend.map(canonical),
            what: What::Closed { bytes, lasted, reason },
        }
    }
}

/// IPv4 addresses that were written as IPv6 ones are IPv4.
pub fn canonical(address: SocketAddr) -> SocketAddr {
    SocketAddr::new(address.ip().to_canonical(), address.port())
}

impl Filter {
    pub fn takes(&self, event: &Event) -> bool {
        self.kinds.has(event.what.kind())
            && self.rule.as_ref().is_none_or(|rule| event.rule.as_ref() == Some(rule))
            && self.protocol.is_none_or(|protocol| event.protocol == Some(protocol))
            && self.plane.is_none_or(|plane| event.plane == plane)
            && self.client.as_ref().is_none_or(|net| is_of(net, event))
    }
}

/// Whether it is about a client in a network. A packet that was dropped may have been on its way there.
fn is_of(net: &IpNet, event: &Event) -> bool {
    let has = |end: Option<SocketAddr>| end.is_some_and(|end| net.contains(&IpAddr::to_canonical(&end.ip())));
    let is_packet = matches!(event.what, What::Dropped { .. });
    has(event.client) || (is_packet && has(event.listen))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn event(rule: &str, client: &str, what: What) -> Event {
        let rule = RuleName::parse(rule).expect(rule);
        Event::of_session(&rule, Protocol::Tcp, client.parse().ok(), what)
    }

    #[test]
    fn a_filter_takes_what_it_names() {
        let opened = event("web", "[::ffff:198.51.100.7]:4000", What::Opened);
        let dropped = event("web", "203.0.113.10:80", What::Dropped { reason: "rate", packets: 1 });
        let dropped = Event { listen: Some("198.51.100.9:4001".parse().expect("address")), ..dropped };
        let net = |text: &str| Filter { client: Some(text.parse().expect(text)), ..Filter::default() };
        let kinds = |kinds: &[Kind]| Filter { kinds: Kinds::of(kinds), ..Filter::default() };
        for (filter, takes) in [
            (Filter::default(), [true, true]),
            (Filter { rule: RuleName::parse("dns"), ..Filter::default() }, [false, false]),
            (Filter { rule: RuleName::parse("web"), ..Filter::default() }, [true, true]),
            (Filter { plane: Some(Plane::Kernel), ..Filter::default() }, [false, false]),
            (Filter { protocol: Some(Protocol::Udp), ..Filter::default() }, [false, false]),
            (net("198.51.100.0/24"), [true, true]),
            (net("198.51.100.7/32"), [true, false]),
            (net("192.0.2.0/24"), [false, false]),
            (kinds(&[Kind::Opened, Kind::Closed]), [true, false]),
            (kinds(&[Kind::Dropped]), [false, true]),
        ] {
            assert_eq!([&opened, &dropped].map(|event| filter.takes(event)), takes, "{filter:?}");
        }
    }
}
