//! kaminari's programs, realm's tunnels on their own, as processes in a namespace.

use std::net::SocketAddr;
use std::process::{Command, Stdio};

use crate::netns::NetNs;
use crate::programs::{Running, await_listener};

/// A running kaminari, which serves until its value goes.
pub struct Kaminari(#[expect(dead_code, reason = "it ends with this")] Running);

impl Kaminari {
    /// `kaminaric`: wraps what comes in on a port, and sends it on.
    ///
    /// What comes in one piece with the answer to its handshake is lost to it, so that it goes before others: then it
    /// has read the answer before a busy machine lets more arrive.
    pub fn client(ns: &NetNs, port: u16, to: SocketAddr, options: &str) -> Self {
        let mut command = Command::new("nice");
        command.args(["-n", "-19"]).arg(program("kaminaric"));
        Self::start(ns, command, port, to, options)
    }

    /// `kaminaris`: unwraps what comes in on a port, and sends it on.
    pub fn server(ns: &NetNs, port: u16, to: SocketAddr, options: &str) -> Self {
        Self::start(ns, Command::new(program("kaminaris")), port, to, options)
    }

    fn start(ns: &NetNs, mut command: Command, port: u16, to: SocketAddr, options: &str) -> Self {
        command.arg(format!("0.0.0.0:{port}")).arg(to.to_string()).arg(options);
        command.stdout(Stdio::null()).stderr(Stdio::null());
        let running = Running::start(ns, &mut command, "coreutils");
        await_listener(ns, port);
        Self(running)
    }
}

/// `cargo xtask test` builds it.
fn program(name: &str) -> std::path::PathBuf {
    let folder = crate::daemon::tool_folder("kaminari");
    let path = folder.join(name);
    assert!(path.exists(), "{} is not built; cargo xtask test builds it", path.display());
    path
}
