//! What a rule has carried in all, and when.

use serde::{Deserialize, Serialize};

use super::TrafficView;
use crate::accounting::amounts::Amounts;
use crate::accounting::calendar::Step;

/// What has been carried, in all or in a time.
#[derive(Clone, Copy, Debug, Default, Deserialize, PartialEq, Serialize)]
pub struct LifetimeView {
    pub ingress: TrafficView,
    pub egress: TrafficView,
    /// Flows opened.
    pub flows: u64,
}

impl From<Amounts> for LifetimeView {
    fn from(amounts: Amounts) -> Self {
        Self {
            ingress: TrafficView { packets: amounts.ingress_packets, bytes: amounts.ingress_bytes },
            egress: TrafficView { packets: amounts.egress_packets, bytes: amounts.egress_bytes },
            flows: amounts.flows,
        }
    }
}

impl From<LifetimeView> for Amounts {
    fn from(view: LifetimeView) -> Self {
        Self {
            ingress_bytes: view.ingress.bytes,
            ingress_packets: view.ingress.packets,
            egress_bytes: view.egress.bytes,
            egress_packets: view.egress.packets,
            flows: view.flows,
        }
    }
}

/// What an interface has carried, as it counts: with the frames' headers.
#[derive(Clone, Copy, Debug, Default, Deserialize, PartialEq, Serialize)]
pub struct InterfaceTrafficView {
    pub received: TrafficView,
    pub sent: TrafficView,
}

impl From<Amounts> for InterfaceTrafficView {
    fn from(amounts: Amounts) -> Self {
        Self {
            received: TrafficView { packets: amounts.ingress_packets, bytes: amounts.ingress_bytes },
            sent: TrafficView { packets: amounts.egress_packets, bytes: amounts.egress_bytes },
        }
    }
}

/// What all interfaces have carried both ways since they were first watched, which is what a provider counts, and what
/// rules explain of it.
#[derive(Clone, Copy, Debug, Default, Deserialize, PartialEq, Serialize)]
pub struct MachineView {
    pub interface_bytes: u64,
    /// Of all rules that ever were, both legs and the frames' headers.
    pub rule_bytes: u64,
    pub unexplained_bytes: u64,
}

/// What a name has carried, whether there is a rule of that name now or not.
#[derive(Clone, Debug, Default, Deserialize, PartialEq, Serialize)]
pub struct AccountView {
    pub rule: String,
    pub lifetime: LifetimeView,
}

/// What one port of a rule has carried. Flows are not counted by port.
#[derive(Clone, Debug, Default, Deserialize, PartialEq, Serialize)]
pub struct PortView {
    pub port: u16,
    #[serde(flatten)]
    pub lifetime: LifetimeView,
}

/// What a rule has carried and when. Times are in UTC.
#[derive(Clone, Debug, Default, Deserialize, PartialEq, Serialize)]
pub struct HistoryView {
    pub rule: String,
    pub by: Step,
    /// Seconds since 1970; rows lie between.
    pub since: u64,
    pub until: u64,
    /// Only times in which there was traffic have a row.
    pub rows: Vec<HistoryRowView>,
}

#[derive(Clone, Debug, Default, Deserialize, PartialEq, Serialize)]
pub struct HistoryRowView {
    /// Seconds since 1970.
    pub start: u64,
    /// The same as a date and time.
    pub time: String,
    #[serde(flatten)]
    pub amounts: LifetimeView,
}
