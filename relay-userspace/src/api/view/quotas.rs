//! Quotas and ends, as the API tells of them.

use std::collections::BTreeMap;

use serde::{Deserialize, Serialize};

/// How far a quota is used.
#[derive(Clone, Debug, Default, Deserialize, PartialEq, Serialize)]
pub struct QuotaView {
    pub limit_bytes: u64,
    pub used_bytes: u64,
    pub remaining_bytes: u64,
    /// Whole per cent of the limit; more than 100 where it is throttled or was lowered.
    pub percent: u64,
    /// Which bytes count: in, out, both, max
    pub count: String,
    /// block, or throttle: and a rate
    pub over: String,
    /// never, monthly:DAY, yearly:MM-DD, every:N(d|mo):DATE, once:DATE
    pub reset: String,
    /// The time zone that periods begin in; absent: the host's.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub tz: Option<String>,
    /// open, blocked, throttled
    pub state: String,
    /// When the period began and when the next one does, in seconds since 1970; absent: never.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub since: Option<u64>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub until: Option<u64>,
    /// The latter, in the quota's time zone.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub until_text: Option<String>,
}

/// When a rule or group ends.
#[derive(Clone, Debug, Default, Deserialize, PartialEq, Serialize)]
pub struct ExpiryView {
    /// As it was written.
    pub at: String,
    /// The same in seconds since 1970.
    pub time: u64,
    pub is_over: bool,
}

/// A rule or group that has any of it.
#[derive(Clone, Debug, Default, Deserialize, PartialEq, Serialize)]
pub struct TermsView {
    /// rule, group
    pub kind: String,
    pub name: String,
    /// Of a group: the rules in it.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub rules: Vec<String>,
    /// Of a group: what its traffic may be at most, as configured.
    #[serde(default, skip_serializing_if = "BTreeMap::is_empty")]
    pub rate: BTreeMap<String, String>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub quota: Option<QuotaView>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub expires: Option<ExpiryView>,
    /// Periods that have ended, the latest first.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub ledger: Vec<LedgerView>,
}

#[derive(Clone, Debug, Default, Deserialize, PartialEq, Serialize)]
pub struct LedgerView {
    /// When it ended and when it had begun, in seconds since 1970; 0: since ever.
    pub at: u64,
    pub since: u64,
    pub ingress_bytes: u64,
    pub egress_bytes: u64,
    /// period: the next one began; manual: by order
    pub why: String,
}
