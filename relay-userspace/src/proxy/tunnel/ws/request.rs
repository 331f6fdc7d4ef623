//! A server's part of the handshake: the request it reads, the response it sends.

use aws_lc_rs::constant_time;
use httparse::{EMPTY_HEADER, Header, Request, Status};

use super::HandshakeFault;
use super::handshake::{
    MOST_HEADERS, accept, append, excerpt, lists, only, refused, unfinished, within_limit,
};
use crate::proxy::tunnel::purpose::{Purpose, Willing};
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
    /// or for a while. A Relay that has neither token nor headers asks so, too, and waits with it: a mark in its request
    /// would be one for whoever looks for tunnels.
    pub is_realm: bool,
    /// What it asks the tunnel for, and gets.
    pub purpose: Purpose,
}

/// The request that `data` begins with; `None`: it has not come whole yet.
///
/// # Errors
/// It is none that is let in, or will not be, whatever may follow.
pub fn read_request(
    data: &[u8],
    settings: &AcceptWs,
    willing: Willing,
) -> Result<Option<Asked>, HandshakeFault> {
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
    let is_realm = request.headers.iter().map(|header| header.name).eq(REALMS);
    let purpose = willing.choose(|protocol| lists(request.headers, "sec-websocket-protocol", protocol));
    Ok(Some(Asked { length, response: response(key, settings, purpose), is_realm, purpose }))
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

fn response(key: &[u8], settings: &AcceptWs, purpose: Purpose) -> Vec<u8> {
    let mut head = format!(
        "HTTP/1.1 101 Switching Protocols\r\nupgrade: websocket\r\nconnection: upgrade\r\n\
         sec-websocket-accept: {}\r\n",
        accept(key)
    );
    if let Some(protocol) = purpose.protocol() {
        head.extend(["sec-websocket-protocol: ", protocol, "\r\n"]);
    }
    append(&mut head, &settings.headers);
    head.push_str("\r\n");
    head.into_bytes()
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::proxy::tunnel::ws::request;
    use crate::rule::{ConnectWs, MaskChoice};

    const KEY: &str = "dGhlIHNhbXBsZSBub25jZQ==";

    fn settings() -> AcceptWs {
        AcceptWs { host: Some("relay.example".into()), path: "/ws".into(), headers: Vec::new(), token: None }
    }

    /// realm's.
    fn realms() -> String {
        format!(
            "GET /ws HTTP/1.1\r\nhost: relay.example\r\nupgrade: websocket\r\nconnection: upgrade\r\n\
             sec-websocket-key: {KEY}\r\nsec-websocket-version: 13\r\n\r\n"
        )
    }

    fn read(head: &str, settings: &AcceptWs) -> Result<Option<Asked>, HandshakeFault> {
        read_request(head.as_bytes(), settings, Willing::default())
    }

    #[test]
    fn realm_is_let_in_and_told_from_others() {
        let response = "HTTP/1.1 101 Switching Protocols\r\nupgrade: websocket\r\nconnection: upgrade\r\n\
                        sec-websocket-accept: s3pPLMBiTxaQ9kYGzzhZRbK+xOo=\r\n\r\n";
        let (head, settings) = (realms(), settings());
        for end in 0..head.len() {
            assert_eq!(read(&head[..end], &settings), Ok(None), "{end}");
        }
        let purpose = Purpose::Session;
        let asked = Asked { length: head.len(), response: response.into(), is_realm: true, purpose };
        assert_eq!(read(&head, &settings), Ok(Some(asked.clone())));
        let more = [head.as_bytes(), b"\x82\x80", &[0; 9000]].concat();
        assert_eq!(read_request(&more, &settings, Willing::default()), Ok(Some(asked)));
    }

    #[test]
    fn others_are_let_in() {
        let head = realms();
        for (what, instead) in [
            ("connection: upgrade", "Connection: keep-alive, Upgrade"),
            ("upgrade: websocket", "Upgrade: WebSocket"),
            ("host: relay.example", "Host: RELAY.example:8080"),
            ("\r\n\r\n", "\r\nuser-agent: x\r\n\r\n"),
            ("host: relay.example\r\nupgrade: websocket", "upgrade: websocket\r\nhost: relay.example"),
        ] {
            let head = head.replacen(what, instead, 1);
            let asked = read(&head, &settings()).expect(&head).expect("whole");
            assert!(!asked.is_realm, "{head}");
        }
        let anybodys = AcceptWs { host: None, ..settings() };
        for head in [head.replace("host: relay.example\r\n", ""), head.replace("relay.example", "x.example")]
        {
            assert!(matches!(read(&head, &anybodys), Ok(Some(_))), "{head}");
        }
    }

    #[test]
    fn a_relay_is_let_in() {
        let connect = ConnectWs {
            host: Some("relay.example".into()),
            path: "/ws".into(),
            headers: Vec::new(),
            token: Some("secret".into()),
            mask: MaskChoice::Auto,
        };
        let accept = AcceptWs { token: connect.token.clone(), ..settings() };
        for (connect, accept) in
            [(ConnectWs { token: None, ..connect.clone() }, settings()), (connect, accept)]
        {
            let (head, _) = request(&connect, "", Purpose::Session);
            let asked = read_request(&head, &accept, Willing::default()).expect("let in").expect("whole");
            // without a token it asks as realm does
            assert_eq!((asked.length, asked.is_realm), (head.len(), connect.token.is_none()));
        }
    }

    #[test]
    fn a_purpose_is_agreed_to_where_the_rule_takes_it() {
        let head = realms().replace("\r\n\r\n", "\r\nsec-websocket-protocol: x, relay-udp.v1\r\n\r\n");
        for (datagrams, purpose) in [(false, Purpose::Session), (true, Purpose::Datagrams)] {
            let willing = Willing { datagrams, streams: true };
            let asked = read_request(head.as_bytes(), &settings(), willing).expect("let in").expect("whole");
            assert_eq!((asked.purpose, asked.is_realm), (purpose, false));
            assert_eq!(
                asked.response.ends_with(b"\r\nsec-websocket-protocol: relay-udp.v1\r\n\r\n"),
                datagrams
            );
        }
    }

    #[test]
    fn headers_of_the_settings_are_in_the_response() {
        let headers = vec![("server".into(), "nginx".into()), ("x-a".into(), "b".into())];
        let asked = read(&realms(), &AcceptWs { headers, ..settings() }).expect("let in").expect("whole");
        assert!(asked.response.ends_with(b"=\r\nserver: nginx\r\nx-a: b\r\n\r\n"));
    }

    #[test]
    fn hosts() {
        for (asked, wanted, is_ours) in [
            ("a.example", "a.example", true),
            ("A.example", "a.EXAMPLE", true),
            ("a.example:80", "a.example", true),
            ("a.example:80", "a.example:80", true),
            ("a.example", "a.example:80", false),
            ("a.example:", "a.example", true),
            ("a.example:x", "a.example", false),
            ("a.example80", "a.example", false),
            ("b.a.example", "a.example", false),
            ("[::1]:80", "[::1]", true),
            ("[::1]", "[::1]", true),
            ("", "a.example", false),
        ] {
            assert_eq!(is_host(asked.as_bytes(), wanted.as_bytes()), is_ours, "{asked} {wanted}");
        }
    }

    #[test]
    fn tokens() {
        let settings = AcceptWs { token: Some("secret".into()), ..settings() };
        for (line, is_let_in) in [
            ("authorization: Bearer secret\r\n", true),
            ("Authorization: bearer secret\r\n", true),
            ("authorization: Bearer secret2\r\n", false),
            ("authorization: Bearer secre\r\n", false),
            ("authorization: Bearer \r\n", false),
            ("authorization: Basic secret\r\n", false),
            ("authorization: secret\r\n", false),
            ("authorization: Bearer secret\r\nauthorization: Bearer x\r\n", false),
            ("", false),
        ] {
            let head = realms().replace("\r\n\r\n", &format!("\r\n{line}\r\n"));
            let outcome = read(&head, &settings).map(|asked| asked.is_some());
            assert_eq!(outcome, if is_let_in { Ok(true) } else { Err(HandshakeFault::WrongToken) }, "{line}");
        }
    }

    #[test]
    fn strangers_get_a_page_if_they_speak_http() {
        let wrong_host =
            |asked: &str| HandshakeFault::WrongHost { asked: asked.into(), wanted: "relay.example".into() };
        let wrong_path = HandshakeFault::WrongPath { asked: "/wS".into(), wanted: "/ws".into() };
        for (what, instead, fault) in [
            ("GET", "POST", HandshakeFault::NotWebsocket),
            ("HTTP/1.1", "HTTP/1.0", HandshakeFault::NotWebsocket),
            ("upgrade: websocket", "upgrade: h2c", HandshakeFault::NotWebsocket),
            ("connection: upgrade", "connection: close", HandshakeFault::NotWebsocket),
            ("version: 13", "version: 8", HandshakeFault::NotWebsocket),
            (KEY, "", HandshakeFault::NotWebsocket),
            ("host: relay.example\r\n", "", wrong_host("")),
            ("host: relay.example", "host: other.example", wrong_host("other.example")),
            ("host: relay", "host: relay.example\r\nhost: relay", wrong_host("")),
            ("/ws", "/wS", wrong_path),
            ("\r\n\r\n", &"\r\na: b".repeat(100), HandshakeFault::HeadTooLong),
            ("\r\n\r\n", &"x".repeat(9000), HandshakeFault::HeadTooLong),
        ] {
            let head = realms().replacen(what, instead, 1);
            let outcome = read(&head, &settings());
            assert_eq!(outcome, Err(fault.clone()), "{head}");
            assert!(fault.page().is_some(), "{fault}");
        }
        for (data, fault) in [
            (&b"\x16\x03\x01\x02\0\x01"[..], HandshakeFault::Tls),
            (b"SSH-2.0-OpenSSH_9.2\r\n", HandshakeFault::NotHttp),
            (b"\0\0\0", HandshakeFault::NotHttp),
        ] {
            assert_eq!(
                read_request(data, &settings(), Willing::default()),
                Err(fault.clone()),
                "{}",
                data.escape_ascii()
            );
            assert_eq!(fault.page(), None);
        }
    }
}
