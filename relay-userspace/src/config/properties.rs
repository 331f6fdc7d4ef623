//! What must hold for every configuration, not just for those that somebody thought of.

mod terms;
mod tunnels;

use std::sync::Arc;
use std::time::Duration;

use proptest::collection::vec;
use proptest::prelude::*;
use relay_common::net::Protocol;
use serde_json::{Map, Value as Json};

use super::edit::{Edit, change_text};
use super::files::Config;
use super::node::{Node, Value};
use super::problem::{Problems, Source};
use super::{decode, encode, patch, quantity};
use crate::rule::{
    Accept, AllowList, Backend, Balance, Check, CheckKind, Connect, Failback, HttpCheck, Keepalive, Limits,
    Listener, Network, OnDown, PlaneChoice, PortRange, Protocols, ProxyVersion, Rates, Rule, RuleName,
    StatusRange, Timeouts, UdpNat, overlap,
};

fn names() -> impl Strategy<Value = RuleName> {
    "[A-Za-z0-9._-]{1,64}".prop_map(|text| RuleName::parse(&text).expect("a name"))
}

fn ranges() -> impl Strategy<Value = PortRange> {
    (1..=u16::MAX, 1..=u16::MAX).prop_map(|(a, b)| PortRange::new(a.min(b), a.max(b)).expect("a range"))
}

fn listeners() -> impl Strategy<Value = Listener> {
    let address = prop_oneof![
        Just(String::new()),
        Just("0.0.0.0".to_owned()),
        Just("[::]".to_owned()),
        any::<std::net::Ipv4Addr>().prop_map(|address| address.to_string()),
        any::<std::net::Ipv6Addr>().prop_map(|address| format!("[{address}]")),
        "[a-z][a-z0-9.@_-]{0,14}".prop_map(|name| format!("%{name}")),
    ];
    (address, ranges()).prop_map(|(on, ports)| Listener::parse(&format!("{on}:{ports}")).expect("a listener"))
}

fn backends() -> impl Strategy<Value = Backend> {
    let host = prop_oneof![
        any::<std::net::Ipv4Addr>().prop_map(|address| address.to_string()),
        any::<std::net::Ipv6Addr>().prop_map(|address| format!("[{address}]")),
        "[a-z]([a-z0-9_-]{0,20}[a-z0-9])?(\\.[a-z]{1,10}){0,3}",
    ];
    host.prop_map(|host| Backend::parse(&host).expect("a backend"))
}

/// Backends with whatever weights and priorities.
fn weighed() -> impl Strategy<Value = Backend> {
    let weight = prop_oneof![Just(1), 0..=Backend::MOST_WEIGHT];
    let priority = prop_oneof![Just(0), any::<u16>()];
    (backends(), weight, priority).prop_map(|(backend, weight, priority)| Backend {
        weight,
        priority,
        ..backend
    })
}

/// Boxed, since rules have many parts, which lie on the stack one beside the other.
fn checks() -> BoxedStrategy<Check> {
    let host = || proptest::option::of("[a-z]{1,9}(\\.[a-z]{1,9})?".prop_map(String::into_boxed_str));
    let tls = (host(), any::<bool>()).prop_map(|(sni, verify)| CheckKind::Tls { sni, verify }).boxed();
    let body = proptest::option::of(".{1,20}".prop_map(String::into_boxed_str));
    let http = (any::<bool>(), host(), "/[!-~]{0,9}", 100..=599u16, 100..=599u16, body).prop_map(
        |(tls, host, path, a, b, body)| {
            let status = StatusRange(a.min(b)..=a.max(b));
            CheckKind::Http(HttpCheck { tls, host, path: path.into(), status, body })
        },
    );
    let http = http.boxed();
    let bytes = prop_oneof![".{1,9}".prop_map(String::into_bytes), vec(any::<u8>(), 1..9)].boxed();
    let udp = (bytes.clone(), proptest::option::of(bytes))
        .prop_map(|(send, expect)| CheckKind::Udp { send: send.into(), expect: expect.map(Vec::into) })
        .boxed();
    let kind = prop_oneof![Just(CheckKind::Passive), Just(CheckKind::Tcp), tls, http, udp];
    let time = || (100..=86_400_000u64).prop_map(Duration::from_millis);
    let failback =
        prop_oneof![Just(Failback::Auto), Just(Failback::Manual), time().prop_map(Failback::Delay)];
    let port = proptest::option::of(1..=u16::MAX);
    (kind, (time(), time(), time()), (1..=100u32, 1..=100u32), failback, port)
        .prop_map(|(kind, (interval, timeout, cooldown), (fall, rise), failback, port)| {
            let check = Check { kind, interval, timeout, fall, rise, cooldown, failback, port };
            match check.kind {
                // nothing is asked
                CheckKind::Passive => {
                    let Check { interval, timeout, port, .. } = Check::default();
                    Check { interval, timeout, port, ..check }
                }
                _ => check,
            }
        })
        .boxed()
}

/// A check of a kind that the rule can have.
fn suits(check: &Check, protocols: Protocols) -> bool {
    match check.kind {
        CheckKind::Passive => true,
        CheckKind::Tcp | CheckKind::Tls { .. } | CheckKind::Http(_) => protocols.has(Protocol::Tcp),
        CheckKind::Udp { .. } => protocols.has(Protocol::Udp),
    }
}

/// Without those that are where others are, which is refused.
fn apart(backends: Vec<Backend>, listen: &[Listener]) -> Vec<Backend> {
    let mut kept: Vec<Backend> = Vec::new();
    for backend in backends {
        if !kept.iter().any(|known| known.is_where(&backend, listen)) {
            kept.push(backend);
        }
    }
    kept
}

fn durations() -> impl Strategy<Value = Duration> {
    (1..=10_000_000_000u64).prop_map(Duration::from_millis)
}

fn networks() -> impl Strategy<Value = Network> {
    let ipv4 = any::<std::net::Ipv4Addr>().prop_map(|address| address.to_string());
    let ipv6 = (any::<u64>(), 48..=64u8).prop_map(|(high, length)| {
        let bits = u128::from(high) << 64 & !0 << (128 - length);
        format!("{}/{length}", std::net::Ipv6Addr::from(bits))
    });
    prop_oneof![ipv4, ipv6].prop_map(|text| Network::parse(&text).expect("a network"))
}

/// Boxed, as are all that have many parts: trees of their values are too much for a test's stack.
fn accepts() -> BoxedStrategy<Accept> {
    let lists = || proptest::option::of(vec(networks(), 1..4).prop_map(AllowList::new));
    let tunnels = proptest::option::of(tunnels::accept());
    (any::<bool>(), any::<bool>(), lists(), lists(), tunnels)
        .prop_map(|(proxy_protocol, mptcp, trusted, allow, tunnel)| Accept {
            proxy_protocol,
            mptcp,
            trusted: trusted.filter(|_| proxy_protocol),
            allow: allow.map(Arc::new),
            tunnel: tunnel.map(Arc::new),
        })
        .boxed()
}

fn limits() -> impl Strategy<Value = Limits> {
    let most = || prop_oneof![Just(0), 0..=Limits::MOST];
    (most(), most(), most(), most()).prop_map(
        |(connections, connections_per_ip, new_flows, new_flows_per_ip)| Limits {
            connections,
            connections_per_ip,
            new_flows,
            new_flows_per_ip,
        },
    )
}

fn rates() -> impl Strategy<Value = Rates> {
    let rate = || prop_oneof![Just(0), Rates::LEAST..=Rates::MOST];
    (rate(), rate(), rate()).prop_map(|(ingress, egress, per_client)| Rates { ingress, egress, per_client })
}

fn connects() -> BoxedStrategy<Connect> {
    let version = proptest::option::of(proptest::sample::select(&ProxyVersion::ALL[..]));
    let hosts = any::<std::net::IpAddr>().prop_filter("no host's", |address| {
        let address = address.to_canonical();
        !address.is_unspecified() && !address.is_multicast()
    });
    let source = proptest::option::of(hosts.prop_map(|address| address.to_canonical()));
    let interface = proptest::option::of("[a-z][a-z0-9.@_-]{0,14}".prop_map(String::into_boxed_str));
    let tunnels = proptest::option::of(tunnels::connect().prop_map(Arc::new));
    (version, source, interface, any::<bool>(), tunnels, 0..=Connect::MOST_POOL)
        .prop_map(|(version, source, interface, mptcp, tunnel, pool)| {
            let is_muxed = tunnel.as_ref().is_some_and(|tunnel| tunnel.mux);
            let proxy_protocol = version.filter(|_| !is_muxed);
            let pool = if tunnel.is_some() && proxy_protocol.is_none() && !is_muxed { pool } else { 0 };
            Connect { proxy_protocol, source, interface, mptcp, pool, tunnel }
        })
        .boxed()
}

prop_compose! {
    fn rules()(
        name in names(),
        note in proptest::option::of("[^\\p{C}]{1,128}"),
        enabled: bool,
        listen in vec(listeners(), 1..4),
        protocols in proptest::sample::select(&Protocols::ALL[..]),
        to in vec(weighed(), 1..5),
        balance in proptest::sample::select(&Balance::ALL[..]),
        check in proptest::option::of(checks()),
        plane in proptest::sample::select(&PlaneChoice::ALL[..]),
        udp_nat in proptest::sample::select(&UdpNat::ALL[..]),
        on_down in proptest::sample::select(&OnDown::ALL[..]),
        force: bool,
        count_ports: bool,
        times in (durations(), durations(), durations(), durations(), durations()),
        keepalive in (1..=32_767u64, 1..=32_767u64, 1..=127u8),
        accept in accepts(),
        connect in connects(),
        limits in limits(),
        rates in rates(),
        ends in (proptest::option::of(terms::quotas()), proptest::option::of(terms::expiries())),
    ) -> Rule {
        let seconds = Duration::from_secs;
        let keepalive =
            Keepalive { idle: seconds(keepalive.0), interval: seconds(keepalive.1), count: keepalive.2 };
        let timeouts = Timeouts { connect: times.0, tcp_idle: times.1, half_close: times.2, udp: times.3, handshake: times.4, keepalive };
        let is_tcp = protocols.has(Protocol::Tcp);
        let connect = Connect {
            proxy_protocol: connect.proxy_protocol.filter(|_| is_tcp),
            mptcp: connect.mptcp && is_tcp,
            pool: if protocols == Protocols::Tcp { connect.pool } else { 0 },
            tunnel: connect.tunnel.filter(|_| protocols == Protocols::Tcp),
            ..connect
        };
        let accept = if is_tcp { accept } else { Accept::default() };
        let accept = Accept { tunnel: accept.tunnel.filter(|_| protocols == Protocols::Tcp), ..accept };
        let ports: u32 = listen.iter().map(|listener| listener.ports.len()).sum();
        let check = check.filter(|check| suits(check, protocols));
        let to = apart(to, &listen);
        Rule { name, note: note.map(Into::into), enabled, listen: listen.into(), protocols, to: to.into(), balance, check: check.map(Box::new), plane, udp_nat, on_down, force, timeouts: timeouts.into(), accept: accept.into(), connect: connect.into(), limits, rates: rates.into(), quota: ends.0.map(Box::new), expires: ends.1.map(Box::new), group: None, count_ports: count_ports && ports < 1000, is_watch: false }
    }
}

fn parse(text: &str) -> Result<Config, Problems> {
    let sources = vec![Source { path: "relay.toml".into(), text: text.to_owned() }];
    Config::parse(Problems { sources, list: Vec::new() })
}

fn rule_of(text: &str) -> Rule {
    let config = parse(text).unwrap_or_else(|problems| panic!("{problems}\n{text}"));
    config.rules.first().map(|(rule, _)| (**rule).clone()).expect("a rule")
}

/// Overlaps within one rule are refused; everything here is about the rest.
fn is_alone(rule: &Rule) -> bool {
    overlap::find([rule]).is_empty()
}

/// Some TOML, most of it almost a configuration.
fn almost_toml() -> impl Strategy<Value = String> {
    let words = [
        "[[rule]]",
        "[rule]",
        "[daemon]",
        "[log]",
        "[metrics]",
        "[rule.timeout]",
        "rule",
        "name",
        "listen",
        "to",
        "protocol",
        "timeout",
        "udp",
        "enabled",
        "quota",
        "balance",
        "check",
        "kind",
        "weight",
        "addr",
        "=",
        "=",
        "=",
        "\"",
        "'",
        "{",
        "}",
        "[",
        "]",
        ",",
        ".",
        "\n",
        "\n",
        " ",
        "#",
        "\"x\"",
        "\":80\"",
        "\"203.0.113.2:80\"",
        "\"tcp\"",
        "\"iphash: 4, 1\"",
        "true",
        "1",
        "-1",
        "1.5",
        "1e999",
        "99999999999999999999",
        "0x1f",
        "1979-05-27",
        "nan",
        "\"5s\"",
        "\"香港\"",
        "\u{0}",
        "\r\n",
        "\t",
        "\"\"\"",
    ];
    vec(proptest::sample::select(words.to_vec()), 0..40).prop_map(|words| words.concat())
}

fn json() -> impl Strategy<Value = Json> {
    let keys = proptest::sample::select(vec![
        "name",
        "listen",
        "to",
        "timeout",
        "udp",
        "addr",
        "weight",
        "balance",
        "check",
        "kind",
        "send",
        "note",
        "zz",
        "accept",
        "connect",
        "transport",
        "host",
        "path",
        "cert",
        "key",
        "verify",
        "token",
        "headers",
    ]);
    let leaf = prop_oneof![
        Just(Json::Null),
        any::<bool>().prop_map(Json::from),
        any::<u64>().prop_map(Json::from),
        any::<f64>().prop_map(Json::from),
        ".{0,10}".prop_map(Json::from),
        Just(Json::from(":80")),
        Just(Json::from("udp")),
        Just(Json::from("tls")),
        Just(Json::from("wss")),
        Just(Json::from("roundrobin: 4, 1")),
    ];
    leaf.prop_recursive(3, 24, 4, move |inner| {
        prop_oneof![
            vec(inner.clone(), 0..4).prop_map(Json::from),
            vec((keys.clone(), inner), 0..6).prop_map(|entries| {
                Json::Object(entries.into_iter().map(|(key, value)| (key.to_owned(), value)).collect())
            }),
        ]
    })
}

const COMMENTED: &str = "# mine\n\n[log] # log\nlevel = 'info' # quiet\n\n# about a\n[[rule]] # here\nname = 'a' # keep\n\
                         listen = [ \":1\", # one\n]\nto = \"192.0.2.1\"\n[rule.timeout] # times\nudp = \"5s\" # short\n\n";

/// Every comment of [`COMMENTED`].
fn comments(text: &str) -> Vec<&str> {
    text.lines().filter_map(|line| line.find('#').map(|start| &line[start..])).collect()
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(96))]

    #[test]
    fn a_rule_survives_the_file_and_the_api(rule in rules().prop_filter("overlaps itself", is_alone)) {
        prop_assert_eq!(&rule_of(&encode::to_toml(&rule)), &rule);
        let node = Node::from_json(Json::Object(encode::to_json(&rule)));
        let Value::Table(table) = &node.value else { panic!("not a table") };
        let mut problems = Problems::default();
        let decoded = decode::rule(table, None, None, &mut problems);
        prop_assert_eq!(decoded.as_ref(), Some(&rule), "{}", problems);
    }

    #[test]
    fn texts_read_back_as_what_they_print(listener in listeners(), backend in backends(), time in durations()) {
        prop_assert_eq!(Listener::parse(&listener.to_string()), Ok(listener));
        prop_assert_eq!(Backend::parse(&backend.to_string()), Ok(backend));
        prop_assert_eq!(quantity::parse_duration(&quantity::format_duration(time)), Some(time));
    }

    #[test]
    fn nothing_typed_makes_the_parsers_panic(text in "\\PC{0,30}|[0-9.:%\\[\\]*a-f-]{0,24}") {
        let _any_answer = (Listener::parse(&text), Backend::parse(&text), quantity::parse_duration(&text));
        let _any_name = RuleName::parse(&text);
    }

    #[test]
    fn nothing_in_a_file_makes_the_reader_panic(text in almost_toml(), noise in "\\PC{0,60}") {
        for text in [text, noise] {
            if let Err(problems) = parse(&text) {
                prop_assert!(!problems.is_empty());
                prop_assert!(!problems.to_string().is_empty());
            }
        }
    }

    #[test]
    fn nothing_in_a_request_makes_the_decoder_panic(body in json()) {
        let node = Node::from_json(body);
        if let Value::Table(table) = &node.value {
            let mut problems = Problems::default();
            let rule = decode::rule(table, None, None, &mut problems);
            prop_assert_eq!(rule.is_none(), !problems.is_empty());
        }
    }

    #[test]
    fn an_edit_changes_its_rule_and_nothing_else(
        rule in rules().prop_filter("overlaps itself", is_alone),
        udp in durations(),
        note in "[^\\p{C}#]{1,40}",
    ) {
        prop_assume!(rule.name.as_str() != "a");
        let name = RuleName::parse("a").expect("name");
        // a rule that takes no port of the other one, whatever it is
        let rule = Rule { enabled: false, ..rule };
        let added = change_text(COMMENTED, &Edit::Add(&rule)).expect("add");
        prop_assert!(added.starts_with(COMMENTED));
        let udp_text = quantity::format_duration(udp);
        let fields: Map<String, Json> =
            Map::from_iter([("note".into(), Json::from(note.as_str())), ("timeout".into(), serde_json::json!({ "udp": udp_text }))]);
        let set = change_text(&added, &Edit::Set(&name, &fields)).expect("set");
        let config = parse(&set).unwrap_or_else(|problems| panic!("{problems}\n{set}"));
        prop_assert_eq!(&*config.rules[1].0, &rule);
        prop_assert_eq!(config.rules[0].0.note.as_deref(), Some(note.as_str()));
        prop_assert_eq!(config.rules[0].0.timeouts.udp, udp);
        prop_assert_eq!(&comments(&set)[..comments(COMMENTED).len()], &comments(COMMENTED)[..]);
        let removed = change_text(&added, &Edit::Remove(&rule.name)).expect("remove");
        prop_assert_eq!(removed.trim_end(), COMMENTED.trim_end());
    }

    #[test]
    fn what_is_live_is_what_the_file_says(
        rule in rules().prop_filter("overlaps itself", is_alone),
        weights in vec(0..=Backend::MOST_WEIGHT, 4),
        other in weighed(),
        what in 0..8u8,
    ) {
        // the file has weights by position, as realm writes them
        let positions: Vec<String> = weights[..rule.to.len()].iter().map(ToString::to_string).collect();
        let by_position = format!("{}: {}", rule.balance.as_str(), positions.join(", "));
        let mut written = encode::to_json(&rule);
        let list: Vec<String> = rule.to.iter().map(ToString::to_string).collect();
        written.insert("to".into(), list.into());
        written.insert("balance".into(), by_position.as_str().into());
        if rule.has_tunnel() {
            written.remove("protocol");
        }
        let mut file = String::from("[[rule]]\n");
        for (key, value) in &written {
            file += &format!("{key} = {}\n", encode::toml_value(value));
        }
        let live = rule_of(&file);
        prop_assert!(live.to.iter().zip(&weights).all(|(to, weight)| to.weight == *weight));
        let first = rule.to[0].to_string();
        let fields = match what {
            0 => serde_json::json!({ "to+": other.to_string() }),
            1 => serde_json::json!({ "to-": first }),
            2 => serde_json::json!({ "balance": "leastconn" }),
            3 => serde_json::json!({ "balance": null }),
            4 => serde_json::json!({ "balance": by_position }),
            5 => serde_json::json!({ "accept": null, "connect": null }),
            6 => serde_json::json!({ "connect": { "transport": "tls", "path": null, "host": null, "token": null, "headers": null, "mask": null, "pool": null } }),
            _ => serde_json::json!({ "to": [other.to_string()] }),
        };
        let Json::Object(fields) = fields else { panic!("not an object") };
        let before = encode::to_json(&live);
        let fields = patch::spelled_out(&before, fields).expect("fields");
        if let Ok(changed) = patch::patched(before, &fields) {
            let edited = change_text(&file, &Edit::Set(&rule.name, &fields)).expect("set");
            prop_assert_eq!(rule_of(&edited), changed, "{}", edited);
        }
    }

    #[test]
    fn overlaps_are_found_whoever_comes_first(a in rules(), b in rules()) {
        let (a, b) = (Rule { enabled: true, ..a }, Rule { enabled: true, ..b });
        let clash = |first: &Rule, second: &Rule| {
            overlap::find([first, second]).iter().any(|found| found.first.0 != found.second.0)
        };
        prop_assert_eq!(clash(&a, &b), clash(&b, &a));
        // against the definition: some pair of listeners, some protocol, some address and port in common
        let found = overlap::find_with(&[&a, &b], 0).iter().any(|found| found.first.0 != found.second.0);
        prop_assert_eq!(found, clash(&a, &b));
        if clash(&a, &b) {
            let shared = |ours: &Listener| b.listen.iter().any(|theirs| ours.ports.overlaps(theirs.ports));
            prop_assert!(a.listen.iter().any(shared));
            prop_assert!(a.protocols.iter().any(|protocol| b.protocols.has(protocol)));
        }
    }
}
