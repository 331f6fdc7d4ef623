//! A world to test in: network namespaces with real links, real relayd, real relayctl, real traffic.
//!
//! Everything is a value that cleans up after itself. Nothing here but the peers of [`haproxy`], [`kaminari`], [`nginx`],
//! [`openssl`], [`prometheus`] and [`websockets`] needs a program beyond Relay's own, so the same tests run in a bare
//! virtual machine.

pub mod certificates;
pub mod daemon;
pub mod datagrams;
pub mod dns;
pub mod farm;
pub mod haproxy;
pub mod hooks;
pub mod http;
pub mod kaminari;
pub mod lab;
pub mod load;
pub mod netns;
pub mod nginx;
pub mod openssl;
pub mod packet;
pub mod panics;
pub mod plane;
pub mod programs;
pub mod prometheus;
pub mod raw;
pub mod sink;
pub mod store;
pub mod terminal;
pub mod traffic;
pub mod tun;
pub mod websockets;
pub mod world;

pub use self::daemon::{Ctl, Daemon};
pub use self::load::Load;
pub use self::netns::NetNs;
pub use self::world::World;

use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, Instant};

/// Says at its end that something is over, also when a test fails: threads that wait for it would hold the test up.
pub struct Ends<'a>(pub &'a AtomicBool);

impl Drop for Ends<'_> {
    fn drop(&mut self) {
        self.0.store(true, Ordering::Relaxed);
    }
}

/// Says that a test cannot run here, which is a failure in CI. `why`: what is missing, and where it comes from.
#[expect(clippy::print_stderr, reason = "a test that did not run must not look like one that passed")]
pub fn skip(why: &str) {
    assert!(std::env::var_os("CI").is_none(), "{why}");
    eprintln!("skipped: {why}");
}

/// Waits until something is so; panics with `what` after so long that a machine which is busy with other namespaces (the
/// kernel takes them down, and makes IPv6 addresses ready, one at a time) has come to it, too.
pub fn eventually(what: &str, mut is_so: impl FnMut() -> bool) {
    within(Duration::from_secs(30), what, &mut is_so);
}

/// Waits until something is so, for at most so long.
pub fn within(limit: Duration, what: &str, is_so: &mut dyn FnMut() -> bool) {
    let (start, limit) = (Instant::now(), patience(limit));
    while !is_so() {
        assert!(start.elapsed() < limit, "not within {limit:?}: {what}");
        std::thread::sleep(Duration::from_millis(20));
    }
}

/// How long to wait here for what takes at most so long on an ordinary machine. RELAY_SLOWNESS says how many times
/// slower this one is, such as one that is emulated.
pub fn patience(limit: Duration) -> Duration {
    let slowness = std::env::var("RELAY_SLOWNESS").ok().and_then(|text| text.parse().ok());
    limit.saturating_mul(slowness.unwrap_or(1))
}
