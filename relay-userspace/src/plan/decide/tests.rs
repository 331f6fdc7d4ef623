//! Tests of who carries which rule.

use super::*;
use crate::host::{HostAddress, NextHop, Path};
use crate::plan::RuleState;
use crate::proxy::tunnel::Tunnels;
use crate::rule::{
    Backend, Connect, ConnectTls, ConnectTunnel, Host, Listener, ProxyVersion, RuleName, Verify,
};
use std::collections::{BTreeMap, HashMap};
use std::net::Ipv4Addr;
use std::time::Instant;

const V6_BACKEND: Ipv6Addr = Ipv6Addr::new(0x2001, 0xdb8, 0, 0, 0, 0, 0, 1);

fn host() -> HostView {
    let mut host = HostView::default();
    host.addresses.insert(HostAddress { address: Ipv4Addr::new(192, 0, 2, 1).into(), interface: 2 });
    host
}

const BY_TC: Carriage = Carriage::Kernel(Hook::Tc);

fn planned_with(listen: &str, to: &str, plane: PlaneChoice, kernel: Result<Hook, &str>) -> PlannedRule {
    let name = RuleName::parse("r").expect("name");
    let listeners = vec![Listener::parse(listen).expect(listen)];
    let backends = vec![Backend::parse(to).expect(to)];
    planned_rule(Rule { plane, ..Rule::new(name, listeners, backends) }, kernel)
}

fn planned_rule(rule: Rule, kernel: Result<Hook, &str>) -> PlannedRule {
    let unresolved = Err("no such host".to_owned());
    let both = |ipv4| Ok([Ipv4Addr::new(203, 0, 113, ipv4).into(), IpAddr::from(V6_BACKEND)].into());
    let resolved = BTreeMap::from([
        (Host::Name("gone.example".into()), unresolved),
        (Host::Name("both.example".into()), both(10)),
        // its IPv4 address is not reached
        (Host::Name("cut-off.example".into()), both(11)),
    ]);
    let hop = NextHop { interface: 2, gateway: None, mtu: 1500 };
    let path = |source| Path { source, hop: hop.clone() };
    let way = |backend| WayTo { backend, source: None, interface: None };
    let paths = BTreeMap::from([
        (way(Ipv4Addr::new(203, 0, 113, 10).into()), path(Ipv4Addr::new(192, 0, 2, 1).into())),
        (way(V6_BACKEND.into()), path(Ipv6Addr::new(0x2001, 0xdb8, 0, 0, 0, 0, 0, 9).into())),
    ]);
    let (host, taken, lacks) = (host(), BTreeMap::new(), HashMap::new());
    let facts = Facts {
        kernel,
        host: &host,
        paths: &paths,
        resolved: &resolved,
        taken: &taken,
        lacks: &lacks,
        down: false,
        health: &HashMap::new(),
        now: Instant::now(),
        closed: &HashMap::new(),
        tunnels: &Tunnels::new(std::env::temp_dir()),
    };
    let origin = Origin::File(std::path::Path::new("/etc/relay/relay.toml").into());
    super::rule(&Arc::new(rule), &origin, false, &facts)
}

fn planned(listen: &str, to: &str) -> PlannedRule {
    planned_with(listen, to, PlaneChoice::Auto, Ok(Hook::Tc))
}

#[test]
fn the_kernel_carries_every_pair_of_families() {
    for to in ["203.0.113.10:80", "[2001:db8::1]:80", "both.example:80"] {
        let planned = planned(":80", to);
        assert_eq!((&planned.ipv4, &planned.ipv6), (&BY_TC, &BY_TC), "{to}");
        assert_eq!(planned.state(), RuleState::Active);
        let user = planned.user.expect("the host's own connections");
        assert!(user.ipv4 && user.ipv6);
    }
}

#[test]
fn xdp_carries_ipv4_to_ipv4_alone() {
    for (to, ipv4) in [("203.0.113.10:80", Hook::Xdp), ("[2001:db8::1]:80", Hook::Tc)] {
        let planned = planned_with(":80", to, PlaneChoice::Auto, Ok(Hook::Xdp));
        assert_eq!((planned.ipv4, planned.ipv6), (Carriage::Kernel(ipv4), BY_TC), "{to}");
    }
}

#[test]
fn of_a_name_the_kernel_goes_to_the_first_address_that_it_reaches() {
    let backend = |to| planned(":80", to).kernel.expect("kernel").ends[0].expect("address").way.backend;
    assert_eq!(backend("both.example:80"), IpAddr::from(Ipv4Addr::new(203, 0, 113, 10)));
    assert_eq!(backend("cut-off.example:80"), IpAddr::from(V6_BACKEND));
}

#[test]
fn the_user_plane_carries_the_rest_and_says_why() {
    for (listen, to, reason) in [
        ("127.0.0.1:80", "203.0.113.10:80", "of this host to itself"),
        (":80", "[fe80::1]:80", "on this link only"),
        (":80", "127.0.0.1:81", "on this host"),
        (":80", "192.0.2.1:81", "on this host"),
    ] {
        let planned = planned(listen, to);
        let ipv4 = &planned.ipv4;
        assert!(matches!(ipv4, Carriage::User(why) if why.contains(reason)), "{ipv4:?}");
        assert_eq!(planned.state(), RuleState::Active, "{listen} {to}");
    }
    let by_choice = planned_with(":80", "203.0.113.10:80", PlaneChoice::User, Ok(Hook::Tc));
    assert_eq!(by_choice.ipv4, Carriage::User("plane = \"user\"".into()));
    let no_rights = planned_with(":80", "203.0.113.10:80", PlaneChoice::Auto, Err("no CAP_BPF"));
    assert_eq!(no_rights.ipv4, Carriage::User("no CAP_BPF".into()));
}

#[test]
fn the_proxy_protocol_takes_tcp_to_relayd_and_leaves_udp_in_the_kernel() {
    let rule = |protocols, plane| {
        let connect = Connect { proxy_protocol: Some(ProxyVersion::V2), ..Connect::default() }.into();
        let rule = (*planned(":80", "203.0.113.10:80").rule).clone();
        planned_rule(Rule { protocols, plane, connect, ..rule }, Ok(Hook::Tc))
    };
    let both = rule(Protocols::Both, PlaneChoice::Auto);
    assert_eq!(both.kernel.as_ref().expect("UDP").protocols, Protocols::Udp);
    assert!(
        matches!(&both.ipv4, Carriage::User(why) if why.contains("connect.proxy_protocol") && why.contains("UDP stays in the kernel")),
        "{:?}",
        both.ipv4
    );
    assert!(both.user.as_ref().is_some_and(|user| user.ipv4 && user.connect == both.rule.connect));
    let tcp = rule(Protocols::Tcp, PlaneChoice::Auto);
    assert_eq!((&tcp.kernel, tcp.state()), (&None, RuleState::Active));
    let forced = rule(Protocols::Both, PlaneChoice::Kernel);
    assert!(
        matches!(&forced.faults[..], [Fault::KernelImpossible(why)] if why.contains("connect.proxy_protocol"))
    );
}

#[test]
fn tunnels_are_relayds_and_their_files_lie_beside_the_rules() {
    let tls = ConnectTls { sni: None, verify: Verify::Ca, ca: None, identity: None, alpn: Vec::new() };
    let connect = |tls| Connect {
        tunnel: Some(Arc::new(ConnectTunnel { tls: Some(tls), ws: None, udp_over: None, mux: false })),
        ..Connect::default()
    };
    let plain = (*planned(":80", "203.0.113.10:80").rule).clone();
    let rule = Rule { protocols: Protocols::Tcp, connect: connect(tls.clone()).into(), ..plain };
    let planned = planned_rule(rule.clone(), Ok(Hook::Tc));
    let why = "relayd wraps it in TLS (connect.transport = \"tls\")";
    assert_eq!((&planned.ipv4, &planned.ipv6), (&Carriage::User(why.into()), &Carriage::User(why.into())));
    assert_eq!((&planned.kernel, planned.state()), (&None, RuleState::Active));
    let forced_rule = Rule { plane: PlaneChoice::Kernel, ..rule };
    let forced = planned_rule(forced_rule.clone(), Ok(Hook::Tc));
    assert!(matches!(&forced.faults[..], [Fault::KernelImpossible(reason)] if reason == why));
    let tls = ConnectTls { ca: Some("ca.pem".into()), ..tls };
    let lacking = planned_rule(
        Rule { connect: connect(tls).into(), plane: PlaneChoice::Auto, ..forced_rule },
        Ok(Hook::Tc),
    );
    let missing = "connect: cannot read /etc/relay/ca.pem: ";
    assert!(matches!(&lacking.faults[..], [Fault::Tunnel(why)] if why.starts_with(missing)), "{lacking:?}");
    assert_eq!((&lacking.user, lacking.state()), (&None, RuleState::Error));
}

#[test]
fn families_without_a_listener_are_nobodys() {
    let planned = planned("[::]:80", "203.0.113.10:80");
    assert_eq!(planned.ipv4, Carriage::None("it has no IPv4 listener".into()));
    assert_eq!(planned.ipv6, BY_TC);
    assert!(!planned.user.expect("IPv6").ipv4);
}

#[test]
fn the_programs_know_where_the_user_plane_listens() {
    for (listen, heard) in [
        (":80", (1, 1)),
        ("[::]:80", (0, 1)),
        ("192.0.2.1:80", (1, 0)),
        // its packets pass no interface
        ("[::1]:80", (0, 0)),
    ] {
        let user = planned(listen, "[2001:db8::1]:80").user.expect(listen);
        assert_eq!((user.heard_v4.len(), user.heard_v6.len()), heard, "{listen}");
    }
}

#[test]
fn ports_map_from_each_listeners_first() {
    let planned = planned(":8000-8009", "203.0.113.10:9000");
    let user = planned.user.expect("user plane");
    assert_eq!(user.ends[0].port(planned.rule.listen[0].ports.first(), 8003), 9003);
}

#[test]
fn faults_are_named() {
    for (listen, to, text) in [
        ("192.0.2.9:80", "203.0.113.10:80", "192.0.2.9 is not an address of this host"),
        ("%eth7:80", "203.0.113.10:80", "no interface eth7"),
        (":80", "gone.example:80", "gone.example does not resolve: no such host"),
        (":80", "new.example:80", "new.example is being resolved"),
        (":80", "192.0.2.1", "feed itself"),
        (":80-90", "127.0.0.1:85", "feed itself"),
        ("[::]:80", "[::1]:80", "feed itself"),
        (":80", "0.0.0.0:80", "feed itself"),
        (":80", "[::ffff:192.0.2.1]:80", "feed itself"),
    ] {
        let planned = planned(listen, to);
        assert_eq!(planned.faults.len(), 1, "{listen} {to}: {:?}", planned.faults);
        assert!(planned.faults[0].to_string().contains(text), "{}", planned.faults[0]);
        assert_eq!(planned.state(), RuleState::Error, "{listen} {to}");
    }
}

#[test]
fn a_disabled_rule_needs_no_name() {
    for to in ["gone.example:80", "new.example:80"] {
        let rule = Rule { enabled: false, ..(*planned(":80", to).rule).clone() };
        let planned = planned_rule(rule, Ok(Hook::Tc));
        assert_eq!((planned.state(), &planned.faults[..]), (RuleState::Disabled, &[][..]), "{to}");
    }
}

#[test]
fn a_backend_without_a_route_may_get_one() {
    let planned = planned(":80", "203.0.113.11:80");
    assert_eq!(
        planned.faults,
        [Fault::NoRoute(Ipv4Addr::new(203, 0, 113, 11).into(), "203.0.113.11".into())]
    );
    assert_eq!(planned.state(), RuleState::Degraded);
    assert!(planned.kernel.is_some(), "flows that it has stay");
}

#[test]
fn plane_kernel_is_a_fault_only_where_nothing_can_be_carried() {
    let by = |listen, kernel| planned_with(listen, "203.0.113.10:80", PlaneChoice::Kernel, kernel);
    assert_eq!(by(":80", Ok(Hook::Tc)).faults, []);
    assert_eq!(by("[::]:80", Ok(Hook::Tc)).faults, []);
    assert!(matches!(by("[::1]:80", Ok(Hook::Tc)).faults[..], [Fault::KernelImpossible(_)]));
    assert!(matches!(by(":80", Err("CAP_BPF is missing")).faults[..], [Fault::KernelImpossible(_)]));
}
