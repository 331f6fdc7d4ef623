//! Alerts, sent for real: what happens reaches who wants to know, once, soon, and without a secret in sight.

use std::fs;
use std::process::Command;
use std::time::Duration;

use harness::certificates::Authority;
use harness::daemon::{Said, binary, settings};
use harness::http::Http;
use harness::openssl::Openssl;
use harness::sink::{FINE, Sink, proxy};
use harness::traffic::{Client, tcp_server};
use harness::world::RELAY;
use harness::{Daemon, World, eventually};
use relay::accounting::calendar::{self, Step};
use serde_json::{Value, json};

/// Most of it needs no kernel plane.
const USER: &str = "hook = \"off\"\n";
/// Nobody waits in a test.
const SOON: &str = "gather = \"100ms\"\nmin_interval = \"100ms\"\n";
const WEB: &str = "[[rule]]\nname = \"web\"\nlisten = \":80\"\nprotocol = \"tcp\"\n\
                   to = [\"203.0.113.2:81\", \"203.0.113.2:82\"]\n\
                   check = { kind = \"tcp\", interval = \"100ms\", cooldown = \"100ms\" }\n";

fn alert(name: &str, text: &str) -> String {
    format!("[[alert]]\nname = \"{name}\"\n{text}\n{SOON}")
}

fn hook(name: &str, port: u16, more: &str) -> String {
    alert(name, &format!("kind = \"webhook\"\nurl = \"http://203.0.113.2:{port}/hook\"\n{more}"))
}

fn listed(daemon: &Daemon, name: &str) -> Value {
    let all = daemon.ctl.json(&["alert", "list"]);
    let found = all.as_array().expect("list").iter().find(|alert| alert["name"] == name);
    found.unwrap_or_else(|| panic!("{all}")).clone()
}

fn codes(sink: &Sink) -> Vec<String> {
    let events = sink.taken().into_iter().flat_map(|taken| taken.json()["events"].as_array().cloned());
    events.flatten().map(|event| event["code"].as_str().expect("code").to_owned()).collect()
}

#[test]
fn a_backend_that_goes_down_is_told_to_who_wants_to_know() {
    let world = World::new();
    let (all, others) = (Sink::glad(&world.backend, 9001), Sink::glad(&world.backend, 9002));
    let alerts = [
        hook("all", 9001, ""),
        hook("others", 9002, "on = [\"backend\"]\nrules = [\"dns\"]"),
        hook("starts", 9002, "on = \"daemon\""),
    ];
    let (_stays, goes) = (tcp_server(&world.backend, 81), tcp_server(&world.backend, 82));
    let mut daemon = world.start(&(alerts.concat() + WEB));
    eventually("both are up", || codes(&all).iter().filter(|code| *code == "backend.up").count() == 2);
    drop(goes);
    eventually("one is down", || codes(&all).iter().any(|code| code == "backend.down"));
    let event = all
        .taken()
        .into_iter()
        .flat_map(|taken| taken.json()["events"].as_array().cloned().unwrap_or_default());
    let event = event.into_iter().find(|event| event["code"] == "backend.down").expect("event");
    assert_eq!((&event["kind"], &event["rule"]), (&json!("backend"), &json!("web")));
    let text = event["text"].as_str().expect("text");
    assert!(text.contains("backend 203.0.113.2:82 is down for tcp: connection refused"), "{text}");
    assert_eq!(codes(&others), ["daemon.started"], "it is another rule's");
    let first = &all.taken()[0];
    assert_eq!((first.method.as_str(), first.path.as_str()), ("POST", "/hook"));
    assert_eq!(first.header("content-type"), Some("application/json"));

    let sent = listed(&daemon, "all")["sent"].as_u64().expect("number");
    assert!(sent >= 4, "{sent}");
    let metrics = Http::unix(&daemon.ctl.socket).get("/metrics").body;
    assert!(metrics.contains("relay_alerts_total{alert=\"starts\",result=\"sent\"} 1\n"), "{metrics}");
    assert!(metrics.contains("relay_alerts_total{alert=\"others\",result=\"failed\"} 0\n"), "{metrics}");
    daemon.kill();
    daemon.start_again(&world.relay);
    eventually("it has been there before", || codes(&others).iter().any(|code| code == "daemon.restarted"));
}

/// Every kind by HTTP, at one service; where it is asked for.
const SERVICES: &[(&str, &str, &str)] = &[
    (
        "telegram",
        "token = \"77:SESAME-tok\"\nchat = -100\napi_base = \"http://203.0.113.2:9001\"",
        "/bot77:SESAME-tok/sendMessage",
    ),
    ("wecom", "url = \"http://203.0.113.2:9001/wecom?key=SESAME-key\"", "/wecom?key=SESAME-key"),
    (
        "feishu",
        "url = \"http://203.0.113.2:9001/feishu/SESAME-url\"\nsecret = \"SESAME-sign\"",
        "/feishu/SESAME-url",
    ),
    (
        "dingtalk",
        "url = \"http://203.0.113.2:9001/ding?access_token=SESAME-url\"\nsecret = \"SESAME-sign\"",
        "/ding?access_token=SESAME-url&timestamp=",
    ),
    ("discord", "url = \"http://203.0.113.2:9001/discord/SESAME-url\"", "/discord/SESAME-url"),
    ("slack", "url = \"http://203.0.113.2:9001/slack/SESAME-url\"", "/slack/SESAME-url"),
    ("ntfy", "url = \"http://203.0.113.2:9001\"\ntopic = \"SESAME-topic\"\ntoken = \"SESAME-tok\"", "/"),
    ("bark", "server = \"http://203.0.113.2:9001\"\nkey = \"SESAME-key\"", "/push"),
    (
        "webhook",
        "url = \"http://203.0.113.2:9001/SESAME-url?from={{host}}\"\nheaders = { authorization = \"Bearer SESAME-tok\" }\nformat = \"form\"\nbody = \"key=SESAME-body&text={{text}}\"",
        "/SESAME-url?from=",
    ),
];

#[test]
fn every_service_is_tried_and_none_of_their_secrets_is_seen() {
    let world = World::new();
    let echo = |_: usize, taken: &harness::sink::Taken| {
        let body = format!("no such thing: {} {}", taken.path, taken.body);
        let head = format!("HTTP/1.1 403 No\r\ncontent-length: {}\r\n\r\n", body.len());
        Some(if taken.path.contains("again") || taken.body.contains("test") {
            FINE.to_owned()
        } else {
            head + &body
        })
    };
    let sink = Sink::start(&world.backend, 9001, echo);
    let alerts: String =
        SERVICES.iter().map(|(kind, text, _)| alert(kind, &format!("kind = \"{kind}\"\n{text}"))).collect();
    let mut daemon = world.start_with(USER, &format!("[log]\nlevel = \"trace\"\n\n{alerts}{WEB}"));
    let said = daemon.ctl.ok(&["alert", "test"]);
    for (kind, _, path) in SERVICES {
        assert!(
            said.lines().any(|line| line.starts_with(&format!("{kind} ({kind}): sent, in "))),
            "{kind}: {said}"
        );
        let is_it =
            |taken: &harness::sink::Taken| taken.path.starts_with(path) && taken.body.contains("test");
        assert!(sink.taken().iter().any(is_it), "{kind}: {:?}", sink.taken());
    }
    // the answer to everything else has the whole request in it, secrets and all
    for (kind, ..) in SERVICES {
        eventually(&format!("{kind} has refused something"), || {
            listed(&daemon, kind)["failed"].as_u64() > Some(0)
        });
        let error = listed(&daemon, kind)["last_error"].as_str().expect("error").to_owned();
        assert!(error.starts_with("HTTP 403: no such thing: "), "{error}");
    }
    let config = daemon.config.display().to_string();
    let dump = harness::programs::relayd(&world.relay, world.folder(), &["--config", &config, "-T"]);
    assert!(
        dump.code == 0 && dump.out.contains("kind = \"bark\"") && dump.out.contains("(hidden)"),
        "{dump:?}"
    );
    let ctl = daemon.ctl.clone();
    let shown = [
        ctl.ok(&["alert", "list"]),
        ctl.ok(&["alert", "list", "-o", "json"]),
        ctl.ok(&["alert", "list", "-o", "tsv"]),
        ctl.ok(&["status", "-o", "json"]),
        ctl.ok(&["diff"]),
        dump.out,
        daemon.log(),
    ];
    for text in shown {
        assert!(!text.contains("SESAME"), "{text}");
    }
    assert!(
        daemon.log().contains("alert slack: not sent: HTTP 403: no such thing: /slack/(hidden)"),
        "{}",
        daemon.log()
    );

    refuse_without_secrets(&mut daemon, &sink);
}

/// A configuration with mistakes in lines that have secrets.
fn refuse_without_secrets(daemon: &mut Daemon, sink: &Sink) {
    let broken = fs::read_to_string(&daemon.config).expect("config").replace("chat = -100", "chat = \"no\"");
    fs::write(&daemon.config, broken.replace("SESAME-topic", "SESAME topic")).expect("edit");
    let said = daemon.ctl.fails(4, &["reload"]);
    eventually("that is told, too", || sink.bodies().contains("configuration refused: "));
    assert!(said.contains("\"no\" is not a chat") && said.contains("this is not a topic"), "{said}");
    assert!(!said.contains("SESAME") && !daemon.log().contains("SESAME"), "{said}");
}

#[test]
fn what_is_not_taken_comes_again_when_the_service_wants_it() {
    let world = World::new();
    let busy = Sink::start(&world.backend, 9001, |number, _| {
        let slow = "HTTP/1.1 429 Slow\r\nretry-after: 4\r\ncontent-length: 0\r\n\r\n";
        Some(if number == 0 { slow } else { FINE }.to_owned())
    });
    let gone = Sink::start(&world.backend, 9002, |_, _| {
        Some("HTTP/1.1 404 Gone\r\ncontent-length: 30\r\n\r\n{\"message\": \"Unknown Webhook\"}".into())
    });
    let mute = Sink::start(&world.backend, 9003, |_, _| None);
    let quick = Sink::glad(&world.backend, 9004);
    let alerts = [("busy", 9001), ("gone", 9002), ("mute", 9003), ("quick", 9004)];
    let alerts: String = alerts.map(|(name, port)| hook(name, port, "on = \"daemon\"")).concat();
    let daemon = world.start_with(USER, &(alerts + WEB));
    eventually("it has it the second time", || busy.taken().len() == 2);
    let waited = busy.taken()[1].at.duration_since(busy.taken()[0].at);
    assert!(waited >= Duration::from_secs(4), "{waited:?}");
    assert_eq!(busy.taken()[0].body, busy.taken()[1].body);
    eventually("it is counted", || listed(&daemon, "busy")["sent"] == 1);
    assert_eq!(listed(&daemon, "busy")["last_error"], "HTTP 429");

    let view = listed(&daemon, "gone");
    assert_eq!(
        (&view["failed"], &view["last_error"], view["waiting"].as_u64()),
        (&json!(1), &json!("HTTP 404: Unknown Webhook"), Some(0))
    );
    assert_eq!((gone.taken().len(), quick.taken().len()), (1, 1), "once, whatever others do");
    let said = daemon.ctl.run(&["alert", "test", "gone"]);
    assert_eq!((said.code, said.out.as_str()), (1, "gone (webhook): FAILED: HTTP 404: Unknown Webhook\n"));

    // the one that says nothing has not been given up before its time is over
    let view = listed(&daemon, "mute");
    assert_eq!((mute.taken().len(), &view["waiting"]), (1, &json!(1)), "{view}");
    eventually("its time is over", || listed(&daemon, "mute")["last_error"] == "no answer within 10 s");
    eventually("it is asked again", || mute.taken().len() == 2);
}

#[test]
fn certificates_are_looked_at_and_proxies_are_gone_through() {
    let world = World::new();
    Authority::new(world.folder(), "ca").issue("server", "203.0.113.2");
    Authority::new(world.folder(), "other");
    let sink = Sink::glad(&world.backend, 9001);
    let (asked, onward) = (proxy(&world.backend, 9100), |kind: &str, port: u16, more: &str| {
        alert(
            kind,
            &format!(
                "kind = \"webhook\"\nurl = \"http{}://203.0.113.2:{port}/{kind}\"\n{more}",
                if port == 9001 { "" } else { "s" }
            ),
        )
    });
    let alerts = [
        onward("trusted", 9443, "ca = \"ca.pem\""),
        onward("stranger", 9444, "ca = \"other.pem\""),
        onward("public", 9445, ""),
        onward("lost", 9446, "ca = \"nosuch.pem\""),
        onward("connect", 9001, "proxy = \"http://me:secret@203.0.113.2:9100\""),
        onward("socks", 9001, "proxy = \"socks5://203.0.113.2:9100\""),
        onward("both", 9447, "ca = \"ca.pem\"\nproxy = \"http://203.0.113.2:9100\""),
    ];
    let alerts = alerts.map(|text| text.replace("name", "on = \"quota\"\nname")).concat();
    let daemon = world.start_with(USER, &alerts);
    let args = ["-cert", "server.pem", "-key", "server.key"];
    let _servers: Vec<Openssl> = [9443, 9444, 9445, 9447]
        .map(|port| Openssl::server(&world.backend, world.folder(), port, 9001, &args))
        .into();
    let test = |name: &str| daemon.ctl.run(&["alert", "test", name]);
    for name in ["trusted", "connect", "socks", "both"] {
        let said = test(name);
        assert_eq!(said.code, 0, "{name}: {said:?}");
        assert!(sink.taken().iter().any(|taken| taken.path == format!("/{name}")), "{name}");
    }
    assert_eq!(*asked.lock().expect("lock"), ["203.0.113.2:9001", "203.0.113.2:9001", "203.0.113.2:9447"]);
    for (name, why) in [
        ("stranger", "TLS: invalid peer certificate: "),
        ("public", "TLS: invalid peer certificate: UnknownIssuer"),
        ("lost", "nosuch.pem"),
    ] {
        let said = test(name);
        assert!(said.code == 1 && said.out.contains(why), "{name}: {said:?}");
    }
}

#[test]
fn mails_are_handed_over_with_a_password() {
    let world = World::new();
    Authority::new(world.folder(), "ca").issue("server", "203.0.113.2");
    // as in RFC 4616: no one else's name, the user, the password
    let plain = "AG1lAFNFU0FNRQ==";
    let (clear, sealed) = (Sink::mail(&world.relay, 2525, plain), Sink::mail(&world.backend, 2525, plain));
    let mail = |name: &str, place: &str, password: &str| {
        let from = "from = \"Relay <relay@example.com>\"\nto = [\"a@example.com\", \"b@example.com\"]";
        alert(
            name,
            &format!(
                "kind = \"smtp\"\n{from}\n{place}\nuser = \"me\"\npassword = \"{password}\"\non = \"daemon\""
            ),
        )
    };
    let here = "host = \"127.0.0.1\"\nport = 2525\ntls = \"none\"";
    let alerts = [
        mail("clear", here, "SESAME"),
        mail("wrong", here, "SESAM"),
        mail("sealed", "host = \"203.0.113.2\"\nport = 4465\nca = \"ca.pem\"", "SESAME")
            .replace("daemon", "quota"),
    ];
    let mut daemon = world.start_with(USER, &(alerts.concat() + WEB));
    eventually("it has come", || clear.taken().len() == 1);
    let mail = &clear.taken()[0];
    assert!(
        mail.path.starts_with("MAIL FROM:<relay@example.com>")
            && mail.path.ends_with("\nRCPT TO:<a@example.com>\nRCPT TO:<b@example.com>"),
        "{}",
        mail.path
    );
    let (head, body) = mail.body.split_once("\n\n").expect("head and body");
    assert!(
        head.contains("Subject: Relay ")
            && head.contains(" started: ")
            && head.contains("To: a@example.com, b@example.com"),
        "{head}"
    );
    assert!(body.contains(" relayd 0.1.0 started: ") && body.contains("1 of 1 rules active"), "{body}");
    eventually("it is refused", || listed(&daemon, "wrong")["failed"] == 1);
    let error = listed(&daemon, "wrong")["last_error"].as_str().expect("error").to_owned();
    assert!(error.contains("535") && error.contains("who are you?"), "{error}");
    let args = ["-cert", "server.pem", "-key", "server.key"];
    let _server = Openssl::server(&world.backend, world.folder(), 4465, 2525, &args);
    let said = daemon.ctl.ok(&["alert", "test", "sealed"]);
    assert!(said.starts_with("sealed (smtp): sent, in "), "{said}");
    assert!(sealed.bodies().contains("This is a test of the alert"), "{}", sealed.bodies());
    assert!(!daemon.log().contains("SESAM"), "{}", daemon.log());
}

#[test]
fn quotas_and_ends_are_told() {
    let world = World::new();
    let sink = Sink::glad(&world.backend, 9001);
    let day = Step::Day.label(calendar::now() + 2 * 86_400);
    let terms = format!("quota = \"100kB\"\nexpires = \"{day}T00:00:00Z\"\n");
    let _server = tcp_server(&world.backend, 81);
    let rule = "[[rule]]\nname = \"web\"\nlisten = \":80\"\nprotocol = \"tcp\"\nto = \"203.0.113.2:81\"\n";
    let terms_only = hook("terms", 9001, "on = [\"quota\", \"expiry\"]");
    let _daemon = world.start_with(USER, &(terms_only + rule + &terms));
    eventually("it ends soon", || codes(&sink).iter().any(|code| code == "expiry.soon"));
    // more than it may; how far it gets is another test's matter
    let _cut_off = Client::connect(&world.client, (RELAY, 80)).and_then(|client| client.upload(300_000));
    eventually("it is used up", || codes(&sink).iter().any(|code| code == "quota.exceeded"));
    let kinds: Vec<Value> =
        sink.taken().iter().map(|taken| taken.json()["events"][0]["kind"].clone()).collect();
    assert!(kinds.contains(&json!("expiry")) && kinds.contains(&json!("quota")), "{kinds:?}");
}

#[test]
fn a_reload_changes_alerts_and_keeps_what_waits() {
    let world = World::new();
    let daemon = world.start_with(
        USER,
        &(hook("late", 9001, "on = \"daemon\"\nrules = \"wep\"")
            + &hook("gone", 9002, "on = \"quota\"")
            + WEB),
    );
    eventually("nobody takes it", || listed(&daemon, "late")["last_error"].is_string());
    let before = fs::read_to_string(&daemon.config).expect("config");
    let after = before.replace("name = \"gone\"", "name = \"new\"").replace("\"quota\"", "\"reload\"");
    fs::write(&daemon.config, &after).expect("edit");
    let told = "alert new added\nalert gone removed\nnote: alert late: there is no rule wep\n";
    assert_eq!(daemon.ctl.ok(&["diff"]), format!("{told}(dry run: nothing was changed)\n"));
    let new = Sink::glad(&world.backend, 9002);
    assert_eq!(daemon.ctl.ok(&["reload"]), told);
    eventually("the new one hears of it", || new.bodies().contains("configuration reloaded"));
    assert_eq!(listed(&daemon, "late")["waiting"], 1, "it still waits");
    let late = Sink::glad(&world.backend, 9001);
    eventually("it is taken at last", || late.bodies().contains("started"));
    eventually("it waits no more", || listed(&daemon, "late")["waiting"] == 0);

    // another configuration for a while
    let path = world.folder().join("other.toml");
    fs::write(&path, after.replace("name = \"new\"", "name = \"newer\"")).expect("file");
    let said = daemon.ctl.ok(&["apply", &path.display().to_string(), "--confirm", "1s"]);
    assert!(said.contains("alert newer added\nalert new removed\n"), "{said}");
    let names = || -> Vec<Value> {
        let all = daemon.ctl.json(&["alert", "list"]);
        all.as_array().expect("list").iter().map(|alert| alert["name"].clone()).collect()
    };
    assert_eq!(names(), ["late", "newer"]);
    eventually("it is undone", || names() == ["late", "new"]);
}

#[test]
fn a_digest_that_is_due_says_what_has_happened_since() {
    let world = World::new();
    let state = world.folder().join("state");
    fs::create_dir_all(&state).expect("folder");
    let kept = json!({ "format": 1, "digests": { "daily": { "time": 1_700_000_000, "rules": { "web": [0, 0, 0] } } } });
    fs::write(state.join("digests.json"), kept.to_string()).expect("file");
    let sink = Sink::glad(&world.backend, 9001);
    let daily = hook("daily", 9001, "on = []\ndigest = \"daily:08:00\"\ntz = \"Asia/Shanghai\"");
    let mut daemon = world.start_with(USER, &(daily + WEB));
    eventually("it has come", || sink.taken().len() == 1);
    let message = sink.taken()[0].json();
    let text = message["text"].as_str().expect("text");
    assert!(message["title"].as_str().is_some_and(|title| title.ends_with(": digest")), "{message}");
    assert!(
        text.starts_with("2023-11-15 06:13 to 20") && text.contains(" Asia/Shanghai\nrelayd up "),
        "{text}"
    );
    assert!(text.contains("; 1 rule: 1 active\n") && text.contains("\nwithout traffic: web"), "{text}");
    assert!(text.contains("web: backend 203.0.113.2:81 has not answered yet: connection refused"), "{text}");
    // it is not sent twice, by the next relayd neither
    eventually("it is kept", || {
        !fs::read_to_string(state.join("digests.json")).expect("file").contains("1700000000")
    });
    daemon.stop();
    daemon.start_again(&world.relay);
    std::thread::sleep(Duration::from_secs(12));
    assert_eq!(sink.taken().len(), 1);
}

#[test]
fn mistakes_are_told_with_their_line_and_nothing_is_sent_to_who_is_not_there() {
    let world = World::new();
    let daemon = world.start_with(USER, WEB);
    let ctl = &daemon.ctl;
    assert_eq!(
        ctl.ok(&["alert", "list"]),
        "no alerts; write an [[alert]] into relay.toml, see `man relay.toml`\n"
    );
    assert_eq!(ctl.ok(&["alert", "test"]), "there are no alerts to test\n");
    assert!(
        ctl.fails(1, &["alert", "test", "nosuch"])
            .contains("there is no alert \"nosuch\"; `relayctl alert list` shows all")
    );
    assert!(ctl.fails(2, &["alert", "test", "no such"]).contains("a name is 1 to 64 of"));
    let path = world.folder().join("bad.toml");
    fs::write(
        &path,
        settings(world.folder(), "") + "[[alert]]\nname = \"a\"\nkind = \"slack\"\nurl = \"SESAME\"\n",
    )
    .expect("file");
    let output = Command::new(binary("relayctl")).arg("check").arg(&path).output().expect("relayctl");
    let said = Said::from(output);
    assert_eq!(said.code, 4, "{said:?}");
    assert!(
        said.err.contains(
            "bad.toml:11:7: alert \"a\": url: this is not a URL of http or https; write one such as"
        ),
        "{said:?}"
    );
    assert!(said.err.contains("11 | url = ********") && !said.err.contains("SESAME"), "{said:?}");
}
