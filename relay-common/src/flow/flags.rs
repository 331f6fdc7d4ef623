//! What a half of a flow has seen.

/// State bits of one half of a flow.
#[repr(transparent)]
#[derive(Clone, Copy, Debug, Default, Eq, PartialEq)]
pub struct FlowFlags(pub(super) u32);

impl FlowFlags {
    pub const NONE: Self = Self(0);
    /// This half carries packets from the backend to the client.
    pub const EGRESS: Self = Self(1 << 0);
    /// The client has proven that it gets our answers; the half lies in an established table.
    pub const PROVEN: Self = Self(1 << 1);
    /// The backend has answered. For TCP `sequence` is then the first sequence number of the backend.
    pub const REPLIED: Self = Self(1 << 2);
    /// The sender of this half has sent a FIN; `sequence` is the number that acknowledges it.
    pub const FIN: Self = Self(1 << 3);
    /// That FIN has been acknowledged.
    pub const FIN_ACKED: Self = Self(1 << 4);
    /// A RST went by, either way.
    pub const RESET: Self = Self(1 << 5);
    /// Both ends are done; the half waits in the unproven table for late segments, and its claim may be taken.
    pub const CLOSED: Self = Self(1 << 6);
    /// The sweeper means to delete this half; any packet clears the mark.
    pub const DYING: Self = Self(1 << 7);
    /// Every packet of this half must take the slow path.
    pub const SLOW: Self = Self(1 << 8);
    /// Established backend half: it counts for its rule's limit.
    pub const COUNTED: Self = Self(1 << 9);
    /// And for its client address's.
    pub const SOURCE_COUNTED: Self = Self(1 << 10);
    /// What this half sends out is IPv6.
    pub const TO_V6: Self = Self(1 << 11);
    /// Unproven backend half: `sequence` is when the handshake's last packet went on, in microseconds, and that went once.
    pub const TIMED: Self = Self(1 << 12);

    #[inline(always)]
    pub const fn has(self, other: Self) -> bool {
        self.0 & other.0 == other.0
    }

    #[inline(always)]
    pub const fn has_any(self, other: Self) -> bool {
        self.0 & other.0 != 0
    }

    #[inline(always)]
    pub const fn with(self, other: Self) -> Self {
        Self(self.0 | other.0)
    }

    #[inline(always)]
    pub const fn without(self, other: Self) -> Self {
        Self(self.0 & !other.0)
    }
}
