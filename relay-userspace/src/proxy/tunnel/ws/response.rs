//! A client's part of the handshake: the request it sends, the response it reads.

use std::net::Ipv6Addr;

use httparse::{EMPTY_HEADER, Header, Response, Status};

use super::HandshakeFault;
use super::handshake::{
    MOST_HEADERS, accept, append, excerpt, lists, new_key, only, refused, unfinished, within_limit,
};
use crate::proxy::tunnel::purpose::Purpose;
use crate::rule::tunnel::ConnectWs;

/// What the response to a request has to prove.
#[derive(Clone, Debug, Eq, PartialEq)]
pub struct Expected {
    accept: Box<str>,
    purpose: Purpose,
}

/// A request, and what is expected in return. `host` is asked for where the settings have none.
///
/// It has to go out in one write: realm forgets what comes first of several. Without token and headers in the settings
/// and for the usual purpose it is what realm sends, byte by byte.
pub fn request(settings: &ConnectWs, host: &str, purpose: Purpose) -> (Vec<u8>, Expected) {
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
    if let Some(protocol) = purpose.protocol() {
        head.extend(["sec-websocket-protocol: ", protocol, "\r\n"]);
    }
    append(&mut head, &settings.headers);
    head.push_str("\r\n");
    (head.into_bytes(), Expected { accept: accept(key.as_bytes()).into(), purpose })
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
        None if agrees(headers, expected.purpose) => Ok(()),
        None => Err(HandshakeFault::Unwilling(expected.purpose)),
    }
}

fn agrees(headers: &[Header<'_>], purpose: Purpose) -> bool {
    let Some(protocol) = purpose.protocol() else { return true };
    only(headers, "sec-websocket-protocol") == Some(protocol.as_bytes())
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::rule::MaskChoice;

    fn settings() -> ConnectWs {
        ConnectWs {
            host: None,
            path: "/ws?x=1".into(),
            headers: Vec::new(),
            token: None,
            mask: MaskChoice::Auto,
        }
    }

    fn sent(settings: &ConnectWs, host: &str) -> String {
        String::from_utf8(request(settings, host, Purpose::Session).0).expect("text")
    }

    fn response(lines: &str, expected: &Expected) -> Vec<u8> {
        format!("{lines}sec-websocket-accept: {}\r\n\r\n", expected.accept).into_bytes()
    }

    #[test]
    fn a_request_is_that_of_realm() {
        let sent = sent(&settings(), "backend.example");
        let start = "GET /ws?x=1 HTTP/1.1\r\nhost: backend.example\r\nupgrade: websocket\r\nconnection: upgrade\r\n\
                     sec-websocket-key: ";
        let key = sent.strip_prefix(start).expect(&sent).get(..24).expect("a key");
        assert_eq!(sent, format!("{start}{key}\r\nsec-websocket-version: 13\r\n\r\n"));
    }

    #[test]
    fn what_the_settings_say_is_sent() {
        let mut settings = settings();
        assert!(sent(&settings, "2001:db8::1").contains("\r\nhost: [2001:db8::1]\r\n"));
        settings.host = Some("cdn.example".into());
        settings.token = Some("secret".into());
        settings.headers = vec![("user-agent".into(), "curl/8".into()), ("x-a".into(), "b".into())];
        let sent = sent(&settings, "backend.example");
        assert!(sent.contains("\r\nhost: cdn.example\r\n"), "{sent}");
        let end = "version: 13\r\nauthorization: Bearer secret\r\nuser-agent: curl/8\r\nx-a: b\r\n\r\n";
        assert!(sent.ends_with(end), "{sent}");
    }

    #[test]
    fn a_response_is_read_once_it_is_whole() {
        let (_, expected) = request(&settings(), "h", Purpose::Session);
        for lines in [
            "HTTP/1.1 101 Switching Protocols\r\nupgrade: websocket\r\nconnection: upgrade\r\n",
            "HTTP/1.1 101\r\nServer: x\r\nConnection: keep-alive, Upgrade\r\nUpgrade: WebSocket\r\n",
        ] {
            let head = response(lines, &expected);
            for end in 0..head.len() {
                assert_eq!(read_response(&head[..end], &expected), Ok(None), "{end}");
            }
            assert_eq!(read_response(&head, &expected), Ok(Some(head.len())));
            let more = [&head[..], b"\x82\x01x"].concat();
            assert_eq!(read_response(&more, &expected), Ok(Some(head.len())));
            let long = [&head[..], &[0x82; 10_000]].concat();
            assert_eq!(read_response(&long, &expected), Ok(Some(head.len())));
        }
    }

    #[test]
    fn responses_that_are_none() {
        let (_, expected) = request(&settings(), "h", Purpose::Session);
        let (_, others) = request(&settings(), "h", Purpose::Session);
        let (head, datagrams) = request(&settings(), "h", Purpose::Datagrams);
        let agreeing = "HTTP/1.1 101 x\r\nupgrade: websocket\r\nconnection: upgrade\r\nsec-websocket-protocol: relay-udp.v1\r\n";
        assert!(head.ends_with(b"\r\nsec-websocket-protocol: relay-udp.v1\r\n\r\n"));
        assert!(matches!(read_response(&response(agreeing, &datagrams), &datagrams), Ok(Some(_))));
        let upgraded = "HTTP/1.1 101 x\r\nupgrade: websocket\r\nconnection: upgrade\r\n";
        let extended = format!("{upgraded}Sec-WebSocket-Extensions: permessage-deflate\r\n");
        let twice = format!("{upgraded}sec-websocket-accept: x\r\n");
        let unwilling = read_response(&response(upgraded, &datagrams), &datagrams);
        assert_eq!(unwilling, Err(HandshakeFault::Unwilling(Purpose::Datagrams)));
        let unasked = HandshakeFault::Extension("permessage-deflate".into());
        for (head, fault) in [
            (response("HTTP/1.1 404 Not Found\r\n", &expected), HandshakeFault::Refused { status: 404 }),
            (response("HTTP/1.0 502 Bad Gateway\r\n", &expected), HandshakeFault::Refused { status: 502 }),
            (response("HTTP/1.1 101 x\r\nconnection: upgrade\r\n", &expected), HandshakeFault::NotWebsocket),
            (response("HTTP/1.1 101 x\r\nupgrade: websocket\r\n", &expected), HandshakeFault::NotWebsocket),
            (response(&upgraded.replace("1.1", "1.0"), &expected), HandshakeFault::NotWebsocket),
            (response(upgraded, &others), HandshakeFault::WrongAccept),
            (response(&twice, &expected), HandshakeFault::WrongAccept),
            (format!("{upgraded}\r\n").into_bytes(), HandshakeFault::WrongAccept),
            (response(&extended, &expected), unasked),
            (b"SSH-2.0-OpenSSH_9.2\r\n".to_vec(), HandshakeFault::NotHttp),
            (b"\x15\x03\x01\0\x02\x02\x46".to_vec(), HandshakeFault::Tls),
            (b"HTTP/1.1 101 x\r\nupgrade".to_vec().repeat(400), HandshakeFault::NotHttp),
            ([upgraded.as_bytes(), &[b'a'; 9000]].concat(), HandshakeFault::HeadTooLong),
            (
                response(&format!("{upgraded}{}", "a: b\r\n".repeat(64)), &expected),
                HandshakeFault::HeadTooLong,
            ),
        ] {
            assert_eq!(read_response(&head, &expected), Err(fault), "{}", head.escape_ascii());
        }
    }
}
