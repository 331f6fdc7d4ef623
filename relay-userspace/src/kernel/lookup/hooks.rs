//! Where the lookup program and its helpers hang: the network namespace, and the control group of everybody.

use std::fs::File;
use std::io;
use std::net::{Ipv4Addr, SocketAddr};
use std::path::Path;

use aya::Ebpf;
use aya::maps::{Array, MapData};
use aya::programs::cgroup_sock::CgroupSockLink;
use aya::programs::cgroup_sock_addr::CgroupSockAddrLink;
use aya::programs::sk_lookup::SkLookupLink;
use aya::programs::{CgroupAttachMode, CgroupSock, CgroupSockAddr, ProgramError, SkLookup};
use nix::sys::statfs::{CGROUP2_SUPER_MAGIC, statfs};
use relay_common::lookup::Home;
use relay_common::names;
use socket2::{Domain, Socket, Type};

use super::super::KernelError;

/// Where the tree of control groups may be that knows programs (version 2).
const CGROUPS: [&str; 2] = ["/sys/fs/cgroup", "/sys/fs/cgroup/unified"];

/// What is attached, and ends with this value.
#[derive(Debug)]
pub struct Links {
    _lookup: SkLookupLink,
    _watchers: Option<Watchers>,
}

#[derive(Debug)]
struct Watchers {
    _bound: Vec<CgroupSockLink>,
    _sent: Vec<CgroupSockAddrLink>,
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
        let watchers = Watchers::attach(ebpf, home);
        if let Err(why) = &watchers {
            tracing::warn!("a program that begins to listen inside a range has to wait for its port: {why}");
        }
        let namespace =
            File::open("/proc/self/ns/net").map_err(|error| KernelError::Lookup(error.to_string()))?;
        let refused = |error: ProgramError| KernelError::Lookup(shown(&error));
        let program = program::<SkLookup>(ebpf, names::LOOKUP).map_err(refused)?;
        let id = program.attach(namespace).map_err(refused)?;
        let link = program.take_link(id).map_err(refused)?;
        Ok(Self { _lookup: link, _watchers: watchers.ok() })
    }
}

impl Watchers {
    fn attach(ebpf: &mut Ebpf, home: &mut Array<MapData, Home>) -> Result<Self, String> {
        let root = CGROUPS.iter().find(|path| {
            statfs(Path::new(path)).is_ok_and(|info| info.filesystem_type() == CGROUP2_SUPER_MAGIC)
        });
        let root = root.ok_or("there is no control group tree of version 2")?;
        let root = File::open(root).map_err(|error| format!("{root}: {error}"))?;
        let watchers = Self::hang(ebpf, &root).map_err(|error| shown(&error))?;
        find_home(home).map_err(|error| format!("relayd's own network namespace is not known: {error}"))?;
        Ok(watchers)
    }

    /// Beside programs of others, as links always are, whatever the mode says.
    fn hang(ebpf: &mut Ebpf, root: &File) -> Result<Self, ProgramError> {
        let (mut bound, mut sent) = (Vec::new(), Vec::new());
        for name in names::BOUND {
            let program = program::<CgroupSock>(ebpf, name)?;
            let id = program.attach(root, CgroupAttachMode::Single)?;
            bound.push(program.take_link(id)?);
        }
        for name in names::SENT {
            let program = program::<CgroupSockAddr>(ebpf, name)?;
            let id = program.attach(root, CgroupAttachMode::Single)?;
            sent.push(program.take_link(id)?);
        }
        Ok(Self { _bound: bound, _sent: sent })
    }
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
