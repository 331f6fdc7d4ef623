//! Bad input: each kind with its own error, its remedy and its exit code, and nothing that worked stops working.

use std::fs;

use harness::daemon::settings;
use harness::programs::relayd;
use harness::traffic::{Client, tcp_server};
use harness::world::RELAY;
use harness::{World, eventually};

pub const WEB: &str = "[[rule]]\nname = \"web\"\nlisten = \":80\"\nto = \"203.0.113.2:80\"\n";

pub fn works(world: &World) {
    Client::connect(&world.client, (RELAY, 80)).and_then(Client::seen_as).expect("the old rule works");
}

/// A mistake in a command: what is typed, how it ends, what is said.
type Mistake = (&'static [&'static str], i32, &'static [&'static str]);

const MISTAKES: &[Mistake] = &[
    (
        &["add", "192.0.2.7:90", "203.0.113.2"],
        1,
        &["192.0.2.7 is not an address of this host", "`ip address`"],
    ),
    (&["add", "[2001:db8::7]:90", "203.0.113.2"], 1, &["2001:db8::7 is not an address of this host"]),
    (&["add", "%eth9:90", "203.0.113.2"], 1, &["there is no interface eth9"]),
    (&["add", "90", "198.51.100.1"], 1, &["it would feed itself", "198.51.100.1", ":90"]),
    (&["add", "80-90", "127.0.0.1:85", "--name", "x", "--set", "listen=81-90"], 1, &["it would feed itself"]),
    (&["add", "90", "nosuch.invalid"], 1, &["nosuch.invalid does not resolve"]),
    (
        &["add", "[::1]:90", "203.0.113.2", "--plane", "kernel"],
        1,
        &["cannot carry it", "of this host to itself"],
    ),
    (
        &["add", "90", "127.0.0.1:91", "--plane", "kernel"],
        1,
        &["the kernel plane cannot carry it: the backend is on this host"],
    ),
    (
        &["add", "80", "203.0.113.2"],
        1,
        &["\":80\" overlaps rule \"web\" (\":80\") in port 80/tcp", "other ports"],
    ),
    (&["add", "70-90", "203.0.113.2"], 1, &["\":70-90\" overlaps rule \"web\""]),
    (&["add", "90,90", "203.0.113.2"], 1, &["\":90\" overlaps \":90\" of the same rule"]),
    (&["add", "90", "203.0.113.2", "--name", "web"], 1, &["there is a rule \"web\" already", "relayctl set"]),
    (
        &["add", "90", "203.0.113.2", "--name", "two words"],
        4,
        &["\"two words\" is not a rule name", "A-Z a-z"],
    ),
    (&["add", "0", "203.0.113.2"], 4, &["\"0\" is not a listener", "from 1 to 65535", "write \":8388\""]),
    (&["add", "90-80", "203.0.113.2"], 4, &["the range of ports ends before it starts"]),
    (&["add", "host:80", "203.0.113.2"], 4, &["that is no IPv4 address"]),
    (
        &["add", "90", "203.0.113.300"],
        4,
        &["\"203.0.113.300\" is not a backend", "write \"203.0.113.10:8388\""],
    ),
    (&["add", "90", "203.0.113.2:x"], 4, &["the port is not a number"]),
    (
        &["add", "90-99", "203.0.113.2:65530"],
        4,
        &["the 10 ports of \":90-99\" do not fit above port 65530", "65526"],
    ),
    (&["add", "90-99", "203.0.113.2:1-5"], 4, &["the ranges differ in width", "10 ports", "5"]),
    (
        &["add", "90", "203.0.113.2", "203.0.113.3", "203.0.113.2:90"],
        4,
        &[
            "to: \"203.0.113.2:90\" is where \"203.0.113.2\" is, which the list has already",
            "leave one of them",
        ],
    ),
    (
        &["set", "web", "to+=203.0.113.2:80"],
        4,
        &["to: \"203.0.113.2:80\" is where \"203.0.113.2:80\" is, which the list has already"],
    ),
    (
        &["set", "web", "to-=203.0.113.3"],
        4,
        &["to: \"203.0.113.3\" is not in the list", "it has \"203.0.113.2:80\""],
    ),
    (&["set", "web", "to-=203.0.113.2:80"], 4, &["to: the list is empty", "write \"203.0.113.10:8388\""]),
    (&["add", "90", "203.0.113.2", "--protocol", "sctp"], 4, &["\"tcp\", \"udp\" or \"tcp+udp\""]),
    (
        &["add", "90", "203.0.113.2", "--balance", "random"],
        4,
        &[
            "balance: \"random\" is not known here; it is one of \"roundrobin\", \"iphash\"",
            "\"roundrobin: 4, 2, 1\"",
        ],
    ),
    (
        &["add", "90", "203.0.113.2", "203.0.113.3", "--balance", "roundrobin: 4, 2, 1"],
        4,
        &["balance: \"roundrobin: 4, 2, 1\" has 3 weights, and the rule 2 backends", "in the order of `to`"],
    ),
    (
        &["set", "web", "balance=iphash: 1001"],
        4,
        &["balance: \"1001\" in \"iphash: 1001\" is not a weight", "from 0 to 1000"],
    ),
    (
        &["set", "web", "check.path=/health"],
        4,
        &["check: path: a check of kind \"tcp\" has no `path`; it belongs to kind = \"http\""],
    ),
    (
        &["set", "web", "check=ping"],
        4,
        &["check: kind: \"ping\" is not known here; it is one of \"passive\""],
    ),
    (
        &["set", "web", "check.kind=udp"],
        4,
        &["check: send: a check of kind \"udp\" needs `send`", "\"hex:00ff\""],
    ),
    (
        &["set", "web", "check.interval=50ms"],
        4,
        &["check: interval: \"50ms\" is too short; the shortest is 100ms"],
    ),
    (
        &["add", "90", "203.0.113.2", "--protocol", "udp", "--set", "check=tcp"],
        4,
        &[
            "a check of kind \"tcp\" judges TCP, and the rule carries UDP alone; say kind = \"udp\" or \"passive\"",
        ],
    ),
    (&["add", "90", "203.0.113.2", "--set", "timeout.udp=5"], 4, &["\"5\" is not a duration", "\"5s\""]),
    (&["add", "90", "203.0.113.2", "--set", "timeout.udp=0s"], 4, &["\"0s\" is no time at all"]),
    (
        &["add", "90", "203.0.113.2", "--set", "connect.proxy_protocol=3"],
        4,
        &["connect: proxy_protocol: 3 is a whole number, not a whole number from 1 to 2"],
    ),
    (
        &["add", "90", "203.0.113.2", "--protocol", "udp", "--set", "connect.proxy_protocol=1"],
        4,
        &["connect: proxy_protocol: this is TCP's, and the rule carries UDP alone"],
    ),
    (
        &["add", "90", "203.0.113.2", "--protocol", "udp", "--set", "accept.proxy_protocol=true"],
        4,
        &["accept: proxy_protocol: this is TCP's, and the rule carries UDP alone"],
    ),
    (
        &["add", "90", "203.0.113.2", "--plane", "kernel", "--set", "accept.proxy_protocol=true"],
        1,
        &["the kernel plane cannot carry it: relayd reads the PROXY protocol header"],
    ),
    (
        &["add", "90", "203.0.113.2", "--set", "accept.trusted=10.0.0.0/8"],
        4,
        &["accept: trusted: it says who may send a PROXY protocol header, and none is expected"],
    ),
    (
        &["set", "web", "accept.proxy_protocol=true", "accept.trusted=10.0.0.1/8"],
        4,
        &["\"10.0.0.1/8\" is not a network: it has bits set behind its prefix; the network is 10.0.0.0/8"],
    ),
    (
        &["set", "web", "accept.proxy_protocol=true", "accept.trusted-=10.0.0.0/8"],
        4,
        &["trusted: \"10.0.0.0/8\" is not in the list"],
    ),
    (
        &["add", "90", "203.0.113.2", "--protocol", "udp", "--set", "connect.mptcp=true"],
        4,
        &["connect: mptcp: this is TCP's, and the rule carries UDP alone"],
    ),
    (
        &["add", "90", "203.0.113.2", "--plane", "kernel", "--set", "accept.mptcp=true"],
        1,
        &["the kernel plane cannot carry it: relayd speaks Multipath TCP (accept.mptcp)"],
    ),
    (&["set", "web", "connect.source=eth0"], 4, &["\"eth0\" is not an address of a host", "\"192.0.2.9\""]),
    (&["set", "web", "connect.source=0.0.0.0"], 4, &["\"0.0.0.0\" is not an address of a host"]),
    (
        &["set", "web", "connect.source=192.0.2.7"],
        1,
        &["connect.source: 192.0.2.7 is not an address of this host", "`ip address`"],
    ),
    (
        &["set", "web", "connect.source=2001:db8:2::1"],
        1,
        &["connect.source: 2001:db8:2::1 cannot reach 203.0.113.2, which has no address of its family"],
    ),
    (&["set", "web", "connect.interface=two words"], 4, &["\"two words\" is no interface name", "`ip link`"]),
    (&["set", "web", "connect.interface=eth9"], 1, &["connect.interface: there is no interface eth9"]),
    (&["set", "web", "timeout.handshake=0s"], 4, &["handshake: \"0s\" is no time at all"]),
    (
        &["add", "90", "203.0.113.2", "--plane", "kernel", "--set", "connect.proxy_protocol=1"],
        1,
        &["the kernel plane cannot carry it: relayd writes the PROXY protocol header"],
    ),
    (
        &["set", "web", "protocol=tcp+udp", "connect.transport=wss"],
        4,
        &["connect: transport: the rule carries UDP", "or protocol = \"tcp\""],
    ),
    (
        &["set", "web", "protocol=tcp", "connect.transport=tls", "connect.path=/ws"],
        4,
        &["connect: path: transport = \"tls\" has no `path`", "transport = \"ws\" or \"wss\""],
    ),
    (
        &["set", "web", "protocol=tcp", "connect.transport=tls", "connect.pool=65"],
        4,
        &["connect: pool: 65", "from 0 to 64"],
    ),
    (
        &["add", "90", "203.0.113.2", "--plane", "kernel", "--set", "accept.transport=wss"],
        1,
        &["the kernel plane cannot carry it: relayd unwraps WebSocket in TLS (accept.transport = \"wss\")"],
    ),
    (
        &["set", "web", "accept.allow=198.51.100.7/24"],
        4,
        &["accept: allow: \"198.51.100.7/24\" is not a network", "the network is 198.51.100.0/24", "write"],
    ),
    (&["set", "web", "accept.allow=friends"], 4, &["neither an address nor a network", "\"2001:db8::/32\""]),
    (&["set", "web", "limit.connections=-1"], 4, &["limit: connections", "from 0 to 1000000"]),
    (&["set", "web", "limit.new_flows=fast"], 4, &["limit: new_flows", "from 0 to 1000000"]),
    (
        &["set", "web", "rate.ingress=10MB/s"],
        4,
        &["rate: ingress: \"10MB/s\" is not a rate", "\"500kbps\", \"100Mbps\" or \"1.5Gbps\""],
    ),
    (&["set", "web", "rate.per_client=10bps"], 4, &["rate: per_client: \"10bps\" is out of range"]),
    (&["set", "web", "rate.egress=10bps"], 4, &["rate: egress: \"10bps\" is out of range", "\"1kbps\" to"]),
    (&["set", "web", "rate.eggress=1Mbps"], 4, &["rate", "did you mean `egress`?"]),
    (&["set", "web", "limit.connection=5"], 4, &["limit", "did you mean `connections`?"]),
    (&["set", "web", "accept.proxy_protocl=true"], 4, &["accept", "did you mean `proxy_protocol`?"]),
    (&["set", "web", "listen=:443", "plain=true"], 4, &["there is no key `plain`", "did you mean `plane`?"]),
];

#[test]
fn mistakes_in_commands_are_explained_and_change_nothing() {
    let world = World::new();
    let daemon = world.start(WEB);
    let _server = tcp_server(&world.backend, 80);
    let file = fs::read_to_string(&daemon.config).expect("config");
    for (args, code, parts) in MISTAKES {
        let said = daemon.ctl.fails(*code, args);
        for part in *parts {
            assert!(said.contains(part), "{args:?}: {part:?} is not in {said}");
        }
    }
    assert_eq!(fs::read_to_string(&daemon.config).expect("config"), file);
    assert_eq!(daemon.ctl.json(&["list"]).as_array().map(Vec::len), Some(1));
    works(&world);
}

const BROKEN: &str = r#"[daemn]
[log]
level = "loud"
colour = 1
[dns]
servers = ["dns.example.com"]
min_ttl = "10m"
[group]
[[rule]]
name = "a b"
listen = ":0"
to = ""
[[rule]]
name = "c"
listen = [":80", 81, true]
to = "1.2.3.4:80"
group = "al ice"
	protocl = "tcp"
timeout = { udp = "0s", handshake = "5" }
[[rule]]
name = "c"
listen = ":90-100"
to = { addr = "1.2.3.4:65530", weigth = 2 }
[[rule]]
listen = "东京:90"
[[rule]]
name = "d"
listen = ":91"
to = [
  "1.2.3.4",
  { addr = "1.2.3.5", weight = 1001 },
  { addr = "1.2.3.4:91", priority = -1 },
  5,
]
balance = "best: 1"
check = { kind = "tls", path = "/", fall = 0 }
[[rule]]
name = "e"
listen = ":92"
to = ["1.2.3.4", { addr = "1.2.3.5", weight = 2 }]
balance = "roundrobin: 4, 1"
"#;

/// Line and column of each mistake, and what is said about it.
const EXPECTED: &[(&str, &str)] = &[
    ("1:2", "there is no table `daemn`; did you mean `daemon`?"),
    ("3:9", "log: level: \"loud\" is not known here; it is one of \"error\", \"warn\""),
    ("4:1", "log: there is no key `colour`; known are level, format"),
    ("6:12", "dns: servers: \"dns.example.com\" is not the address of a name server; write"),
    ("7:11", "dns: min_ttl (10m) is longer than max_ttl (5m)"),
    ("8:1", "group: groups are written as `[[group]]`"),
    ("10:8", "name: \"a b\" is not a rule name; a name is 1 to 64"),
    ("11:10", "rule \"a b\": listen: \":0\" is not a listener"),
    ("12:6", "rule \"a b\": to: \"\" is not a backend: there is no address"),
    ("15:22", "rule \"c\": listen: true is a true or false, not a text"),
    ("17:9", "rule \"c\": group: \"al ice\" is not a group's name; a name is"),
    ("18:2", "rule \"c\": there is no key `protocl`; did you mean `protocol`?"),
    ("19:19", "rule \"c\": timeout: udp: \"0s\" is no time at all"),
    ("19:37", "rule \"c\": timeout: handshake: \"5\" is not a duration"),
    ("21:8", "two rules are called \"c\"; the other one is at"),
    (
        "23:6",
        "rule \"c\": to: the 11 ports of \":90-100\" do not fit above port 65530; the highest start is 65525",
    ),
    ("23:32", "rule \"c\": to: there is no key `weigth`; did you mean `weight`?"),
    ("24:1", "rule: the rule has no name"),
    ("24:1", "rule: to: the rule has no backend"),
    ("25:10", "rule: listen: \"东京:90\" is not a listener"),
    ("31:32", "rule \"d\": to: weight: 1001 is a whole number, not a whole number from 0 to 1000"),
    (
        "32:3",
        "rule \"d\": to: \"1.2.3.4:91\" is where \"1.2.3.4\" is, which the list has already; leave one of them out",
    ),
    ("32:37", "rule \"d\": to: priority: -1 is a whole number, not a whole number from 0 to 65535"),
    ("33:3", "rule \"d\": to: 5 is a whole number, not a text or a table; write { addr = "),
    ("35:11", "rule \"d\": balance: \"best: 1\" is not known here; it is one of \"roundrobin\", \"iphash\""),
    (
        "36:32",
        "rule \"d\": check: path: a check of kind \"tls\" has no `path`; it belongs to kind = \"http\"",
    ),
    ("36:44", "rule \"d\": check: fall: 0 is a whole number, not a whole number from 1 to 100"),
    (
        "41:11",
        "rule \"e\": balance: \"roundrobin: 4, 1\" has weights, and `to` has some as well; keep those of one place",
    ),
];

#[test]
fn all_mistakes_of_a_file_are_shown_at_once_where_they_are() {
    let world = World::new();
    let path = world.folder().join("relay.toml");
    fs::write(&path, BROKEN).expect("config");
    let shown = path.display().to_string();
    let said = relayd(&world.relay, world.folder(), &["-c", &shown, "-t"]);
    assert_eq!(said.code, 4, "{said:?}");
    let heads: Vec<&str> = said
        .err
        .lines()
        .map(|line| line.trim_start_matches("relayd: "))
        .filter(|l| l.starts_with(&shown))
        .collect();
    assert_eq!(heads.len(), EXPECTED.len(), "{}", said.err);
    for (head, (place, text)) in heads.iter().zip(EXPECTED) {
        assert!(head.starts_with(&format!("{shown}:{place}: {text}")), "{place} {text}:\n{head}");
    }
    // the line itself, and a mark below the value, whatever stands before it
    assert!(said.err.contains("\n18 | \tprotocl = \"tcp\"\n   | \t^^^^^^^\n"), "{}", said.err);
    assert!(said.err.contains("25 | listen = \"东京:90\"\n   |          ^^^^^^^"), "{}", said.err);
}

#[test]
fn overlaps_and_names_are_found_across_files() {
    let world = World::new();
    let daemon = world.start(WEB);
    let _server = tcp_server(&world.backend, 80);
    let conf_d = world.folder().join("conf.d");
    fs::create_dir(&conf_d).expect("folder");
    let rules = format!(
        "[log]\nlevel = \"info\"\n{}{}",
        WEB.replace("80\"\nto", "81\"\nto"),
        WEB.replace("web", "y")
    );
    fs::write(conf_d.join("a.toml"), rules).expect("file");
    let said = daemon.ctl.fails(4, &["reload"]);
    let main = daemon.config.display();
    for part in [
        "conf.d/a.toml:4:8: two rules are called \"web\"".to_owned(),
        format!(
            "conf.d/a.toml:8:8: rule \"y\": listen: \":80\" overlaps rule \"web\" (\":80\") in port 80/tcp; the other one is at {main}:9"
        ),
    ] {
        assert!(said.contains(&part), "{part}: {said}");
    }
    fs::write(conf_d.join("b.toml"), "[log]\nlevel = \"warn\"\n").expect("file");
    assert!(daemon.ctl.fails(4, &["reload"]).contains("`[log]` stands in two files; keep one of them"));
    works(&world);
}

#[test]
fn relayd_starts_with_rules_that_cannot_work() {
    let world = World::new();
    let rule = |name: &str, listen: &str, to: &str| {
        format!("[[rule]]\nname = {name:?}\nlisten = {listen:?}\nto = {to:?}\n")
    };
    let rules = [
        WEB.to_owned(),
        rule("address", "192.0.2.7:81", "203.0.113.2"),
        rule("interface", "%eth9:82", "203.0.113.2"),
        rule("loop", ":83", "198.51.100.1:83"),
        rule("name", ":84", "nosuch.invalid"),
        rule("route", ":85", "192.0.2.200"),
        rule("v6", "[::]:86", "203.0.113.2"),
        rule("v6-backend", ":87", "[2001:db8::1]:80"),
        rule("local", ":88", "localhost:80"),
        rule("must", "[::1]:89", "203.0.113.2") + "plane = \"kernel\"\n",
    ]
    .concat();
    let mut daemon = world.start(&rules);
    let _server = tcp_server(&world.backend, 80);
    works(&world);
    let ctl = daemon.ctl.clone();
    let state = |name: &str| ctl.rule(name)["state"].as_str().unwrap_or("").to_owned();
    let expected = [
        ("web", "active"),
        ("address", "error"),
        ("interface", "error"),
        ("loop", "error"),
        ("name", "error"),
        ("route", "degraded"),
        ("v6", "active"),
        ("v6-backend", "degraded"),
        ("local", "active"),
        ("must", "error"),
    ];
    for (name, wanted) in expected {
        assert_eq!(state(name), wanted, "{name}");
    }
    assert_eq!(daemon.ctl.rule("local")["to"][0]["resolved"], "127.0.0.1", "names are resolved at load");
    let list = daemon.ctl.ok(&["list"]);
    for reason in [
        "address: 192.0.2.7 is not an address of this host",
        "route: there is no route to 192.0.2.200",
        "v6-backend: there is no route to 2001:db8::1",
        "must: plane = \"kernel\", but the kernel plane cannot carry it: its listeners are for connections of this host to itself",
    ] {
        assert!(list.contains(reason), "{reason}: {list}");
    }
    let log = daemon.log();
    assert!(log.contains("WARN rule address: 192.0.2.7 is not an address of this host"), "{log}");
    // what is missing may come
    world.relay.add_address("uplink", [192, 0, 2, 7], 32);
    eventually("the address is there", || state("address") == "active");
}

#[test]
fn files_that_are_no_configuration() {
    let world = World::new();
    let folder = world.folder();
    let cases: [(&str, &[u8], &str); 6] = [
        ("toml", b"[[rule]\nname = 1\n", ":1:8: this is not TOML: unclosed array table"),
        ("latin", b"# caf\xe9\n", "cannot be read: stream did not contain valid UTF-8"),
        ("table", b"[rule]\nname = \"x\"\n", ":1:1: rule: rules are written as `[[rule]]`"),
        ("list", b"rule = [1]\n", "rules are written as `[[rule]]`"),
        ("daemon", b"daemon = 1\n", "daemon: 1 is a whole number, not a table"),
        ("flows", b"[daemon]\nmax_flows = 1\nsocket = \"x\"\n", "a whole number from 64 to"),
    ];
    for (name, text, says) in cases {
        let path = folder.join(format!("{name}.toml"));
        fs::write(&path, text).expect("file");
        let said = relayd(&world.relay, folder, &["-c", &path.display().to_string(), "-t"]);
        assert_eq!(said.code, 4, "{name}: {said:?}");
        assert!(said.err.contains(says), "{name}: {}", said.err);
    }
    fs::write(folder.join("relay.toml"), settings(folder, "")).expect("file");
    fs::write(folder.join("conf.d"), "a file").expect("file");
    let said = relayd(&world.relay, folder, &["-c", "relay.toml", "-t"]);
    assert!(said.code == 4 && said.err.contains("conf.d: cannot be read"), "{said:?}");
}
