//! The kernel plane from relayd's side: loading, pinning, attaching, writing rules, reading counters, sweeping flows.
//!
//! The only module that knows aya. It knows nothing of netlink or the API: the supervisor brings it facts.

mod adopt;
pub mod apply;
pub mod attach;
pub mod batch;
pub mod bpffs;
mod choices;
pub mod clock;
pub mod declined;
pub mod detach;
mod ended;
pub mod filters;
pub mod flows;
pub mod gone;
pub mod guard;
pub mod hops;
pub mod links;
pub mod listening;
pub mod load;
pub mod lookup;
pub mod mapped;
pub mod maps;
pub mod meter;
pub mod meters;
mod numbers;
pub mod object;
pub mod observed;
mod pins;
pub mod places;
pub mod ports;
pub mod preflight;
mod recount;
pub mod round_trips;
pub mod shadow;
pub mod shortage;
pub mod slots;
pub mod sweep;
pub mod tc;
pub mod trace;
pub mod usage;
mod ways;

use std::collections::{BTreeMap, BTreeSet};
use std::net::{Ipv4Addr, Ipv6Addr};
use std::sync::Arc;

use self::meters::DesiredTerms;
use crate::balance::Weights;
use crate::host::{ClaimRange, ClientRoutes, Path};
use crate::plan::{KernelRule, UserRule};
use crate::rule::{AllowList, GroupName, Limits, RuleName, Staying, Usual};

pub use self::load::{Dataplane, Options};

/// Why there is no kernel plane, in a sentence.
#[derive(Clone, Debug, thiserror::Error)]
#[error("{0}")]
pub struct Unavailable(pub String);

/// A write to the kernel that failed.
#[derive(Debug, thiserror::Error)]
pub enum KernelError {
    #[error("map {map}: {source}")]
    Map { map: &'static str, source: aya::maps::MapError },
    #[error("map {map}: {source}")]
    Batch { map: &'static str, source: std::io::Error },
    #[error("interface {interface} cannot take redirected frames: {source}")]
    Device { interface: u32, source: aya::maps::xdp::XdpMapError },
    #[error("there are {wanted} rules and the kernel plane takes {most}")]
    TooManyRules { wanted: usize, most: usize },
    #[error("there are more backends than the kernel plane takes ({most})")]
    TooManyEndpoints { most: usize },
    #[error(
        "allow lists have {wanted} IPv4 networks and the kernel plane takes {most}; fewer and wider ones do the same"
    )]
    TooManyNetworks { wanted: usize, most: usize },
    #[error("the socket lookup: {0}")]
    Lookup(String),
    #[error("the listeners of wide rules are on too many different sets of addresses")]
    TooManySets,
    #[error("this host and its backends have more IPv6 addresses than the kernel plane takes ({most})")]
    TooManyAddresses { most: usize },
    #[error(
        "there is no room for one more table by which new flows choose their backend ({most} places in all); fewer \
         backends take fewer, and so do smaller weights with balance = \"roundrobin\" or \"leastconn\"; most takes \"iphash\""
    )]
    TooManyPlaces { most: u32 },
    #[error("map {0}: no memory")]
    NoMemory(&'static str),
    #[error("there are more groups than the kernel plane takes")]
    TooManyGroups,
    #[error("there are more next hops than the kernel plane takes ({most})")]
    TooManyHops { most: usize },
}

/// Everything that the kernel plane should be doing.
#[derive(Clone, Debug, Default)]
pub struct Desired {
    pub rules: Vec<Arc<DesiredRule>>,
    /// Which state of the host this was derived from.
    pub revision: u64,
    pub routes: Arc<ClientRoutes>,
    pub addresses: BTreeMap<Ipv4Addr, u32>,
    pub addresses_v6: BTreeMap<Ipv6Addr, u32>,
    /// Source ports that flows may claim.
    pub claims: ClaimRange,
    pub groups: Arc<BTreeMap<GroupName, DesiredTerms>>,
    /// Interfaces whose queue keeps packets until they are due.
    pub paced: BTreeSet<u32>,
    /// Devices that XDP may redirect to: interface index to slot in the device map.
    pub devices: BTreeMap<u32, u16>,
}

/// A configured rule. Every one is listed, carried or not: it keeps its slot and counters for as long as it exists.
#[derive(Clone, Debug, PartialEq)]
pub struct DesiredRule {
    pub name: RuleName,
    pub enabled: bool,
    /// `None`: not carried here. What keeps it from being carried may pass, so its flows only end if it is disabled.
    pub carried: Option<Carried>,
    /// What its backends get of new flows.
    pub weights: Arc<Weights>,
    /// What the user plane carries of it.
    pub user: Option<Arc<UserRule>>,
    /// It does that without a socket on each port.
    pub shares: bool,
    pub draining: bool,
    /// Who is let in; `None`: everybody. Holds for flows that there are too.
    pub allow: Option<Arc<AllowList>>,
    pub limits: Limits,
    pub terms: Usual<DesiredTerms>,
    /// Whose terms hold, too.
    pub group: Option<GroupName>,
    /// Where its flows may go, others end; `None`: they go on wherever they go.
    pub backends: Option<Arc<Staying>>,
    /// Its UDP has a tunnel, which the flows from before go beside: they end.
    pub wraps_udp: bool,
}

#[derive(Clone, Debug, PartialEq)]
pub struct Carried {
    pub kernel: Arc<KernelRule>,
    /// One for each backend of the rule; `None`: there is no route to it.
    pub paths: Vec<Option<Path>>,
    /// Not all of its ports are held: a program that listens on one of them keeps its traffic.
    pub yields: bool,
}
