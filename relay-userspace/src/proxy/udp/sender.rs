//! Answers of shared listeners: they must leave from the address and the port that the client asked, and the port is the
//! socket's own; no control message of sendmsg(2) sets it. So each port that has clients has a socket to send from.

use std::collections::HashMap;
use std::io;
use std::os::fd::{AsFd, BorrowedFd};
use std::sync::{Arc, Weak};

use socket2::{Domain, Socket, Type};

use super::envelope::Local;
use super::share::Place;
use super::socket::prepare_sender;
use crate::proxy::descriptors;
use crate::proxy::shared::Shared;

/// A socket on one address and port. It is connected to itself, so that no other packet finds it: what clients send goes
/// on coming to the shared listeners. (A socket connected to each client would find its own, but up to Linux 6.12 the
/// kernel looks at every socket of the port for each of their packets.)
#[derive(Debug)]
pub struct Sender {
    socket: Socket,
    _place: Place,
}

impl AsFd for Sender {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.socket.as_fd()
    }
}

impl Sender {
    fn open(local: Local, shared: &Shared) -> io::Result<Self> {
        let place = Place::take().ok_or_else(|| io::Error::from_raw_os_error(nix::libc::EMFILE))?;
        let address = local.socket_address();
        let socket = Socket::new(Domain::for_address(address), Type::DGRAM.nonblocking(), None)?;
        descriptors::check(&socket)?;
        // beside those of other workers
        socket.set_reuse_port(true)?;
        shared.bind(&socket, &address.into())?;
        socket.connect(&address.into())?;
        prepare_sender(&socket)?;
        Ok(Self { socket, _place: place })
    }
}

/// The ports that clients have asked.
#[derive(Debug)]
pub struct Senders {
    shared: Arc<Shared>,
    open: HashMap<Local, Weak<Sender>>,
    /// When there are so many it is looked which of them nobody uses any more.
    tidy_at: usize,
}

const FEW: usize = 64;

impl Senders {
    pub fn new(shared: Arc<Shared>) -> Self {
        Self { shared, open: HashMap::new(), tidy_at: FEW }
    }

    /// The socket that answers leave from this address and port by.
    pub fn for_answers_from(&mut self, local: Local) -> io::Result<Arc<Sender>> {
        if let Some(sender) = self.open.get(&local).and_then(Weak::upgrade) {
            return Ok(sender);
        }
        if self.open.len() >= self.tidy_at {
            self.open.retain(|_, sender| sender.strong_count() > 0);
            self.tidy_at = FEW.max(self.open.len() * 2);
        }
        let sender = Arc::new(Sender::open(local, &self.shared)?);
        self.open.insert(local, Arc::downgrade(&sender));
        Ok(sender)
    }
}
