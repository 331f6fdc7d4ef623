//! Hanging a tc program onto what comes in on an interface, or onto what leaves it.
//!
//! From Linux 6.6 on tc programs are links (TCX), pinned like XDP's. Before, a tc program is a filter on the clsact
//! qdisc, which outlives us without a pin: it is found again by its priority and handle, and never added twice.

use std::fs;
use std::path::Path;

use aya::programs::links::{FdLink, Link as _};
use aya::programs::tc::{NlOptions, SchedClassifierLink, TcAttachOptions, TcHandle, qdisc_add_clsact};
use aya::programs::{LinkOrder, ProgramError, SchedClassifier, TcAttachType};
use relay_common::names;

use super::links::adopt;
use super::{filters, preflight};
use crate::host::LinkKind;

/// Where our filter stands on the clsact qdisc. The handle spells RELY.
pub const FILTER_PRIORITY: u16 = 5;
pub const FILTER_HANDLE: TcHandle = TcHandle::new(0x5245, 0x4c59);

/// How a tc program is attached.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub enum TcKind {
    Tcx,
    Clsact,
}

impl TcKind {
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Tcx => "tcx",
            Self::Clsact => "clsact",
        }
    }
}

/// Which packets of an interface a program sees.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub enum TcHook {
    Ingress,
    Egress,
}

impl TcHook {
    pub const ALL: [Self; 2] = [Self::Ingress, Self::Egress];
    pub const PROGRAMS: [&str; 4] = [names::TC, names::TC_L3, names::EGRESS, names::EGRESS_L3];

    pub(super) const fn program(self, kind: LinkKind) -> &'static str {
        match (self, kind) {
            (Self::Ingress, LinkKind::Ethernet | LinkKind::Loopback) => names::TC,
            (Self::Ingress, LinkKind::Bare) => names::TC_L3,
            (Self::Egress, LinkKind::Ethernet | LinkKind::Loopback) => names::EGRESS,
            (Self::Egress, LinkKind::Bare) => names::EGRESS_L3,
        }
    }

    /// What the pin of a link is called, before the interface's number.
    pub(super) const fn pin(self) -> &'static str {
        match self {
            Self::Ingress => "tcx",
            Self::Egress => "tcx_egress",
        }
    }

    const fn kind(self) -> TcAttachType {
        match self {
            Self::Ingress => TcAttachType::Ingress,
            Self::Egress => TcAttachType::Egress,
        }
    }

    pub(super) fn attach(
        self,
        program: &mut SchedClassifier,
        interface: &str,
        pin: &Path,
    ) -> Result<TcKind, ProgramError> {
        if preflight::kernel_is_at_least(6, 6) {
            return self.attach_tcx(program, interface, pin).map(|()| TcKind::Tcx);
        }
        self.attach_clsact(program, interface).map(|()| TcKind::Clsact)
    }

    /// Swaps our program into the pinned link, with no moment in between, or makes and pins a new link. A link whose
    /// interface is gone cannot be updated, and makes room.
    fn attach_tcx(
        self,
        program: &mut SchedClassifier,
        interface: &str,
        pin: &Path,
    ) -> Result<(), ProgramError> {
        if let Some(link) = adopt(pin)
            && let Ok(link) = SchedClassifierLink::try_from(link)
            && program.attach_to_link(link).is_ok()
        {
            return Ok(());
        }
        let _dead_pin = fs::remove_file(pin);
        let options = TcAttachOptions::TcxOrder(LinkOrder::default());
        let id = program.attach_with_options(interface, self.kind(), options)?;
        let link = program.take_link(id)?;
        let link = FdLink::try_from(link).map_err(|_not_tcx| ProgramError::NotAttached)?;
        link.pin(pin).map_err(|error| match error {
            aya::pin::PinError::SyscallError(error) => ProgramError::SyscallError(error),
            _ => ProgramError::NotAttached,
        })?;
        Ok(())
    }

    /// Replaces the program of our filter, or adds the filter.
    fn attach_clsact(self, program: &mut SchedClassifier, interface: &str) -> Result<(), ProgramError> {
        let _there_already = qdisc_add_clsact(interface);
        let id = match program.attach_to_link(self.filter(interface)?) {
            Ok(id) => id,
            Err(_no_such_filter) => {
                let options =
                    NlOptions { priority: FILTER_PRIORITY, handle: FILTER_HANDLE, ..NlOptions::default() };
                program.attach_with_options(interface, self.kind(), TcAttachOptions::Netlink(options))?
            }
        };
        // dropping the link would take the filter off again
        std::mem::forget(program.take_link(id)?);
        Ok(())
    }

    /// Our filter, whether it is there or not.
    fn filter(self, interface: &str) -> Result<SchedClassifierLink, ProgramError> {
        Ok(SchedClassifierLink::attached(interface, self.kind(), FILTER_PRIORITY, FILTER_HANDLE, None)?)
    }

    /// Whether one of our programs is there. If the kernel does not say, it is.
    pub(super) fn is_attached(self, interface: &str, kind: TcKind, ids: &[u32]) -> bool {
        match kind {
            TcKind::Clsact => self.has_filter(interface).unwrap_or(true),
            TcKind::Tcx => match SchedClassifier::query_tcx(interface, self.kind()) {
                Ok((_, programs)) => programs.iter().any(|program| ids.contains(&program.id())),
                Err(_) => true,
            },
        }
    }

    fn has_filter(self, interface: &str) -> std::io::Result<bool> {
        filters::has_filter(interface, self, FILTER_PRIORITY, u32::from(FILTER_HANDLE))
    }
}

/// How many filters of ours are on an interface.
pub fn own_filters(interface: &str) -> usize {
    TcHook::ALL.into_iter().filter(|hook| hook.has_filter(interface).unwrap_or(false)).count()
}

/// Takes our filters off an interface; others' filters and the qdisc stay. Returns how many there were.
pub fn remove_filters(interface: &str) -> usize {
    let there = TcHook::ALL.into_iter().filter(|hook| hook.has_filter(interface).unwrap_or(false));
    there.filter(|hook| hook.filter(interface).is_ok_and(|link| link.detach().is_ok())).count()
}
