//! The kernel plane without relayd: the product's programs and maps, filled by the product's own planning and apply,
//! in a namespace of their own, run on packets with BPF_PROG_TEST_RUN.
//!
//! Nothing is attached and nothing is sent: a run hands back the verdict and the packet as the program left it. Needs
//! no file but the test program itself, and no kernel newer than 5.10.

mod counts;
mod run;

use std::collections::BTreeMap;
use std::collections::HashMap;
use std::net::{Ipv4Addr, Ipv6Addr};
use std::path::PathBuf;
use std::sync::Arc;
use std::time::Instant;

use aya::maps::{Array, Map, RingBuf};
use nix::mount::{MntFlags, umount2};
use nix::sched::{CpuSet, sched_setaffinity};
use nix::unistd::Pid;
use relay::config::dns::Dns;
use relay::config::problem::Source;
use relay::config::settings::Hook;
use relay::config::{Config, Problems};
use relay::host::{ClaimRange, LinkKind};
use relay::kernel::attach::Target;
use relay::kernel::meters::DesiredTerms;
use relay::kernel::observed::record_of;
use relay::kernel::round_trips::RoundTripsByEnd;
use relay::kernel::sweep::{Census, Sweeper};
use relay::kernel::{Dataplane, Desired, Options};
use relay::plan::{self, Facts, PlannedRule};
use relay::proxy::tunnel::Tunnels;
use relay::rule::Rule;
use relay::supervisor::desire;
use relay::supervisor::facts::FactBook;
use relay::supervisor::names::Names;
use relay_common::flow::{FlowEntry, FlowFlags, FlowKey, Owner};
use relay_common::names;
use relay_common::observe::{LOST_FLOWS, LOST_PACKETS, Seen};

use self::counts::Tables;
pub use self::counts::{Change, Counts, Table};
pub use self::run::{Programs, Ran, Verdict};
use crate::netns::{NetNs, cable};
use crate::panics::tell_at_once;
use crate::world;

/// Where forged clients' answers go.
pub const GATEWAY: Ipv4Addr = Ipv4Addr::new(198, 51, 100, 254);
/// A second address of the relay on the client side.
pub const RELAY_SECOND: Ipv4Addr = Ipv4Addr::new(198, 51, 100, 9);
/// The relay's address on the link that takes only [`NARROW_MTU`] bytes, and a backend there.
pub const RELAY_NARROW: Ipv4Addr = Ipv4Addr::new(192, 0, 2, 1);
pub const BACKEND_NARROW: Ipv4Addr = Ipv4Addr::new(192, 0, 2, 2);
/// The same over IPv6.
pub const GATEWAY_V6: Ipv6Addr = Ipv6Addr::new(0x2001, 0xdb8, 1, 0, 0, 0, 0, 0xfe);
pub const RELAY_NARROW_V6: Ipv6Addr = Ipv6Addr::new(0x2001, 0xdb8, 3, 0, 0, 0, 0, 1);
pub const BACKEND_NARROW_V6: Ipv6Addr = Ipv6Addr::new(0x2001, 0xdb8, 3, 0, 0, 0, 0, 2);
/// The relay's address on the link without Ethernet headers. In a packet from there the EtherType of IPv6 stands where
/// an Ethernet header has it.
pub const RELAY_BARE_V6: Ipv6Addr = Ipv6Addr::new(0x2001, 0xdb8, 0x86dd, 0, 0, 0, 0, 1);
pub const NARROW_MTU: u32 = 1400;
pub const MTU: u32 = 1500;

/// MAC addresses of everybody who is not the relay.
pub const NEIGHBOUR_MAC: [u8; 6] = [2, 0, 0, 0, 0, 9];

/// An interface that packets come in on.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub struct Side {
    pub interface: u32,
    pub mac: [u8; 6],
}

/// The relay's kernel plane.
pub struct Plane {
    pub programs: Programs,
    pub dataplane: Dataplane,
    pub relay: NetNs,
    /// Where clients come in: `uplink`, or the loopback interface where the kernel cannot say otherwise to XDP.
    pub client: Side,
    pub uplink: Side,
    pub backend: Side,
    pub narrow: Side,
    /// Source ports that flows may claim, from the next apply on.
    pub claims: ClaimRange,
    /// Names of rules by slot.
    rules: BTreeMap<u32, String>,
    tables: Tables,
    sweeper: Sweeper,
    _ends: NetNs,
}

impl Plane {
    /// A plane without rules, with room for so many flows of each protocol.
    pub fn new(max_flows: u32) -> Self {
        Self::after(max_flows, |_, _| ())
    }

    /// The same of a relayd that comes after another one. `earlier`: what that does, in the relay's namespace.
    pub fn after(max_flows: u32, earlier: impl FnOnce(&mut Dataplane, &NetNs) + Send) -> Self {
        tell_at_once();
        let (relay, ends) = links();
        // pins are only needed while everything is opened, so they lie where nobody else sees them
        let (dataplane, programs, tables, sweeper) = relay.run(|| {
            world::private_mounts();
            let folder = world::folder();
            let bpf_dir = folder.path().join("bpf");
            let options = Options {
                bpf_dir: bpf_dir.clone(),
                under_systemd: false,
                max_flows,
                xdp: true,
                traced: None,
                log_ended: false,
            };
            let mut dataplane = Dataplane::open(&options).expect("the kernel plane");
            earlier(&mut dataplane, &relay);
            if !dataplane.slots().is_empty() {
                drop(dataplane);
                dataplane = Dataplane::open(&options).expect("the kernel plane once more");
                assert!(dataplane.adopted);
            }
            load_for_bare_links(&mut dataplane, relay.index("bare"));
            let programs = Programs::of(&dataplane);
            let tables = Tables::open(dataplane.pins(), &programs);
            let sweeper = Sweeper::open(&dataplane).expect("sweeper");
            umount2(&bpf_dir, MntFlags::MNT_DETACH).expect("unmount");
            (dataplane, programs, tables, sweeper)
        });
        let side = |name| Side { interface: relay.index(name), mac: relay.mac(name) };
        let uplink = side("uplink");
        let client = if programs.xdp_knows_interfaces { uplink } else { side("lo") };
        let (backend, narrow) = (side("inside"), side("narrow"));
        let rules = BTreeMap::new();
        Self {
            programs,
            dataplane,
            relay,
            client,
            uplink,
            backend,
            narrow,
            claims: ClaimRange::default(),
            rules,
            tables,
            sweeper,
            _ends: ends,
        }
    }

    /// Moves this thread to the relay and to one CPU: counters, budgets and scratch space are per CPU.
    pub fn enter(&self) {
        self.relay.enter();
        let mut cpus = CpuSet::new();
        cpus.set(0).expect("cpu");
        sched_setaffinity(Pid::from_raw(0), &cpus).expect("pin");
    }

    /// Starts over with these rules (the grammar of relay.toml): no flows, no counts.
    pub fn carry(&mut self, rules: &str) {
        self.claims = ClaimRange::default();
        self.apply("", &[]);
        let resting = self.dataplane.resting();
        // the flows of rules that are gone go with the product's own sweep
        while self.sweep().deleted > 0 {}
        self.dataplane.free_slots(&resting).expect("free slots");
        self.tables.clear_rest();
        let left = self.counts();
        for table in [Table::Tcp, Table::Udp, Table::Unproven] {
            assert_eq!(left.entries(table), 0, "{table:?} after a sweep");
        }
        assert_eq!(left.ended_rules(), 0, "drops of ended rules after a sweep");
        self.apply(rules, &[]);
    }

    /// Changes to these rules, of which some drain.
    pub fn apply(&mut self, rules: &str, draining: &[&str]) {
        self.take(&self.desired(rules, draining));
    }

    /// Changes to what is desired.
    pub fn take(&mut self, desired: &Desired) {
        self.dataplane.apply(desired).expect("apply");
        self.rules =
            self.dataplane.slots().into_iter().map(|(name, slot)| (slot, name.to_string())).collect();
    }

    /// What relayd would want of the kernel for these rules.
    pub fn desired(&self, rules: &str, draining: &[&str]) -> Desired {
        desired(&self.relay, self.claims, (rules, draining), |_| ())
    }

    /// The same, once each rule has been changed.
    pub fn desired_with(&self, rules: &str, change: impl Fn(&mut Rule) + Send) -> Desired {
        desired(&self.relay, self.claims, (rules, &[]), change)
    }

    /// What is counted, and who is in the tables.
    pub fn counts(&self) -> Counts {
        self.tables.read(&self.rules)
    }

    /// Round trips that handshakes with backends have taken.
    pub fn round_trips(&self) -> RoundTripsByEnd {
        self.tables.round_trips()
    }

    /// What is counted, without the tables.
    pub fn totals(&self) -> Counts {
        self.tables.totals(&self.rules)
    }

    /// Runs the program for interfaces without an Ethernet header on an IP packet, and says what that changed.
    ///
    /// The kernel takes the first 14 bytes of any test packet for an Ethernet header, so the packet's own must pass for
    /// one: the interface is given the first six for its address (of IPv4 a header of 24 bytes, since an odd first byte
    /// would be multicast), and the source address must have the EtherType there: begin with 8.0, or go on with 86dd.
    pub fn bare(&self, packet: &[u8]) -> (Ran, Change) {
        let side = self.bare_side(packet);
        let before = self.counts();
        let ran = self.programs.tc_l3(side, packet).expect("TEST_RUN of tc");
        (ran, before.change(&self.counts()))
    }

    /// The same at egress.
    pub fn bare_egress(&self, packet: &[u8]) -> (Ran, Change) {
        let side = self.bare_side(packet);
        let before = self.counts();
        let ran = self.programs.egress_l3(side, packet).expect("TEST_RUN at egress");
        (ran, before.change(&self.counts()))
    }

    fn bare_side(&self, packet: &[u8]) -> Side {
        let passes = packet[0] & 1 == 0 && matches!(packet[12..14], [8, 0] | [0x86, 0xdd]);
        assert!(passes, "cannot pass for Ethernet: {packet:x?}");
        let mac = [packet[0], packet[1], packet[2], packet[3], packet[4], packet[5]];
        self.relay.set_mac("bare", mac);
        Side { interface: self.relay.index("bare"), mac }
    }

    /// Every half of a flow, with the table that it lies in.
    pub fn flows(&self) -> impl Iterator<Item = (Table, FlowKey, FlowEntry)> + '_ {
        self.tables.flows()
    }

    /// Makes every flow silent for so many ticks.
    pub fn age(&mut self, ticks: u32) {
        let flows: Vec<_> = self.flows().collect();
        for (table, key, mut half) in flows {
            half.seen = half.seen.wrapping_sub(ticks);
            self.tables.insert(table, &key, &half);
        }
    }

    /// Puts half of a flow into a table.
    pub fn put(&mut self, table: Table, key: &FlowKey, half: &FlowEntry) {
        self.tables.insert(table, key, half);
    }

    /// Takes half of a flow out of a table.
    pub fn take_out(&mut self, table: Table, key: &FlowKey) {
        self.tables.remove(table, key);
    }

    /// What the programs have told of what they have seen since somebody last asked.
    pub fn seen(&self) -> Vec<Seen> {
        self.records(names::OBSERVED).iter().map(|record| record_of(record).expect("a record")).collect()
    }

    /// How many of that they have left out, ever: of flows, and of packets that were refused.
    pub fn unseen(&self) -> [u64; 2] {
        let map = Map::Array(self.programs.unpinned(names::OBSERVED_LOST));
        let lost: Array<_, u64> = Array::try_from(map).expect("counts");
        [LOST_FLOWS, LOST_PACKETS].map(|index| lost.get(&index, 0).expect("a count"))
    }

    /// How many flows they have told the end of since somebody last asked.
    pub fn ended(&self) -> usize {
        self.records(names::ENDED).len()
    }

    fn records(&self, name: &str) -> Vec<Vec<u8>> {
        let mut ring = RingBuf::try_from(Map::RingBuf(self.programs.unpinned(name))).expect("ring");
        let mut records = Vec::new();
        while let Some(record) = ring.next() {
            records.push(record.to_vec());
        }
        records
    }

    /// One round of the product's own sweep.
    pub fn sweep(&mut self) -> Census {
        self.sweeper.round().expect("sweep")
    }

    /// Lets the packets of every established client half go round for ever, or until their TTL is spent: what they
    /// are translated to is translated back towards the client, and that once more to the backend.
    pub fn close_the_circle(&mut self) {
        let established: Vec<_> = self.flows().filter(|(table, ..)| *table != Table::Unproven).collect();
        let clients = established.iter().filter(|(_, _, half)| !half.flags().has(FlowFlags::EGRESS));
        for (table, key, client) in clients {
            let protocol = key.protocol().expect("protocol");
            let opposite = client.opposite(protocol).to_bytes();
            let backend =
                established.iter().find(|(_, key, _)| key.to_bytes() == opposite).expect("both halves");
            let to_client = backend.2.translation();
            for (from, to, half) in
                [(client.translation(), to_client, &backend.2), (to_client, client.translation(), client)]
            {
                let key = FlowKey::new(from.source, from.destination, from.ports, protocol);
                let owner =
                    Owner { rule: half.rule(), generation: half.generation, endpoint: half.endpoint() };
                let flags = half.flags().with(FlowFlags::EGRESS);
                let entry = FlowEntry::new(&key, to, owner, half.hop(), flags, half.seen);
                self.tables.insert(*table, &key, &entry);
            }
        }
    }

    /// Has every flow's packets come in for this link address, as far as XDP looks at that.
    pub fn come_in_for(&mut self, mac: [u8; 6]) {
        let flows: Vec<_> = self.flows().collect();
        for (table, key, mut half) in flows {
            let [_, _, link @ ..] = mac;
            half.link = u32::from_ne_bytes(link);
            self.tables.insert(table, &key, &half);
        }
    }

    /// Runs the program for Ethernet at tc ingress on a frame, and says what that changed.
    pub fn tc(&self, side: Side, frame: &[u8]) -> (Ran, Change) {
        let before = self.counts();
        let ran = self.programs.tc(side, frame, 0).expect("TEST_RUN of tc");
        (ran, before.change(&self.counts()))
    }

    /// The same at egress, for a frame that the host itself sends.
    pub fn egress(&self, side: Side, frame: &[u8]) -> (Ran, Change) {
        let before = self.counts();
        let ran = self.programs.egress(side, frame, 0, 0).expect("TEST_RUN at egress");
        (ran, before.change(&self.counts()))
    }

    /// The same for XDP. A packet that it passes gets a second chance: now and then one goes to tc for the neighbour's sake.
    pub fn xdp(&self, side: Side, frame: &[u8]) -> (Ran, Change) {
        let before = self.counts();
        let mut ran = self.programs.xdp(side, frame).expect("TEST_RUN of XDP");
        if ran.verdict == Verdict::Pass {
            ran = self.programs.xdp(side, frame).expect("TEST_RUN of XDP");
        }
        (ran, before.change(&self.counts()))
    }
}

/// What relayd in the relay's namespace would want of the kernel for these rules, of which some drain, once each has been
/// changed.
pub fn desired(
    relay: &NetNs,
    claims: ClaimRange,
    (rules, draining): (&str, &[&str]),
    change: impl Fn(&mut Rule) + Send,
) -> Desired {
    let problems = Problems {
        sources: vec![Source { path: PathBuf::from("rules"), text: rules.to_owned() }],
        list: Vec::new(),
    };
    let mut config = Config::parse(problems).unwrap_or_else(|problems| panic!("{problems:?}"));
    for (rule, _) in &mut config.rules {
        change(Arc::make_mut(rule));
    }
    let devices = [("uplink", 0), ("inside", 1), ("narrow", 2)].map(|(name, at)| (relay.index(name), at));
    relay.netlink(async move |handle| {
        let folder = world::folder();
        let (names, tunnels) =
            (Names::open(folder.path(), &Dns::default()), Tunnels::new(folder.path().into()));
        let mut book = FactBook::new(handle, names, tunnels).await.expect("facts");
        let rules: Vec<_> = config.rules.iter().map(|(rule, _)| rule.clone()).collect();
        book.find_paths(&rules).await;
        let facts = Facts {
            kernel: Ok(Hook::Tc),
            host: &book.host,
            paths: &book.paths,
            resolved: book.names.known(),
            taken: &book.taken,
            tunnels: &book.tunnels,
            lacks: book.holder.lacks(),
            down: false,
            health: &HashMap::new(),
            now: Instant::now(),
            closed: &HashMap::new(),
        };
        let planned: Vec<Arc<PlannedRule>> = config
            .rules
            .iter()
            .map(|(rule, origin)| {
                let drains = draining.contains(&rule.name.as_str());
                Arc::new(plan::rule(rule, origin, drains, &facts))
            })
            .collect();
        for rule in &planned {
            assert!(rule.faults.is_empty(), "{:?}", rule.faults);
        }
        let nothing = desire::Before { planned: &[], desired: &Desired::default() };
        let groups = config.groups.iter().map(|(name, group)| {
            (name.clone(), DesiredTerms::new(group.rates, group.quota.as_deref(), None))
        });
        Ok(desire::desired(&planned, &book, claims, &devices.into(), groups.collect(), &nothing))
    })
}

/// Has the programs for interfaces without link headers loaded, which are when they are attached first.
fn load_for_bare_links(dataplane: &mut Dataplane, index: u32) {
    let target = Target { index, name: "bare".into(), kind: LinkKind::Bare, xdp: false };
    let attached = dataplane.attach(&[target]);
    assert!(attached.values().all(|it| it.tc.is_ok() && it.egress.is_ok()), "{attached:?}");
    dataplane.attach(&[]);
}

/// The relay's namespace with its links, and one with their other ends. Nothing but `bare` frames come in on `bare`.
fn links() -> (NetNs, NetNs) {
    let (relay, ends) = (NetNs::new("relay"), NetNs::new("ends"));
    for (name, other) in [("uplink", "client"), ("inside", "backend"), ("narrow", "other"), ("bare", "end")] {
        cable((&relay, name), (&ends, other));
        relay.sysctl(&format!("net/ipv4/conf/{name}/forwarding"), "1");
    }
    relay.sysctl("net/ipv4/conf/lo/forwarding", "1");
    relay.set_mtu("narrow", NARROW_MTU);
    relay.add_address("uplink", world::RELAY, 24);
    relay.add_address("uplink", RELAY_SECOND, 24);
    relay.add_address("inside", world::RELAY_INSIDE, 24);
    relay.add_address("narrow", RELAY_NARROW, 24);
    relay.add_address("uplink", world::RELAY_V6, 64);
    relay.add_address("inside", world::RELAY_INSIDE_V6, 64);
    relay.add_address("narrow", RELAY_NARROW_V6, 64);
    relay.add_address("bare", RELAY_BARE_V6, 64);
    relay.default_route(GATEWAY, "uplink");
    relay.default_route_v6(GATEWAY_V6, "uplink");
    for (interface, neighbour) in [
        ("uplink", world::CLIENT),
        ("uplink", GATEWAY),
        ("inside", world::BACKEND),
        ("narrow", BACKEND_NARROW),
    ] {
        relay.neighbour(interface, neighbour, NEIGHBOUR_MAC);
    }
    (relay, ends)
}
