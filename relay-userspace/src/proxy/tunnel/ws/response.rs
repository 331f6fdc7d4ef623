//! A client's part of the handshake: the request it sends, the response it reads.

use std::net::Ipv6Addr;

use httparse::{EMPTY_HEADER, Header, Response, Status};

use super::HandshakeFault;
use super::handshake::{
    MOST_HEADERS, accept, append, excerpt, lists, new_key, only, refused, unfinished, within_limit,
};
use crate::rule::tunnel::ConnectWs;

/// What the response to a request has to prove.
#[derive(Clone, Debug, Eq, PartialEq)]
pub struct Expected {
    accept: Box<str>,
}

/// A request, and what is expected in return. `host` is asked for where the settings have none.
///
/// It has to go out in one write: realm forgets what comes first of several. Without token and headers in the settings
/// it is what realm sends, byte by byte.
pub fn request(settings: &ConnectWs, host: &str) -> (Vec<u8>, Expected) {
    let host = match settings.host.as_deref() {
        Some(host) => host.to_owned(),
        None if host.parse::<Ipv6Addr>().is_ok() => format!("[{host}]"),
        None => host.to_owned(),
    };
    let key = new_key();
    let mut head = format!(
        "GET {} HTTP/1.1\r\nhost: {host}\r\nupgrade: websocket\r\nconnection: upgrade\r\n\
         sec-websocket-key: {key}\r\nsec-websocket-version: 13\r\n",
        settings.path
    );
    if let Some(token) = &settings.token {
        head.extend(["authorization: Bearer ", token, "\r\n"]);
    }
    append(&mut head, &settings.headers);
    head.push_str("\r\n");
    (head.into_bytes(), Expected { accept: accept(key.as_bytes()).into() })
}

/// The length of the response that `data` begins with, and frames are behind; `None`: it has not come whole yet.
///
/// # Errors
/// It is not the response that is expected, or will not be, whatever may follow.
pub fn read_response(data: &[u8], expected: &Expected) -> Result<Option<usize>, HandshakeFault> {
    let data = within_limit(data);
    let mut headers = [EMPTY_HEADER; MOST_HEADERS];
    let mut response = Response::new(&mut headers);
    match response.parse(data) {
        Ok(Status::Complete(length)) => {
            check(response.version, response.code, response.headers, expected)?;
            Ok(Some(length))
        }
        Ok(Status::Partial) => unfinished(data),
        Err(error) => Err(refused(data, error)),
    }
}

fn check(
    version: Option<u8>,
    status: Option<u16>,
    headers: &[Header<'_>],
    expected: &Expected,
) -> Result<(), HandshakeFault> {
    if let Some(status) = status.filter(|&status| status != 101) {
        return Err(HandshakeFault::Refused { status });
    }
    let is_upgraded = lists(headers, "upgrade", "websocket") && lists(headers, "connection", "upgrade");
    if version != Some(1) || !is_upgraded {
        return Err(HandshakeFault::NotWebsocket);
    }
    if only(headers, "sec-websocket-accept") != Some(expected.accept.as_bytes()) {
        return Err(HandshakeFault::WrongAccept);
    }
    match headers.iter().find(|header| header.name.eq_ignore_ascii_case("sec-websocket-extensions")) {
        Some(header) => Err(HandshakeFault::Extension(excerpt(header.value))),
        None => Ok(()),
    }
}
