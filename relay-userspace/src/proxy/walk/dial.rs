//! The connection to a backend, and why there is none.

use std::io;

use nix::errno::Errno;
use tokio::net::TcpStream;
use tokio::time::timeout;

use super::{Stage, Step, Way};
use crate::config::quantity::format_duration;
use crate::proxy::tcp;

pub(super) async fn dial(way: Way<'_>) -> Result<TcpStream, Step> {
    let limit = way.timeouts.connect;
    match timeout(limit, tcp::dial(way.address, way.connect)).await {
        Ok(connected) => connected.map_err(|error| unreachable(&error, way)),
        Err(_late) => {
            let limit = format_duration(limit);
            let text = format!(
                "nothing answers within timeout.connect ({limit}): a firewall on the way, a host that is down, or \
                 another address"
            );
            Err(Step::failed(Stage::Connect, "connect_timeout", &["to"], text))
        }
    }
}

fn unreachable(error: &io::Error, way: Way<'_>) -> Step {
    let failed = |code, options, text: &str| Step::failed(Stage::Connect, code, options, text);
    let errno = error.raw_os_error().map(Errno::from_raw);
    match errno {
        Some(Errno::ECONNREFUSED) => failed(
            "connect_refused",
            &["to"],
            "refused: nothing listens on that port there, or a firewall rejects it",
        ),
        Some(Errno::ECONNRESET) => {
            failed("connect_reset", &["to"], "reset in the middle of the handshake, by it or by a firewall")
        }
        Some(Errno::EADDRNOTAVAIL) => failed(
            "no_port",
            &["connect.source"],
            "this host has no source port left towards it, or has not the source address",
        ),
        Some(Errno::ENODEV) => {
            failed("no_interface", &["connect.interface"], "this host has no such interface to go out by")
        }
        Some(
            errno @ (Errno::ENETUNREACH
            | Errno::EHOSTUNREACH
            | Errno::ENETDOWN
            | Errno::EHOSTDOWN
            | Errno::EACCES
            | Errno::EPERM),
        ) => {
            let out = &way.connect;
            let options: &[&str] = match (out.source.is_some(), out.interface.is_some()) {
                (false, false) => &["to"],
                (true, false) => &["to", "connect.source"],
                (false, true) => &["to", "connect.interface"],
                (true, true) => &["to", "connect.source", "connect.interface"],
            };
            let text = format!("cannot be reached: {}; `ip route get {}`", errno.desc(), way.address.ip());
            Step::failed(Stage::Connect, "connect_unreachable", options, text)
        }
        Some(Errno::EMFILE | Errno::ENFILE | Errno::ENOBUFS | Errno::ENOMEM) => {
            failed("no_descriptor", &[], "this host has no room for one more connection")
        }
        _ => failed("connect_failed", &["to"], &error.to_string()),
    }
}
