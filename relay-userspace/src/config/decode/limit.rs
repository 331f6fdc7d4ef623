//! How many clients are let in, and how fast: `limit = { ... }`.

use super::super::fields::Fields;
use super::super::problem::Problems;
use crate::rule::Limits;

pub fn limits(fields: &mut Fields<'_>, problems: &mut Problems) -> Limits {
    let mut limits = Limits::default();
    let Some(mut inner) = fields.table("limit", problems) else { return limits };
    for (key, slot) in limits.entries() {
        let given = inner.integer(key, 0..=i64::from(Limits::MOST), problems);
        if let Some(most) = given.and_then(|most| u32::try_from(most).ok()) {
            *slot = most;
        }
    }
    inner.finish(problems);
    limits
}
