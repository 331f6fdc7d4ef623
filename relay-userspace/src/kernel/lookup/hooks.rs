//! Where the lookup program and its helpers hang: the network namespace, and the control group of everybody.

use std::fs::{self, File};
use std::io;
use std::net::{Ipv4Addr, SocketAddr};
use std::path::Path;

use aya::Ebpf;
use aya::maps::{Array, MapData};
use aya::programs::links::FdLink;
use aya::programs::{CgroupAttachMode, CgroupSock, CgroupSockAddr, ProgramError, SkLookup};
use nix::sys::statfs::{CGROUP2_SUPER_MAGIC, statfs};
use relay_common::lookup::Home;
use relay_common::names;
use socket2::{Domain, Socket, Type};

use super::super::{KernelError, links};

/// Where the tree of control groups may be that knows programs (version 2).
const CGROUPS: [&str; 2] = ["/sys/fs/cgroup", "/sys/fs/cgroup/unified"];

/// What pins of these links begin with; the program's name comes after.
pub const PIN: &str = "shared_";

/// What is attached, and ends with this value unless it is pinned.
#[derive(Debug)]
pub struct Links {
    links: Vec<(&'static str, FdLink)>,
    pinned: bool,
}

/// Loads all the programs; says which one the kernel refuses.
pub fn load(ebpf: &mut Ebpf) -> Result<(), (&'static str, ProgramError)> {
    let named = |name| move |error| (name, error);
    program::<SkLookup>(ebpf, names::LOOKUP).and_then(SkLookup::load).map_err(named(names::LOOKUP))?;
    for name in names::BOUND {
        program::<CgroupSock>(ebpf, name).and_then(CgroupSock::load).map_err(named(name))?;
    }
    for name in names::SENT {
        program::<CgroupSockAddr>(ebpf, name).and_then(CgroupSockAddr::load).map_err(named(name))?;
    }
    Ok(())
}

impl Links {
    /// Those who notice other programs first, so that none is robbed. Without them there is still the socket list.
    pub fn attach(ebpf: &mut Ebpf, home: &mut Array<MapData, Home>) -> Result<Self, KernelError> {
        let mut links = watch(ebpf, home).unwrap_or_else(|why| {
            tracing::warn!("a program that begins to listen inside a range has to wait for its port: {why}");
            Vec::new()
        });
        let namespace =
            File::open("/proc/self/ns/net").map_err(|error| KernelError::Lookup(error.to_string()))?;
        let refused = |error: ProgramError| KernelError::Lookup(shown(&error));
        let program = program::<SkLookup>(ebpf, names::LOOKUP).map_err(refused)?;
        let id = program.attach(namespace).map_err(refused)?;
        let link = program.take_link(id).map_err(refused)?;
        links.push((names::LOOKUP, link.into()));
        Ok(Self { links, pinned: false })
    }

    /// Whether they go on without relayd.
    pub const fn are_pinned(&self) -> bool {
        self.pinned
    }

    /// Has them go on without relayd.
    pub fn pin(&mut self, pins: &Path) -> Result<(), KernelError> {
        let links = std::mem::take(&mut self.links);
        self.pinned = true;
        for (name, link) in links {
            let path = pins.join(format!("{PIN}{name}"));
            let pinned = link.pin(&path);
            let pinned = pinned
                .map_err(|error| KernelError::Lookup(format!("{}: {}", path.display(), shown(&error))))?;
            self.links.push((name, pinned.into()));
        }
        Ok(())
    }

    /// Has them end with relayd.
    pub fn unpin(&mut self, pins: &Path) {
        self.pinned = false;
        each_pin(pins, |pin| drop(fs::remove_file(pin)));
    }
}

/// Takes off whatever is pinned, of this relayd or one before.
pub fn take_off_pinned(pins: &Path) {
    each_pin(pins, |pin| {
        let _ended_with_its_pin = links::detach(pin);
        let _not_there = fs::remove_file(pin);
    });
}

fn each_pin(pins: &Path, act: impl Fn(&Path)) {
    let programs = names::BOUND.into_iter().chain(names::SENT).chain([names::LOOKUP]);
    programs
        .map(|name| pins.join(format!("{PIN}{name}")))
        .filter(|pin| pin.exists())
        .for_each(|pin| act(&pin));
}

/// Attaches those who notice other programs.
fn watch(ebpf: &mut Ebpf, home: &mut Array<MapData, Home>) -> Result<Vec<(&'static str, FdLink)>, String> {
    let root = CGROUPS
        .iter()
        .find(|path| statfs(Path::new(path)).is_ok_and(|info| info.filesystem_type() == CGROUP2_SUPER_MAGIC));
    let root = root.ok_or("there is no control group tree of version 2")?;
    let root = File::open(root).map_err(|error| format!("{root}: {error}"))?;
    let watchers = hang(ebpf, &root).map_err(|error| shown(&*error))?;
    find_home(home).map_err(|error| format!("relayd's own network namespace is not known: {error}"))?;
    Ok(watchers)
}

/// Beside programs of others, as links always are, whatever the mode says.
fn hang(ebpf: &mut Ebpf, root: &File) -> Result<Vec<(&'static str, FdLink)>, Box<dyn std::error::Error>> {
    let mut links = Vec::new();
    for name in names::BOUND {
        let program = program::<CgroupSock>(ebpf, name)?;
        let id = program.attach(root, CgroupAttachMode::Single)?;
        links.push((name, program.take_link(id)?.try_into()?));
    }
    for name in names::SENT {
        let program = program::<CgroupSockAddr>(ebpf, name)?;
        let id = program.attach(root, CgroupAttachMode::Single)?;
        links.push((name, program.take_link(id)?.try_into()?));
    }
    Ok(links)
}

/// The programs see sockets of all namespaces. Which one is ours they say of a socket that we show them.
fn find_home(home: &mut Array<MapData, Home>) -> io::Result<()> {
    let socket = Socket::new(Domain::IPV4, Type::DGRAM, None)?;
    let question = Home { socket: socket.cookie()?, namespace: 0 };
    home.set(0, question, 0).map_err(io::Error::other)?;
    socket.bind(&SocketAddr::from((Ipv4Addr::LOCALHOST, 0)).into())?;
    let answer = home.get(&0, 0).map_err(io::Error::other)?;
    if answer.namespace == 0 {
        return Err(io::Error::other("the control group's programs do not see it"));
    }
    home.set(0, Home { socket: 0, ..answer }, 0).map_err(io::Error::other)
}

fn program<'a, P>(ebpf: &'a mut Ebpf, name: &str) -> Result<&'a mut P, ProgramError>
where
    &'a mut P: TryFrom<&'a mut aya::programs::Program, Error = ProgramError>,
{
    ebpf.program_mut(name).ok_or(ProgramError::NotLoaded)?.try_into()
}

/// An error with its cause.
fn shown(error: &dyn std::error::Error) -> String {
    error.source().map_or_else(|| error.to_string(), |cause| format!("{error}: {cause}"))
}
