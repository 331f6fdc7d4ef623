//! Alerts: how each channel is doing, and what came of a test.

use serde::{Deserialize, Serialize};

use crate::alert::desk::{Status, Tested};

/// One alert. Where it goes is not shown, since keys are in there.
#[derive(Clone, Debug, Default, Deserialize, PartialEq, Serialize)]
pub struct AlertView {
    pub name: String,
    /// telegram, wecom, feishu, dingtalk, discord, slack, ntfy, bark, webhook, smtp
    pub kind: String,
    /// backend, rule, daemon, quota, expiry, reload
    pub events: Vec<String>,
    /// Absent: events of all rules.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub rules: Option<Vec<String>>,
    /// daily:08:00
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub digest: Option<String>,
    /// Events that are still to be sent.
    pub waiting: usize,
    /// Events that the service has taken, that it has refused, and that there was no room for, since relayd has started; digests
    /// and tests count as one.
    pub sent: u64,
    pub failed: u64,
    pub dropped: u64,
    /// What went wrong last.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub last_error: Option<String>,
    /// Seconds since 1970.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub last_error_time: Option<u64>,
}

/// What came of a test.
#[derive(Clone, Debug, Deserialize, PartialEq, Serialize)]
pub struct AlertTestView {
    pub name: String,
    pub kind: String,
    /// The service has taken the message.
    pub ok: bool,
    pub ms: f64,
    /// Why it has not.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub error: Option<String>,
}

/// An alert that another configuration adds, changes or removes.
#[derive(Clone, Debug, Deserialize, PartialEq, Serialize)]
pub struct AlertChange {
    /// added, changed, removed
    pub action: String,
    pub name: String,
}

impl From<Status> for AlertView {
    fn from(status: Status) -> Self {
        let Status { alert, counts, mishap } = status;
        let names = |rules: &std::collections::BTreeSet<crate::rule::RuleName>| {
            rules.iter().map(ToString::to_string).collect()
        };
        Self {
            name: alert.name.to_string(),
            kind: alert.channel.kind().into(),
            events: alert.events.names().map(Into::into).collect(),
            rules: alert.rules.as_ref().map(names),
            digest: alert.digest.map(|digest| digest.to_string()),
            waiting: counts.waiting,
            sent: counts.sent,
            failed: counts.failed,
            dropped: counts.dropped,
            last_error_time: mishap.as_ref().map(|mishap| mishap.time),
            last_error: mishap.map(|mishap| mishap.why),
        }
    }
}

impl From<Tested> for AlertTestView {
    fn from(tested: Tested) -> Self {
        let Tested { alert, took, result } = tested;
        Self {
            name: alert.name.to_string(),
            kind: alert.channel.kind().into(),
            ok: result.is_ok(),
            ms: took.as_secs_f64() * 1000.0,
            error: result.err().map(|setback| setback.why().to_owned()),
        }
    }
}
