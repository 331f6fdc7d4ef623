//! Watching flows live: what can be asked (`GET /v1/observe?rule=web&client=198.51.100.0/24&kind=refused,dropped`), and what is
//! told, as server-sent events whose names are those of the kinds, and `lost`.

use std::convert::Infallible;
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use axum::response::sse::Event as Frame;
use futures_util::{Stream, stream};
use serde::{Deserialize, Serialize};
use tokio::time::timeout;

use super::flows::{client, parse, plane, protocol, rule};
use super::problem::{ApiProblem, Code};
use crate::flows::Plane;
use crate::observe::{Event, Filter, Kind, Kinds, Lost, MOST_WATCHERS, News, Watch, What};
use crate::supervisor::Shared;
use crate::supervisor::shared::not_found;

/// How long the supervisor has to switch the programs on. It may have much to do; what happens meanwhile is missed.
const PATIENCE: Duration = Duration::from_secs(10);

/// The question, as it comes.
#[derive(Debug, Default, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Params {
    rule: Option<String>,
    client: Option<String>,
    protocol: Option<String>,
    plane: Option<String>,
    /// Several with commas between.
    kind: Option<String>,
}

/// Something that has happened.
#[derive(Clone, Debug, Default, Deserialize, PartialEq, Serialize)]
pub struct ObservedView {
    /// Milliseconds since 1970.
    pub time_ms: u64,
    /// opened, proven, closed, refused, dropped; or lost: what follows is missing here
    pub event: String,
    /// Absent: nobody's.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub rule: Option<String>,
    /// kernel, user
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub plane: Option<String>,
    /// tcp, udp; absent: another one, or not known
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub protocol: Option<String>,
    /// Of a packet that was dropped, who sent it.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub client: Option<String>,
    /// The address and port that the client asked; of a packet that was dropped, where it was going.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub listen: Option<String>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub backend: Option<String>,
    /// Why it was closed, refused or dropped.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub reason: Option<String>,
    /// How long what is closed has lasted.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub seconds: Option<f64>,
    /// Of what is closed; of IP packets in the kernel plane, of payload in the user plane.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub ingress_bytes: Option<u64>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub egress_bytes: Option<u64>,
    /// ip, payload
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub unit: Option<String>,
    /// How many were dropped at once.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub packets: Option<u64>,
    /// Events that are missing: that flows were opened, proven or closed.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub lost_flows: Option<u64>,
    /// Those that something was refused or dropped.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub lost_drops: Option<u64>,
}

impl ObservedView {
    /// The name of news about missing ones.
    pub const LOST: &str = "lost";
}

impl Params {
    /// # Errors
    ///
    /// Something in it is not what it is said to be.
    pub fn into_filter(self) -> Result<Filter, ApiProblem> {
        let kinds = self.kind.as_deref().map(|text| parse("kind", text, kinds)).transpose()?;
        Ok(Filter {
            rule: self.rule.as_deref().map(|text| parse("rule", text, rule)).transpose()?,
            client: self.client.as_deref().map(|text| parse("client", text, client)).transpose()?,
            protocol: self.protocol.as_deref().map(|text| parse("protocol", text, protocol)).transpose()?,
            plane: self.plane.as_deref().map(|text| parse("plane", text, plane)).transpose()?,
            kinds: kinds.unwrap_or_default(),
        })
    }
}

/// Some kinds, with commas between.
pub fn kinds(text: &str) -> Result<Kinds, &'static str> {
    let kinds: Option<Vec<Kind>> = text.split(',').map(Kind::parse).collect();
    let kinds = kinds.ok_or("some of opened, proven, closed, refused and dropped, with commas between")?;
    Ok(Kinds::of(&kinds))
}

/// Begins to watch. When this returns, everything that happens is told.
///
/// # Errors
///
/// There is no such rule, or there are as many who watch as may be.
pub async fn watch(shared: &Shared, filter: Filter) -> Result<Watch, ApiProblem> {
    if let Some(name) = filter.rule.as_ref().filter(|name| !shared.snapshot().by_name.contains_key(*name)) {
        return Err(not_found(name));
    }
    let watch = shared.observatory.watch(filter).map_err(|_crowded| {
        let text = format!("{MOST_WATCHERS} watch already; end one of them first");
        ApiProblem::new(Code::NotPossible, text)
    })?;
    let _in_time = timeout(PATIENCE, shared.observatory.ready()).await;
    Ok(watch)
}

/// What is told from now on. Ends when it is dropped.
pub fn told(watch: Watch) -> impl Stream<Item = Result<Frame, Infallible>> {
    stream::unfold(watch, async |mut watch| {
        let view = ObservedView::from(watch.next().await);
        let frame = Frame::default().event(view.event.clone());
        // it holds nothing that JSON has no form for
        let frame = frame.json_data(&view).unwrap_or_default();
        Some((Ok(frame), watch))
    })
}

impl From<News> for ObservedView {
    fn from(news: News) -> Self {
        match news {
            News::Event(event) => event.into(),
            News::Lost(Lost { flows, drops }) => Self {
                time_ms: milliseconds(SystemTime::now()),
                event: Self::LOST.into(),
                lost_flows: Some(flows),
                lost_drops: Some(drops),
                ..Self::default()
            },
        }
    }
}

impl From<Event> for ObservedView {
    fn from(event: Event) -> Self {
        let mut view = Self {
            time_ms: milliseconds(event.at),
            event: event.what.kind().as_str().into(),
            rule: event.rule.map(|rule| rule.to_string()),
            plane: Some(event.plane.as_str().into()),
            protocol: event.protocol.map(|protocol| protocol.as_str().into()),
            client: event.client.map(|client| client.to_string()),
            listen: event.listen.map(|listen| listen.to_string()),
            backend: event.backend.map(|backend| backend.to_string()),
            ..Self::default()
        };
        match event.what {
            What::Opened | What::Proven => {}
            What::Closed { bytes, lasted, reason } => {
                view.reason = Some(reason.into());
                view.seconds = Some(lasted.as_millis() as f64 / 1000.0);
                [view.ingress_bytes, view.egress_bytes] = bytes.map(Some);
                let unit = match event.plane {
                    Plane::Kernel => "ip",
                    Plane::User => "payload",
                };
                view.unit = Some(unit.into());
            }
            What::Refused { reason } => view.reason = Some(reason.into()),
            What::Dropped { reason, packets } => {
                view.reason = Some(reason.into());
                view.packets = Some(packets);
            }
        }
        view
    }
}

fn milliseconds(at: SystemTime) -> u64 {
    let since = at.duration_since(UNIX_EPOCH).unwrap_or_default();
    u64::try_from(since.as_millis()).unwrap_or(u64::MAX)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::rule::RuleName;
    use relay_common::net::Protocol;
    use serde_json::json;

    #[test]
    fn what_is_asked_wrongly_is_named() {
        let ask = |text: &str| -> Result<Filter, String> {
            let params: Params = serde_json::from_str(text).expect(text);
            params.into_filter().map_err(|problem| problem.detail)
        };
        let filter = ask(r#"{ "rule": "web", "kind": "closed,refused" }"#).expect("filter");
        assert_eq!(filter.kinds, Kinds::of(&[Kind::Closed, Kind::Refused]));
        for (text, part) in [
            (r#"{ "rule": "a b" }"#, "rule: \"a b\" is not a rule's name"),
            (r#"{ "client": "x" }"#, "client: \"x\" is not an address or a network"),
            (r#"{ "protocol": "icmp" }"#, "protocol: \"icmp\" is not tcp or udp"),
            (r#"{ "plane": "auto" }"#, "plane: \"auto\" is not kernel or user"),
            (r#"{ "kind": "opened,gone" }"#, "kind: \"opened,gone\" is not some of opened, proven"),
            (r#"{ "kind": "" }"#, "kind: \"\" is not some of"),
        ] {
            let problem = ask(text).expect_err(text);
            assert!(problem.contains(part), "{text}: {problem}");
        }
    }

    #[test]
    fn events_are_told_without_what_they_have_not() {
        let rule = RuleName::parse("web").expect("name");
        let at = UNIX_EPOCH + Duration::from_millis(1_796_000_000_123);
        let tell = |what| {
            let client = Some("[::ffff:198.51.100.7]:4000".parse().expect("client"));
            let event = Event { at, ..Event::of_session(&rule, Protocol::Udp, client, what) };
            serde_json::to_value(ObservedView::from(event)).expect("JSON")
        };
        assert_eq!(
            tell(What::Refused { reason: "no_backend" }),
            json!({ "time_ms": 1_796_000_000_123_u64, "event": "refused", "rule": "web", "plane": "user",
                "protocol": "udp", "client": "198.51.100.7:4000", "reason": "no_backend" })
        );
        let lasted = Duration::from_millis(1250);
        assert_eq!(
            tell(What::Closed { bytes: [3, 4], lasted, reason: "idle" }),
            json!({ "time_ms": 1_796_000_000_123_u64, "event": "closed", "rule": "web", "plane": "user",
                "protocol": "udp", "client": "198.51.100.7:4000", "reason": "idle", "seconds": 1.25,
                "ingress_bytes": 3, "egress_bytes": 4, "unit": "payload" })
        );
        let lost = ObservedView::from(News::Lost(Lost { flows: 0, drops: 12_345 }));
        assert_eq!((lost.event.as_str(), lost.lost_flows, lost.lost_drops), ("lost", Some(0), Some(12_345)));
    }
}
