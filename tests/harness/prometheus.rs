//! Prometheus: its checker, and a server in a namespace that scrapes.

use std::fs;
use std::io::{Read as _, Write as _};
use std::net::{SocketAddr, TcpStream};
use std::path::Path;
use std::process::{Command, Stdio};

use serde_json::Value;

use crate::daemon::Said;
use crate::eventually;
use crate::netns::NetNs;
use crate::programs::{Running, await_listener};

const PORT: u16 = 9090;

/// Whether there is no Prometheus to test with, which is a failure in CI.
pub fn is_missing() -> bool {
    let is_there = |program| Command::new(program).arg("--version").output().is_ok();
    let missing = !is_there("promtool") || !is_there("prometheus");
    if missing {
        crate::skip(
            "promtool or prometheus is missing: apt install prometheus, or its two programs alone (.ci/run)",
        );
    }
    missing
}

/// What promtool says about a text.
pub fn promtool(args: &[&str], input: &str) -> Said {
    let mut command = Command::new("promtool");
    command.args(args).stdin(Stdio::piped()).stdout(Stdio::piped()).stderr(Stdio::piped());
    let mut child = command.spawn().expect("promtool starts");
    child.stdin.take().expect("input").write_all(input.as_bytes()).expect("written");
    Said::from(child.wait_with_output().expect("promtool ends"))
}

/// A running server.
pub struct Prometheus<'a> {
    _running: Running,
    ns: &'a NetNs,
}

impl<'a> Prometheus<'a> {
    /// Scrapes an address every second as the job `relay`, and evaluates the rules of a file.
    pub fn start(ns: &'a NetNs, folder: &Path, target: SocketAddr, rules: &Path) -> Self {
        let path = folder.join("prometheus.yml");
        let text = format!(
            "global:\n  scrape_interval: 1s\n  evaluation_interval: 1s\nrule_files: ['{}']\nscrape_configs:\n\
             - job_name: relay\n  static_configs:\n  - targets: ['{target}']\n",
            rules.display()
        );
        fs::write(&path, text).expect("configuration");
        let mut command = Command::new("prometheus");
        command
            .arg(format!("--config.file={}", path.display()))
            .arg(format!("--storage.tsdb.path={}", folder.join("tsdb").display()))
            .arg(format!("--web.listen-address=127.0.0.1:{PORT}"))
            .arg("--log.level=error")
            .stdin(Stdio::null())
            .stdout(Stdio::null())
            .stderr(Stdio::null());
        let running = Running::start(ns, &mut command, "prometheus");
        await_listener(ns, PORT);
        let server = Self { _running: running, ns };
        // it listens before it has read what it has stored
        eventually("Prometheus is ready", || server.ask("/-/ready").starts_with("HTTP/1.0 200 "));
        server
    }

    /// What it answers to a path of its API; with a percent sign for what a path cannot hold.
    pub fn get(&self, path: &str) -> Value {
        let answer = self.ask(path);
        let (_, body) = answer.split_once("\r\n\r\n").expect("a body");
        serde_json::from_str(body).unwrap_or_else(|error| panic!("{error}: {answer}"))
    }

    fn ask(&self, path: &str) -> String {
        // the older version of HTTP, in which a long answer comes in one piece
        let mut stream = self.ns.run(|| TcpStream::connect(("127.0.0.1", PORT))).expect("connect");
        stream.write_all(format!("GET {path} HTTP/1.0\r\n\r\n").as_bytes()).expect("asked");
        let mut answer = String::new();
        stream.read_to_string(&mut answer).expect("answered");
        answer
    }

    pub fn query(&self, expression: &str) -> Value {
        let escaped: String = expression.bytes().map(|byte| format!("%{byte:02X}")).collect();
        self.get(&format!("/api/v1/query?query={escaped}"))
    }
}
