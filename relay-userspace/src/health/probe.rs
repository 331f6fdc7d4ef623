//! One probe: a non-blocking socket that is asked what has become of it whenever it is ready.

mod error;
mod http;
mod stream;
mod tls;
mod tunnel;
mod udp;

use std::io;
use std::net::SocketAddr;

use nix::errno::Errno;
use nix::sys::epoll::EpollFlags;
use socket2::{Domain, Socket, Type};

pub use self::error::ProbeError;
use self::stream::Conversation;
pub(super) use self::tls::Tls;
use self::tunnel::Tunnelling;
use self::udp::Question;
use super::prober::Probe;
use crate::net::mptcp;
use crate::proxy::{descriptors, outgoing};
use crate::rule::{Check, CheckKind, Connect};

/// A probe under way.
pub(super) enum Attempt {
    /// A connection is all that is asked for.
    Connection(Socket),
    Conversation(Box<Conversation>),
    Tunnelling(Box<Tunnelling>),
    Question(Question),
}

/// How far a probe has come.
pub(super) enum Progress {
    Waits,
    Ends(Result<(), ProbeError>),
}

/// Why a probe goes no further for now.
enum Halt {
    Wait,
    Fail(ProbeError),
}

type Step<T> = Result<T, Halt>;

impl Attempt {
    /// Begins a probe, or says why it cannot succeed.
    pub fn begin(probe: &Probe, socket: Socket, tls: &Tls) -> Result<Self, ProbeError> {
        let address = probe.target();
        let connected = match socket.connect(&address.into()) {
            Err(error) if error.raw_os_error() == Some(nix::libc::EINPROGRESS) => Ok(()),
            result => result,
        };
        connected.map_err(|error| failure(error, address, &probe.connect))?;
        if let Some(connector) = &probe.connector {
            return Tunnelling::new(probe, connector, socket).map(Box::new).map(Self::Tunnelling);
        }
        Ok(match &probe.check.kind {
            CheckKind::Passive | CheckKind::Tcp => Self::Connection(socket),
            CheckKind::Tls { .. } | CheckKind::Http(_) => {
                Self::Conversation(Box::new(Conversation::new(probe, socket, tls)?))
            }
            CheckKind::Udp { send, expect } => Self::Question(Question::ask(socket, send, expect.clone())?),
        })
    }

    /// Goes on as far as it can. `ready` is what epoll says, once for each change.
    pub fn advance(&mut self, ready: EpollFlags) -> Progress {
        let step = match self {
            Self::Connection(socket) => connected(socket, ready),
            Self::Conversation(conversation) => conversation.advance(ready),
            Self::Tunnelling(tunnelling) => tunnelling.advance(ready),
            Self::Question(question) => question.advance(),
        };
        match step {
            Ok(()) => Progress::Ends(Ok(())),
            Err(Halt::Fail(error)) => Progress::Ends(Err(error)),
            Err(Halt::Wait) => Progress::Waits,
        }
    }
}

/// A socket for a probe, bound as those of the rule's sessions are.
pub(super) fn socket(address: SocketAddr, kind: &CheckKind, connect: &Connect) -> io::Result<Socket> {
    let domain = Domain::for_address(address);
    let socket = match kind {
        CheckKind::Udp { .. } => Socket::new(domain, Type::DGRAM.nonblocking().cloexec(), None)?,
        // MPTCP sockets cannot be used again, and a connection alone looks the same
        CheckKind::Passive | CheckKind::Tcp => {
            Socket::new(domain, Type::STREAM.nonblocking().cloexec(), None)?
        }
        CheckKind::Tls { .. } | CheckKind::Http(_) if connect.mptcp => {
            mptcp::socket(domain, Type::STREAM.nonblocking().cloexec())?
        }
        CheckKind::Tls { .. } | CheckKind::Http(_) => {
            Socket::new(domain, Type::STREAM.nonblocking().cloexec(), None)?
        }
    };
    descriptors::check(&socket)?;
    outgoing::bind(&socket, connect)?;
    Ok(socket)
}

/// Why nothing leaves. A connection is told of ports that are all taken as it is of an address that the host has not.
fn failure(error: io::Error, address: SocketAddr, connect: &Connect) -> ProbeError {
    let errno = error.raw_os_error().map(Errno::from_raw);
    let is_taken = matches!(errno, Some(Errno::EADDRNOTAVAIL | Errno::EADDRINUSE));
    if is_taken && outgoing::has_source(address, connect) { ProbeError::NoPort } else { error.into() }
}

/// Whether a connection stands.
fn connected(socket: &Socket, ready: EpollFlags) -> Step<()> {
    if let Some(error) = socket.take_error()? {
        return Err(error.into());
    }
    // a socket that is not in use hangs up as well
    let stands = ready.contains(EpollFlags::EPOLLOUT) && !ready.contains(EpollFlags::EPOLLHUP);
    if stands { Ok(()) } else { Err(Halt::Wait) }
}

impl From<io::Error> for Halt {
    fn from(error: io::Error) -> Self {
        if error.kind() == io::ErrorKind::WouldBlock { Self::Wait } else { Self::Fail(error.into()) }
    }
}

impl From<ProbeError> for Halt {
    fn from(error: ProbeError) -> Self {
        Self::Fail(error)
    }
}

/// A check's terms for one probe.
impl Probe {
    /// Where it is asked.
    pub(super) fn target(&self) -> SocketAddr {
        let mut address = self.address;
        let Check { port, .. } = &*self.check;
        address.set_port(port.unwrap_or(address.port()));
        address
    }
}

#[cfg(test)]
mod tests {
    use std::net::TcpListener;
    use std::sync::Arc;

    use super::*;
    use crate::rule::Check;

    #[test]
    fn a_port_that_is_taken_is_no_failure_of_the_endpoint() {
        let listener = TcpListener::bind("127.0.0.1:0").expect("a listener");
        let address = listener.local_addr().expect("its address");
        let from = |port: u16| {
            let socket = Socket::new(Domain::IPV4, Type::STREAM, None).expect("a socket");
            socket.set_reuse_address(true).expect("an option");
            socket.bind(&SocketAddr::from(([127, 0, 0, 9], port)).into()).expect("a port");
            socket
        };
        let first = from(0);
        first.connect(&address.into()).expect("a connection");
        let port = first.local_addr().ok().and_then(|own| own.as_socket()).expect("its port").port();
        let check = Arc::new(Check { kind: CheckKind::Tcp, ..Check::default() });
        let probe = Probe { address, name: None, check, connect: Arc::default(), connector: None };
        let tls = Tls::new(crate::proxy::tunnel::tls::public_roots()).expect("TLS");
        let error = Attempt::begin(&probe, from(port), &tls).err();
        assert!(error.as_ref().is_some_and(ProbeError::is_ours), "{error:?}");
    }
}
