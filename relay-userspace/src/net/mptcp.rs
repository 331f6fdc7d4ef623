//! Multipath TCP sockets, where the kernel has them.

use std::io;
use std::sync::Once;

use nix::errno::Errno;
use socket2::{Domain, Protocol, Socket, Type};

/// A stream socket that speaks Multipath TCP with peers that do, and TCP with others. Without a kernel for it (or with
/// `net.mptcp.enabled = 0`) one of plain TCP, which is said once.
pub fn socket(domain: Domain, kind: Type) -> io::Result<Socket> {
    match Socket::new(domain, kind, Some(Protocol::MPTCP)) {
        Err(error) if is_lacking(&error) => {
            static SAID: Once = Once::new();
            SAID.call_once(|| {
                tracing::warn!(
                    "no Multipath TCP here ({error}), so mptcp = true means plain TCP; it takes a kernel with \
                     CONFIG_MPTCP and `sysctl net.mptcp.enabled=1`"
                );
            });
            Socket::new(domain, kind, None)
        }
        result => result,
    }
}

fn is_lacking(error: &io::Error) -> bool {
    let errno = error.raw_os_error().map(Errno::from_raw);
    matches!(errno, Some(Errno::EPROTONOSUPPORT | Errno::ENOPROTOOPT | Errno::EINVAL))
}
