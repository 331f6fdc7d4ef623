//! Python's `websockets` at the other end of WebSockets: a process in a namespace that hands TCP connections on.

use std::net::SocketAddr;
use std::path::Path;
use std::process::{Command, Stdio};
use std::time::Duration;

use crate::netns::NetNs;
use crate::programs::{Running, await_listener};

const SCRIPT: &str = include_str!("websockets.py");
/// The distribution's own, which has the distribution's packages.
const PYTHON: &str = "/usr/bin/python3";
const PACKAGE: &str = "python3-websockets";

/// A running bridge, which serves until its value goes.
pub struct Websockets(#[expect(dead_code, reason = "it ends with this")] Running);

impl Websockets {
    /// Wraps what comes in on a port of the namespace's own, and asks for `uri` at `to`. `pongs`: how long one may take.
    pub fn client(ns: &NetNs, folder: &Path, port: u16, uri: &str, to: SocketAddr, pongs: Duration) -> Self {
        let [host, to] = [to.ip().to_string(), to.port().to_string()];
        Self::start(ns, folder, port, pongs, &["client", &port.to_string(), uri, &host, &to, "ca.pem"])
    }

    /// Unwraps what comes in on a port, and sends it to a port of the namespace's own. `files`: certificate and key;
    /// empty: no TLS.
    pub fn server(
        ns: &NetNs,
        folder: &Path,
        port: u16,
        backend: u16,
        (cert, key): (&str, &str),
        pongs: Duration,
    ) -> Self {
        let args = ["server", &port.to_string(), &backend.to_string(), cert, key];
        Self::start(ns, folder, port, pongs, &args)
    }

    fn start(ns: &NetNs, folder: &Path, port: u16, pongs: Duration, args: &[&str]) -> Self {
        let has_it = Command::new(PYTHON).args(["-c", "import websockets"]).stderr(Stdio::null()).status();
        assert!(has_it.is_ok_and(|status| status.success()), "no websockets (apt install {PACKAGE})");
        let mut command = Command::new(PYTHON);
        command.args(["-c", SCRIPT, &pongs.as_secs_f64().to_string()]).args(args);
        command.current_dir(folder).stdout(Stdio::null()).stderr(Stdio::null());
        let running = Running::start(ns, &mut command, PACKAGE);
        await_listener(ns, port);
        Self(running)
    }
}
