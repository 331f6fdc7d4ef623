//! Where an alert goes: the services, and what each has to be told. Plain values.

use std::path::PathBuf;

use data_encoding::BASE64;
use http::{HeaderName, HeaderValue, Method, Uri};
use lettre::message::Mailbox;

use super::secret::{Secret, Url};
use super::template::{Format, Template, percent};

/// What a message is carried by.
#[derive(Clone, Debug, Eq, PartialEq)]
pub enum Channel {
    Web(Box<Web>),
    Smtp(Box<Smtp>),
}

/// A service that is spoken to by HTTP.
#[derive(Clone, Debug, Eq, PartialEq)]
pub struct Web {
    pub service: Service,
    pub proxy: Option<Proxy>,
    /// The authorities that its certificate is looked at by. `None`: those that browsers know.
    pub ca: Option<PathBuf>,
}

/// Whom to speak to, and how.
#[derive(Clone, Debug, Eq, PartialEq)]
pub enum Service {
    Telegram { token: Secret, chat: Box<str>, api_base: Url },
    Wecom { url: Url },
    Feishu { url: Url, secret: Option<Secret> },
    Dingtalk { url: Url, secret: Option<Secret> },
    Discord { url: Url },
    Slack { url: Url },
    Ntfy { url: Url, topic: Secret, token: Option<Secret> },
    Bark { server: Url, key: Secret },
    Webhook(Webhook),
}

/// Any URL.
#[derive(Clone, Debug, Eq, PartialEq)]
pub struct Webhook {
    /// Filled in it is a URL; looked at when it was read.
    pub url: HiddenTemplate,
    pub method: Method,
    pub headers: Vec<(HeaderName, Secret)>,
    pub body: Body,
}

/// What a webhook is sent.
#[derive(Clone, Debug, Eq, PartialEq)]
pub enum Body {
    /// The method has none.
    None,
    /// Everything, as JSON.
    Whole,
    Filled(HiddenTemplate, Format),
}

/// A template that may have keys in it.
#[derive(Clone, Eq, PartialEq)]
pub struct HiddenTemplate(pub Template);

impl std::fmt::Debug for HiddenTemplate {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str(super::secret::HIDDEN)
    }
}

/// Who carries requests on.
#[derive(Clone, Debug, Eq, PartialEq)]
pub struct Proxy {
    pub kind: ProxyKind,
    pub host: Box<str>,
    pub port: u16,
    pub login: Option<(Secret, Secret)>,
}

#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub enum ProxyKind {
    /// By CONNECT.
    Http,
    /// SOCKS 5 (RFC 1928); the proxy looks names up.
    Socks5,
}

impl Proxy {
    /// What a proxy may look like, for error texts.
    pub const FORMS: &str =
        r#"write one such as "socks5://127.0.0.1:1080" or "http://user:password@192.0.2.1:3128""#;

    /// `None` for anything that is not scheme, perhaps user and password, host and port.
    pub fn parse(text: &str) -> Option<Self> {
        let (scheme, rest) = text.split_once("://")?;
        let kind = match scheme {
            "http" => ProxyKind::Http,
            "socks5" | "socks5h" => ProxyKind::Socks5,
            _ => return None,
        };
        let rest = rest.strip_suffix('/').unwrap_or(rest);
        let (login, place) = match rest.rsplit_once('@') {
            Some((login, place)) => {
                let (user, password) = login.split_once(':')?;
                (Some((Secret::new(user), Secret::new(password))), place)
            }
            None => (None, rest),
        };
        let uri: Uri = format!("http://{place}/").parse().ok()?;
        let host = uri.host().filter(|host| !host.is_empty())?;
        let port = uri.port_u16().filter(|port| *port != 0)?;
        Some(Self { kind, host: host.into(), port, login })
    }

    /// Where it is, for a connector. `None` never is: it was one when it was read.
    pub fn uri(&self) -> Option<Uri> {
        format!("http://{}:{}/", self.host, self.port).parse().ok()
    }

    /// What an HTTP proxy is told of who we are (RFC 7617).
    pub fn authorization(&self) -> Option<HeaderValue> {
        let (user, password) = self.login.as_ref()?;
        let text = format!("{}:{}", user.expose(), password.expose());
        let mut value = HeaderValue::from_str(&format!("Basic {}", BASE64.encode(text.as_bytes()))).ok()?;
        value.set_sensitive(true);
        Some(value)
    }
}

/// A mailbox behind a server.
#[derive(Clone, Debug, Eq, PartialEq)]
pub struct Smtp {
    pub host: Box<str>,
    pub port: u16,
    pub security: Security,
    pub login: Option<(Box<str>, Secret)>,
    pub from: Mailbox,
    pub to: Vec<Mailbox>,
    pub ca: Option<PathBuf>,
}

/// How a mail server is spoken to.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub enum Security {
    /// TLS from the first byte.
    Implicit,
    /// TLS before anything is said that matters, or nothing is.
    Starttls,
    None,
}

impl Security {
    pub const WORDS: [&str; 3] = ["implicit", "starttls", "none"];

    pub fn parse(text: &str) -> Option<Self> {
        [Self::Implicit, Self::Starttls, Self::None].into_iter().find(|known| known.as_str() == text)
    }

    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Implicit => "implicit",
            Self::Starttls => "starttls",
            Self::None => "none",
        }
    }

    /// The usual port.
    pub const fn port(self) -> u16 {
        match self {
            Self::Implicit => 465,
            Self::Starttls => 587,
            Self::None => 25,
        }
    }
}

impl Channel {
    /// Every `kind`.
    pub const KINDS: [&str; 10] =
        ["telegram", "wecom", "feishu", "dingtalk", "discord", "slack", "ntfy", "bark", "webhook", "smtp"];

    pub const fn kind(&self) -> &'static str {
        match self {
            Self::Smtp(_) => "smtp",
            Self::Web(web) => match web.service {
                Service::Telegram { .. } => "telegram",
                Service::Wecom { .. } => "wecom",
                Service::Feishu { .. } => "feishu",
                Service::Dingtalk { .. } => "dingtalk",
                Service::Discord { .. } => "discord",
                Service::Slack { .. } => "slack",
                Service::Ntfy { .. } => "ntfy",
                Service::Bark { .. } => "bark",
                Service::Webhook(_) => "webhook",
            },
        }
    }

    /// What may stand in no log and no answer, wherever it comes from.
    pub fn secrets(&self) -> Vec<String> {
        let mut found = match self {
            Self::Smtp(smtp) => smtp.login.iter().map(|(_, password)| password.expose().to_owned()).collect(),
            Self::Web(web) => {
                let login = web.proxy.iter().filter_map(|proxy| proxy.login.as_ref());
                let login = login.flat_map(|(user, password)| [user, password]);
                let mut found = web.service.secrets();
                found.extend(login.map(|secret| secret.expose().to_owned()));
                found
            }
        };
        // as they stand in a URL
        found.extend(found.clone().iter().map(|secret| percent(secret)));
        found.retain(|secret| !secret.is_empty());
        found
    }
}

impl Service {
    /// Whether it is spoken to over TLS.
    pub fn is_secure(&self) -> bool {
        let is_https = |url: &Url| url.uri().scheme_str() == Some("https");
        match self {
            Self::Telegram { api_base: url, .. }
            | Self::Wecom { url }
            | Self::Feishu { url, .. }
            | Self::Dingtalk { url, .. }
            | Self::Discord { url }
            | Self::Slack { url }
            | Self::Ntfy { url, .. }
            | Self::Bark { server: url, .. } => is_https(url),
            Self::Webhook(webhook) => webhook.url.0.source().starts_with("https:"),
        }
    }

    fn secrets(&self) -> Vec<String> {
        let text = |secret: &Secret| secret.expose().to_owned();
        match self {
            Self::Telegram { token, api_base, .. } => {
                let mut found = api_base.secrets();
                found.push(text(token));
                found
            }
            Self::Wecom { url } | Self::Discord { url } | Self::Slack { url } => url.secrets(),
            Self::Feishu { url, secret } | Self::Dingtalk { url, secret } => {
                let mut found = url.secrets();
                found.extend(secret.as_ref().map(text));
                found
            }
            Self::Ntfy { url, topic, token } => {
                let mut found = url.secrets();
                found.push(text(topic));
                found.extend(token.as_ref().map(text));
                found
            }
            Self::Bark { server, key } => {
                let mut found = server.secrets();
                found.push(text(key));
                found
            }
            Self::Webhook(webhook) => webhook.secrets(),
        }
    }
}

impl Webhook {
    fn secrets(&self) -> Vec<String> {
        let url = self.url.0.fill(Format::Form, |_| String::new());
        let mut found = Url::parse(&url).map(|url| url.secrets()).unwrap_or_default();
        for (_, value) in &self.headers {
            found.push(value.expose().to_owned());
            // of "Bearer TOKEN" the token alone may come back
            found.extend(value.expose().split_once(' ').map(|(_, rest)| rest.to_owned()));
        }
        if let Body::Filled(template, _) = &self.body {
            found.extend(template.0.words().map(ToOwned::to_owned));
        }
        found
    }
}

#[cfg(test)]
pub mod tests {
    use std::time::Duration;

    use jiff::tz::TimeZone;

    use super::super::kinds::EventKinds;
    use super::super::{Alert, AlertName};
    use super::*;

    pub fn url(text: &str) -> Url {
        Url::parse(text).expect("URL")
    }

    pub fn template(text: &str) -> HiddenTemplate {
        HiddenTemplate(Template::parse(text).expect("template"))
    }

    pub fn webhook(url: &str) -> Service {
        Service::Webhook(Webhook {
            url: template(url),
            method: Method::POST,
            headers: Vec::new(),
            body: Body::Whole,
        })
    }

    /// One that waits for nothing.
    pub fn alert(service: Service) -> Alert {
        Alert {
            name: AlertName::parse("a").expect("name"),
            channel: Channel::Web(Box::new(Web { service, proxy: None, ca: None })),
            events: EventKinds::all(),
            rules: None,
            digest: None,
            zone: TimeZone::UTC,
            gather: Duration::from_millis(1),
            min_interval: Duration::from_millis(1),
        }
    }

    #[test]
    fn no_secret_is_seen_in_debug_output() {
        let secret = || Secret::new("sesame-1");
        let services = [
            Service::Telegram {
                token: secret(),
                chat: "1".into(),
                api_base: url("http://192.0.2.1/sesame-1"),
            },
            Service::Feishu { url: url("http://192.0.2.1/sesame-1"), secret: Some(secret()) },
            Service::Ntfy { url: url("http://192.0.2.1/"), topic: secret(), token: Some(secret()) },
            Service::Bark { server: url("http://192.0.2.1/"), key: secret() },
            Service::Webhook(Webhook {
                url: template("http://192.0.2.1/sesame-1?{{text}}"),
                method: Method::POST,
                headers: vec![(HeaderName::from_static("authorization"), Secret::new("Bearer sesame-1"))],
                body: Body::Filled(template("sesame-1"), Format::Plain),
            }),
        ];
        for service in services {
            let mut alert = alert(service);
            let Channel::Web(web) = &mut alert.channel else { unreachable!("it is one") };
            web.proxy = Proxy::parse("http://me:sesame-1@192.0.2.1:3128");
            assert!(web.proxy.is_some());
            let shown = format!("{alert:?}");
            assert!(!shown.contains("sesame"), "{shown}");
            assert!(alert.channel.secrets().iter().any(|secret| secret == "sesame-1"), "{shown}");
        }
    }

    #[test]
    fn proxies_have_a_kind_a_host_and_a_port() {
        let read =
            |text: &str| Proxy::parse(text).map(|proxy| (proxy.kind, proxy.host.to_string(), proxy.port));
        assert_eq!(read("socks5://127.0.0.1:1080"), Some((ProxyKind::Socks5, "127.0.0.1".into(), 1080)));
        assert_eq!(read("http://a:b@[::1]:3128/"), Some((ProxyKind::Http, "[::1]".into(), 3128)));
        for text in [
            "",
            "127.0.0.1:1080",
            "https://192.0.2.1:1",
            "http://192.0.2.1",
            "http://a@192.0.2.1:1",
            "http://:1",
        ] {
            assert_eq!(read(text), None, "{text}");
        }
        let proxy = Proxy::parse("http://user:pass@192.0.2.1:3128").expect("proxy");
        let header = proxy.authorization().expect("header");
        assert_eq!(header.to_str().ok(), Some("Basic dXNlcjpwYXNz"));
    }
}
