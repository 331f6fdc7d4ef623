//! One client: who it is, its socket, why it may not have one.

use std::fmt::Display;
use std::io;
use std::net::{IpAddr, Ipv4Addr, SocketAddr};
use std::os::fd::OwnedFd;
use std::sync::Arc;

use nix::errno::Errno;
use relay_common::net::Protocol;
use socket2::SockRef;

use super::envelope::{Control, Local, Name};
use super::sender::Sender;
use super::share::Place;
use crate::proxy::counters::Refusal;
use crate::proxy::ending::{Ending, Record};
use crate::proxy::gate::{Gate, Seat};
use crate::proxy::kept::{self, Ends};
use crate::proxy::pool::{Lease, Signal};
use crate::proxy::roster::{Entry, Live};
use crate::proxy::service::Service;

/// Who sends, and to which of the host's addresses: a client that talks to two of them is two.
#[derive(Clone, Copy, Debug, Eq, Hash, PartialEq)]
pub struct Key {
    pub client: SocketAddr,
    /// `None`: the listener has one address only.
    pub local: Option<Local>,
}

impl Key {
    /// A wildcard socket also gets what others on the host have joined a group for.
    pub fn is_for_us(&self) -> bool {
        let Some(Local { address, .. }) = self.local else { return true };
        !address.is_multicast() && address != IpAddr::V4(Ipv4Addr::BROADCAST)
    }

    /// Where an answer goes, and where it comes from. A socket of a port's own knows that.
    pub fn envelope(&self) -> (Name, Control) {
        let local = self.local.filter(|local| local.port == 0);
        (self.client.into(), Control::from_local(local))
    }
}

/// What a client has of ours.
#[derive(Debug)]
pub struct Session {
    pub socket: OwnedFd,
    /// What answers leave by, if that is not the listener.
    pub sender: Option<Arc<Sender>>,
    /// To be named with every datagram, since the socket is not connected.
    pub backend: Option<SocketAddr>,
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
    _kept: kept::Session,
}

impl Session {
    /// `backend`: only for a socket that is not connected.
    pub fn new(
        service: &Arc<Service>,
        socket: OwnedFd,
        sender: Option<Arc<Sender>>,
        backend: Option<SocketAddr>,
        lease: Lease,
        place: Place,
        ends: Ends,
    ) -> Self {
        let _counted = Counted::new(service);
        let live = Entry::new(&service.counters, Live::new(Protocol::Udp, ends.client, Some(ends.asked)));
        let kept = service.kept.keep(ends);
        lease.begin();
        Self {
            socket,
            sender,
            backend,
            ingress_limit: usize::MAX,
            egress_limit: usize::MAX,
            answered: false,
            is_answering: false,
            seat: None,
            live,
            lease,
            _counted,
            _place: place,
            _kept: kept,
        }
    }
}

impl Session {
    /// The client sends something: if that proves it to be there, it needs a place.
    pub fn prove(&mut self, client: IpAddr, gate: &Arc<Gate>) -> Result<(), Refusal> {
        if self.answered && self.seat.is_none() {
            self.seat = Some(gate.enter(client)?);
        }
        Ok(())
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

    /// Whether nobody has answered, and nobody will: the backend is down, and others are not.
    pub fn is_in_vain(&self) -> bool {
        !self.answered && self.lease.is_deserted()
    }

    /// Where it goes.
    pub fn leads_to(&self) -> Option<SocketAddr> {
        self.backend.or_else(|| SockRef::from(&self.socket).peer_addr().ok()?.as_socket())
    }

    /// The session is over. One that nobody answered is not logged: anybody can send a first datagram.
    pub fn log(&self, key: &Key, service: &Service, ending: Ending) {
        if self.answered && service.log.is_on() {
            let (client, backend) = (key.client, self.leads_to());
            let record = Record { client, backend, bytes: self.live.bytes(), begun: self.live.begun, ending };
            record.log(service, Protocol::Udp);
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
