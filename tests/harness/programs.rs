//! Other programs: peers, relayd runs that end by themselves, and strangers that have a port.

use std::fs;
use std::net::{Ipv4Addr, TcpListener};
use std::os::fd::OwnedFd;
use std::path::Path;
use std::process::{Child, Command, Stdio};

use crate::daemon::{Ctl, Said, binary};
use crate::eventually;
use crate::netns::NetNs;

/// A program in a namespace. Ends with its value.
pub struct Running(pub Child);

impl Running {
    /// Starts it. One that is not there fails the test, which says what to install.
    pub fn start(ns: &NetNs, command: &mut Command, package: &str) -> Self {
        let program = command.get_program().to_string_lossy().into_owned();
        let child = ns.run(|| command.spawn());
        Self(child.unwrap_or_else(|error| panic!("{program}: {error} (apt install {package})")))
    }
}

impl Drop for Running {
    fn drop(&mut self) {
        let _already_gone = self.0.kill();
        let _status = self.0.wait();
    }
}

/// Waits until somebody in a namespace listens on a TCP port, whom no connection tells that it was asked for.
pub fn await_listener(ns: &NetNs, port: u16) {
    eventually(&format!("somebody listens on port {port}"), || ns.run(|| listens(port)));
}

fn listens(port: u16) -> bool {
    const LISTEN: &str = "0A";
    let address_ends = format!(":{port:04X}");
    ["tcp", "tcp6"].into_iter().any(|file| {
        let table = fs::read_to_string(format!("/proc/thread-self/net/{file}")).unwrap_or_default();
        table.lines().any(|line| {
            let fields: Vec<&str> = line.split_whitespace().collect();
            matches!(fields[..], [_, own, _, LISTEN, ..] if own.ends_with(&address_ends))
        })
    })
}

/// Runs relayd where it is expected to end by itself: `--check`, mistakes.
pub fn relayd(ns: &NetNs, folder: &Path, args: &[&str]) -> Said {
    let mut command = Command::new(binary("relayd"));
    command.args(args).current_dir(folder).stdin(Stdio::null());
    command.env_remove("NOTIFY_SOCKET").env_remove("JOURNAL_STREAM");
    Said::from(ns.run(|| command.output()).expect("relayd starts"))
}

/// A process of a certain name that listens on a TCP port. Ends with its value.
pub struct Stranger(Child);

impl Stranger {
    /// Its program is a copy of relayctl that watches relayd; what matters is its name, and the socket that it has.
    pub fn listen(ns: &NetNs, ctl: &Ctl, folder: &Path, name: &str, port: u16) -> Self {
        let listener = ns.run(|| TcpListener::bind((Ipv4Addr::UNSPECIFIED, port))).expect("bind");
        let program = folder.join(name);
        fs::copy(binary("relayctl"), &program).expect("copy");
        let mut command = Command::new(program);
        command.arg("--socket").arg(&ctl.socket).args(["status", "--watch"]);
        command.stdin(OwnedFd::from(listener)).stdout(Stdio::null());
        Self(command.spawn().expect("it starts"))
    }

    pub fn pid(&self) -> u32 {
        self.0.id()
    }
}

impl Drop for Stranger {
    fn drop(&mut self) {
        let _already_gone = self.0.kill();
        let _status = self.0.wait();
    }
}
