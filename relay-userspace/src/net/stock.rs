//! Listening sockets that the service manager keeps while relayd is away (systemd's file descriptor store): what comes in
//! meanwhile waits there for the next relayd.
//!
//! Nobody may close such a socket without taking it out of the store: it would go on listening, for nobody.

use std::collections::{BTreeMap, HashMap, HashSet};
use std::net::IpAddr;
use std::os::fd::{AsFd as _, BorrowedFd};
use std::sync::Arc;

use nix::sys::socket::{getsockopt, sockopt};
use nix::sys::stat::fstat;
use relay_common::net::Protocol;
use socket2::{Socket, Type};

use super::claim::Claim;
use super::group::{self, Group};
use crate::service::Service;

/// What the unit allows (FileDescriptorStoreMax=), where the manager does not say.
const MOST: usize = 8192;
/// All names together go through one variable of the next relayd's environment; the kernel takes 128 KiB.
const MOST_NAME_BYTES: usize = 96 * 1024;
/// What names of shared sockets begin with.
const SHARED: &str = "shared/";

/// The sockets in the store.
#[derive(Debug, Default)]
pub struct Stock {
    service: Option<Arc<Service>>,
    most: usize,
    /// From the relayd before, and not in use yet.
    inherited: HashMap<String, Vec<Socket>>,
    /// Claims that began with an inherited socket and are not listened on yet.
    waiting: HashSet<Claim>,
    /// How many sockets the manager has under each name.
    stored: BTreeMap<String, usize>,
    /// Said once.
    is_full: bool,
}

impl Stock {
    /// Starts with what the manager has kept. `trains`: UDP sockets may take several datagrams as one.
    pub fn open(service: &Arc<Service>, trains: bool) -> Self {
        let mut stock = Self {
            service: Some(service.clone()).filter(|service| service.is_there()),
            most: service.store_size().unwrap_or(MOST),
            ..Self::default()
        };
        for (name, descriptor) in service.inherited() {
            *stock.stored.entry(name.clone()).or_default() += 1;
            stock.inherited.entry(name).or_default().push(Socket::from(descriptor));
        }
        if !trains {
            // they cost every packet of the host something, until they are closed
            let has_trains = |socket: &Socket| getsockopt(socket, sockopt::UdpGroSegment).unwrap_or(false);
            let unfit = stock.inherited.iter().filter(|(_, sockets)| sockets.iter().any(has_trains));
            for name in unfit.map(|(name, _)| name.clone()).collect::<Vec<_>>() {
                stock.inherited.remove(&name);
                stock.discard(&name);
            }
        }
        stock
    }

    /// A socket that the relayd before has listened on.
    pub fn take(&mut self, claim: &Claim) -> Option<Socket> {
        let sockets = self.inherited.get_mut(&name(claim))?;
        sockets.retain(|socket| is_of(socket, claim));
        let socket = sockets.pop()?;
        self.waiting.insert(claim.clone());
        Some(socket)
    }

    /// The others on the same port.
    pub fn take_rest(&mut self, claim: &Claim) -> Vec<Socket> {
        self.inherited.remove(&name(claim)).unwrap_or_default()
    }

    /// Has the manager keep the sockets that a port is listened on with from now on.
    pub fn keep(&mut self, claim: &Claim, sockets: &[Socket]) {
        let name = name(claim);
        let is_inherited = self.waiting.remove(claim);
        if !is_inherited {
            self.discard(&name);
        }
        self.store(name, sockets);
    }

    /// The shared sockets of a group that the relayd before has had.
    pub fn take_shared(&mut self, protocol: Protocol, family: IpAddr) -> Vec<Socket> {
        let name = shared_name(protocol, family);
        let sockets = self.inherited.remove(&name).unwrap_or_default();
        if !sockets.is_empty() && group::is_of(&sockets, protocol, family) {
            return sockets;
        }
        // others will be opened in their place
        self.discard(&name);
        Vec::new()
    }

    /// Has the manager keep shared sockets, if it surely does: all of them or none. Returns which.
    pub fn keep_shared(&mut self, groups: &[Group]) -> bool {
        let keeps = self.service.as_ref().is_some_and(|service| service.keeps());
        let mut store = |group: &Group| self.store(shared_name(group.protocol, group.family), &group.sockets);
        let is_whole = keeps && groups.iter().all(&mut store);
        if !is_whole {
            self.forget_shared();
        }
        is_whole
    }

    /// Takes all shared sockets out of the store.
    pub fn forget_shared(&mut self) {
        let names: Vec<String> =
            self.stored.keys().filter(|name| name.starts_with(SHARED)).cloned().collect();
        names.iter().for_each(|name| self.discard(name));
    }

    /// Whether all of these are in the store now, under this name.
    fn store(&mut self, name: String, sockets: &[Socket]) -> bool {
        let known = self.stored.get(&name).copied().unwrap_or(0);
        let new: Vec<BorrowedFd<'_>> = sockets.iter().skip(known).map(Socket::as_fd).collect();
        if new.is_empty() {
            return true;
        }
        let Some(service) = self.service.clone() else { return false };
        if !self.has_room_for(&name, new.len()) {
            self.say_full();
            return false;
        }
        let stored = service.store(&name, &new);
        if let Err(error) = &stored {
            tracing::warn!("the service manager does not keep {name}: {error}");
        } else {
            self.stored.insert(name, known + new.len());
        }
        stored.is_ok()
    }

    /// Takes a port's sockets out of the store.
    pub fn forget(&mut self, claim: &Claim) {
        self.waiting.remove(claim);
        let name = name(claim);
        self.inherited.remove(&name);
        self.discard(&name);
    }

    /// Whether what waits on a port now is for the next relayd.
    pub fn has(&self, claim: &Claim) -> bool {
        self.stored.contains_key(&name(claim))
    }

    /// Takes what nobody has taken out of the store. Returns claims that have an inherited socket, and do not listen.
    pub fn settle(&mut self) -> Vec<Claim> {
        for name in std::mem::take(&mut self.inherited).into_keys() {
            self.discard(&name);
        }
        std::mem::take(&mut self.waiting).into_iter().collect()
    }

    /// What the kernel's socket list calls the sockets that are not in use yet.
    pub fn inodes(&self) -> impl Iterator<Item = u64> {
        self.inherited.values().flatten().filter_map(|socket| Some(fstat(socket).ok()?.st_ino))
    }

    fn discard(&mut self, name: &str) {
        if self.stored.remove(name).is_some()
            && let Some(service) = &self.service
        {
            service.unstore(name);
        }
    }

    fn has_room_for(&self, name: &str, count: usize) -> bool {
        let stored: usize = self.stored.values().sum();
        let bytes: usize = self.stored.iter().map(|(name, count)| (name.len() + 1) * count).sum();
        stored + count <= self.most && bytes + (name.len() + 1) * count <= MOST_NAME_BYTES
    }

    fn say_full(&mut self) {
        if !self.is_full {
            self.is_full = true;
            let stored: usize = self.stored.values().sum();
            tracing::warn!(
                "the service manager keeps {stored} listening sockets, and has no room for more: clients of the other \
                 ports are refused while relayd is restarted"
            );
        }
    }
}

/// `tcp/203.0.113.1%eth0.2/8080`. No colons: the manager puts them between names.
fn name(claim: &Claim) -> String {
    let Claim { protocol, address, interface, port, mptcp } = claim;
    let protocol = if *mptcp { "mptcp" } else { protocol.as_str() };
    let address = address.to_string().replace(':', "_");
    match interface {
        Some((interface, index)) => format!("{protocol}/{address}%{interface}.{index}/{port}"),
        None => format!("{protocol}/{address}/{port}"),
    }
}

/// `shared/tcp/v4`.
fn shared_name(protocol: Protocol, family: IpAddr) -> String {
    let family = if family.is_ipv4() { "v4" } else { "v6" };
    format!("{SHARED}{}/{family}", protocol.as_str())
}

/// Whether a socket is what its name says.
fn is_of(socket: &Socket, claim: &Claim) -> bool {
    let kind = match claim.protocol {
        Protocol::Tcp => Type::STREAM,
        Protocol::Udp => Type::DGRAM,
    };
    let address = socket.local_addr().ok().and_then(|address| address.as_socket());
    socket.r#type().ok() == Some(kind)
        && address.is_some_and(|own| own.ip() == claim.address && own.port() == claim.port)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_have_no_colons_and_tell_claims_apart() {
        let claim = |address: &str, interface| Claim {
            protocol: Protocol::Tcp,
            address: address.parse().expect(address),
            interface,
            port: 80,
            mptcp: false,
        };
        let other_kind = claim("0.0.0.0", None).of_other_kind();
        assert_eq!(name(&other_kind), "mptcp/0.0.0.0/80");
        assert_eq!(name(&claim("2001:db8::1", None)), "tcp/2001_db8__1/80");
        assert_eq!(name(&claim("0.0.0.0", Some(("eth0".into(), 3)))), "tcp/0.0.0.0%eth0.3/80");
    }

    #[test]
    fn names_fit_into_the_next_environment() {
        let mut stock = Stock { most: usize::MAX, ..Stock::default() };
        stock.stored.insert("x".repeat(1023), MOST_NAME_BYTES / 1024 - 1);
        assert!(stock.has_room_for(&"x".repeat(1023), 1));
        assert!(!stock.has_room_for(&"x".repeat(1023), 2));
        let stock = Stock { most: 1, ..Stock::default() };
        assert!(stock.has_room_for("x", 1) && !stock.has_room_for("x", 2));
    }
}
