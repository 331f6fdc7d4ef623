//! When to try again what a service has not taken.

use std::time::Duration;

const FIRST: Duration = Duration::from_secs(2);
const LONGEST: Duration = Duration::from_mins(5);
/// What has not been taken in that time is not tried again.
pub const PATIENCE: Duration = Duration::from_hours(24);

/// How long to wait after so many tries (one or more): 2 s, twice as long each time up to five minutes, and not shorter than
/// the service says. `since`: the time since the first try. `None`: it has failed.
pub fn wait(tries: u32, since: Duration, said: Option<Duration>) -> Option<Duration> {
    if since >= PATIENCE {
        return None;
    }
    let own =
        FIRST.saturating_mul(1_u32.checked_shl(tries.saturating_sub(1)).unwrap_or(u32::MAX)).min(LONGEST);
    Some(own.max(said.unwrap_or_default()))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn waits_grow_up_to_five_minutes_for_a_day() {
        let seconds = |tries| wait(tries, Duration::ZERO, None).map(|wait| wait.as_secs());
        let grown: Vec<_> = (1..=10).map(seconds).collect();
        assert_eq!(grown, [2, 4, 8, 16, 32, 64, 128, 256, 300, 300].map(Some));
        assert_eq!(seconds(u32::MAX), Some(300));
        assert_eq!(wait(300, PATIENCE, None), None);
        assert_eq!(wait(300, PATIENCE, Some(FIRST)), None);
    }

    #[test]
    fn a_service_may_ask_for_more_not_for_less() {
        let minute = Duration::from_secs(60);
        assert_eq!(wait(1, Duration::ZERO, Some(minute)), Some(minute));
        assert_eq!(wait(5, Duration::ZERO, Some(Duration::from_secs(1))), Some(Duration::from_secs(32)));
    }
}
