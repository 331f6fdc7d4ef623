//! Hanging the programs onto interfaces and keeping them there.
//!
//! From Linux 6.6 on tc programs are links (TCX), pinned like XDP's. Before, a tc program is a filter on the clsact
//! qdisc, which outlives us without a pin: it is found again by its priority and handle, and never added twice.

use std::collections::BTreeMap;
use std::fs;
use std::path::{Path, PathBuf};

use aya::programs::links::{FdLink, PinnedLink};
use aya::programs::tc::{NlOptions, SchedClassifierLink, TcAttachOptions, TcHandle, qdisc_add_clsact};
use aya::programs::xdp::XdpLink;
use aya::programs::{LinkOrder, ProgramError, SchedClassifier, TcAttachType, XdpMode};
use relay_common::names;

use super::filters;
use super::links;
use super::load::{self, Dataplane};
use super::preflight;
use crate::host::LinkKind;

/// Where our filter stands on the clsact qdisc. The handle spells RELY.
pub const FILTER_PRIORITY: u16 = 5;
pub const FILTER_HANDLE: TcHandle = TcHandle::new(0x5245, 0x4c59);

/// An interface to attach to.
#[derive(Clone, Debug, Eq, PartialEq)]
pub struct Target {
    pub index: u32,
    pub name: Box<str>,
    pub kind: LinkKind,
    pub xdp: bool,
}

/// What is attached to an interface.
#[derive(Clone, Debug, Eq, PartialEq)]
pub struct Attachment {
    pub name: Box<str>,
    pub tc: Result<TcKind, String>,
    /// `None`: not asked for.
    pub xdp: Option<Result<(), String>>,
}

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

/// Attachments by interface index.
pub type Attachments = BTreeMap<u32, Attachment>;

impl Dataplane {
    pub const fn attachments(&self) -> &Attachments {
        &self.attachments
    }

    /// Attaches to every target, takes over what is there already, and lets go of everything else.
    pub fn attach(&mut self, targets: &[Target]) -> &Attachments {
        let mut attachments = Attachments::new();
        for target in targets {
            if let Some(known) = self.attachments.get(&target.index)
                && known.tc.is_ok()
                && known.name == target.name
            {
                attachments.insert(target.index, known.clone());
                continue;
            }
            let tc = self.attach_tc(target);
            let xdp = (target.xdp && tc.is_ok()).then(|| self.attach_xdp(target));
            if xdp.is_none() {
                let _not_there = fs::remove_file(self.pin("xdp", target.index));
            }
            attachments.insert(target.index, Attachment { name: target.name.clone(), tc, xdp });
        }
        let gone: Vec<u32> = self.attached().filter(|index| !attachments.contains_key(index)).collect();
        for index in gone {
            self.detach(index);
        }
        self.attachments = attachments;
        &self.attachments
    }

    /// Takes our filter off interfaces that it does not belong on, of all that there are. Unlike a pinned link it says
    /// nothing of itself: an earlier relayd may have left it where this one attaches nothing. Returns where it was.
    pub fn detach_strays(&self, interfaces: &[String]) -> Vec<String> {
        let attached = |name: &str| self.attachments.values().any(|attachment| *attachment.name == *name);
        let strays = interfaces.iter().filter(|name| !attached(name) && has_own_filter(name));
        strays.filter(|name| remove_filter(name)).cloned().collect()
    }

    /// Names of interfaces that somebody has taken our program off.
    pub fn lost(&mut self) -> Vec<String> {
        let ids: Vec<u32> = [names::TC, names::TC_L3]
            .into_iter()
            .filter_map(|name| Some(load::classifier(&mut self.ebpf, name).ok()?.info().ok()?.id()))
            .collect();
        let lost: Vec<(u32, Box<str>)> = self
            .attachments
            .iter()
            .filter(|(_, attachment)| match attachment.tc {
                Ok(TcKind::Tcx) => !has_tcx(&attachment.name, &ids),
                Ok(TcKind::Clsact) => !has_filter(&attachment.name),
                Err(_) => false,
            })
            .map(|(&index, attachment)| (index, attachment.name.clone()))
            .collect();
        for (index, _) in &lost {
            self.attachments.remove(index);
        }
        lost.into_iter().map(|(_, name)| name.into()).collect()
    }

    /// Whether some interface could not be attached to, which is worth another try.
    pub fn is_ailing(&self) -> bool {
        self.attachments.values().any(|attachment| attachment.tc.is_err())
    }

    fn pin(&self, hook: &str, index: u32) -> PathBuf {
        self.pins.join(format!("{hook}_{index}"))
    }

    /// Interfaces with a pin of ours or an attachment that we remember.
    fn attached(&self) -> impl Iterator<Item = u32> + use<> {
        let pinned = fs::read_dir(&self.pins).into_iter().flatten().flatten().filter_map(|entry| {
            let name = entry.file_name().into_string().ok()?;
            let index = name.strip_prefix("tcx_").or_else(|| name.strip_prefix("xdp_"))?;
            index.parse().ok()
        });
        let mut indices: Vec<u32> = pinned.chain(self.attachments.keys().copied()).collect();
        indices.sort_unstable();
        indices.dedup();
        indices.into_iter()
    }

    fn detach(&self, index: u32) {
        for hook in ["xdp", "tcx"] {
            let pin = self.pin(hook, index);
            if pin.exists() {
                let _ended_with_its_pin = links::detach(&pin);
                let _not_there = fs::remove_file(pin);
            }
        }
        if let Some(attachment) = self.attachments.get(&index)
            && attachment.tc == Ok(TcKind::Clsact)
        {
            remove_filter(&attachment.name);
        }
    }

    fn attach_tc(&mut self, target: &Target) -> Result<TcKind, String> {
        let pin = self.pin("tcx", target.index);
        let name = match target.kind {
            LinkKind::Ethernet | LinkKind::Loopback => names::TC,
            LinkKind::Bare => names::TC_L3,
        };
        let program = load::classifier(&mut self.ebpf, name).map_err(|error| shown(&error))?;
        if preflight::kernel_is_at_least(6, 6) {
            return attach_tcx(program, target, &pin).map(|()| TcKind::Tcx).map_err(|error| shown(&error));
        }
        attach_clsact(program, target).map(|()| TcKind::Clsact).map_err(|error| shown(&error))
    }

    fn attach_xdp(&mut self, target: &Target) -> Result<(), String> {
        if target.kind != LinkKind::Ethernet {
            return Err("the interface has no Ethernet header".into());
        }
        let pin = self.pin("xdp", target.index);
        let program = load::xdp(&mut self.ebpf).map_err(|error| shown(&error))?;
        if let Some(link) = adopt(&pin)
            && let Ok(link) = XdpLink::try_from(link)
            && program.attach_to_link(link).is_ok()
        {
            return Ok(());
        }
        let _dead_pin = fs::remove_file(&pin);
        // driver mode or nothing: generic XDP copies every packet
        let id = program.attach_to_if_index(target.index, XdpMode::Driver).map_err(|error| shown(&error))?;
        let link = program.take_link(id).map_err(|error| shown(&error))?;
        let link = FdLink::try_from(link).map_err(|_netlink| "the kernel knows no XDP links".to_owned())?;
        link.pin(&pin).map_err(|error| error.to_string())?;
        Ok(())
    }
}

/// An error with its cause, on one line.
fn shown(error: &dyn std::error::Error) -> String {
    let mut text = error.to_string();
    let mut source = error.source();
    while let Some(cause) = source {
        text = format!("{text}: {cause}");
        source = cause.source();
    }
    text
}

/// The link behind a pin, if there is one.
fn adopt(pin: &Path) -> Option<FdLink> {
    pin.exists().then(|| PinnedLink::from_pin(pin).ok()).flatten().map(FdLink::from)
}

/// Swaps our program into the pinned link, with no moment in between, or makes and pins a new link. A link whose
/// interface is gone cannot be updated, and makes room.
fn attach_tcx(program: &mut SchedClassifier, target: &Target, pin: &Path) -> Result<(), ProgramError> {
    if let Some(link) = adopt(pin)
        && let Ok(link) = SchedClassifierLink::try_from(link)
        && program.attach_to_link(link).is_ok()
    {
        return Ok(());
    }
    let _dead_pin = fs::remove_file(pin);
    let options = TcAttachOptions::TcxOrder(LinkOrder::default());
    let id = program.attach_with_options(&target.name, TcAttachType::Ingress, options)?;
    let link = program.take_link(id)?;
    let link = FdLink::try_from(link).map_err(|_not_tcx| ProgramError::NotAttached)?;
    link.pin(pin).map_err(|error| match error {
        aya::pin::PinError::SyscallError(error) => ProgramError::SyscallError(error),
        _ => ProgramError::NotAttached,
    })?;
    Ok(())
}

/// Replaces the program of our filter, or adds the filter.
fn attach_clsact(program: &mut SchedClassifier, target: &Target) -> Result<(), ProgramError> {
    let _there_already = qdisc_add_clsact(&target.name);
    let known = SchedClassifierLink::attached(
        &target.name,
        TcAttachType::Ingress,
        FILTER_PRIORITY,
        FILTER_HANDLE,
        None,
    )?;
    let id = match program.attach_to_link(known) {
        Ok(id) => id,
        Err(_no_such_filter) => {
            let options =
                NlOptions { priority: FILTER_PRIORITY, handle: FILTER_HANDLE, ..NlOptions::default() };
            program.attach_with_options(
                &target.name,
                TcAttachType::Ingress,
                TcAttachOptions::Netlink(options),
            )?
        }
    };
    // dropping the link would take the filter off again
    std::mem::forget(program.take_link(id)?);
    Ok(())
}

/// Whether one of our programs is among those of an interface. If the kernel does not say, it is.
fn has_tcx(interface: &str, ids: &[u32]) -> bool {
    match SchedClassifier::query_tcx(interface, TcAttachType::Ingress) {
        Ok((_, programs)) => programs.iter().any(|program| ids.contains(&program.id())),
        Err(_) => true,
    }
}

/// Whether our filter is on an interface's clsact qdisc.
fn has_filter(interface: &str) -> bool {
    filters::has_filter(interface, FILTER_PRIORITY, u32::from(FILTER_HANDLE)).unwrap_or(true)
}

/// Whether our filter is on an interface.
pub fn has_own_filter(interface: &str) -> bool {
    filters::has_filter(interface, FILTER_PRIORITY, u32::from(FILTER_HANDLE)).unwrap_or(false)
}

/// Takes our filter off an interface; others' filters and the qdisc stay.
pub fn remove_filter(interface: &str) -> bool {
    SchedClassifierLink::attached(interface, TcAttachType::Ingress, FILTER_PRIORITY, FILTER_HANDLE, None)
        .is_ok_and(|link| aya::programs::links::Link::detach(link).is_ok())
}
