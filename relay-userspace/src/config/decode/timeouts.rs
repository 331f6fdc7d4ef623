//! How long things may take: `timeout = { ... }`.

use std::time::Duration;

use super::super::fields::Fields;
use super::super::problem::Problems;
use crate::rule::{Keepalive, Timeouts};

pub fn timeouts(fields: &mut Fields<'_>, problems: &mut Problems) -> Timeouts {
    let mut timeouts = Timeouts::default();
    let Some(mut inner) = fields.table("timeout", problems) else { return timeouts };
    let mut set = |key, slot: &mut Duration| {
        if let Some(duration) = inner.duration(key, problems) {
            *slot = duration;
        }
    };
    set("connect", &mut timeouts.connect);
    set("handshake", &mut timeouts.handshake);
    set("tcp_idle", &mut timeouts.tcp_idle);
    set("half_close", &mut timeouts.half_close);
    set("udp", &mut timeouts.udp);
    timeouts.keepalive = keepalive(&mut inner, problems);
    inner.finish(problems);
    timeouts
}

fn keepalive(fields: &mut Fields<'_>, problems: &mut Problems) -> Keepalive {
    let mut keepalive = Keepalive::default();
    let Some(mut inner) = fields.table("keepalive", problems) else { return keepalive };
    let mut set = |key, slot: &mut Duration| {
        if let Some(duration) = inner.seconds(key, Keepalive::LONGEST, problems) {
            *slot = duration;
        }
    };
    set("idle", &mut keepalive.idle);
    set("interval", &mut keepalive.interval);
    if let Some(count) = inner.integer("count", 1..=127, problems).and_then(|count| u8::try_from(count).ok())
    {
        keepalive.count = count;
    }
    inner.finish(problems);
    keepalive
}
