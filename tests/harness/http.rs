//! HTTP/1.1 by hand, over a Unix socket or TCP: what `curl` would see, byte for byte.

use std::io::{BufRead as _, BufReader, Read, Write};
use std::net::{SocketAddr, TcpStream};
use std::os::unix::net::UnixStream;
use std::path::Path;

use serde_json::Value;

use crate::netns::NetNs;
use crate::traffic::PATIENCE;

trait Stream: Read + Write {}
impl<T: Read + Write> Stream for T {}

/// A connection that stays open between requests.
pub struct Http {
    stream: BufReader<Box<dyn Stream>>,
}

/// An answer.
#[derive(Debug)]
pub struct Answer {
    pub status: u16,
    /// Names in lower case.
    pub headers: Vec<(String, String)>,
    pub body: String,
}

impl Http {
    pub fn unix(socket: &Path) -> Self {
        let stream = UnixStream::connect(socket).expect("connect to the socket");
        stream.set_read_timeout(Some(PATIENCE)).expect("timeout");
        Self { stream: BufReader::new(Box::new(stream)) }
    }

    pub fn tcp(ns: &NetNs, address: SocketAddr) -> Self {
        let stream = ns.run(|| TcpStream::connect(address)).expect("connect");
        stream.set_read_timeout(Some(PATIENCE)).expect("timeout");
        Self { stream: BufReader::new(Box::new(stream)) }
    }

    pub fn get(&mut self, path: &str) -> Answer {
        self.ask("GET", path, "")
    }

    pub fn ask(&mut self, method: &str, path: &str, body: &str) -> Answer {
        self.send(method, path, body.as_bytes());
        let mut answer = self.head();
        let length = answer.header("content-length").and_then(|length| length.parse().ok()).unwrap_or(0);
        answer.body = self.body(length);
        answer
    }

    pub fn send(&mut self, method: &str, path: &str, body: &[u8]) {
        let head =
            format!("{method} {path} HTTP/1.1\r\nHost: relay\r\nContent-Length: {}\r\n\r\n", body.len());
        let request = [head.as_bytes(), body].concat();
        self.stream.get_mut().write_all(&request).expect("send");
    }

    /// Status and headers of an answer whose body is read by other means.
    pub fn head(&mut self) -> Answer {
        let status = self.line();
        let status = status.split(' ').nth(1).and_then(|code| code.parse().ok());
        let mut headers = Vec::new();
        loop {
            let line = self.line();
            let Some((name, value)) = line.split_once(": ") else { break };
            headers.push((name.to_lowercase(), value.to_owned()));
        }
        Answer { status: status.expect("a status line"), headers, body: String::new() }
    }

    pub fn body(&mut self, length: usize) -> String {
        let mut bytes = vec![0; length];
        self.stream.read_exact(&mut bytes).expect("body");
        String::from_utf8(bytes).expect("UTF-8")
    }

    /// The next line, without its end.
    pub fn line(&mut self) -> String {
        let mut line = String::new();
        self.stream.read_line(&mut line).expect("line");
        line.trim_end().to_owned()
    }
}

impl Answer {
    pub fn header(&self, name: &str) -> Option<&str> {
        self.headers.iter().find(|(known, _)| known == name).map(|(_, value)| value.as_str())
    }

    pub fn json(&self) -> Value {
        serde_json::from_str(&self.body).unwrap_or_else(|error| panic!("{error}: {:?}", self.body))
    }
}
