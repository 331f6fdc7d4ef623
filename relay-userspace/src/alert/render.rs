//! A message as the request that a service wants: where to, which headers, which body.

mod chat;
mod push;
mod webhook;

use bytes::Bytes;
use http::header::{AUTHORIZATION, CONTENT_TYPE};
use http::{HeaderMap, HeaderValue, Method, Uri};
use serde_json::Value;

use super::channel::Service;
use super::message::Message;
use super::secret::Secret;
use super::template::Format;

/// A request that is ready to be sent.
#[derive(Clone, Debug)]
pub struct Post {
    pub method: Method,
    pub uri: Uri,
    pub headers: HeaderMap,
    pub body: Bytes,
}

/// What cannot be rendered, since a secret makes no URL or header. It names no secret.
#[derive(Clone, Copy, Debug, Eq, PartialEq, thiserror::Error)]
#[error("{0} cannot stand in a request")]
pub struct Unsendable(&'static str);

/// The request for a message. `now`: milliseconds since 1970, for signatures.
pub fn post(service: &Service, message: &Message, now: u64) -> Result<Post, Unsendable> {
    match service {
        Service::Telegram { token, chat, api_base } => chat::telegram(token, chat, api_base, message),
        Service::Wecom { url } => chat::wecom(url, message),
        Service::Feishu { url, secret } => chat::feishu(url, secret.as_ref(), message, now),
        Service::Dingtalk { url, secret } => chat::dingtalk(url, secret.as_ref(), message, now),
        Service::Discord { url } => chat::discord(url, message),
        Service::Slack { url } => chat::slack(url, message),
        Service::Ntfy { url, topic, token } => push::ntfy(url, topic, token.as_ref(), message),
        Service::Bark { server, key } => push::bark(server, key, message),
        Service::Webhook(webhook) => webhook::post(webhook, message),
    }
}

fn json_post(url: &str, body: &Value) -> Result<Post, Unsendable> {
    let mut headers = HeaderMap::new();
    headers.insert(CONTENT_TYPE, HeaderValue::from_static(Format::Json.content_type()));
    Ok(Post { method: Method::POST, uri: uri(url)?, headers, body: body.to_string().into() })
}

fn uri(url: &str) -> Result<Uri, Unsendable> {
    url.parse().map_err(|_form| Unsendable("the URL"))
}

/// `Authorization: Bearer TOKEN` (RFC 6750).
fn bearer(post: &mut Post, token: &Secret) -> Result<(), Unsendable> {
    let value = HeaderValue::from_str(&format!("Bearer {}", token.expose()));
    let mut value = value.map_err(|_form| Unsendable("the token"))?;
    value.set_sensitive(true);
    post.headers.insert(AUTHORIZATION, value);
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::super::channel::tests::url;
    use super::super::channel::{Body, Webhook};
    use super::super::message::tests::{EIGHT, message};
    use super::*;

    /// Means something in every one of the services.
    const NASTY: &str = "<!channel> <at user_id=\"all\"></at> @everyone *b* & \"q\" \\ 香港";

    fn sent(service: &Service, text: &str) -> (Post, Value) {
        let post = post(service, &message(&[text]), EIGHT * 1000).expect("post");
        let body = serde_json::from_slice(&post.body).expect("JSON");
        (post, body)
    }

    fn all() -> Vec<Service> {
        let url = || url("https://hook.example.com/send?key=abc");
        let secret = || Secret::new("sesame");
        vec![
            Service::Telegram { token: Secret::new("1:a"), chat: "-100".into(), api_base: url() },
            Service::Wecom { url: url() },
            Service::Feishu { url: url(), secret: Some(secret()) },
            Service::Dingtalk { url: url(), secret: Some(secret()) },
            Service::Discord { url: url() },
            Service::Slack { url: url() },
            Service::Ntfy { url: url(), topic: secret(), token: Some(secret()) },
            Service::Bark { server: url(), key: secret() },
        ]
    }

    #[test]
    fn every_service_gets_what_it_documents() {
        let api_base = url("https://api.telegram.org");
        let telegram = Service::Telegram { token: Secret::new("1:a_B-c"), chat: "-100".into(), api_base };
        let (post, body) = sent(&telegram, NASTY);
        assert_eq!(post.uri, "https://api.telegram.org/bot1:a_B-c/sendMessage");
        assert_eq!((&body["chat_id"], body.get("parse_mode")), (&Value::from("-100"), None));
        let text = NASTY.replace('@', "@\u{2060}");
        assert_eq!(body["text"], format!("Relay vps1\n08:00:00 {text}"), "no parse mode");

        let (_, body) = sent(&Service::Wecom { url: url("https://hook.example.com/?key=k") }, NASTY);
        assert_eq!(
            (&body["msgtype"], &body["text"]["content"]),
            (&"text".into(), &Value::from(format!("Relay vps1\n08:00:00 {NASTY}")))
        );

        let feishu =
            Service::Feishu { url: url("https://hook.example.com/x"), secret: Some(Secret::new("demo")) };
        let (_, body) = sent(&feishu, NASTY);
        assert!(!body["content"]["text"].as_str().expect("text").contains('<'), "{body}");
        assert_eq!(
            (&body["timestamp"], &body["msg_type"]),
            (&Value::from(EIGHT.to_string()), &"text".into())
        );
        assert_eq!(body["sign"], super::super::sign::feishu("demo", EIGHT));

        let dingtalk = Service::Dingtalk {
            url: url("https://hook.example.com/send?access_token=t"),
            secret: Some(Secret::new("demo")),
        };
        let (post, body) = sent(&dingtalk, NASTY);
        let query = post.uri.query().expect("query");
        assert!(query.starts_with(&format!("access_token=t&timestamp={}&sign=", EIGHT * 1000)), "{query}");
        assert!(query.ends_with("%3D"), "the signature is escaped: {query}");
        assert_eq!((&body["msgtype"], &body["at"]["isAtAll"]), (&"text".into(), &false.into()));

        let (_, body) = sent(&Service::Discord { url: url("https://hook.example.com/") }, NASTY);
        assert_eq!(body["allowed_mentions"], serde_json::json!({ "parse": [] }));
        assert!(body["content"].as_str().expect("text").contains(r"\@everyone \*b\* & "), "{body}");

        let (_, body) = sent(&Service::Slack { url: url("https://hook.example.com/") }, NASTY);
        assert_eq!((&body["mrkdwn"], &body["link_names"]), (&false.into(), &false.into()));
        assert!(body["text"].as_str().expect("text").contains("&lt;!channel&gt;"), "{body}");

        let ntfy = Service::Ntfy {
            url: url("https://ntfy.sh"),
            topic: Secret::new("relay"),
            token: Some(Secret::new("tk_1")),
        };
        let (post, body) = sent(&ntfy, NASTY);
        assert_eq!(
            (post.uri.to_string().as_str(), &post.headers[AUTHORIZATION]),
            ("https://ntfy.sh/", &HeaderValue::from_static("Bearer tk_1"))
        );
        assert_eq!((&body["topic"], &body["title"]), (&"relay".into(), &"Relay vps1".into()));

        let bark = Service::Bark { server: url("https://api.day.app"), key: Secret::new("k1") };
        let (post, body) = sent(&bark, NASTY);
        assert_eq!((post.uri.path(), &body["device_key"]), ("/push", &"k1".into()));
    }

    #[test]
    fn no_message_is_longer_than_its_service_takes() {
        let long = "香😀&<*".repeat(2000);
        let many: Vec<&str> = std::iter::repeat_n("backend 203.0.113.2:81 is <down>", 900).collect();
        for (service, most) in all().iter().zip([4096, 2048, 20_000, 20_000, 2000, 4000, 4096, 4096]) {
            for message in [message(&[&long]), message(&many)] {
                let post = post(service, &message, EIGHT * 1000).expect("post");
                let body: Value = serde_json::from_slice(&post.body).expect("JSON");
                let texts =
                    ["text", "content", "message", "body"].into_iter().filter_map(|key| match &body[key] {
                        Value::String(text) => Some(text.clone()),
                        inner => inner["content"].as_str().or(inner["text"].as_str()).map(ToOwned::to_owned),
                    });
                let text = texts.max_by_key(String::len).expect("a text");
                let size = match service {
                    Service::Telegram { .. } | Service::Discord { .. } | Service::Slack { .. } => {
                        text.encode_utf16().count()
                    }
                    Service::Feishu { .. } | Service::Bark { .. } => post.body.len(),
                    _ => text.len(),
                };
                assert!(size <= most, "{service:?}: {size} of {most}");
                assert!(size > most / 4, "{service:?}: {size} of {most} is too careful");
                assert!(text.contains('…'), "{service:?}");
            }
        }
    }

    #[test]
    fn a_webhook_is_what_its_template_says() {
        let hook = |url: &str, method: Method, body: Body| {
            let headers = vec![(http::HeaderName::from_static("x-key"), Secret::new("k"))];
            Service::Webhook(Webhook {
                url: super::super::channel::tests::template(url),
                method,
                headers,
                body,
            })
        };
        let fill = |text: &str, format| Body::Filled(super::super::channel::tests::template(text), format);
        let message = message(&[NASTY]);
        let whole = post(&hook("http://192.0.2.1/", Method::POST, Body::Whole), &message, 0).expect("post");
        let body: Value = serde_json::from_slice(&whole.body).expect("JSON");
        assert_eq!(
            (&body["events"][0]["code"], &body["events"][0]["text"]),
            (&"backend.down".into(), &NASTY.into())
        );
        assert_eq!(
            (&whole.headers["x-key"], &whole.headers[CONTENT_TYPE]),
            (&HeaderValue::from_static("k"), &HeaderValue::from_static("application/json"))
        );

        let form = hook("http://192.0.2.1/", Method::PUT, fill("a={{rule}}&b={{text}}", Format::Form));
        let form = post(&form, &message, 0).expect("post");
        assert!(form.body.starts_with(b"a=web&b=08%3A00%3A00%20%3C%21channel%3E"), "{:?}", form.body);
        assert_eq!(
            (form.method, &form.headers[CONTENT_TYPE]),
            (Method::PUT, &HeaderValue::from_static("application/x-www-form-urlencoded"))
        );

        let get = hook("http://192.0.2.1/send?text={{text}}&to=me", Method::GET, Body::None);
        let get = post(&get, &message, 0).expect("post");
        assert!(get.body.is_empty() && get.headers.get(CONTENT_TYPE).is_none());
        assert!(
            get.uri.to_string().contains("text=08%3A00%3A00%20%3C%21channel")
                && get.uri.to_string().ends_with("&to=me"),
            "{}",
            get.uri
        );
    }
}
