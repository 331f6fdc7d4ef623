//! A GET, and whether what comes back is what was asked for. No socket.

use std::net::{IpAddr, SocketAddr};

use httparse::{EMPTY_HEADER, Status};

use super::ProbeError;
use super::udp::contains;
use crate::health::prober::Probe;
use crate::rule::{HttpCheck, StatusRange};

/// A head may be so long, and have so many lines.
const LONGEST_HEAD: usize = 16 * 1024;
const MOST_HEADERS: usize = 128;
/// What is looked at of a body.
const LONGEST_BODY: usize = 64 * 1024;
/// The line ahead of a chunk.
const LONGEST_CHUNK_LINE: usize = 1024;

/// A request, and who takes its response.
pub(super) struct Exchange {
    pub request: Vec<u8>,
    pub response: Response,
}

/// A response that is coming in.
pub(super) struct Response {
    status: StatusRange,
    wanted: Option<Box<str>>,
    /// What has come and was not taken apart yet.
    raw: Vec<u8>,
    /// `None`: the head is not complete.
    body: Option<Body>,
}

struct Body {
    framing: Framing,
    bytes: Vec<u8>,
}

/// How the end of a body is known.
enum Framing {
    UntilClosed,
    /// So many bytes in all.
    Length(u64),
    /// Of this chunk so many bytes are left, with the line's end behind it.
    Chunked(u64),
}

type Verdict = Result<(), ProbeError>;

impl Exchange {
    pub fn new(probe: &Probe, check: &HttpCheck) -> Self {
        let host = check.host.as_deref().map_or_else(|| host(probe, check.tls), str::to_owned);
        let request = format!(
            "GET {} HTTP/1.1\r\nHost: {host}\r\nUser-Agent: relayd/{}\r\nAccept: */*\r\nConnection: close\r\n\r\n",
            check.path,
            env!("CARGO_PKG_VERSION"),
        );
        Self { request: request.into_bytes(), response: Response::new(check) }
    }
}

/// What a client would write who follows a link to the endpoint.
fn host(probe: &Probe, tls: bool) -> String {
    let address = probe.target();
    let host = match (&probe.name, address.ip()) {
        (Some(name), _) => name.to_string(),
        (None, IpAddr::V4(address)) => address.to_string(),
        (None, IpAddr::V6(address)) => format!("[{address}]"),
    };
    let usual = if tls { 443 } else { 80 };
    if address.port() == usual { host } else { format!("{host}:{}", SocketAddr::port(&address)) }
}

impl Response {
    fn new(check: &HttpCheck) -> Self {
        Self { status: check.status.clone(), wanted: check.body.clone(), raw: Vec::new(), body: None }
    }

    /// Takes what has come. `None`: it does not suffice for a verdict.
    pub fn take(&mut self, bytes: &[u8]) -> Option<Verdict> {
        self.raw.extend_from_slice(bytes);
        self.go_on().unwrap_or_else(|error| Some(Err(error)))
    }

    /// The other side has closed.
    pub fn end(&mut self) -> Verdict {
        match &self.body {
            Some(_) => self.look(),
            None if self.raw.is_empty() => Err(ProbeError::Closed),
            None => Err(ProbeError::NotHttp("it ends within the head".into())),
        }
    }

    fn go_on(&mut self) -> Result<Option<Verdict>, ProbeError> {
        while self.body.is_none() {
            let Some((status, length, framing)) = head(&self.raw)? else { return Ok(None) };
            self.raw.drain(..length);
            // others come before the one that was asked for
            if (100..200).contains(&status) {
                continue;
            }
            if !self.status.0.contains(&status) {
                return Err(ProbeError::Status(status));
            }
            if self.wanted.is_none() {
                return Ok(Some(Ok(())));
            }
            self.body = Some(Body { framing, bytes: Vec::new() });
        }
        let Some(body) = &mut self.body else { return Ok(None) };
        let is_over = body.take(&mut self.raw)?;
        Ok((is_over || body.bytes.len() >= LONGEST_BODY).then(|| self.look()))
    }

    fn look(&self) -> Verdict {
        let bytes =
            self.body.as_ref().map_or(&[][..], |body| &body.bytes[..body.bytes.len().min(LONGEST_BODY)]);
        let is_there = self.wanted.as_ref().is_none_or(|wanted| contains(bytes, wanted.as_bytes()));
        if is_there { Ok(()) } else { Err(ProbeError::Body) }
    }
}

/// A head's status and length, and how its body ends. `None`: it is not complete.
fn head(raw: &[u8]) -> Result<Option<(u16, usize, Framing)>, ProbeError> {
    let not_http = |error: httparse::Error| ProbeError::NotHttp(error.to_string().into());
    let mut headers = [EMPTY_HEADER; MOST_HEADERS];
    let mut response = httparse::Response::new(&mut headers);
    match response.parse(raw).map_err(not_http)? {
        Status::Partial if raw.len() > LONGEST_HEAD => {
            Err(ProbeError::NotHttp("the head is too long".into()))
        }
        Status::Partial => Ok(None),
        Status::Complete(length) => {
            let framing = framing(response.headers);
            Ok(Some((response.code.unwrap_or_default(), length, framing)))
        }
    }
}

fn framing(headers: &[httparse::Header<'_>]) -> Framing {
    let value = |name: &str| {
        let header = headers.iter().find(|header| header.name.eq_ignore_ascii_case(name))?;
        std::str::from_utf8(header.value).ok().map(str::trim)
    };
    let is_chunked = |coding: &str| coding.to_ascii_lowercase().ends_with("chunked");
    if value("transfer-encoding").is_some_and(is_chunked) {
        return Framing::Chunked(0);
    }
    let length = value("content-length").and_then(|length| length.parse().ok());
    length.map_or(Framing::UntilClosed, Framing::Length)
}

impl Body {
    /// Takes what belongs to the body. Returns whether that was all of it.
    fn take(&mut self, raw: &mut Vec<u8>) -> Result<bool, ProbeError> {
        match &mut self.framing {
            Framing::UntilClosed => {
                self.bytes.append(raw);
                Ok(false)
            }
            Framing::Length(length) => {
                self.bytes.append(raw);
                Ok(self.bytes.len() as u64 >= *length)
            }
            Framing::Chunked(left) => take_chunks(left, raw, &mut self.bytes),
        }
    }
}

fn take_chunks(left: &mut u64, raw: &mut Vec<u8>, bytes: &mut Vec<u8>) -> Result<bool, ProbeError> {
    /// The end of a line behind each chunk.
    const END: u64 = 2;
    let not_http = |why: &str| ProbeError::NotHttp(why.into());
    let mut rest = raw.as_slice();
    let is_over = loop {
        while *left > 0 && !rest.is_empty() {
            let data = usize::try_from(left.saturating_sub(END)).unwrap_or(usize::MAX).min(rest.len());
            bytes.extend_from_slice(take(&mut rest, data));
            *left -= data as u64;
            if *left <= END {
                let end = rest.len().min(*left as usize);
                take(&mut rest, end);
                *left -= end as u64;
            }
        }
        if rest.is_empty() {
            break false;
        }
        match httparse::parse_chunk_size(rest).map_err(|_malformed| not_http("a chunk has no size"))? {
            Status::Complete((_, 0)) => break true,
            Status::Complete((line, size)) => {
                take(&mut rest, line);
                *left = size.checked_add(END).ok_or_else(|| not_http("a chunk is too long"))?;
            }
            Status::Partial if rest.len() > LONGEST_CHUNK_LINE => {
                return Err(not_http("a chunk has no size"));
            }
            Status::Partial => break false,
        }
    };
    // once for all chunks: each time moves what is left
    let taken = raw.len() - rest.len();
    raw.drain(..taken);
    Ok(is_over)
}

/// The first bytes, which `rest` has no more.
fn take<'a>(rest: &mut &'a [u8], length: usize) -> &'a [u8] {
    let (first, others) = rest.split_at(length);
    *rest = others;
    first
}

#[cfg(test)]
mod tests;
