//! What sockets towards backends are bound to.

use std::io;
use std::net::{IpAddr, SocketAddr};
use std::os::fd::AsFd;

use nix::errno::Errno;
use nix::sys::socket::{setsockopt, sockopt};
use socket2::{Domain, SockRef, Socket, Type};

use crate::rule::Connect;

/// Binds a new socket to the source address and the interface that the rule says.
pub fn bind(socket: &impl AsFd, connect: &Connect) -> io::Result<()> {
    bind_interface(socket, connect)?;
    bind_source(socket, connect)
}

/// Has packets leave from the source address that the rule says.
pub fn bind_source(socket: &impl AsFd, connect: &Connect) -> io::Result<()> {
    if let Some(source) = connect.source {
        // the port is chosen when the backend is known, so that ports run out per backend and not for all of them
        setsockopt(socket, sockopt::IpBindAddressNoPort, &true)?;
        SockRef::from(socket).bind(&self::source(source, 0, connect).into())?;
    }
    Ok(())
}

/// Has packets leave by the interface that the rule says.
pub fn bind_interface(socket: &impl AsFd, connect: &Connect) -> io::Result<()> {
    let interface = connect.interface.as_deref().map(str::as_bytes);
    interface.map_or(Ok(()), |name| SockRef::from(socket).bind_device(Some(name)))
}

/// Whether the host has an address that packets can leave from. A TCP socket says no word of which it lacks, address or
/// port; one of UDP has other words for ports.
pub fn has_source(address: SocketAddr, connect: &Connect) -> bool {
    let probe = || {
        let socket = Socket::new(Domain::for_address(address), Type::DGRAM, None)?;
        bind(&socket, connect)?;
        socket.connect(&address.into())
    };
    let error = probe().err().and_then(|error: io::Error| error.raw_os_error());
    error.map(Errno::from_raw) != Some(Errno::EADDRNOTAVAIL)
}

/// A link-local address is one of an interface's.
pub fn source(source: IpAddr, port: u16, connect: &Connect) -> SocketAddr {
    let mut address = SocketAddr::new(source, port);
    if let (SocketAddr::V6(v6), Some(interface)) = (&mut address, &connect.interface)
        && v6.ip().is_unicast_link_local()
    {
        v6.set_scope_id(nix::net::if_::if_nametoindex(&**interface).unwrap_or(0));
    }
    address
}
