//! nginx as an HTTP server and proxy, with TLS and WebSocket: a process in a namespace.

use std::fs;
use std::path::Path;
use std::process::{Command, Stdio};

use crate::netns::NetNs;
use crate::programs::{Running, await_listener};

/// A running nginx, which serves until its value goes.
pub struct Nginx(#[expect(dead_code, reason = "it ends with this")] Running);

/// One process; nothing outside of its folder.
const GENERAL: &str = "\
daemon off;
master_process off;
pid nginx.pid;
error_log stderr crit;
events { worker_connections 1024; }
";

/// A log of requests would be the system's.
const HTTP: &str = "\
access_log off;
client_body_temp_path body;
proxy_temp_path proxy;
fastcgi_temp_path fastcgi;
uwsgi_temp_path uwsgi;
scgi_temp_path scgi;
";

impl Nginx {
    /// Starts it with these servers, one of which listens on `port`; files are looked for in `folder`.
    pub fn start(ns: &NetNs, folder: &Path, port: u16, servers: &str) -> Self {
        let path = folder.join(format!("nginx-{port}.conf"));
        fs::write(&path, format!("{GENERAL}http {{\n{HTTP}{servers}\n}}\n")).expect("configuration");
        let mut command = Command::new("nginx");
        command.arg("-p").arg(folder).args(["-e", "stderr", "-c"]).arg(&path).stdin(Stdio::null());
        let running = Running::start(ns, &mut command, "nginx-light");
        await_listener(ns, port);
        Self(running)
    }
}

/// A server that ends TLS and hands WebSockets on, as tutorials have it. `files`: certificate and key.
pub fn websocket_proxy(port: u16, (cert, key): (&str, &str), to: &str) -> String {
    format!(
        "server {{\n  listen {port} ssl;\n  ssl_certificate {cert};\n  ssl_certificate_key {key};\n  \
         location /tunnel {{\n    proxy_pass http://{to};\n    proxy_http_version 1.1;\n    \
         proxy_set_header Upgrade $http_upgrade;\n    proxy_set_header Connection \"upgrade\";\n    \
         proxy_set_header Host $host;\n    proxy_read_timeout 60s;\n  }}\n}}"
    )
}
