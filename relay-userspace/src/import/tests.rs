//! Samples of each kind, and the rules that they become.

use serde_json::json;

use super::conflict::{OnConflict, settle};
use super::*;
use crate::config::encode::to_json;

fn source(text: &str) -> Source {
    Source { file: "sample".into(), text: text.into() }
}

/// The rules as JSON without names, and the remarks with their lines.
fn found(kind: Kind, text: &str) -> (Vec<Json>, Vec<String>) {
    let (_, findings) = read(kind, &[source(text)]).expect("a sample");
    let rules = rules(&findings.drafts).expect("rules");
    let keys = |(rule, _): &(Rule, Place)| {
        let mut keys = to_json(rule);
        keys.shift_remove("name");
        Json::Object(keys)
    };
    let remarks = findings.remarks.iter().map(|remark| format!("{}: {}", remark.place.line, remark.text));
    (rules.iter().map(keys).collect(), remarks.collect())
}

fn refused(kind: Kind, text: &str) -> String {
    match read(kind, &[source(text)]) {
        Err(refusal) => refusal.to_string(),
        Ok((_, findings)) => rules(&findings.drafts).expect_err(text),
    }
}

const REALM: &str = r#"
[log]
level = "warn"
[network]
use_udp = true
[[endpoints]]
listen = ":::52225"
remote = "203.0.113.7:22222"
[[endpoints]]
listen = "0.0.0.0:443"
remote = "a.example.com:443"
extra_remotes = ["198.51.100.2:443", "2001:db8::5:443"]
balance = "roundrobin: 4, 2, 1"
through = "192.0.2.9"
remote_transport = "ws;host=h.example;path=/ws;tls;sni=s.example;insecure"
network = { use_udp = false, tcp_timeout = 7 }
"#;

const NFT: &str = r#"
define BACK = 1.2.3.4
table ip nat {
  chain prerouting { type nat hook prerouting priority dstnat; policy accept;
    iifname "eth0" tcp dport 12345 counter packets 3 bytes 180 dnat to $BACK:54321
    iifname "eth0" udp dport 12345 dnat to 1.2.3.4:54321 }
    tcp dport { 80, 443 } dnat to 10.0.0.9
    tcp dport 1000-2000 dnat to 10.0.0.9:1000-2000
    ip saddr 10.0.0.1 tcp dport 90 dnat to 10.0.0.9:90
    tcp dport 91 redirect to :92
}
"#;

const IPTABLES: &str = "*nat\n:PREROUTING ACCEPT [0:0]\n\
    -A PREROUTING -p udp -m udp --dport 51820 -j DNAT --to-destination 1.2.3.4:51820\n\
    -A PREROUTING -d 192.0.2.1/32 -i eth0 -p tcp -m tcp --dport 1 -j DNAT --to-destination 1.2.3.4\n\
    -A PREROUTING -p tcp -m tcp --dport 100:200 -m comment --comment \"two words\" -j DNAT --to-destination 1.2.3.4\n\
    -A POSTROUTING -d 1.2.3.4/32 -j MASQUERADE\nCOMMIT\n";

const ENV: &str = "RELAY_1=\"50025;25;mx.example.com;TCP\"\nRELAY_2='51820;51820;vpn.example.com;UDP' # wg\n\
    CONNECT_TIMEOUT=15\nKEEPALIVE_CNT=4\nENABLE_LOGGING=\"y\"\n";

const LINES: &str = "# mine\n8388:203.0.113.7:443:tokyo\n8389:[2001:db8::1]:443\n9000-9009:h.example:7000\n";

const COMMAND: &str =
    "/usr/bin/realm -l 0.0.0.0:5000 -r h.example:5001 --udp -x 192.0.2.9 \\\n  --tcp-timeout=7\n";

const ENTRY: &str = "RULE_ID=1\nRULE_NAME=\"中转\"\nRULE_ROLE=\"1\"\nSECURITY_LEVEL=\"ws_tls_self\"\nLISTEN_PORT=\"11002\"\n\
    LISTEN_IP=\"::\"\nTHROUGH_IP=\"eth1\"\nREMOTE_HOST=\"a.example.com,b.example.com\"\nREMOTE_PORT=\"11002\"\nTLS_SERVER_NAME=\"s.example\"\n\
    WS_PATH=\"/p\"\nRULE_NOTE=\"tokyo-1\"\nENABLED=\"true\"\nBALANCE_MODE=\"roundrobin\"\n\
    TARGET_STATES=\"a.example.com:11002,b.example.com:11002\"\nWEIGHTS=\"2,1\"\nFAILOVER_ENABLED=\"true\"\nHEALTH_CHECK_INTERVAL=\"4\"\n\
    FAILURE_THRESHOLD=\"5\"\nMPTCP_MODE=\"send\"\nPROXY_MODE=\"v2_send\"\n";

const EXIT: &str = "RULE_ID=2\nRULE_ROLE=\"2\"\nSECURITY_LEVEL=\"tls_self\"\nLISTEN_PORT=\"443\"\nFORWARD_TARGET=\"127.0.0.1:8388\"\n\
    TLS_SERVER_NAME=\"s.example\"\nENABLED=\"false\"\n";

const NFT_JSON: &str = r#"{"nftables":[{"metainfo":{"version":"1.0.6"}},{"table":{"family":"ip","name":"nat"}},
{"rule":{"family":"ip","table":"nat","chain":"prerouting","handle":3,"comment":"web","expr":[
 {"match":{"op":"==","left":{"meta":{"key":"iifname"}},"right":"eth0"}},
 {"match":{"op":"==","left":{"payload":{"protocol":"tcp","field":"dport"}},"right":{"set":[80,443]}}},
 {"counter":{"packets":1,"bytes":60}},{"dnat":{"addr":"1.2.3.4"}}]}},
{"rule":{"family":"ip6","expr":[{"match":{"op":"==","left":{"payload":{"protocol":"udp","field":"dport"}},"right":{"range":[1000,1002]}}},
 {"dnat":{"family":"ip6","addr":"2001:db8::1","port":{"range":[1000,1002]}}}]}},
{"rule":{"expr":[{"match":{"op":"==","left":{"payload":{"protocol":"tcp","field":"dport"}},"right":8080}},
 {"dnat":{"addr":{"map":{"key":1,"data":{"set":[]}}}}}]}}]}"#;

const HAPROXY: &str = "global\n  daemon\ndefaults\n  mode tcp\n  timeout connect 5s\n  timeout client 60000\n\
    listen mail\n  bind *:25,[::]:2525\n  server m1 192.0.2.25:25 check send-proxy-v2\n\
    frontend web\n  bind 192.0.2.1:443\n  default_backend pool\nbackend pool\n  balance leastconn\n\
    server a 203.0.113.1:443 check weight 3\n  server b 203.0.113.2:443 check backup\n\
    frontend page\n  mode http\n  bind :80\n  default_backend pool\n";

const NGINX: &str = "user www;\nhttp { server { listen 80; } }\nstream {\n  upstream dns { hash $remote_addr consistent;\n\
    server 192.0.2.53:53 weight=2; server 192.0.2.54:53; }\n  server { listen 53 udp; proxy_pass dns; proxy_timeout 20s; }\n\
    server { listen 53; proxy_pass dns; }\n\
    server { listen [::]:8443; # both\n    proxy_pass h.example:443; proxy_protocol on; proxy_ssl on; }\n}\n";

#[test]
fn commands_of_realm() {
    let (rules, remarks) = found(Kind::Auto, COMMAND);
    assert_eq!(
        rules,
        [
            json!({ "listen": "0.0.0.0:5000", "protocol": "tcp+udp", "to": "h.example:5001", "timeout": { "connect": "7s" },
            "connect": { "source": "192.0.2.9" } })
        ]
    );
    assert!(remarks.is_empty(), "{remarks:?}");
    assert!(refused(Kind::Realm, "realm -l :80 -q").contains("\"-q\" is no option"));
    assert!(refused(Kind::Realm, "realm -l").contains("-l has no value"));
}

#[test]
fn rules_of_xwpf() {
    let (rules, _) = found(Kind::Auto, ENTRY);
    let rule = &rules[0];
    assert_eq!((&rule["listen"], &rule["note"]), (&json!(":11002"), &json!("tokyo-1")));
    assert_eq!(rule["to"], json!([{ "addr": "a.example.com:11002", "weight": 2 }, "b.example.com:11002"]));
    let connect = json!({ "transport": "wss", "host": "s.example", "path": "/p", "sni": "s.example", "verify": "insecure",
        "proxy_protocol": 2, "interface": "eth1", "mptcp": true });
    assert_eq!((&rule["connect"], &rule["check"]["fall"]), (&connect, &json!(5)));
    // one port's files are one rule; a bundle has files of others
    let other =
        ENTRY.replace("a.example.com:11002,b.example.com:11002", "c.example:1").replace("tokyo-1", "");
    let file = |name: &str, text: &str| Source { file: name.into(), text: text.into() };
    let files = [
        file("b.tar.gz:top/metadata.txt", "EXPORT_TIME=2026-06-08 12:46:41\n"),
        file("b.tar.gz:top/rules/rule-1.conf", ENTRY),
        file("b.tar.gz:top/rules/rule-2.conf", EXIT),
        file("b.tar.gz:top/rules/rule-3.conf", &other),
        file("b.tar.gz:top/health_status.conf", "1|a|healthy|0|37|1|0\n"),
    ];
    let (kind, findings) = read(Kind::Auto, &files).expect("a bundle");
    let rules = super::rules(&findings.drafts).expect("rules");
    assert_eq!((kind, rules.len(), findings.remarks.len()), (Kind::Xwpf, 2, 1), "{:?}", findings.remarks);
    assert_eq!(rules[0].0.to.len(), 3);
    let exit = to_json(&rules[1].0);
    assert_eq!((&exit["enabled"], &exit["to"]), (&json!(false), &json!("127.0.0.1:8388")));
    assert_eq!((&exit["accept"]["transport"], &exit["accept"]["host"]), (&json!("tls"), &json!("s.example")));
    // the older meaning of TARGET_STATES
    let older = ENTRY
        .replace("a.example.com:11002,b.example.com:11002", "target_0:true,target_1:false")
        .replace("2,1", "");
    assert_eq!(found(Kind::Xwpf, &older).0[0]["to"], json!("a.example.com:11002"));
    assert!(refused(Kind::Xwpf, "RULE_ID=1\nLISTEN_PORT=$(id)\n").contains("a shell would run"));
}

#[test]
fn dnat_of_nftables_as_json() {
    let (rules, remarks) = found(Kind::Auto, NFT_JSON);
    assert_eq!(
        rules[0],
        json!({ "note": "web", "listen": ["%eth0:80", "%eth0:443"], "protocol": "tcp", "to": "1.2.3.4" })
    );
    assert_eq!((&rules[1]["listen"], &rules[1]["to"]), (&json!(":1000-1002"), &json!("[2001:db8::1]")));
    assert_eq!((rules.len(), remarks.len()), (2, 1), "{remarks:?}");
    assert!(remarks[0].contains("chosen by a map"), "{remarks:?}");
}

#[test]
fn sections_of_haproxy() {
    let (rules, remarks) = found(Kind::Auto, HAPROXY);
    assert_eq!(
        rules[0],
        json!({ "note": "mail", "listen": [":25", ":2525"], "protocol": "tcp", "to": "192.0.2.25:25",
            "connect": { "proxy_protocol": 2 }, "timeout": { "tcp_idle": "1m" } })
    );
    assert_eq!(
        rules[1]["to"],
        json!([{ "addr": "203.0.113.1:443", "weight": 3 }, { "addr": "203.0.113.2:443", "priority": 1 }])
    );
    assert_eq!((&rules[1]["balance"], rules.len()), (&json!("leastconn"), 2));
    assert!(remarks.iter().any(|remark| remark.contains("HTTP")), "{remarks:?}");
    assert!(
        refused(Kind::Haproxy, "frontend a\n bind :80\n default_backend b\n").contains("no backend \"b\"")
    );
}

#[test]
fn streams_of_nginx() {
    let (rules, remarks) = found(Kind::Auto, NGINX);
    assert_eq!(
        rules[0],
        json!({ "listen": ":53", "protocol": "tcp+udp", "to": [{ "addr": "192.0.2.53:53", "weight": 2 }, "192.0.2.54:53"],
            "balance": "iphash", "timeout": { "udp": "20s" } })
    );
    assert_eq!((&rules[1]["listen"], &rules[1]["connect"]["proxy_protocol"]), (&json!(":8443"), &json!(1)));
    assert!(remarks.len() == 1 && remarks[0].contains("proxy_ssl"), "{remarks:?}");
    for (text, part) in [
        ("http { }", "no stream"),
        ("stream { server { listen 1; }", "ends before"),
        ("stream { }}", "a } too many"),
    ] {
        assert!(refused(Kind::Nginx, text).contains(part), "{text}");
    }
}

#[test]
fn endpoints_of_realm() {
    let (rules, remarks) = found(Kind::Realm, REALM);
    assert_eq!(rules[0], json!({ "listen": ":52225", "protocol": "tcp+udp", "to": "203.0.113.7:22222" }));
    assert_eq!(rules[1]["to"][0], json!({ "addr": "a.example.com:443", "weight": 4 }));
    assert_eq!(rules[1]["to"][2], json!("[2001:db8::5]:443"));
    assert_eq!((&rules[1]["protocol"], &rules[1]["timeout"]["connect"]), (&json!("tcp"), &json!("7s")));
    let connect = &rules[1]["connect"];
    assert_eq!((&connect["transport"], &connect["verify"]), (&json!("wss"), &json!("insecure")));
    assert_eq!((&connect["source"], &connect["sni"]), (&json!("192.0.2.9"), &json!("s.example")));
    assert!(
        remarks.iter().any(|remark| remark.starts_with("3: log") || remark.starts_with("2: log")),
        "{remarks:?}"
    );
}

#[test]
fn older_forms_of_realm() {
    let text = r#"{"listening_addresses":["0.0.0.0"],"listening_ports":["443","10000-10100"],"remote_addresses":["1.1.1.1","2.2.2.2"],"remote_ports":["443","20000-20100"]}"#;
    let (rules, _) = found(Kind::Auto, text);
    assert_eq!(
        (&rules[1]["listen"], &rules[1]["to"]),
        (&json!("0.0.0.0:10000-10100"), &json!("2.2.2.2:20000"))
    );
    assert!(refused(Kind::Realm, &text.replace("20100", "20101")).contains("not equally many"));
    let json =
        r#"{"endpoints":[{"listen":"[::]:9000","remote":"10.0.0.1:1","extra_remotes":["10.0.0.2:1"]}]}"#;
    let (rules, remarks) = found(Kind::Realm, json);
    assert_eq!(rules[0], json!({ "listen": ":9000", "protocol": "tcp", "to": "10.0.0.1:1" }));
    assert!(remarks[0].contains("extra_remotes"), "{remarks:?}");
}

#[test]
fn dnat_of_nftables() {
    let (rules, remarks) = found(Kind::Auto, NFT);
    assert_eq!(rules[0], json!({ "listen": "%eth0:12345", "protocol": "tcp+udp", "to": "1.2.3.4:54321" }));
    assert_eq!(rules[1]["listen"], json!([":80", ":443"]));
    assert_eq!((&rules[2]["listen"], &rules[2]["protocol"]), (&json!(":1000-2000"), &json!("tcp")));
    assert_eq!(rules.len(), 3);
    assert!(remarks[0].starts_with("9: not carried") && remarks[1].starts_with("10: "), "{remarks:?}");
}

#[test]
fn dnat_of_iptables() {
    let (rules, remarks) = found(Kind::Auto, IPTABLES);
    assert_eq!(rules[0], json!({ "listen": ":51820", "protocol": "udp", "to": "1.2.3.4:51820" }));
    assert_eq!((&rules[1]["listen"], &rules[1]["note"]), (&json!(":100-200"), &json!("two words")));
    assert_eq!((rules.len(), remarks.len()), (2, 1), "{remarks:?}");
}

#[test]
fn relays_and_lines() {
    let (rules, remarks) = found(Kind::Auto, ENV);
    assert_eq!(
        (&rules[0]["to"], &rules[0]["timeout"]["connect"]),
        (&json!("mx.example.com:25"), &json!("15s"))
    );
    assert_eq!(rules[1]["protocol"], json!("udp"));
    assert_eq!(remarks.len(), 1);
    let (rules, _) = found(Kind::Auto, LINES);
    assert_eq!((&rules[0]["note"], &rules[1]["to"]), (&json!("tokyo"), &json!("[2001:db8::1]:443")));
    assert_eq!(rules[2]["to"], json!("h.example:7000"));
}

#[test]
fn what_is_wrong_is_placed() {
    for (kind, text, part) in [
        (Kind::Lines, "80:a:1\nx", "sample:2: \"x\" is not port:host:port"),
        (Kind::Lines, "80:a:99999", "sample:1:"),
        (Kind::PortRelay, "A=1\nRELAY_1=$(id)", "sample:2: a shell would run"),
        (Kind::PortRelay, "RELAY_1=\"1;2;h;TCP", "the quote does not end"),
        (Kind::Realm, "[[endpoints]]\nlisten = ", "sample:2: this is not TOML"),
        (Kind::Realm, "{\n\"endpoints\": [", "sample:2: this is not JSON"),
        (Kind::Realm, "[[endpoints]]\nlisten = \"a:1\"", "has no remote"),
        (Kind::Nftables, "tcp dport 1 dnat to $X", "$X is not defined"),
        (Kind::Auto, "hello", "not clear"),
    ] {
        let text = refused(kind, text);
        assert!(text.contains(part), "{text}");
    }
    let refusal = Source::new("gbk".into(), b"a\n\xce\xd2".to_vec()).expect_err("not UTF-8");
    assert_eq!(refusal.place.line, 2);
}

#[test]
fn conflicts_are_settled() {
    let make = |text: &str| -> Vec<Rule> {
        let (_, findings) = read(Kind::Lines, &[source(text)]).expect("lines");
        rules(&findings.drafts).expect("rules").into_iter().map(|(rule, _)| rule).collect()
    };
    let (old, new) = (make("80:a:1\n81:a:1"), make("80:b:1\n82:b:1"));
    let old: Vec<&Rule> = old.iter().collect();
    let settled = |how| settle(&old, new.clone(), how);
    assert!(settled(OnConflict::Fail).expect_err("conflict").contains("\"80\" already"));
    assert!(settled(OnConflict::Rename).expect_err("one port").contains("overlaps"));
    assert_eq!(settled(OnConflict::Skip).expect("skip").add.len(), 1);
    let replaced = settled(OnConflict::Replace).expect("replace");
    assert_eq!((replaced.add.len(), replaced.remove.len()), (2, 1));
    assert!(settle(&[], make("80:a:1\n80:b:1"), OnConflict::Skip).is_err(), "among themselves");
}

#[test]
fn what_realm_can_carry_comes_back() {
    let keys = |text: &str| found(Kind::Realm, text).0;
    let plain: String = REALM
        .lines()
        .filter(|line| {
            !line.starts_with("through") && !line.contains("transport") && !line.starts_with("network =")
        })
        .map(|line| format!("{line}\n"))
        .collect();
    let (_, findings) = read(Kind::Realm, &[source(&plain)]).expect("realm");
    let own = rules(&findings.drafts).expect("rules");
    let (text, left) = to_realm(own.iter().map(|(rule, _)| rule));
    assert_eq!((keys(&text), left.len()), (keys(&plain), 0), "{text}");
    let (_, findings) = read(Kind::Lines, &[source(LINES)]).expect("lines");
    let own = rules(&findings.drafts).expect("rules");
    assert_eq!(to_realm(own.iter().map(|(rule, _)| rule)).1.len(), 1, "the range");
}

/// For the fuzzing: each kind with a sample.
pub const SAMPLES: [(Kind, &str); 10] = [
    (Kind::Realm, COMMAND),
    (Kind::Xwpf, ENTRY),
    (Kind::Nftables, NFT_JSON),
    (Kind::Haproxy, HAPROXY),
    (Kind::Nginx, NGINX),
    (Kind::Realm, REALM),
    (Kind::Nftables, NFT),
    (Kind::Iptables, IPTABLES),
    (Kind::PortRelay, ENV),
    (Kind::Lines, LINES),
];
