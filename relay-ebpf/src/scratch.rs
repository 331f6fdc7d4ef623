//! Scratch space for what is put together of a packet or a flow, of which each CPU has one.

use relay_common::counters::PortKey;
use relay_common::flow::FlowEntry;
use relay_common::rule::SourceKey;

use crate::error::{Error, ErrorV6};
use crate::packet::Ipv6;
use crate::sum::CHUNK;

/// What the stack has no room for.
#[repr(C)]
pub(crate) struct Scratch {
    pub(crate) client: FlowEntry,
    pub(crate) backend: FlowEntry,
    pub(crate) error: Error,
    pub(crate) error_v6: ErrorV6,
    /// A header that is being put together.
    pub(crate) ipv6: Ipv6,
    /// What is being added up.
    pub(crate) chunk: [u32; CHUNK / 4],
    /// Whose packet it is that is about to be counted.
    pub(crate) payer: SourceKey,
    /// And which of its rule's ports it belongs to.
    pub(crate) port: PortKey,
    /// Flows that the sweeper has acted on in this run.
    pub(crate) touched: u32,
    /// Why the flow at hand is over, as a number of [`relay_common::ended::End`].
    pub(crate) end: u32,
    /// 1: both its halves have been copied.
    pub(crate) kept: u32,
}

/// Whose scratch space: a packet may come while the sweeper runs, on the same CPU.
#[derive(Clone, Copy)]
#[repr(u32)]
pub(crate) enum Room {
    Packets = 0,
    Sweeper = 1,
}
