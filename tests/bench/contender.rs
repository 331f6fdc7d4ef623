//! What is measured: each contender has a world of its own, set up once.

use std::io::Write as _;
use std::net::SocketAddr;
use std::process::{Command, Stdio};

use harness::lab::Attached;
use harness::world::{BACKEND, CLIENT, RELAY, RELAY_INSIDE};
use harness::{Daemon, NetNs, World};

/// Who forwards.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub enum Kind {
    Routing,
    Nftables,
    BareTc,
    BareXdp,
    RelayTc,
    RelayXdp,
}

impl Kind {
    pub const fn name(self) -> &'static str {
        match self {
            Self::Routing => "routing",
            Self::Nftables => "nftables",
            Self::BareTc => "bare tc",
            Self::BareXdp => "bare xdp",
            Self::RelayTc => "relay tc",
            Self::RelayXdp => "relay xdp",
        }
    }
}

/// One contender, ready to forward.
pub struct Contender {
    pub world: World,
    pub daemon: Option<Daemon>,
    _programs: Vec<Attached>,
    /// Where a client sends to.
    pub target: SocketAddr,
}

pub const RULE: &str = "[[rule]]\nname = \"bench\"\nlisten = \":8080\"\nto = \"203.0.113.2:80\"\n";
pub const FLOWS: &str = "max_flows = 262144\n";

impl Contender {
    pub fn new(kind: Kind) -> Self {
        Self::with_rules(kind, RULE)
    }

    /// `rules`: what a Relay is configured with.
    pub fn with_rules(kind: Kind, rules: &str) -> Self {
        let world = World::new();
        prepare(&world);
        let mut contender = Self { world, daemon: None, _programs: Vec::new(), target: (RELAY, 8080).into() };
        let Self { world, daemon, _programs: programs, target, .. } = &mut contender;
        let relay = &world.relay;
        if !matches!(kind, Kind::RelayTc | Kind::RelayXdp) {
            relay.sysctl("net/ipv4/ip_forward", "1");
        }
        match kind {
            Kind::Routing => *target = (BACKEND, 80).into(),
            Kind::Nftables => nft(relay, NFT_RULES),
            Kind::BareTc => {
                *target = (BACKEND, 80).into();
                programs.push(Attached::bare_tc(relay, "uplink", "inside"));
            }
            Kind::BareXdp => {
                *target = (BACKEND, 80).into();
                programs.push(Attached::xdp(relay, "uplink", "lab_bare_xdp"));
                programs.push(Attached::xdp(relay, "inside", "lab_pass"));
            }
            Kind::RelayTc => *daemon = Some(world.start_with(FLOWS, rules)),
            Kind::RelayXdp => *daemon = Some(world.start_with(&format!("{FLOWS}hook = \"xdp\"\n"), rules)),
        }
        contender
    }
}

/// NAPI at every end, as real network cards have it, and neighbours that never need to be asked for.
fn prepare(world: &World) {
    world.enable_gro();
    world.client.neighbour("client", RELAY, world.relay.mac("uplink"));
    world.relay.neighbour("uplink", CLIENT, world.client.mac("client"));
    world.relay.neighbour("inside", BACKEND, world.backend.mac("backend"));
    world.backend.neighbour("backend", RELAY_INSIDE, world.relay.mac("inside"));
}

const NFT_RULES: &str = "
table ip bench {
    chain pre {
        type nat hook prerouting priority -100
        ip daddr 198.51.100.1 udp dport 8080 dnat to 203.0.113.2:80
        ip daddr 198.51.100.1 tcp dport 8080 dnat to 203.0.113.2:80
    }
    chain post {
        type nat hook postrouting priority 100
        oifname \"inside\" masquerade
    }
}
";

/// Loads nftables rules in a namespace.
fn nft(ns: &NetNs, rules: &str) {
    let status = ns.run(|| {
        let mut nft = Command::new("nft").args(["-f", "-"]).stdin(Stdio::piped()).spawn()?;
        if let Some(mut input) = nft.stdin.take() {
            input.write_all(rules.as_bytes())?;
        }
        nft.wait()
    });
    assert!(status.expect("nft (package nftables)").success(), "nft refuses the rules");
}
