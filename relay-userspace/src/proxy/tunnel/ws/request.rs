//! A server's part of the handshake: the request it reads, the response it sends.

use aws_lc_rs::constant_time;
use httparse::{EMPTY_HEADER, Header, Request, Status};

use super::HandshakeFault;
use super::handshake::{
    MOST_HEADERS, accept, append, excerpt, is_relays, lists, only, refused, unfinished, within_limit,
};
use crate::rule::tunnel::AcceptWs;

/// What realm sends, and in which order.
const REALMS: [&str; 5] = ["host", "upgrade", "connection", "sec-websocket-key", "sec-websocket-version"];

/// A client that is let in.
#[derive(Clone, Debug, Eq, PartialEq)]
pub struct Asked {
    /// The request is so long; what is behind it are frames.
    pub length: usize,
    /// What to answer, in one write.
    pub response: Vec<u8>,
    /// The client loses whatever it reads together with the response: nothing should follow until it has sent something,
    /// or for a while. A Relay's request looks the same, but its key can be told.
    pub is_realm: bool,
}

/// The request that `data` begins with; `None`: it has not come whole yet.
///
/// # Errors
/// It is none that is let in, or will not be, whatever may follow.
pub fn read_request(data: &[u8], settings: &AcceptWs) -> Result<Option<Asked>, HandshakeFault> {
    let data = within_limit(data);
    let mut headers = [EMPTY_HEADER; MOST_HEADERS];
    let mut request = Request::new(&mut headers);
    let length = match request.parse(data) {
        Ok(Status::Complete(length)) => length,
        Ok(Status::Partial) => return unfinished(data),
        Err(error) => return Err(refused(data, error)),
    };
    let key = key(&request).ok_or(HandshakeFault::NotWebsocket)?;
    check(request.path, request.headers, settings)?;
    let is_realm = request.headers.iter().map(|header| header.name).eq(REALMS) && !is_relays(key);
    Ok(Some(Asked { length, response: response(key, settings), is_realm }))
}

/// The key, if the request is for a WebSocket.
fn key<'a>(request: &Request<'_, 'a>) -> Option<&'a [u8]> {
    let headers = &request.headers[..];
    let is_handshake = request.method == Some("GET")
        && request.version == Some(1)
        && lists(headers, "upgrade", "websocket")
        && lists(headers, "connection", "upgrade")
        && only(headers, "sec-websocket-version") == Some(b"13");
    only(headers, "sec-websocket-key").filter(|key| is_handshake && !key.is_empty())
}

/// Whether it is for us.
fn check(path: Option<&str>, headers: &[Header<'_>], settings: &AcceptWs) -> Result<(), HandshakeFault> {
    if let Some(wanted) = &settings.host {
        let asked = only(headers, "host").unwrap_or_default();
        if !is_host(asked, wanted.as_bytes()) {
            return Err(HandshakeFault::WrongHost { asked: excerpt(asked), wanted: wanted.clone() });
        }
    }
    let path = path.unwrap_or_default();
    if path != &*settings.path {
        return Err(HandshakeFault::WrongPath {
            asked: excerpt(path.as_bytes()),
            wanted: settings.path.clone(),
        });
    }
    match &settings.token {
        Some(token)
            if !only(headers, "authorization").is_some_and(|said| is_token(said, token.as_bytes())) =>
        {
            Err(HandshakeFault::WrongToken)
        }
        _ => Ok(()),
    }
}

/// Whether a client that is to ask for `wanted` may ask so. A port besides is none of our business.
fn is_host(asked: &[u8], wanted: &[u8]) -> bool {
    let digits = asked.iter().rev().take_while(|byte| byte.is_ascii_digit()).count();
    let without_port = asked[..asked.len() - digits].strip_suffix(b":").unwrap_or(asked);
    asked.eq_ignore_ascii_case(wanted) || without_port.eq_ignore_ascii_case(wanted)
}

/// How long a wrong one takes says nothing but its length.
fn is_token(said: &[u8], token: &[u8]) -> bool {
    let Some((scheme, said)) = said.split_at_checked(b"Bearer ".len()) else { return false };
    scheme.eq_ignore_ascii_case(b"Bearer ") && constant_time::verify_slices_are_equal(said, token).is_ok()
}

fn response(key: &[u8], settings: &AcceptWs) -> Vec<u8> {
    let mut head = format!(
        "HTTP/1.1 101 Switching Protocols\r\nupgrade: websocket\r\nconnection: upgrade\r\n\
         sec-websocket-accept: {}\r\n",
        accept(key)
    );
    append(&mut head, &settings.headers);
    head.push_str("\r\n");
    head.into_bytes()
}
