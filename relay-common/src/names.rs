//! Names of maps and programs, spelled once for both sides. The kernel keeps 15 characters.

macro_rules! names {
    ($($(#[$doc:meta])* $name:ident,)*) => {
        $($(#[$doc])* pub const $name: &str = stringify!($name);)*
        /// Every map that outlives relayd.
        pub const PINNED: &[&str] = &[$($name,)*];
    };
}

names! {
    /// Established TCP flows; the kernel never evicts from it.
    FLOWS_TCP,
    /// Established UDP flows, apart from TCP's so that neither can crowd the other out.
    FLOWS_UDP,
    /// Flows without proof and closed flows; a flood only hurts itself here.
    UNPROVEN,
    FRAGMENTS,
    FRAGMENTS_V6,
    PORTS,
    LISTENERS,
    /// The same for IPv6.
    PORTS_V6,
    LISTENERS_V6,
    RULES,
    /// Rule slot to name; only userspace reads it.
    RULE_NAMES,
    ENDPOINTS,
    /// What is known of endpoints' flows; relayd maps it into its memory.
    ENDPOINT_USAGE,
    /// How long the round trips of endpoints' handshakes take.
    ROUND_TRIPS,
    /// Endpoints as new flows choose among them.
    PLACES,
    NEXT_HOPS,
    ROUTES,
    /// The host's own unicast addresses.
    ADDRESSES,
    ADDRESSES_V6,
    /// Own IPv6 addresses by the numbers that flows know them by.
    NUMBERED,
    COUNTERS,
    /// Those of single ports, of rules that ask for them.
    PORT_COUNTERS,
    DROPS,
    SETTINGS,
    PRESSURE,
    /// XDP's device map.
    DEVICES,
    /// Networks that rules let in.
    ALLOWED,
    /// What rules have used of their limits; relayd maps it into its memory.
    USAGE,
    /// What rules' and groups' traffic may be; relayd maps it into its memory.
    METERS,
    /// Proven flows of each client address, for rules that limit them.
    SOURCES,
    /// The pace of each client address, for rules that limit it; a flood only hurts this limit.
    PACES,
    /// What each client address has used of its rate, for rules that have one; a flood only hurts these rates.
    CLIENTS,
    /// Interfaces whose queue keeps packets until they are due.
    PACED,
    /// Flows that are over, for the connection log.
    ENDED,
    /// The sockets that rules share, and connections that came to them. As long as they last, so does what is noted here.
    SHARED_SOCKETS,
}

/// Those that found no room in it. Not pinned, so it starts from zero with the programs.
pub const ENDED_LOST: &str = "ENDED_LOST";

/// What is seen of flows and packets while somebody watches, what was left out of that, and how fast it comes. Not pinned: who
/// watches, watches one relayd.
pub const OBSERVED: &str = "OBSERVED";
pub const OBSERVED_LOST: &str = "OBSERVED_LOST";

/// UDP sessions of the user plane, by the packets of their clients. Not pinned: they end with relayd.
pub const DECLINED: &str = "DECLINED";

/// The program for interfaces with an Ethernet header.
pub const TC: &str = "relay_tc";
/// The program for interfaces without one (tun, WireGuard, ppp).
pub const TC_L3: &str = "relay_tc_l3";
/// The same two for what leaves.
pub const EGRESS: &str = "relay_egress";
pub const EGRESS_L3: &str = "relay_egress_l3";
pub const XDP: &str = "relay_xdp";
/// Run by relayd through BPF_PROG_TEST_RUN: deletes dead flows where no packet can race it.
pub const SWEEP: &str = "relay_sweep";
/// Finds a socket for what comes to the ports of wide rules.
pub const LOOKUP: &str = "relay_lookup";
/// Notice programs that begin to listen there: who binds a socket, who sends from one that was never bound.
pub const BOUND: [&str; 2] = ["relay_bound4", "relay_bound6"];
pub const SENT: [&str; 2] = ["relay_sent4", "relay_sent6"];
/// Run likewise, from an object of its own: reports jiffies and the monotonic clock.
pub const CLOCK: &str = "relay_clock";

/// Maps that end with relayd, as its sockets do.
pub const BLOCKS: &str = "BLOCKS";
pub const SETS: &str = "SETS";
pub const YIELDED: &str = "YIELDED";
pub const GROUPS: &str = "GROUPS";
pub const HOME: &str = "HOME";
pub const OWN: &str = "OWN";

/// Read-only data that relayd sets at load time.
pub const TICK_SHIFT: &str = "TICK_SHIFT";
pub const TRACED_RULE: &str = "TRACED_RULE";
