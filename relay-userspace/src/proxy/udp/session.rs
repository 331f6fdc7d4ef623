//! One client: who it is, its socket, why it may not have one.

use std::fmt::Display;
use std::io;
use std::net::{IpAddr, Ipv4Addr, SocketAddr};
use std::os::fd::OwnedFd;
use std::sync::Arc;

use nix::errno::Errno;
use relay_common::net::Protocol;

use super::carrier::{CarrierFlow, Flow};
use super::envelope::{Control, Local, Name};
use super::sender::Sender;
use super::share::Place;
use crate::proxy::counters::Refusal;
use crate::proxy::ending::{Ending, Record};
use crate::proxy::gate::{Gate, Seat};
use crate::proxy::kept::{self, Ends};
use crate::proxy::pool::{Lease, Signal};
use crate::proxy::roster::{Backend, Entry, Live};
use crate::proxy::service::Service;

/// Who sends, and to which of the host's addresses: a client that talks to two of them is two.
#[derive(Clone, Copy, Debug, Eq, Hash, PartialEq)]
pub struct Key {
    pub client: SocketAddr,
    pub via: Via,
}

/// How a client comes in.
#[derive(Clone, Copy, Debug, Eq, Hash, PartialEq)]
pub enum Via {
    /// By a listener with one address only.
    Listener,
    /// By one with several.
    Local(Local),
    /// By a tunnel, in which it has this number.
    Flow(u32),
}

impl Key {
    /// A wildcard socket also gets what others on the host have joined a group for.
    pub fn is_for_us(&self) -> bool {
        let Some(Local { address, .. }) = self.local() else { return true };
        !address.is_multicast() && address != IpAddr::V4(Ipv4Addr::BROADCAST)
    }

    /// The address that it asks, if that has to be said.
    pub const fn local(&self) -> Option<Local> {
        match self.via {
            Via::Local(local) => Some(local),
            Via::Listener | Via::Flow(_) => None,
        }
    }

    /// Where an answer goes, and where it comes from. A socket of a port's own knows that.
    pub fn envelope(&self) -> (Name, Control) {
        let local = self.local().filter(|local| local.port == 0);
        (self.client.into(), Control::from_local(local))
    }
}

/// What a client has of ours.
#[derive(Debug)]
pub struct Session {
    pub out: Out,
    /// What answers leave by, if that is not the listener.
    pub sender: Option<Arc<Sender>>,
    /// Datagrams of this size and more go to the backend one by one.
    pub ingress_limit: usize,
    pub egress_limit: usize,
    /// The client got an answer.
    pub answered: bool,
    /// The backend has answered since it last failed.
    is_answering: bool,
    /// Taken when the client sends something after an answer: anybody can send a first datagram.
    pub seat: Option<Seat>,
    /// What others see of it.
    pub live: Entry,
    /// Its place at the backend that it has for as long as it lasts.
    lease: Lease,
    _counted: Counted,
    _place: Place,
    _told: Told,
}

/// What a datagram says of a client.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub enum Proof {
    /// Nothing that is not known.
    None,
    /// That it is there and gets answers.
    Now,
}

/// Its way to the backend.
#[derive(Debug)]
pub enum Out {
    Socket {
        socket: OwnedFd,
        backend: SocketAddr,
        /// Otherwise the backend is to be named with every datagram.
        is_connected: bool,
    },
    Carrier(CarrierFlow),
}

/// Who else knows of a session, until its end.
#[derive(Debug)]
pub enum Told {
    /// The kernel plane, which leaves its packets to us.
    Kernel(#[expect(dead_code, reason = "dropping it tells")] kept::Session),
    /// The tunnel that it came in by.
    Tunnel(#[expect(dead_code, reason = "dropping it tells")] Flow),
}

impl Out {
    /// 0 for sockets; the carrier's number otherwise.
    pub const fn lane(&self) -> u32 {
        match self {
            Self::Socket { .. } => 0,
            Self::Carrier(flow) => flow.lane,
        }
    }

    /// Where it leads.
    fn backend(&self) -> Backend {
        match self {
            Self::Socket { backend, .. } => Backend::from(*backend),
            Self::Carrier(flow) => Backend::Shared(flow.peer()),
        }
    }

    pub const fn socket(&self) -> Option<&OwnedFd> {
        match self {
            Self::Socket { socket, .. } => Some(socket),
            Self::Carrier(_) => None,
        }
    }
}

impl Session {
    pub fn new(
        service: &Arc<Service>,
        out: Out,
        sender: Option<Arc<Sender>>,
        lease: Lease,
        place: Place,
        told: Told,
        ends: Ends,
    ) -> Self {
        let _counted = Counted::new(service);
        let asked = Some(ends.asked).filter(|asked| !asked.ip().is_unspecified());
        let live = Live::new(Protocol::Udp, ends.client, asked).towards(out.backend());
        let live = Entry::new(&service.counters, live);
        service.tell_opened(&live);
        lease.begin();
        Self {
            out,
            sender,
            ingress_limit: usize::MAX,
            egress_limit: usize::MAX,
            answered: false,
            is_answering: false,
            seat: None,
            live,
            lease,
            _counted,
            _place: place,
            _told: told,
        }
    }
}

impl Session {
    /// The client sends something: if that proves it to be there, it needs a place.
    pub fn prove(&mut self, client: IpAddr, gate: &Arc<Gate>) -> Result<Proof, Refusal> {
        if !self.answered || self.seat.is_some() {
            return Ok(Proof::None);
        }
        self.seat = Some(gate.enter(client)?);
        Ok(Proof::Now)
    }

    /// The backend sends something.
    pub fn answer(&mut self) {
        self.answered = true;
        if !std::mem::replace(&mut self.is_answering, true) {
            self.lease.answer();
        }
    }

    /// The network says that the backend did not get something.
    pub fn fail(&mut self, signal: Signal) {
        self.is_answering = false;
        self.lease.fail(signal);
    }

    /// Whether nobody will answer: the backend is down, others are not, and it has never answered or there is no way to it.
    pub fn is_in_vain(&self) -> bool {
        let is_cut_off = || matches!(&self.out, Out::Carrier(flow) if !flow.is_open());
        self.lease.is_deserted() && (!self.answered || is_cut_off())
    }

    /// Whether its tunnel does not take it any more.
    pub fn is_lost(&self) -> bool {
        matches!(&self.out, Out::Carrier(flow) if flow.is_lost())
    }

    /// Where it goes.
    pub fn leads_to(&self) -> Option<SocketAddr> {
        match &self.out {
            Out::Socket { backend, .. } => Some(*backend),
            Out::Carrier(flow) => flow.leads_to(),
        }
    }

    /// The session is over. One that nobody answered is not logged: anybody can send a first datagram.
    pub fn log(&self, key: &Key, service: &Service, ending: Ending) {
        let is_logged = self.answered && service.log.is_on();
        if !is_logged && !service.observatory.is_on() {
            return;
        }
        let (client, backend) = (key.client, self.leads_to());
        let record = Record { client, backend, bytes: self.live.bytes(), begun: self.live.begun, ending };
        if self.answered {
            record.log(service, Protocol::Udp);
        } else {
            record.tell(service, Protocol::Udp);
        }
    }
}

/// A session in the rule's counters.
#[derive(Debug)]
struct Counted(Arc<Service>);

impl Counted {
    fn new(service: &Arc<Service>) -> Self {
        service.enter();
        Self(Arc::clone(service))
    }
}

impl Drop for Counted {
    fn drop(&mut self) {
        self.0.leave();
    }
}

/// Room may be made by closing another one.
pub fn lacks_descriptors(error: &io::Error) -> bool {
    let lacking = [Errno::EMFILE, Errno::ENFILE, Errno::ENOBUFS, Errno::ENOMEM];
    error.raw_os_error().is_some_and(|code| lacking.contains(&Errno::from_raw(code)))
}

/// Why a session could not begin: as a counter, and in words.
pub fn refusal(error: &io::Error, towards: impl Display) -> (Refusal, String) {
    let reason = match error.raw_os_error().map(Errno::from_raw) {
        _ if lacks_descriptors(error) => Refusal::Descriptors,
        Some(Errno::ENOSPC) => Refusal::Descriptors,
        Some(Errno::EAGAIN | Errno::EADDRINUSE) => Refusal::PortsExhausted,
        Some(Errno::EADDRNOTAVAIL | Errno::ENETUNREACH | Errno::ENODEV) => Refusal::NoRoute,
        _ => Refusal::Unsendable,
    };
    (reason, format!("no socket towards {towards}: {error}"))
}
