//! What `[[alert]]` may say, and what it is told when it says something else.

use std::path::Path;

use super::super::super::files::Config;
use super::super::super::problem::{Problems, Source};
use super::*;
use crate::alert::channel::{Body, Security, Service};

fn read(text: &str) -> Result<Alert, String> {
    let text = format!("[[alert]]\nname = \"a\"\n{text}\n");
    let sources = vec![Source { path: "/etc/relay/relay.toml".into(), text }];
    let config =
        Config::parse(Problems { sources, list: Vec::new() }).map_err(|problems| problems.to_string())?;
    config.alerts.first().map(|alert| (**alert).clone()).ok_or_else(|| "no alert".into())
}

fn good(text: &str) -> Alert {
    read(text).unwrap_or_else(|problems| panic!("{text}: {problems}"))
}

fn service(text: &str) -> Service {
    match good(text).channel {
        Channel::Web(web) => web.service,
        Channel::Smtp(smtp) => panic!("{smtp:?}"),
    }
}

#[test]
fn every_kind_is_read() {
    let telegram =
        service("kind = \"telegram\"\ntoken = \"1:a_B-\"\nchat = -100\napi_base = \"http://127.0.0.1:1/x\"");
    assert!(
        matches!(&telegram, Service::Telegram { chat, api_base, .. } if &**chat == "-100" && api_base.expose() == "http://127.0.0.1:1/x")
    );
    assert!(
        matches!(service("kind = \"telegram\"\ntoken = \"1:a\"\nchat = \"@me\""), Service::Telegram { chat, .. } if &*chat == "@me")
    );
    let wecom = "https://qyapi.weixin.qq.com/cgi-bin/webhook/send?key=k-1";
    for text in ["key = \"k-1\"", &format!("url = \"{wecom}\"")] {
        let service = service(&format!("kind = \"wecom\"\n{text}"));
        assert!(matches!(&service, Service::Wecom { url } if url.expose() == wecom), "{text}");
    }
    let url = "url = \"https://192.0.2.1/k\"";
    assert!(matches!(
        service(&format!("kind = \"feishu\"\n{url}\nsecret = \"s\"")),
        Service::Feishu { secret: Some(_), .. }
    ));
    assert!(matches!(
        service(&format!("kind = \"dingtalk\"\n{url}")),
        Service::Dingtalk { secret: None, .. }
    ));
    assert!(matches!(service(&format!("kind = \"discord\"\n{url}")), Service::Discord { .. }));
    assert!(matches!(service(&format!("kind = \"slack\"\n{url}")), Service::Slack { .. }));
    for text in
        ["topic = \"t\"\ntoken = \"tk\"\nurl = \"http://192.0.2.1:80\"", "url = \"http://192.0.2.1:80/t\""]
    {
        let ntfy = service(&format!("kind = \"ntfy\"\n{text}"));
        assert!(
            matches!(&ntfy, Service::Ntfy { url, topic, .. } if url.expose() == "http://192.0.2.1:80/" && topic.expose() == "t"),
            "{text}"
        );
    }
    assert!(
        matches!(service("kind = \"bark\"\nkey = \"k\""), Service::Bark { server, .. } if server.expose() == "https://api.day.app/")
    );
    let hook = service(
        "kind = \"webhook\"\nurl = \"http://192.0.2.1/{{rule}}\"\nmethod = \"PUT\"\nheaders = { x-a = \"b\" }\nbody = '{\"t\": \"{{text}}\"}'",
    );
    assert!(
        matches!(&hook, Service::Webhook(hook) if hook.headers.len() == 1 && matches!(hook.body, Body::Filled(..)))
    );
    assert!(
        matches!(service("kind = \"webhook\"\nurl = \"http://192.0.2.1/?{{text}}\"\nmethod = \"GET\""), Service::Webhook(hook) if hook.body == Body::None)
    );
}

#[test]
fn mail_servers_have_their_usual_ports() {
    let smtp = |text: &str| {
        match good(&format!("kind = \"smtp\"\nhost = \"mail.example.com\"\nfrom = \"a@example.com\"\nto = \"B <b@example.com>\"\n{text}")).channel {
        Channel::Smtp(smtp) => smtp,
        Channel::Web(web) => panic!("{web:?}"),
    }
    };
    assert_eq!((smtp("").port, smtp("").security), (465, Security::Implicit));
    assert_eq!(smtp("tls = \"starttls\"").port, 587);
    assert_eq!(smtp("tls = \"none\"").port, 25);
    let full = smtp("port = 2525\nuser = \"u\"\npassword = \"p\"\nca = \"ca.pem\"");
    assert_eq!((full.port, full.ca.as_deref()), (2525, Some(Path::new("/etc/relay/ca.pem"))));
    assert!(full.login.is_some() && full.to.len() == 1);
}

#[test]
fn what_is_not_said_has_its_usual_value() {
    let alert = good("kind = \"bark\"\nkey = \"k\"");
    assert_eq!((alert.events, alert.rules, alert.digest), (EventKinds::all(), None, None));
    assert_eq!((alert.gather, alert.min_interval), (Alert::GATHER, Alert::MIN_INTERVAL));
    let alert = good(
        "kind = \"bark\"\nkey = \"k\"\non = \"backend\"\nrules = [\"web\"]\ndigest = \"daily:08:00\"\ntz = \"Asia/Shanghai\"\ngather = \"100ms\"\nmin_interval = \"1m\"",
    );
    assert_eq!(
        (alert.events.names().collect::<Vec<_>>(), alert.rules.map(|rules| rules.len())),
        (vec!["backend"], Some(1))
    );
    assert_eq!(
        (alert.digest.map(|digest| digest.to_string()).as_deref(), alert.zone.iana_name()),
        (Some("daily:08:00"), Some("Asia/Shanghai"))
    );
    assert_eq!((alert.gather.as_millis(), alert.min_interval.as_secs()), (100, 60));
    assert!(good("kind = \"bark\"\nkey = \"k\"\non = []\ndigest = \"daily:08:00\"").events.is_empty());
}

/// What is written, and what is said about it.
const MISTAKES: &[(&str, &[&str])] = &[
    ("", &["the alert has no kind; kind is one of \"telegram\", \"wecom\""]),
    ("kind = \"sms\"", &["kind: \"sms\" is not known here", "\"smtp\""]),
    ("kind = \"telegram\"\nchat = 1", &["there is no `token`, and this kind needs one"]),
    ("kind = \"telegram\"\ntoken = \"sesame\"\nchat = 1", &["this is not the token of a bot", "@BotFather"]),
    (
        "kind = \"telegram\"\ntoken = \"1:sesame\"\nchat = \"me\"",
        &["chat: \"me\" is not a chat", "-1001234567890"],
    ),
    ("kind = \"telegram\"\ntoken = 5\nchat = 1", &["token: this is not a text in quotes"]),
    (
        "kind = \"telegram\"\ntoken = \"1:sesame\"\nchat = 1\nproxy = \"me:sesame@192.0.2.1\"",
        &["proxy: this is not a proxy", "socks5://127.0.0.1:1080"],
    ),
    ("kind = \"wecom\"", &["there is no `key`"]),
    (
        "kind = \"wecom\"\nkey = \"sesame\"\nurl = \"https://192.0.2.1/sesame\"",
        &["url: there is a `key` as well"],
    ),
    (
        "kind = \"slack\"\nurl = \"192.0.2.1/sesame\"",
        &["url: this is not a URL of http or https", "https://example.com/hook"],
    ),
    (
        "kind = \"slack\"\nurl = \"https://192.0.2.1/sesame\"\ntoken = \"sesame\"",
        &["there is no key `token`", "known are"],
    ),
    ("kind = \"slack\"\nurl = \"http://192.0.2.1/sesame\"\nca = \"ca.pem\"", &["ca: the URL has no TLS"]),
    ("kind = \"ntfy\"\nurl = \"https://ntfy.sh\"", &["there is no `topic`"]),
    ("kind = \"ntfy\"\ntopic = \"sesame open\"", &["topic: this is not a topic"]),
    (
        "kind = \"webhook\"\nurl = \"https://192.0.2.1/\"\nmethod = \"DELETE\"",
        &["method: \"DELETE\" is not known here"],
    ),
    ("kind = \"webhook\"\nurl = \"https://{{host}}/sesame\"", &["url: this is not a URL"]),
    (
        "kind = \"webhook\"\nurl = \"https://192.0.2.1/{{sesam}}\"",
        &["url: there is no placeholder {{sesam}}", "{{title}}"],
    ),
    (
        "kind = \"webhook\"\nurl = \"https://192.0.2.1/\"\nbody = '{\"a\": {{text}}}'",
        &["body: filled in, this is not JSON", "inside of strings"],
    ),
    (
        "kind = \"webhook\"\nurl = \"https://192.0.2.1/\"\nmethod = \"GET\"\nbody = \"sesame\"",
        &["body: a GET has no body"],
    ),
    (
        "kind = \"webhook\"\nurl = \"https://192.0.2.1/\"\nformat = \"form\"",
        &["format: there is no `body` of that format"],
    ),
    (
        "kind = \"webhook\"\nurl = \"https://192.0.2.1/\"\nheaders = { host = \"sesame\" }",
        &["\"host\" cannot be set"],
    ),
    (
        "kind = \"webhook\"\nurl = \"https://192.0.2.1/\"\nheaders = { a = \"sesame\\n\" }",
        &["this is not what a header \"a\" can say"],
    ),
    (
        "kind = \"smtp\"\nhost = \"mail.example.com:25\"\nfrom = \"a@b.test\"\nto = \"a@b.test\"",
        &["host: \"mail.example.com:25\" is not the name or address"],
    ),
    (
        "kind = \"smtp\"\nhost = \"mail.example.com\"\nfrom = \"nobody\"\nto = []",
        &["from: \"nobody\" is not a mail address", "to: the list is empty"],
    ),
    (
        "kind = \"smtp\"\nhost = \"mail.example.com\"\nfrom = \"a@b.test\"\nto = \"a@b.test\"\npassword = \"sesame\"",
        &["password: there is no `user`"],
    ),
    (
        "kind = \"smtp\"\nhost = \"mail.example.com\"\nfrom = \"a@b.test\"\nto = \"a@b.test\"\nuser = \"me\"\npassword = \"sesame\"\ntls = \"none\"",
        &["password: it would go in clear"],
    ),
    (
        "kind = \"bark\"\nkey = \"sesame\"\non = [\"backends\"]",
        &["on: \"backends\" is no kind of event", "\"backend\", \"rule\""],
    ),
    ("kind = \"bark\"\nkey = \"sesame\"\non = []", &["on: nothing would ever be sent"]),
    ("kind = \"bark\"\nkey = \"sesame\"\nrules = [\"a b\"]", &["rules: \"a b\" is not a rule name"]),
    (
        "kind = \"bark\"\nkey = \"sesame\"\ndigest = \"8 o'clock\"",
        &["digest: \"8 o'clock\" is no time for a digest", "daily:08:00"],
    ),
    (
        "kind = \"bark\"\nkey = \"sesame\"\ntz = \"Mars\"",
        &["tz: \"Mars\" is not a time zone", "Asia/Shanghai"],
    ),
    (
        "kind = \"bark\"\nkey = \"sesame\"\ngather = \"2h\"",
        &["gather: \"2h\" is too long", "1h is the longest"],
    ),
    ("kind = \"bark\"\nkey = \"sesame\"\nurl = \"https://192.0.2.1/sesame\"", &["there is no key `url`"]),
    (
        "kind = \"bark\"\nkey = \"sesame\"\n[[alert]]\nname = \"a\"\nkind = \"bark\"\nkey = \"sesame\"",
        &["two alerts are called \"a\"", "the other one is at"],
    ),
];

#[test]
fn mistakes_are_told_with_their_remedy_and_without_secrets() {
    for (text, parts) in MISTAKES {
        let said = read(text).expect_err(text);
        for part in *parts {
            assert!(said.contains(part), "{text}\n{part}\n{said}");
        }
        assert!(!said.contains("sesame"), "{text}\n{said}");
    }
}
