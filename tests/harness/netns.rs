//! Network namespaces as values, set up through netlink.

use std::fs::File;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddrV6, UdpSocket};
use std::os::fd::AsFd as _;
use std::sync::atomic::{AtomicU64, Ordering};
use std::thread;

use futures_util::TryStreamExt as _;
use netlink_packet_route::link::LinkAttribute;
use netlink_packet_route::neighbour::{NeighbourAddress, NeighbourAttribute, NeighbourState};
use netlink_packet_route::route::{RouteAttribute, RouteMetric};
use nix::sched::{CloneFlags, setns, unshare};
use rtnetlink::{Handle, LinkBridge, LinkMessageBuilder, LinkUnspec, LinkVeth, RouteMessageBuilder};

/// A network namespace. It has no name and goes when nothing uses it any more; before, it makes sure that nobody in it
/// has seen a bad checksum.
#[derive(Debug)]
pub struct NetNs {
    file: File,
    pub name: &'static str,
    /// Bad checksums that the test itself has made; `None`: somebody else looks.
    expected_checksum_errors: Option<AtomicU64>,
}

impl NetNs {
    /// A new namespace with its loopback up and forwarding off.
    pub fn new(name: &'static str) -> Self {
        let file = thread::spawn(|| {
            unshare(CloneFlags::CLONE_NEWNET).expect("a network namespace needs root");
            File::open("/proc/thread-self/ns/net").expect("own namespace")
        })
        .join()
        .expect("namespace thread");
        let ns = Self { file, name, expected_checksum_errors: Some(AtomicU64::new(0)) };
        ns.up("lo");
        ns.sysctl("net/ipv4/ip_forward", "0");
        ns
    }

    /// The namespace that we are in.
    pub fn own(name: &'static str) -> Self {
        let file = File::open("/proc/thread-self/ns/net").expect("own namespace");
        Self { file, name, expected_checksum_errors: None }
    }

    /// Another handle of the same namespace.
    pub fn another(&self) -> Self {
        let file = self.file.try_clone().expect("namespace");
        Self { file, name: self.name, expected_checksum_errors: None }
    }

    /// Runs something inside, on a thread of its own. Sockets and processes made there stay there.
    pub fn run<T: Send>(&self, work: impl FnOnce() -> T + Send) -> T {
        thread::scope(|scope| {
            let inside = namesake().spawn_scoped(scope, || {
                setns(self.file.as_fd(), CloneFlags::CLONE_NEWNET).expect("enter the namespace");
                work()
            });
            match inside.expect("a thread").join() {
                Ok(value) => value,
                Err(panic) => std::panic::resume_unwind(panic),
            }
        })
    }

    /// Moves this thread inside, for good.
    pub fn enter(&self) {
        setns(self.file.as_fd(), CloneFlags::CLONE_NEWNET).expect("enter the namespace");
    }

    /// Starts a thread inside.
    pub fn spawn<T: Send + 'static>(
        &self,
        work: impl FnOnce() -> T + Send + 'static,
    ) -> thread::JoinHandle<T> {
        let file = self.file.try_clone().expect("namespace");
        let inside = namesake().spawn(move || {
            setns(file.as_fd(), CloneFlags::CLONE_NEWNET).expect("enter the namespace");
            work()
        });
        inside.expect("a thread")
    }

    /// Asks netlink for something inside.
    pub fn netlink<T: Send>(&self, ask: impl AsyncFnOnce(Handle) -> Result<T, rtnetlink::Error> + Send) -> T {
        self.run(|| {
            let runtime =
                tokio::runtime::Builder::new_current_thread().enable_all().build().expect("runtime");
            runtime.block_on(async {
                let (connection, handle, _) = rtnetlink::new_connection().expect("netlink");
                let local = tokio::task::LocalSet::new();
                local
                    .run_until(async {
                        tokio::task::spawn_local(connection);
                        ask(handle).await.expect("netlink request")
                    })
                    .await
            })
        })
    }

    /// Writes a kernel setting.
    pub fn sysctl(&self, name: &str, value: &str) {
        self.run(|| std::fs::write(format!("/proc/sys/{name}"), value)).unwrap_or_else(|error| {
            panic!("{}: {name} = {value}: {error}", self.name);
        });
    }

    pub fn read_sysctl(&self, name: &str) -> String {
        let text = self.run(|| std::fs::read_to_string(format!("/proc/sys/{name}")));
        text.expect("sysctl").trim().to_owned()
    }

    /// Index of an interface.
    pub fn index(&self, interface: &str) -> u32 {
        self.run(|| nix::net::if_::if_nametoindex(interface))
            .unwrap_or_else(|error| panic!("{interface}: {error}"))
    }

    pub fn up(&self, interface: &str) {
        let index = self.index(interface);
        self.netlink(async move |handle| {
            handle.link().set(LinkUnspec::new_with_index(index).up().build()).execute().await
        });
    }

    pub fn down(&self, interface: &str) {
        let index = self.index(interface);
        self.netlink(async move |handle| {
            handle.link().set(LinkUnspec::new_with_index(index).down().build()).execute().await
        });
    }

    pub fn set_mtu(&self, interface: &str, mtu: u32) {
        let index = self.index(interface);
        self.netlink(async move |handle| {
            handle.link().set(LinkUnspec::new_with_index(index).mtu(mtu).build()).execute().await
        });
    }

    /// Puts an interface on a bridge.
    pub fn enslave(&self, interface: &str, bridge: &str) {
        let (index, bridge) = (self.index(interface), self.index(bridge));
        self.netlink(async move |handle| {
            handle.link().set(LinkUnspec::new_with_index(index).controller(bridge).build()).execute().await
        });
    }

    pub fn add_bridge(&self, name: &str) {
        self.netlink(async |handle| handle.link().add(LinkBridge::new(name).up().build()).execute().await);
    }

    pub fn delete_link(&self, interface: &str) {
        let index = self.index(interface);
        self.netlink(async move |handle| handle.link().del(index).execute().await);
    }

    /// Adds an address, usable at once: nobody else has it.
    pub fn add_address(&self, interface: &str, address: impl Into<IpAddr>, prefix: u8) {
        let (index, address) = (self.index(interface), address.into());
        if address.is_ipv6() {
            self.sysctl(&format!("net/ipv6/conf/{interface}/accept_dad"), "0");
        }
        self.netlink(async move |handle| handle.address().add(index, address, prefix).execute().await);
        // the kernel makes an IPv6 address ready a moment later, even if nobody is asked about it
        if let IpAddr::V6(address) = address {
            let scope = if address.is_unicast_link_local() { index } else { 0 };
            let own = SocketAddrV6::new(address, 0, 0, scope);
            crate::eventually("the address is ready", || self.run(|| UdpSocket::bind(own)).is_ok());
        }
    }

    pub fn delete_address(&self, interface: &str, address: impl Into<IpAddr>) {
        let (index, address) = (self.index(interface), address.into());
        self.netlink(async move |handle| {
            let mut addresses =
                handle.address().get().set_link_index_filter(index).set_address_filter(address).execute();
            while let Some(message) = addresses.try_next().await? {
                handle.address().del(message).execute().await?;
            }
            Ok(())
        });
    }

    /// Adds or replaces a route. `table` 254 is the main one.
    pub fn route(&self, destination: (Ipv4Addr, u8), via: Option<Ipv4Addr>, interface: &str, table: u32) {
        let index = self.index(interface);
        self.netlink(async move |handle| {
            let mut route = RouteMessageBuilder::<Ipv4Addr>::new()
                .destination_prefix(destination.0, destination.1)
                .output_interface(index)
                .table_id(table);
            if let Some(gateway) = via {
                route = route.gateway(gateway);
            } else {
                route = route.scope(netlink_packet_route::route::RouteScope::Link);
            }
            handle.route().add(route.build()).replace().execute().await
        });
    }

    pub fn default_route(&self, via: Ipv4Addr, interface: &str) {
        self.route((Ipv4Addr::UNSPECIFIED, 0), Some(via), interface, 254);
    }

    pub fn default_route_v6(&self, via: Ipv6Addr, interface: &str) {
        self.route_v6((Ipv6Addr::UNSPECIFIED, 0), via, interface);
    }

    /// Adds or replaces a route of the main table.
    pub fn route_v6(&self, destination: (Ipv6Addr, u8), via: Ipv6Addr, interface: &str) {
        let index = self.index(interface);
        self.netlink(async move |handle| {
            let route = RouteMessageBuilder::<Ipv6Addr>::new()
                .destination_prefix(destination.0, destination.1)
                .output_interface(index)
                .gateway(via);
            handle.route().add(route.build()).replace().execute().await
        });
    }

    /// Adds a route as a router advertisement does: with an MTU, and not for ever.
    pub fn offered_route_v6(&self, destination: (Ipv6Addr, u8), via: Ipv6Addr, interface: &str, mtu: u32) {
        let index = self.index(interface);
        self.netlink(async move |handle| {
            let mut route = RouteMessageBuilder::<Ipv6Addr>::new()
                .destination_prefix(destination.0, destination.1)
                .output_interface(index)
                .gateway(via)
                .build();
            route.attributes.push(RouteAttribute::Metrics(vec![RouteMetric::Mtu(mtu)]));
            route.attributes.push(RouteAttribute::Expires(1800));
            handle.route().add(route).execute().await
        });
    }

    /// `ip rule add from SOURCE lookup TABLE`.
    pub fn rule_from(&self, source: Ipv4Addr, table: u32) {
        self.netlink(async move |handle| {
            handle
                .rule()
                .add()
                .v4()
                .source_prefix(source, 32)
                .table_id(table)
                .action(netlink_packet_route::rule::RuleAction::ToTable)
                .execute()
                .await
        });
    }

    /// MAC address of an interface.
    pub fn mac(&self, interface: &str) -> [u8; 6] {
        let index = self.index(interface);
        self.netlink(async move |handle| {
            let mut links = handle.link().get().match_index(index).execute();
            let message = links.try_next().await?;
            let address = message.into_iter().flat_map(|message| message.attributes).find_map(|attribute| {
                match attribute {
                    LinkAttribute::Address(bytes) => bytes.try_into().ok(),
                    _ => None,
                }
            });
            Ok(address.unwrap_or_default())
        })
    }

    pub fn set_mac(&self, interface: &str, mac: [u8; 6]) {
        let index = self.index(interface);
        self.netlink(async move |handle| {
            let message = LinkUnspec::new_with_index(index).address(mac.to_vec());
            handle.link().set(message.build()).execute().await
        });
    }

    /// Makes a neighbour known for good.
    pub fn neighbour(&self, interface: &str, address: Ipv4Addr, mac: [u8; 6]) {
        self.set_neighbour(interface, address, mac, NeighbourState::Permanent);
    }

    /// Makes a neighbour known, but not for sure.
    pub fn doubt_neighbour(&self, interface: &str, address: Ipv4Addr, mac: [u8; 6]) {
        self.set_neighbour(interface, address, mac, NeighbourState::Stale);
    }

    fn set_neighbour(&self, interface: &str, address: Ipv4Addr, mac: [u8; 6], state: NeighbourState) {
        let index = self.index(interface);
        self.netlink(async move |handle| {
            handle
                .neighbours()
                .add(index, address.into())
                .link_layer_address(&mac)
                .state(state)
                .replace()
                .execute()
                .await
        });
    }

    /// What the kernel thinks of a neighbour.
    pub fn neighbour_state(&self, interface: &str, address: Ipv4Addr) -> Option<NeighbourState> {
        let index = self.index(interface);
        let messages = self
            .netlink(async move |handle| handle.neighbours().get().execute().try_collect::<Vec<_>>().await);
        let wanted = NeighbourAttribute::Destination(NeighbourAddress::Inet(address));
        let found = messages
            .into_iter()
            .find(|message| message.header.ifindex == index && message.attributes.contains(&wanted));
        found.map(|message| message.header.state)
    }

    /// A counter of `/proc/net/snmp`, such as `("Udp", "InCsumErrors")`.
    pub fn snmp(&self, group: &str, counter: &str) -> u64 {
        self.counter_in("snmp", group, counter)
    }

    /// A counter of `/proc/net/netstat`, such as `MPTcpExt`'s.
    pub fn netstat(&self, group: &str, counter: &str) -> u64 {
        self.counter_in("netstat", group, counter)
    }

    fn counter_in(&self, file: &str, group: &str, counter: &str) -> u64 {
        let path = format!("/proc/thread-self/net/{file}");
        let text = self.run(|| std::fs::read_to_string(&path)).expect("counters");
        let mut lines = text.lines().filter(|line| line.split(':').next() == Some(group));
        let (Some(heads), Some(values)) = (lines.next(), lines.next()) else { return 0 };
        let found =
            heads.split_whitespace().zip(values.split_whitespace()).find(|(head, _)| *head == counter);
        found.and_then(|(_, value)| value.parse().ok()).unwrap_or(0)
    }

    /// Bad checksums seen so far.
    pub fn checksum_errors(&self) -> u64 {
        let ipv4: u64 =
            ["Tcp", "Udp", "Icmp"].into_iter().map(|group| self.snmp(group, "InCsumErrors")).sum();
        let ipv6: u64 =
            ["Udp6InCsumErrors", "Icmp6InCsumErrors"].into_iter().map(|name| self.snmp6(name)).sum();
        ipv4 + ipv6
    }

    /// A counter of `/proc/net/snmp6`.
    fn snmp6(&self, counter: &str) -> u64 {
        let text = self.run(|| std::fs::read_to_string("/proc/thread-self/net/snmp6")).unwrap_or_default();
        let line = text.lines().find_map(|line| line.strip_prefix(counter));
        line.and_then(|value| value.trim().parse().ok()).unwrap_or(0)
    }

    /// Says that the bad checksums so far were meant to be.
    pub fn accept_checksum_errors(&self) {
        if let Some(expected) = &self.expected_checksum_errors {
            expected.store(self.checksum_errors(), Ordering::Relaxed);
        }
    }

    /// Packets or bytes of an interface: `rx_packets`, `tx_bytes`, ... from `/proc/net/dev`.
    pub fn traffic(&self, interface: &str) -> LinkTraffic {
        let text = self.run(|| std::fs::read_to_string("/proc/thread-self/net/dev")).expect("dev");
        let line = text.lines().find_map(|line| line.trim().strip_prefix(interface)?.strip_prefix(':'));
        let numbers: Vec<u64> =
            line.unwrap_or("").split_whitespace().filter_map(|number| number.parse().ok()).collect();
        let at = |index: usize| numbers.get(index).copied().unwrap_or(0);
        LinkTraffic { rx_bytes: at(0), rx_packets: at(1), tx_bytes: at(8), tx_packets: at(9) }
    }
}

impl Drop for NetNs {
    fn drop(&mut self) {
        if let Some(expected) = &self.expected_checksum_errors
            && !thread::panicking()
        {
            let expected = expected.load(Ordering::Relaxed);
            assert_eq!(self.checksum_errors(), expected, "bad checksums arrived at the {}", self.name);
        }
    }
}

/// A thread that panics in the name of this one, which has the test's.
fn namesake() -> thread::Builder {
    let own = thread::current();
    own.name().map_or_else(thread::Builder::new, |name| thread::Builder::new().name(name.to_owned()))
}

/// What an interface has counted.
#[derive(Clone, Copy, Debug, Default)]
pub struct LinkTraffic {
    pub rx_bytes: u64,
    pub rx_packets: u64,
    pub tx_bytes: u64,
    pub tx_packets: u64,
}

/// A cable between two namespaces.
pub fn cable(a: (&NetNs, &str), b: (&NetNs, &str)) {
    use std::os::fd::AsRawFd as _;
    let (a_ns, a_name) = a;
    let (b_ns, b_name) = b;
    let peer_fd = b_ns.file.as_raw_fd();
    // made under names of its own, since both ends are in one place for a moment
    a_ns.netlink(async |handle| {
        let message: LinkMessageBuilder<LinkVeth> = LinkVeth::new(a_name, "relay-peer");
        handle.link().add(message.build()).execute().await
    });
    let index = a_ns.index("relay-peer");
    a_ns.netlink(async move |handle| {
        handle.link().set(LinkUnspec::new_with_index(index).setns_by_fd(peer_fd).build()).execute().await
    });
    let index = b_ns.index("relay-peer");
    b_ns.netlink(async move |handle| {
        handle.link().set(LinkUnspec::new_with_index(index).name(b_name.to_owned()).build()).execute().await
    });
    a_ns.up(a_name);
    b_ns.up(b_name);
}
