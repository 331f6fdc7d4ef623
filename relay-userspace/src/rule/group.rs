//! Groups: rules that share a quota, a rate and an end.

use std::collections::BTreeMap;
use std::sync::Arc;

use super::RuleName;
use super::expiry::Expiry;
use super::quota::Quota;
use super::rate::Rates;

/// A group's name has a rule name's form.
pub type GroupName = RuleName;

/// A group as configured.
#[derive(Clone, Debug, Default, Eq, PartialEq)]
pub struct Group {
    pub rates: Rates,
    pub quota: Option<Box<Quota>>,
    pub expires: Option<Box<Expiry>>,
}

/// All groups.
pub type Groups = Arc<BTreeMap<GroupName, Group>>;
