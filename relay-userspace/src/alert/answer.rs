//! What a service has made of a message: taken it, not now, or not at all. Some say so in a body of status 200.

use std::time::Duration;

use jiff::Timestamp;
use serde_json::Value;

use super::channel::Service;

/// An answer by HTTP.
#[derive(Clone, Debug, Default, Eq, PartialEq)]
pub struct Answer {
    pub status: u16,
    /// The header `Retry-After`.
    pub retry_after: Option<String>,
    /// The beginning of it.
    pub body: String,
}

/// Why a message was not taken.
#[derive(Clone, Debug, Eq, PartialEq)]
pub enum Setback {
    /// It may be, another time. `after`: not sooner, the service says.
    Later { after: Option<Duration>, why: String },
    /// It never will be.
    Refused(String),
}

impl Setback {
    pub fn why(&self) -> &str {
        match self {
            Self::Later { why, .. } | Self::Refused(why) => why,
        }
    }

    /// What went wrong on the way there.
    pub fn lost(why: impl Into<String>) -> Self {
        Self::Later { after: None, why: why.into() }
    }
}

/// For services that limit us without saying for how long: their limits are per minute.
const A_MINUTE: Duration = Duration::from_secs(60);
/// Who asks for more does not get it.
const LONGEST: Duration = Duration::from_hours(1);

/// What an answer of this service means. `now`: for a `Retry-After` that is a date.
pub fn judge(service: &Service, answer: &Answer, now: Timestamp) -> Result<(), Setback> {
    let body: Value = serde_json::from_str(&answer.body).unwrap_or_default();
    let why = || format!("HTTP {}{}", answer.status, words(&body, &answer.body));
    match answer.status {
        200..=299 => by_code(service, &body, &why()),
        408 | 425 | 429 | 500..=599 => {
            Err(Setback::Later { after: wait(answer, &body, now).map(|wait| wait.min(LONGEST)), why: why() })
        }
        300..=399 => Err(Setback::Refused(why() + ": it redirects; write the URL that it redirects to")),
        _ => Err(Setback::Refused(why())),
    }
}

/// The code in the body, where a service has one.
fn by_code(service: &Service, body: &Value, why: &str) -> Result<(), Setback> {
    let code = |key: &str| body[key].as_i64();
    // what they say when there is too much of us
    let (code, busy): (Option<i64>, &[i64]) = match service {
        Service::Wecom { .. } => (code("errcode"), &[-1, 45_009, 45_033]),
        Service::Dingtalk { .. } => (code("errcode"), &[-1, 130_101, 130_102, 410_100]),
        Service::Feishu { .. } => (code("code").or(code("StatusCode")), &[11_232, 99_991_400]),
        Service::Bark { .. } => (code("code").filter(|code| *code != 200), &[]),
        _ => (None, &[]),
    };
    match code {
        None | Some(0) => Ok(()),
        Some(code) if busy.contains(&code) => {
            Err(Setback::Later { after: Some(A_MINUTE), why: format!("{why} (code {code})") })
        }
        Some(code) => Err(Setback::Refused(format!("{why} (code {code})"))),
    }
}

/// How long to wait, where it is said: in the header (RFC 9110 section 10.2.3), or in the body of Telegram or Discord.
fn wait(answer: &Answer, body: &Value, now: Timestamp) -> Option<Duration> {
    let said = body["parameters"]["retry_after"].as_f64().or(body["retry_after"].as_f64());
    let said = said.filter(|seconds| (0.0..1e9).contains(seconds)).map(Duration::from_secs_f64);
    let header = answer.retry_after.as_deref().and_then(|text| {
        if let Ok(seconds) = text.trim().parse() {
            return Some(Duration::from_secs(seconds));
        }
        let at = jiff::fmt::rfc2822::parse(text.trim()).ok()?.timestamp();
        Duration::try_from(at.duration_since(now)).ok()
    });
    header.max(said)
}

/// What the service says itself.
fn words(body: &Value, text: &str) -> String {
    let keys = ["description", "errmsg", "message", "msg", "error"];
    let said = keys.into_iter().find_map(|key| body[key].as_str()).unwrap_or(text).trim();
    if said.is_empty() { String::new() } else { format!(": {said}") }
}

#[cfg(test)]
mod tests {
    use super::super::channel::tests::{url, webhook};
    use super::super::secret::Secret;
    use super::*;

    fn judged(service: &Service, status: u16, retry_after: Option<&str>, body: &str) -> Result<(), Setback> {
        let answer = Answer { status, retry_after: retry_after.map(Into::into), body: body.into() };
        let now: Timestamp = "1994-11-06T08:49:00Z".parse().expect("time");
        judge(service, &answer, now)
    }

    fn later(seconds: Option<u64>, why: &str) -> Result<(), Setback> {
        Err(Setback::Later { after: seconds.map(Duration::from_secs), why: why.into() })
    }

    #[test]
    fn status_says_whether_to_come_again() {
        let any = webhook("http://192.0.2.1/");
        assert_eq!(judged(&any, 204, None, ""), Ok(()));
        assert_eq!(judged(&any, 503, None, ""), later(None, "HTTP 503"));
        assert_eq!(judged(&any, 429, Some("7"), "slow\n"), later(Some(7), "HTTP 429: slow"));
        let date = Some("Sun, 06 Nov 1994 08:49:37 GMT");
        assert_eq!(judged(&any, 503, date, ""), later(Some(37), "HTTP 503"));
        assert_eq!(judged(&any, 503, Some("99999999"), ""), later(Some(3600), "HTTP 503"));
        assert_eq!(judged(&any, 503, Some("soon"), ""), later(None, "HTTP 503"));
        assert_eq!(
            judged(&any, 404, None, r#"{"message": "Unknown Webhook", "code": 10015}"#),
            Err(Setback::Refused("HTTP 404: Unknown Webhook".into()))
        );
        let moved = judged(&any, 301, None, "").expect_err("moved");
        assert!(
            matches!(&moved, Setback::Refused(why) if why.contains("write the URL that it redirects to"))
        );
    }

    #[test]
    fn services_say_it_in_their_own_way() {
        let url = || url("https://hook.example.com/");
        let telegram = Service::Telegram { token: Secret::new("t"), chat: "1".into(), api_base: url() };
        let body = r#"{"ok":false,"error_code":429,"description":"Too Many Requests","parameters":{"retry_after":5}}"#;
        assert_eq!(judged(&telegram, 429, None, body), later(Some(5), "HTTP 429: Too Many Requests"));
        let discord = Service::Discord { url: url() };
        assert_eq!(
            judged(&discord, 429, Some("1"), r#"{"message": "limited", "retry_after": 2.0}"#),
            later(Some(2), "HTTP 429: limited")
        );
        for (service, good, busy, bad) in [
            (
                Service::Wecom { url: url() },
                r#"{"errcode":0,"errmsg":"ok"}"#,
                r#"{"errcode":45009,"errmsg":"freq"}"#,
                r#"{"errcode":93000,"errmsg":"no"}"#,
            ),
            (
                Service::Dingtalk { url: url(), secret: None },
                r#"{"errcode":0,"errmsg":"ok"}"#,
                r#"{"errcode":130101,"errmsg":"freq"}"#,
                r#"{"errcode":310000,"errmsg":"no"}"#,
            ),
            (
                Service::Feishu { url: url(), secret: None },
                r#"{"StatusCode":0,"code":0,"msg":"success"}"#,
                r#"{"code":11232,"msg":"freq"}"#,
                r#"{"code":19021,"msg":"no"}"#,
            ),
        ] {
            assert_eq!(judged(&service, 200, None, good), Ok(()), "{service:?}");
            let busy = judged(&service, 200, None, busy);
            assert!(
                matches!(&busy, Err(Setback::Later { after: Some(A_MINUTE), why }) if why.contains("freq")),
                "{busy:?}"
            );
            let bad = judged(&service, 200, None, bad);
            assert!(matches!(&bad, Err(Setback::Refused(why)) if why.contains("no (code ")), "{bad:?}");
        }
        let bark = Service::Bark { server: url(), key: Secret::new("k") };
        assert_eq!(judged(&bark, 200, None, r#"{"code":200,"message":"success"}"#), Ok(()));
        assert!(matches!(
            judged(&bark, 400, None, r#"{"code":400,"message":"no key"}"#),
            Err(Setback::Refused(_))
        ));
    }
}
