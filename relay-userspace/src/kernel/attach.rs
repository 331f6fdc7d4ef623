//! Hanging the programs onto interfaces and keeping them there.

use std::collections::BTreeMap;
use std::fs;
use std::path::PathBuf;

use aya::programs::XdpMode;
use aya::programs::links::FdLink;
use aya::programs::xdp::XdpLink;

use super::links::{self, adopt};
use super::load::{self, Dataplane};
use super::tc::{self, TcHook, TcKind};
use crate::host::LinkKind;

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
    /// The same for what leaves, which is only counted.
    pub egress: Result<TcKind, String>,
    /// `None`: not asked for.
    pub xdp: Option<Result<(), String>>,
}

/// Attachments by interface index.
pub type Attachments = BTreeMap<u32, Attachment>;

/// What pins of links are called, before the interface's number. XDP's comes first: tc behind it carries what it leaves.
const HOOKS: [&str; 3] = ["xdp", TcHook::Ingress.pin(), TcHook::Egress.pin()];

impl Attachment {
    fn is_whole(&self) -> bool {
        self.tc.is_ok() && self.egress.is_ok()
    }
}

impl Dataplane {
    pub const fn attachments(&self) -> &Attachments {
        &self.attachments
    }

    /// Attaches to every target, takes over what is there already, and lets go of everything else.
    pub fn attach(&mut self, targets: &[Target]) -> &Attachments {
        let mut attachments = Attachments::new();
        for target in targets {
            if let Some(known) = self.attachments.get(&target.index)
                && known.is_whole()
                && known.name == target.name
            {
                attachments.insert(target.index, known.clone());
                continue;
            }
            let tc = self.attach_tc(target, TcHook::Ingress);
            let egress = self.attach_tc(target, TcHook::Egress);
            let xdp = (target.xdp && tc.is_ok()).then(|| self.attach_xdp(target));
            if xdp.is_none() {
                let _not_there = fs::remove_file(self.pin("xdp", target.index));
            }
            attachments.insert(target.index, Attachment { name: target.name.clone(), tc, egress, xdp });
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
        interfaces.iter().filter(|name| !attached(name) && tc::remove_filters(name) > 0).cloned().collect()
    }

    /// Names of interfaces that somebody has taken one of our programs off.
    pub fn lost(&mut self) -> Vec<String> {
        let ids: Vec<u32> = TcHook::PROGRAMS
            .into_iter()
            .filter_map(|name| Some(load::classifier(&mut self.ebpf, name).ok()?.info().ok()?.id()))
            .collect();
        let is_there = |attachment: &Attachment| {
            let hooks = [(TcHook::Ingress, &attachment.tc), (TcHook::Egress, &attachment.egress)];
            hooks.into_iter().all(|(hook, kind)| {
                kind.as_ref().map_or(true, |kind| hook.is_attached(&attachment.name, *kind, &ids))
            })
        };
        let lost: Vec<(u32, Box<str>)> = self
            .attachments
            .iter()
            .filter(|(_, attachment)| !is_there(attachment))
            .map(|(&index, attachment)| (index, attachment.name.clone()))
            .collect();
        for (index, _) in &lost {
            self.attachments.remove(index);
        }
        lost.into_iter().map(|(_, name)| name.into()).collect()
    }

    /// Whether some interface could not be attached to, which is worth another try.
    pub fn is_ailing(&self) -> bool {
        self.attachments.values().any(|attachment| !attachment.is_whole())
    }

    fn pin(&self, hook: &str, index: u32) -> PathBuf {
        self.pins.join(format!("{hook}_{index}"))
    }

    /// Interfaces with a pin of ours or an attachment that we remember.
    fn attached(&self) -> impl Iterator<Item = u32> + use<> {
        let pinned = fs::read_dir(&self.pins).into_iter().flatten().flatten().filter_map(|entry| {
            let name = entry.file_name().into_string().ok()?;
            name.rsplit_once('_').filter(|(hook, _)| HOOKS.contains(hook))?.1.parse().ok()
        });
        let mut indices: Vec<u32> = pinned.chain(self.attachments.keys().copied()).collect();
        indices.sort_unstable();
        indices.dedup();
        indices.into_iter()
    }

    fn detach(&self, index: u32) {
        for hook in HOOKS {
            let pin = self.pin(hook, index);
            if pin.exists() {
                let _ended_with_its_pin = links::detach(&pin);
                let _not_there = fs::remove_file(pin);
            }
        }
        if let Some(attachment) = self.attachments.get(&index)
            && [&attachment.tc, &attachment.egress].contains(&&Ok(TcKind::Clsact))
        {
            tc::remove_filters(&attachment.name);
        }
    }

    fn attach_tc(&mut self, target: &Target, hook: TcHook) -> Result<TcKind, String> {
        let pin = self.pin(hook.pin(), target.index);
        let program = load::loaded_classifier(&mut self.ebpf, hook.program(target.kind));
        let attached = program.and_then(|program| hook.attach(program, &target.name, &pin));
        attached.map_err(|error| shown(&error))
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
