//! The socket lookup program and the hooks that go with it: which connections and datagrams come to relayd's shared
//! sockets, and who else listens there.
//!
//! Its links are pinned where the sockets that it leads to outlive relayd, and nothing else of it is: the programs keep their
//! maps. The next relayd fills maps of its own, attaches beside, and takes the old programs off.

mod hooks;
mod layout;

use std::collections::HashSet;
use std::io;
use std::net::IpAddr;
use std::path::Path;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use aya::Ebpf;
use aya::maps::{Array, HashMap, MapData, SkStorage, SockMap};
use nix::time::{ClockId, clock_gettime};
use relay_common::lookup::{Block, Home, Spot, group};
use relay_common::names;
use relay_common::net::Protocol;
use socket2::{SockAddr, Socket};

pub(super) use self::hooks::PIN;
use self::hooks::{Links, take_off_pinned};
use self::layout::{Layout, TooManySets, family_of, spots};
use super::apply::{absent_is_fine, map_error};
use super::load::take;
use super::{Dataplane, KernelError, Unavailable};
use crate::rule::PortRange;

/// A program that has a port but does not listen yet keeps it for so long.
const GRACE: Duration = Duration::from_secs(5);

/// Ports that the shared sockets take.
#[derive(Clone, Debug, Eq, PartialEq)]
pub struct Stretch {
    pub protocol: Protocol,
    pub ports: PortRange,
    /// Unspecified: every address of the family.
    pub address: IpAddr,
    /// From programs that listen there, too.
    pub forced: bool,
}

/// All that the shared sockets take.
#[derive(Clone, Debug, Default)]
pub struct Wanted {
    pub stretches: Vec<Stretch>,
    /// The sockets outlive relayd.
    pub lasting: bool,
}

/// A socket that listens: its protocol, address and port.
pub type Listening = (Protocol, IpAddr, u16);

/// The lookup program, loaded.
pub struct Lookup {
    blocks: Array<MapData, Block>,
    sets: HashMap<MapData, Spot, u32>,
    yielded: HashMap<MapData, Spot, u64>,
    groups: SockMap<MapData>,
    shared: SkStorage<MapData, u32>,
    home: Array<MapData, Home>,
    own: Arc<OwnSockets>,
    layout: Layout,
    links: Option<Links>,
    /// Sockets that were yielded to when it was looked last.
    known: HashSet<Listening>,
}

/// Binds sockets of relayd, so that they are not taken for a program that begins to listen.
pub struct OwnSockets(Mutex<HashMap<MapData, u64, u32>>);

impl OwnSockets {
    pub fn bind(&self, socket: &Socket, address: &SockAddr) -> io::Result<()> {
        let cookie = socket.cookie()?;
        self.with(|own| own.insert(cookie, 1, 0)).map_err(io::Error::other)?;
        let bound = socket.bind(address);
        self.with(|own| absent_is_fine(own.remove(&cookie))).map_err(io::Error::other)?;
        bound
    }

    fn with<T>(&self, work: impl FnOnce(&mut HashMap<MapData, u64, u32>) -> T) -> T {
        work(&mut self.0.lock().unwrap_or_else(PoisonError::into_inner))
    }
}

impl Lookup {
    /// Loads the programs. Nothing is attached before there is something to take.
    pub fn load(ebpf: &mut Ebpf) -> Result<Self, Unavailable> {
        hooks::load(ebpf).map_err(|(name, error)| {
            tracing::debug!("{name}: {error}");
            Unavailable(format!("the kernel refuses the program {name}"))
        })?;
        Ok(Self {
            blocks: take(ebpf, names::BLOCKS)?,
            sets: take(ebpf, names::SETS)?,
            yielded: take(ebpf, names::YIELDED)?,
            groups: take(ebpf, names::GROUPS)?,
            shared: take(ebpf, names::SHARED_SOCKETS)?,
            home: take(ebpf, names::HOME)?,
            own: Arc::new(OwnSockets(Mutex::new(take(ebpf, names::OWN)?))),
            layout: Layout::default(),
            links: None,
            known: HashSet::new(),
        })
    }

    /// Whether anything is taken.
    pub const fn is_attached(&self) -> bool {
        self.links.is_some()
    }

    /// Whether what comes to shared sockets comes to them while relayd is away, too.
    pub fn goes_on(&self) -> bool {
        self.links.as_ref().is_some_and(Links::are_pinned)
    }

    pub fn own_sockets(&self) -> Arc<OwnSockets> {
        self.own.clone()
    }

    /// Shows the shared sockets of a protocol and the family of an address: the first one stands for all, and what comes to
    /// any of them is counted as their rule's.
    pub fn set_group(
        &mut self,
        protocol: Protocol,
        address: IpAddr,
        sockets: &[Socket],
    ) -> Result<(), KernelError> {
        for socket in sockets {
            self.shared.insert(socket, 1, 0).map_err(map_error(names::SHARED_SOCKETS))?;
        }
        let Some(first) = sockets.first() else { return Ok(()) };
        self.groups.set(group(protocol, family_of(address)), first, 0).map_err(map_error(names::GROUPS))
    }

    /// Takes what is wanted from now on, and nothing else. `others`: sockets of other programs that listen already.
    fn apply(
        &mut self,
        ebpf: &mut Ebpf,
        pins: &Path,
        wanted: &Wanted,
        others: impl Iterator<Item = Listening>,
    ) -> Result<Vec<Listening>, KernelError> {
        if wanted.stretches.is_empty() {
            take_off_pinned(pins);
            self.links = None;
            self.write(Layout::default())?;
            self.known.clear();
            return Ok(Vec::new());
        }
        let layout =
            Layout::of(&wanted.stretches, &self.layout).map_err(|TooManySets| KernelError::TooManySets)?;
        let new = self.yield_to(&layout, others)?;
        // an older program, which knew all this, may go when this one is attached
        self.write(layout)?;
        let mut links = match self.links.take() {
            Some(links) => links,
            None => {
                let links = Links::attach(ebpf, &mut self.home)?;
                take_off_pinned(pins);
                links
            }
        };
        match (links.are_pinned(), wanted.lasting) {
            (false, true) => links.pin(pins)?,
            (true, false) => links.unpin(pins),
            _ => {}
        }
        self.links = Some(links);
        Ok(new)
    }

    /// Looks who listens now: a program that began unnoticed gets its port, one that has ended gives it up. Returns those
    /// that have come.
    pub fn watch(&mut self, others: impl Iterator<Item = Listening>) -> Result<Vec<Listening>, KernelError> {
        if self.links.is_none() {
            return Ok(Vec::new());
        }
        let layout = std::mem::take(&mut self.layout);
        let new = self.yield_to(&layout, others);
        self.layout = layout;
        new
    }

    fn yield_to(
        &mut self,
        layout: &Layout,
        others: impl Iterator<Item = Listening>,
    ) -> Result<Vec<Listening>, KernelError> {
        let (mut there, mut seen) = (HashSet::new(), HashSet::new());
        for other in others {
            let (protocol, address, port) = other;
            for spot in spots(protocol, address, port).filter(|spot| layout.yields_at(spot)) {
                there.insert(spot);
                seen.insert(other);
            }
        }
        let now = now();
        // first, since what is over makes room
        self.take_back(&there, now)?;
        let notes: Vec<_> = there.iter().map(|spot| self.yielded.insert(spot, now, 0)).collect();
        notes.into_iter().collect::<Result<(), _>>().map_err(map_error(names::YIELDED))?;
        let new = seen.difference(&self.known).copied().collect();
        self.known = seen;
        Ok(new)
    }

    /// Ports that nobody listens on any more, and that nobody has been bound to lately.
    fn take_back(&mut self, there: &HashSet<Spot>, now: u64) -> Result<(), KernelError> {
        let grace = u64::try_from(GRACE.as_nanos()).unwrap_or(u64::MAX);
        let noted: Vec<(Spot, u64)> = self.yielded.iter().filter_map(Result::ok).collect();
        for (spot, since) in noted {
            if !there.contains(&spot) && now.saturating_sub(since) > grace {
                absent_is_fine(self.yielded.remove(&spot)).map_err(map_error(names::YIELDED))?;
            }
        }
        Ok(())
    }

    /// Sets first, then the ports that refer to them, then the sets that nothing refers to any more.
    fn write(&mut self, layout: Layout) -> Result<(), KernelError> {
        for (spot, forced) in &layout.sets {
            if self.layout.sets.get(spot) != Some(forced) {
                self.sets.insert(spot, forced, 0).map_err(map_error(names::SETS))?;
            }
        }
        for (index, (old, new)) in (0..).zip(self.layout.blocks.iter_mut().zip(&layout.blocks)) {
            if old != new {
                self.blocks.set(index, new, 0).map_err(map_error(names::BLOCKS))?;
                *old = *new;
            }
        }
        let gone = self.layout.sets.keys().filter(|spot| !layout.sets.contains_key(spot));
        for spot in gone {
            absent_is_fine(self.sets.remove(spot)).map_err(map_error(names::SETS))?;
        }
        self.layout = layout;
        Ok(())
    }
}

impl Dataplane {
    /// What sockets beside bound ones need; or why there is none of that here.
    pub const fn lookup(&self) -> Result<&Lookup, &Unavailable> {
        self.lookup.as_ref()
    }

    pub fn lookup_mut(&mut self) -> Option<&mut Lookup> {
        self.lookup.as_mut().ok()
    }

    /// Has the shared sockets take what is wanted from now on, and nothing else. `others`: sockets of other programs that
    /// listen already. Returns those that are yielded to and were not before.
    pub fn take_with_shared_sockets(
        &mut self,
        wanted: &Wanted,
        others: impl Iterator<Item = Listening>,
    ) -> Result<Vec<Listening>, KernelError> {
        match &mut self.lookup {
            Ok(lookup) => lookup.apply(&mut self.ebpf, &self.pins, wanted, others),
            Err(_) if wanted.stretches.is_empty() => Ok(Vec::new()),
            Err(unavailable) => Err(KernelError::Lookup(unavailable.0.clone())),
        }
    }

    /// There are no shared sockets: takes off what a relayd before has left for some.
    pub fn forget_shared_sockets(&self) {
        take_off_pinned(&self.pins);
    }
}

/// Nanoseconds, as the programs count them.
fn now() -> u64 {
    let now = clock_gettime(ClockId::CLOCK_MONOTONIC).map_or(Duration::ZERO, Duration::from);
    u64::try_from(now.as_nanos()).unwrap_or(u64::MAX)
}
