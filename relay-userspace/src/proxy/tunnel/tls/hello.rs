//! What a client's first message says, before a session is begun with it.

use std::io::Cursor;

use rustls::server::Acceptor;

/// Whether the protocols that a client offers (RFC 7301) are known yet, and what `choose` makes of them. `data`: what has
/// come so far. Of what is no hello there is nothing to be learned: the session will say what is wrong with it.
pub fn of_protocols<T: Default>(data: &[u8], choose: impl FnOnce(&dyn Fn(&str) -> bool) -> T) -> Option<T> {
    let mut acceptor = Acceptor::default();
    let mut unread = Cursor::new(data);
    loop {
        match acceptor.read_tls(&mut unread) {
            Ok(0) => return None,
            Ok(_) => {}
            Err(_no_tls) => return Some(T::default()),
        }
        match acceptor.accept() {
            Ok(None) => {}
            Ok(Some(accepted)) => {
                let hello = accepted.client_hello();
                let offered: Vec<&[u8]> = hello.alpn().into_iter().flatten().collect();
                return Some(choose(&|name| offered.contains(&name.as_bytes())));
            }
            Err(_no_hello) => return Some(T::default()),
        }
    }
}

#[cfg(test)]
mod tests {
    use std::sync::Arc;

    use rustls::ClientConnection;
    use rustls::crypto::aws_lc_rs;

    use super::*;
    use crate::proxy::tunnel::purpose::{Purpose, Willing};
    use crate::proxy::tunnel::tls::{public_roots, server_name};

    fn hello(protocols: &[&str]) -> Vec<u8> {
        let builder = rustls::ClientConfig::builder_with_provider(Arc::new(aws_lc_rs::default_provider()));
        let builder = builder.with_safe_default_protocol_versions().expect("versions");
        let mut config = builder.with_root_certificates(public_roots()).with_no_client_auth();
        config.alpn_protocols = protocols.iter().map(|&name| name.into()).collect();
        let mut client = ClientConnection::new(config.into(), server_name("relay.example").expect("name"))
            .expect("client");
        let mut hello = Vec::new();
        client.write_tls(&mut hello).expect("a hello");
        hello
    }

    #[test]
    fn a_purpose_is_known_once_the_hello_is_whole() {
        let willing = Willing { datagrams: true, streams: false };
        for (protocols, purpose) in [
            (&["h2", "relay-udp.v1"][..], Purpose::Datagrams),
            (&["relay-mux.v1"], Purpose::Session),
            (&["relay-udp.v1x"], Purpose::Session),
            (&[], Purpose::Session),
        ] {
            let hello = hello(protocols);
            let asked = |data: &[u8]| of_protocols(data, |asks| willing.choose(asks));
            assert_eq!(asked(&hello), Some(purpose), "{protocols:?}");
            for end in 0..hello.len() {
                assert_eq!(asked(&hello[..end]), None, "{protocols:?} {end}");
            }
        }
    }

    #[test]
    fn what_is_no_hello_asks_for_nothing() {
        for data in [&b"GET / HTTP/1.1\r\n\r\n"[..], b"SSH-2.0-OpenSSH_9.2\r\n", &[0; 64]] {
            assert_eq!(
                of_protocols(data, |_| Purpose::Datagrams),
                Some(Purpose::Session),
                "{}",
                data.escape_ascii()
            );
        }
    }
}
