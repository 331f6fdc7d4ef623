//! The socket of a new client: towards which backend, and which of its addresses.

use std::io;
use std::net::SocketAddr;
use std::os::fd::OwnedFd;

use relay_common::net::Protocol;

use super::session::{Key, lacks_descriptors, refusal};
use super::socket;
use crate::proxy::gate::Gate;
use crate::proxy::pool::{Lease, Signal};
use crate::proxy::service::Target;

/// A client's socket towards a backend.
pub struct Opened {
    pub socket: OwnedFd,
    pub backend: SocketAddr,
    pub lease: Lease,
}

/// Why there is none: the last address tried, if there was any.
pub type NotOpened = Option<(io::Error, SocketAddr)>;

/// A socket towards the backend that is chosen, or the next one that there is a way to. `make_room`: closes another
/// client's, if it can; asked once at most.
pub fn open_any(
    target: &Target,
    gate: &Gate,
    key: &Key,
    port: u16,
    mut make_room: impl FnMut() -> bool,
) -> Result<Opened, NotOpened> {
    let mut failure = None;
    for index in target.ends.candidates(Protocol::Udp, key.client.ip(), gate) {
        let lease = target.ends.lease(Protocol::Udp, index);
        let lacks = |opened: &Result<_, NotOpened>| matches!(opened, Err(Some((error, _))) if lacks_descriptors(error));
        let mut opened = open_first(target, index, port);
        if lacks(&opened) && make_room() {
            opened = open_first(target, index, port);
        }
        let is_hopeless = lacks(&opened);
        match opened {
            Ok((socket, backend)) => return Ok(Opened { socket, backend, lease }),
            Err(None) => {}
            Err(Some((error, backend))) => {
                Signal::of(refusal(&error, backend).0).into_iter().for_each(|signal| lease.fail(signal));
                failure = Some((error, backend));
            }
        }
        if is_hopeless {
            break;
        }
    }
    Err(failure)
}

/// A socket towards the first address of a backend that there is a way to.
fn open_first(target: &Target, index: usize, port: u16) -> Result<(OwnedFd, SocketAddr), NotOpened> {
    let mut failure = None;
    let Some(end) = target.ends.end(index) else { return Err(None) };
    for &address in &*end.addresses {
        let backend = SocketAddr::new(address, end.port(target.first_port, port));
        match socket::open(backend, target.udp_nat, &target.connect) {
            Ok(socket) => return Ok((socket, backend)),
            Err(error) => {
                let is_hopeless = lacks_descriptors(&error);
                failure = Some((error, backend));
                if is_hopeless {
                    break;
                }
            }
        }
    }
    Err(failure)
}
