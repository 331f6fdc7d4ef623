//! HAProxy, the reference for the PROXY protocol, as a process in a namespace.

use std::fs;
use std::io::{self, Read as _, Write as _};
use std::net::{SocketAddr, TcpStream};
use std::path::Path;
use std::process::{Child, Command, Stdio};

use crate::eventually;
use crate::netns::NetNs;
use crate::traffic::Client;

/// A front that answers every HTTP request with who it thinks the client is, and what the client connected to.
pub const WHO: &str = "mode http\n  http-request return status 200 content-type text/plain \
                       lf-string \"%[src] %[src_port] %[dst] %[dst_port] %[fc_pp_unique_id]\"\n";

/// Whether there is no HAProxy to test with, which is a failure in CI.
pub fn is_missing() -> bool {
    let missing = Command::new("haproxy").arg("-v").stdout(Stdio::null()).status().is_err();
    if missing {
        crate::skip("haproxy is missing: apt install haproxy");
    }
    missing
}

/// A running HAProxy. Ends with its value.
pub struct Haproxy(Child);

impl Haproxy {
    /// Starts it with these sections below the usual defaults, and waits until it listens on `port`.
    pub fn start(ns: &NetNs, folder: &Path, port: u16, sections: &str) -> Self {
        let path = folder.join(format!("haproxy-{port}.cfg"));
        let defaults = "defaults\n  timeout connect 10s\n  timeout client 10s\n  timeout server 10s\n";
        fs::write(&path, format!("{defaults}{sections}")).expect("config");
        let mut command = Command::new("haproxy");
        command.arg("-db").arg("-q").arg("-f").arg(&path).stdin(Stdio::null());
        let child = ns.run(|| command.spawn()).expect("haproxy starts");
        let own = [
            SocketAddr::from(([127, 0, 0, 1], port)),
            SocketAddr::from((std::net::Ipv6Addr::LOCALHOST, port)),
        ];
        eventually("haproxy listens", || own.iter().any(|&own| Client::connect(ns, own).is_ok()));
        Self(child)
    }
}

impl Drop for Haproxy {
    fn drop(&mut self) {
        let _already_gone = self.0.kill();
        let _status = self.0.wait();
    }
}

/// What a [`WHO`] front says about this connection.
pub fn who(mut stream: &TcpStream) -> io::Result<String> {
    stream.write_all(b"GET / HTTP/1.0\r\n\r\n")?;
    let mut answer = String::new();
    stream.read_to_string(&mut answer)?;
    let body = answer.split_once("\r\n\r\n").map(|(_, body)| body.trim().to_owned());
    body.filter(|_| answer.starts_with("HTTP/1.")).ok_or_else(|| io::Error::other(answer))
}
