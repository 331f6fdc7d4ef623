//! Settings that the programs read and relayd may change at any time.

use crate::digest::Secret;

/// The one entry of the settings map (64 bytes).
#[repr(C)]
#[derive(Clone, Copy, Debug, Default, Eq, PartialEq)]
pub struct Settings {
    /// Source ports that flows may claim: `claim_first..claim_first + claim_count`.
    pub claim_first: u16,
    pub claim_count: u16,
    /// Ticks that a TCP handshake may take.
    pub handshake: u32,
    /// Ticks that a UDP flow without an answer is kept.
    pub udp_unanswered: u32,
    /// Ticks for which a closed flow keeps its claim against other clients.
    pub closed: u32,
    /// Ticks that a reset flow stays before it is swept.
    pub reset: u32,
    /// Ticks that later fragments are matched to their first one.
    pub fragments: u32,
    /// ICMP errors that each CPU may make in one tick.
    pub icmp_per_tick: u32,
    /// What relayd wants to be told: [`Settings::ENDED`], [`Settings::SEEN`].
    pub tells: u32,
    /// What digests of IPv6 addresses are keyed with. Never changed: keys of live flows were made with it.
    pub secret: Secret,
}

impl Settings {
    /// In [`Settings::tells`]: flows that are over.
    pub const ENDED: u32 = 1;
    /// Likewise: flows that begin, and packets that are refused. Somebody watches.
    pub const SEEN: u32 = 2;

    #[inline(always)]
    pub const fn wants(&self, what: u32) -> bool {
        self.tells & what != 0
    }
}

/// When the established table of one protocol was last found full. Written by the programs.
#[repr(C)]
#[derive(Clone, Copy, Debug, Default, Eq, PartialEq)]
pub struct Pressure {
    pub full_at: u32,
    pub _reserved: u32,
}

/// One CPU's budget of ICMP errors.
#[repr(C)]
#[derive(Clone, Copy, Debug, Default, Eq, PartialEq)]
pub struct IcmpBudget {
    pub tick: u32,
    pub spent: u32,
}

/// What the sweeper is asked to do; the header of its input.
#[repr(C)]
#[derive(Clone, Copy, Debug, Default, Eq, PartialEq)]
pub struct SweepRequest {
    /// How many keys follow, at most [`SweepRequest::MOST`].
    pub keys: u32,
    pub mode: u32,
    /// [`SweepRequest::GONE`]: the slot of the rule whose flows they are.
    pub rule: u32,
}

impl SweepRequest {
    /// Keys that one run takes.
    pub const MOST: u32 = 8;
    /// Mark halves that look expired.
    pub const MARK: u32 = 0;
    /// Delete flows whose marked halves still look expired.
    pub const DELETE: u32 = 1;
    /// Delete flows whose rule is gone, whatever their age.
    pub const ORPHANS: u32 = 2;
    /// Delete flows by their backend halves, whose keys name the backend, if they are the rule's.
    pub const GONE: u32 = 3;
}
