//! Planning one rule: who can carry it, family by family, and what is wrong with it.

use std::borrow::Cow;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};
use std::sync::Arc;

use relay_common::net::Protocol;

use super::{Carriage, Facts, Fault, KernelListener, KernelOn, KernelRule, PlannedRule, UserRule};
use crate::config::Origin;
use crate::config::settings::Hook;
use crate::host::{HostView, WayTo};
use crate::rule::{Connect, Host, ListenOn, Listener, PlaneChoice, PortRange, Protocols, Rule};

const NO_ADDRESS: &str = "its backend has no address yet";
const TURNED_AWAY: &str = "its backend has no address yet; who comes is refused as no_backend";
/// What `relayctl down` leaves.
pub const DETACHED: &str = "relayd is detached (`relayctl reload` attaches again)";

/// Plans one rule.
pub fn rule(rule: &Arc<Rule>, origin: &Origin, draining: bool, facts: &Facts<'_>) -> PlannedRule {
    let mut faults = missing(rule, facts.host);
    let listeners = listeners_v4(rule, facts.host);
    let addresses = reachable(rule, backend(rule, facts, &mut faults), &mut faults);
    if let Some(text) = facts.taken.get(&rule.name) {
        faults.push(Fault::PortInUse(text.clone()));
    }
    faults.extend(addresses.iter().find_map(|address| self_loop(rule, *address, facts.host)));
    let mut planned = PlannedRule {
        rule: rule.clone(),
        origin: origin.clone(),
        draining,
        ipv4: Carriage::None(String::new()),
        ipv6: Carriage::None(String::new()),
        faults,
        kernel: None,
        user: None,
    };
    let user = user_plane(&planned, &addresses, facts);
    let lacks = facts.lacks.get(&rule.name).cloned().unwrap_or_default();
    let user_v4 = user_for(&user, lacks.ipv4);
    let hears_itself = user_v4.is_ok();
    planned.ipv4 = ipv4(&mut planned, listeners, &addresses, user_v4, facts);
    planned.ipv6 = ipv6(rule, user_for(&user, lacks.ipv6), facts);
    if rule.plane == PlaneChoice::Kernel
        && let Carriage::None(reason) = &planned.ipv4
        && rule.enabled
        && planned.faults.is_empty()
    {
        planned.faults.push(Fault::KernelImpossible(reason.clone()));
    }
    if let Ok(user) = user {
        // of IPv4 clients that the kernel carries, those on this host itself
        let ipv4 = hears_itself && !matches!(planned.ipv4, Carriage::None(_));
        let ipv6 = matches!(planned.ipv6, Carriage::User(_));
        let heard_v4 = if ipv4 { listeners_v4(rule, facts.host) } else { Vec::new() };
        let heard_v6 = if ipv6 { listeners_v6(rule, facts.host) } else { Vec::new() };
        let user = UserRule { ipv4, ipv6, heard_v4, heard_v6, ..user };
        planned.user = (ipv4 || ipv6).then(|| Arc::new(user));
    }
    if addresses.is_empty() {
        planned.ipv4 = turned_away(planned.ipv4);
        planned.ipv6 = turned_away(planned.ipv6);
    }
    planned
}

/// The user plane listens for a rule without an address, too, so that who is refused is counted. That carries nobody.
fn turned_away(carriage: Carriage) -> Carriage {
    match carriage {
        Carriage::User(_) => Carriage::None(TURNED_AWAY.into()),
        Carriage::Kernel(_) | Carriage::None(_) => carriage,
    }
}

/// Why nobody can listen for a family at all.
fn deaf(rule: &Rule, host: &HostView, name: &str, family: impl Fn(&ListenOn) -> bool) -> Option<String> {
    let mut listeners = rule.listen.iter().map(|listener| &listener.on).filter(|on| family(on)).peekable();
    if listeners.peek().is_none() {
        return Some(format!("it has no {name} listener"));
    }
    let is_here = |on: &ListenOn| match on {
        ListenOn::Address(address) => address.is_loopback() || host.is_own(*address),
        ListenOn::Interface(name) => host.link_by_name(name).is_some(),
        ListenOn::Everywhere | ListenOn::EverywhereV4 | ListenOn::EverywhereV6 => true,
    };
    (!listeners.any(is_here)).then(|| "see the fault".to_owned())
}

/// Who carries IPv4 clients. Fills in the kernel's part.
fn ipv4(
    planned: &mut PlannedRule,
    listeners: Vec<KernelListener>,
    addresses: &[IpAddr],
    user: Result<(), String>,
    facts: &Facts<'_>,
) -> Carriage {
    let rule = &planned.rule;
    if let Some(why) = deaf(rule, facts.host, "IPv4", ListenOn::takes_ipv4) {
        return Carriage::None(why);
    }
    match (kernel_plane(rule, &listeners, addresses, facts), user) {
        (Ok(_), _) if is_blocked(&planned.faults) => Carriage::None("see the fault".into()),
        (Ok((hook, way)), user) => {
            let needs_relayd = rule.needs_relayd();
            let udp_alone = needs_relayd.is_some();
            planned.kernel = Some(Arc::new(KernelRule {
                protocols: if udp_alone { Protocols::Udp } else { rule.protocols },
                listeners,
                way,
                first_port: rule.to.first().and_then(crate::rule::Backend::first_port),
                timeouts: rule.timeouts,
            }));
            if !facts.paths.contains_key(&way) {
                planned.faults.push(Fault::NoRoute(way.backend, question(rule, way.backend)));
            }
            match (needs_relayd, user) {
                (None, _) => Carriage::Kernel(hook),
                (Some(reason), Ok(())) => Carriage::User(format!("{reason}; UDP stays in the kernel")),
                (Some(_), Err(reason)) => Carriage::None(format!("{reason}; UDP stays in the kernel")),
            }
        }
        (Err(reason), _) if rule.plane == PlaneChoice::Kernel => Carriage::None(reason),
        (Err(reason), Ok(())) => Carriage::User(reason),
        (Err(_), Err(reason)) => Carriage::None(reason),
    }
}

/// Who carries IPv6 clients.
fn ipv6(rule: &Rule, user: Result<(), String>, facts: &Facts<'_>) -> Carriage {
    if let Some(why) = deaf(rule, facts.host, "IPv6", ListenOn::takes_ipv6) {
        return Carriage::None(why);
    }
    match user {
        Ok(()) if rule.plane == PlaneChoice::User => Carriage::User("plane = \"user\"".into()),
        Ok(()) => Carriage::User("the kernel plane carries IPv4 clients only".into()),
        Err(reason) => Carriage::None(reason),
    }
}

/// Whether the user plane can carry one family.
fn user_for(user: &Result<UserRule, String>, lack: Option<Cow<'static, str>>) -> Result<(), String> {
    match (user, lack) {
        (Err(reason), _) => Err(reason.clone()),
        (Ok(_), Some(lack)) => Err(lack.into_owned()),
        (Ok(_), None) => Ok(()),
    }
}

/// The backend, if the kernel plane can carry IPv4 clients to it; or why not.
fn kernel_plane(
    rule: &Rule,
    listeners: &[KernelListener],
    addresses: &[IpAddr],
    facts: &Facts<'_>,
) -> Result<(Hook, WayTo), String> {
    if !rule.enabled {
        return Err("the rule is disabled".into());
    }
    if rule.plane == PlaneChoice::User {
        return Err("plane = \"user\"".into());
    }
    if let Some(reason) = rule.needs_relayd()
        && (!rule.protocols.has(Protocol::Udp) || rule.plane == PlaneChoice::Kernel)
    {
        return Err(reason.into());
    }
    let address = addresses.iter().find_map(|address| match address {
        IpAddr::V4(address) => Some(*address),
        IpAddr::V6(_) => None,
    });
    let address = match address {
        None if addresses.is_empty() => return Err(NO_ADDRESS.into()),
        None => return Err("the backend is IPv6".into()),
        Some(address) if facts.host.is_own(address.into()) => {
            return Err("the backend is on this host".into());
        }
        Some(address) => address,
    };
    if listeners.is_empty() {
        return Err("its listeners are for connections of this host to itself".into());
    }
    // what keeps it from being asked for is a fault
    let way = way_to(rule, address, facts.host).ok_or("see the fault")?;
    facts.kernel.map(|hook| (hook, way)).map_err(ToOwned::to_owned)
}

/// What to ask the kernel for the way to a rule's backend; `None`: there can be none.
pub fn way_to(rule: &Rule, backend: Ipv4Addr, host: &HostView) -> Option<WayTo> {
    let source = match rule.connect.source {
        None => None,
        Some(IpAddr::V4(source)) => Some(source),
        Some(IpAddr::V6(_)) => return None,
    };
    let interface = match &rule.connect.interface {
        None => None,
        Some(name) => Some(host.link_by_name(name)?.index),
    };
    Some(WayTo { backend, source, interface })
}

/// The same question, as one would type it.
fn question(rule: &Rule, backend: Ipv4Addr) -> String {
    let source = rule.connect.source.map(|source| format!(" from {source}")).unwrap_or_default();
    let interface = rule.connect.interface.as_ref().map(|name| format!(" oif {name}")).unwrap_or_default();
    format!("{backend}{source}{interface}")
}

/// Where the user plane would send clients; or why it cannot carry the rule.
fn user_plane(planned: &PlannedRule, addresses: &[IpAddr], facts: &Facts<'_>) -> Result<UserRule, String> {
    let rule = &planned.rule;
    if !rule.enabled {
        return Err("the rule is disabled".into());
    }
    if facts.down {
        return Err(DETACHED.into());
    }
    if rule.plane == PlaneChoice::Kernel {
        return Err("plane = \"kernel\"".into());
    }
    if is_blocked(&planned.faults) {
        return Err("see the fault".into());
    }
    let first_port = rule.to.first().and_then(crate::rule::Backend::first_port);
    Ok(UserRule {
        protocols: rule.protocols,
        ipv4: false,
        ipv6: false,
        addresses: addresses.to_vec(),
        first_port,
        timeouts: rule.timeouts,
        udp_nat: rule.udp_nat,
        accept: rule.accept.clone(),
        connect: rule.connect.clone(),
        heard_v4: Vec::new(),
        heard_v6: Vec::new(),
    })
}

fn is_blocked(faults: &[Fault]) -> bool {
    faults.iter().any(|fault| {
        let is_way_out =
            matches!(fault, Fault::SourceNotHere(_) | Fault::SourceFamily(..) | Fault::NoWayOut(_));
        is_way_out || matches!(fault, Fault::PortInUse(_) | Fault::SelfLoop(..))
    })
}

/// Where the backend is; empty while nobody knows.
fn backend(rule: &Rule, facts: &Facts<'_>, faults: &mut Vec<Fault>) -> Arc<[IpAddr]> {
    let nowhere = Arc::default;
    let Some(host) = rule.to.first().map(|backend| &backend.host) else { return nowhere() };
    match (host, facts.resolved.get(host)) {
        // an IPv4 address in IPv6 notation is one
        (Host::Address(address), _) => Arc::new([address.to_canonical()]),
        (_, Some(Ok(addresses))) => addresses.clone(),
        // nobody asks for the names of a disabled rule
        _ if !rule.enabled => nowhere(),
        (_, Some(Err(error))) => {
            faults.push(Fault::Unresolved(host.clone(), error.clone()));
            nowhere()
        }
        (_, None) => {
            faults.push(Fault::Resolving(host.clone()));
            nowhere()
        }
    }
}

/// The addresses of a backend that the rule's source can talk to.
fn reachable(rule: &Rule, addresses: Arc<[IpAddr]>, faults: &mut Vec<Fault>) -> Arc<[IpAddr]> {
    let Some((source, to)) = rule.connect.source.zip(rule.to.first()) else { return addresses };
    let suiting: Arc<[IpAddr]> =
        addresses.iter().copied().filter(|address| rule.connect.suits(*address)).collect();
    if suiting.is_empty() && !addresses.is_empty() {
        faults.push(Fault::SourceFamily(source, to.host.clone()));
    }
    suiting
}

/// What the rule listens on or goes out by, and the host has not.
fn missing(rule: &Rule, host: &HostView) -> Vec<Fault> {
    let fault = |listener: &Listener| match &listener.on {
        ListenOn::Address(address) if !host.is_own(*address) => Some(Fault::AddressNotHere(*address)),
        ListenOn::Interface(name) if host.link_by_name(name).is_none() => {
            Some(Fault::NoInterface(name.clone()))
        }
        _ => None,
    };
    let mut faults: Vec<Fault> = rule.listen.iter().filter_map(fault).collect();
    let Connect { source, interface, .. } = &rule.connect;
    faults.extend(source.filter(|source| !host.is_own(*source)).map(Fault::SourceNotHere));
    let gone = interface.as_deref().filter(|name| host.link_by_name(name).is_none());
    faults.extend(gone.map(|name| Fault::NoWayOut(name.into())));
    faults
}

fn listeners_v4(rule: &Rule, host: &HostView) -> Vec<KernelListener> {
    listeners(rule, host, ListenOn::takes_ipv4, |address| match address {
        IpAddr::V4(address) => Some(address),
        IpAddr::V6(_) => None,
    })
}

fn listeners_v6(rule: &Rule, host: &HostView) -> Vec<KernelListener<Ipv6Addr>> {
    listeners(rule, host, ListenOn::takes_ipv6, |address| match address {
        IpAddr::V4(_) => None,
        IpAddr::V6(address) => Some(address),
    })
}

/// A rule's listeners of one family, as far as the host has them.
fn listeners<A>(
    rule: &Rule,
    host: &HostView,
    takes: impl Fn(&ListenOn) -> bool,
    of_family: impl Fn(IpAddr) -> Option<A>,
) -> Vec<KernelListener<A>> {
    let listener = |Listener { on, ports }: &Listener| {
        let on = match on {
            ListenOn::Everywhere | ListenOn::EverywhereV4 | ListenOn::EverywhereV6 => KernelOn::Everywhere,
            // only this host talks to those, and its packets do not pass an interface
            ListenOn::Address(address) if address.is_loopback() => return None,
            ListenOn::Address(address) if !host.is_own(*address) => return None,
            ListenOn::Address(address) => KernelOn::Address(of_family(*address)?),
            ListenOn::Interface(name) => KernelOn::Interface(host.link_by_name(name)?.index),
        };
        Some(KernelListener { on, ports: *ports })
    };
    rule.listen.iter().filter(|listener| takes(&listener.on)).filter_map(listener).collect()
}

/// A backend that is the rule's own listener: every packet would come back, one hop older.
fn self_loop(rule: &Rule, backend: IpAddr, host: &HostView) -> Option<Fault> {
    let to = rule.to.first()?;
    if !host.is_own(backend) {
        return None;
    }
    let target = |listener: &Listener| {
        let first = to.first_port().unwrap_or(listener.ports.first());
        let last = u32::from(first) + listener.ports.len() - 1;
        PortRange::new(first, u16::try_from(last).unwrap_or(u16::MAX))
    };
    let hears = |on: &ListenOn| match on {
        ListenOn::Everywhere => true,
        ListenOn::EverywhereV4 => backend.is_ipv4(),
        ListenOn::EverywhereV6 => backend.is_ipv6(),
        ListenOn::Address(address) => *address == backend,
        // what the host sends to itself comes in on the loopback interface
        ListenOn::Interface(_) => !backend.is_loopback(),
    };
    for from in &rule.listen {
        let ports = target(from)?;
        if let Some(own) = rule.listen.iter().find(|own| hears(&own.on) && own.ports.overlaps(ports)) {
            return Some(Fault::SelfLoop(to.to_string(), own.to_string()));
        }
    }
    None
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::host::{HostAddress, NextHop, Path};
    use crate::plan::RuleState;
    use crate::rule::{Backend, Connect, ProxyVersion, RuleName};
    use std::collections::{BTreeMap, HashMap};

    fn host() -> HostView {
        let mut host = HostView::default();
        host.addresses.insert(HostAddress { address: Ipv4Addr::new(192, 0, 2, 1).into(), interface: 2 });
        host
    }

    fn planned_with(listen: &str, to: &str, plane: PlaneChoice, kernel: Result<Hook, &str>) -> PlannedRule {
        let name = RuleName::parse("r").expect("name");
        let listeners = vec![Listener::parse(listen).expect(listen)];
        let backends = vec![Backend::parse(to).expect(to)];
        planned_rule(Rule { plane, ..Rule::new(name, listeners, backends) }, kernel)
    }

    fn planned_rule(rule: Rule, kernel: Result<Hook, &str>) -> PlannedRule {
        let unresolved = Err("no such host".to_owned());
        let resolved = BTreeMap::from([(Host::Name("gone.example".into()), unresolved)]);
        let hop = NextHop { interface: 2, gateway: None, mtu: 1500 };
        let path = Path { source: Ipv4Addr::new(192, 0, 2, 1), hop };
        let way = WayTo { backend: Ipv4Addr::new(203, 0, 113, 10), source: None, interface: None };
        let paths = BTreeMap::from([(way, path)]);
        let (host, taken, lacks) = (host(), BTreeMap::new(), HashMap::new());
        let facts = Facts {
            kernel,
            host: &host,
            paths: &paths,
            resolved: &resolved,
            taken: &taken,
            lacks: &lacks,
            down: false,
        };
        super::rule(&Arc::new(rule), &Origin::CommandLine, false, &facts)
    }

    fn planned(listen: &str, to: &str) -> PlannedRule {
        planned_with(listen, to, PlaneChoice::Auto, Ok(Hook::Tc))
    }

    #[test]
    fn the_kernel_carries_ipv4_to_ipv4() {
        let planned = planned(":80", "203.0.113.10:80");
        assert_eq!(planned.ipv4, Carriage::Kernel(Hook::Tc));
        assert_eq!(planned.state(), RuleState::Active);
        assert!(matches!(&planned.ipv6, Carriage::User(reason) if reason.contains("IPv4 clients only")));
        let user = planned.user.expect("IPv6, and the host's own connections");
        assert!(user.ipv4 && user.ipv6);
    }

    #[test]
    fn the_user_plane_carries_the_rest_and_says_why() {
        for (listen, to, reason) in [
            ("127.0.0.1:80", "203.0.113.10:80", "of this host to itself"),
            (":80", "[2001:db8::1]:80", "backend is IPv6"),
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
            let connect = Connect { proxy_protocol: Some(ProxyVersion::V2), ..Connect::default() };
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
    fn families_without_a_listener_are_nobodys() {
        let planned = planned("[::]:80", "203.0.113.10:80");
        assert_eq!(planned.ipv4, Carriage::None("it has no IPv4 listener".into()));
        assert!(matches!(planned.ipv6, Carriage::User(_)));
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
        assert_eq!(user.target(&planned.rule.listen[0]).ports.of(8003), 9003);
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
        assert_eq!(planned.faults, [Fault::NoRoute(Ipv4Addr::new(203, 0, 113, 11), "203.0.113.11".into())]);
        assert_eq!(planned.state(), RuleState::Degraded);
        assert!(planned.kernel.is_some(), "flows that it has stay");
    }

    #[test]
    fn plane_kernel_is_a_fault_only_where_nothing_can_be_carried() {
        let by = |listen, kernel| planned_with(listen, "203.0.113.10:80", PlaneChoice::Kernel, kernel);
        assert_eq!(by(":80", Ok(Hook::Tc)).faults, []);
        assert!(matches!(by("[::]:80", Ok(Hook::Tc)).faults[..], [Fault::KernelImpossible(_)]));
        assert!(matches!(by(":80", Err("CAP_BPF is missing")).faults[..], [Fault::KernelImpossible(_)]));
    }
}
