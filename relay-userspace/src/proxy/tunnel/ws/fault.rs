//! Why a handshake fails, and what can be done about it.

use thiserror::Error;

use crate::proxy::tunnel::purpose::Purpose;

/// What a stranger gets to see.
const PAGE: &[u8] =
    b"HTTP/1.1 404 Not Found\r\ncontent-type: text/html\r\ncontent-length: 101\r\nconnection: close\r\n\r\n\
    <html>\r\n<head><title>404 Not Found</title></head>\r\n\
    <body>\r\n<h1>404 Not Found</h1>\r\n</body>\r\n</html>\r\n";

/// No WebSocket comes of this connection.
#[derive(Clone, Debug, Eq, Error, PartialEq)]
pub enum HandshakeFault {
    #[error(
        "what came is not HTTP: the other end does not speak WebSocket there \
         (its transport is plain or tls where ours is ws or wss)"
    )]
    NotHttp,
    #[error(
        "what came is TLS instead of a WebSocket handshake: the other end's transport is wss or tls where ours is ws, \
         or tls where ours is wss"
    )]
    Tls,
    #[error("the head is longer than 8 KiB or has more than 64 headers: fewer headers, shorter ones")]
    HeadTooLong,
    /// A request or a response that has nothing to do with WebSocket.
    #[error(
        "HTTP came, but no WebSocket handshake of version 13: a browser, a probe, \
         or a proxy between that is not set up to pass `upgrade` on"
    )]
    NotWebsocket,
    #[error("asked for host {asked:?}, accept.host is {wanted:?}: the other end's connect.host must be that")]
    WrongHost { asked: Box<str>, wanted: Box<str> },
    #[error("asked for path {asked:?}, accept.path is {wanted:?}: the other end's connect.path must be that")]
    WrongPath { asked: Box<str>, wanted: Box<str> },
    #[error("no token came, or another than accept.token: the other end's connect.token must be that")]
    WrongToken,
    #[error("the other end answered {status} instead of 101: {}", remedy(*.status))]
    Refused { status: u16 },
    /// The stream has ended where a head should have been, as whoever reads the socket has seen.
    #[error(
        "the other end closed without an answer: realm does where connect.host or connect.path is not its own, \
         and so may what does not speak WebSocket"
    )]
    Closed,
    #[error("the other end answered another key than ours: a proxy between answers out of a cache")]
    WrongAccept,
    /// We have asked for what only another Relay does.
    #[error(
        "the other end opens a tunnel, but not one for {}: it is no Relay, or its rule does not allow it \
         (datagrams need accept.udp_over = \"tunnel\" there)",
        .0.option()
    )]
    Unwilling(Purpose),
    #[error("the other end uses the extension {0:?}, which nobody asked for")]
    Extension(Box<str>),
}

impl HandshakeFault {
    /// The reason that it is counted under.
    pub const fn as_str(&self) -> &'static str {
        match self {
            Self::NotHttp => "ws_not_http",
            Self::Tls => "ws_tls",
            Self::HeadTooLong => "ws_head_too_long",
            Self::NotWebsocket => "ws_not_websocket",
            Self::WrongHost { .. } => "ws_wrong_host",
            Self::WrongPath { .. } => "ws_wrong_path",
            Self::WrongToken => "ws_wrong_token",
            Self::Refused { .. } => "ws_refused",
            Self::Closed => "ws_closed",
            Self::WrongAccept => "ws_bad_accept",
            Self::Extension(_) => "ws_extension",
            Self::Unwilling(_) => "tunnel_unwilling",
        }
    }

    /// What a server sends before it closes, to those who speak HTTP: a whole response, whatever was wrong.
    pub const fn page(&self) -> Option<&'static [u8]> {
        match self {
            Self::HeadTooLong
            | Self::NotWebsocket
            | Self::WrongHost { .. }
            | Self::WrongPath { .. }
            | Self::WrongToken => Some(PAGE),
            Self::NotHttp
            | Self::Tls
            | Self::Refused { .. }
            | Self::Closed
            | Self::WrongAccept
            | Self::Extension(_)
            | Self::Unwilling(_) => None,
        }
    }
}

/// What to look at when a server, or what is before it, answers so.
const fn remedy(status: u16) -> &'static str {
    match status {
        401 | 403 => {
            "connect.token is not accept.token of the other end, or a proxy before it lets us not in"
        }
        300..=399 => "what answers sends clients elsewhere: connect.host, or wss instead of ws",
        500..=599 => "a proxy answers and does not reach the other end behind it",
        _ => "connect.host, connect.path or connect.token is not what the other end accepts",
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_page_is_whole() {
        let text = str::from_utf8(PAGE).expect("text");
        let (head, body) = text.split_once("\r\n\r\n").expect("a body");
        assert!(head.contains(&format!("content-length: {}\r\n", body.len())), "{}", body.len());
    }

    #[test]
    fn a_fault_names_the_option() {
        let host = HandshakeFault::WrongHost { asked: "a\nb".into(), wanted: "c".into() };
        let shown =
            "asked for host \"a\\nb\", accept.host is \"c\": the other end's connect.host must be that";
        assert_eq!(host.to_string(), shown);
        for (status, option) in
            [(404, "connect.path"), (403, "connect.token"), (301, "connect.host"), (502, "proxy")]
        {
            let shown = HandshakeFault::Refused { status }.to_string();
            assert!(shown.contains(option) && shown.contains(&status.to_string()), "{shown}");
        }
    }
}
