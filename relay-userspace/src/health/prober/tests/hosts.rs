//! Endpoints of every kind, on threads of their own.

use std::io::{Read as _, Write as _};
use std::net::{SocketAddr, TcpListener, TcpStream, UdpSocket};
use std::sync::Arc;
use std::thread;

use rcgen::CertifiedKey;
use rustls::crypto::aws_lc_rs;
use rustls::pki_types::PrivateKeyDer;
use rustls::{RootCertStore, ServerConfig, ServerConnection, StreamOwned};
use socket2::{Domain, Socket, Type};

use super::LOCALHOST;

/// Has each connection that comes in served, for as long as there are any.
fn serve(serve: impl Fn(TcpStream) + Send + 'static) -> SocketAddr {
    let listener = TcpListener::bind((LOCALHOST, 0)).expect("listener");
    let address = listener.local_addr().expect("address");
    thread::spawn(move || listener.incoming().flatten().for_each(serve));
    address
}

/// Accepts, and says nothing.
pub fn mute() -> SocketAddr {
    serve(|mut stream| _ = stream.read(&mut [0; 1]))
}

/// Says something before it is asked, and takes no notice of what comes.
pub fn says(text: &'static str) -> SocketAddr {
    serve(move |mut stream| {
        _ = stream.write_all(text.as_bytes());
        _ = std::io::copy(&mut stream, &mut std::io::sink());
    })
}

/// Answers every request with `head`, and then the same again and again, for as long as somebody takes it.
pub fn goes_on(head: &'static str, text: &'static str) -> SocketAddr {
    let much = text.repeat(64 * 1024 / text.len());
    serve(move |mut stream| {
        read_request(&mut stream);
        _ = stream.write_all(head.as_bytes());
        while stream.write_all(much.as_bytes()).is_ok() {}
    })
}

/// A port with nobody.
pub fn refusing() -> SocketAddr {
    let address = TcpListener::bind((LOCALHOST, 0)).and_then(|listener| listener.local_addr());
    address.expect("address")
}

/// A listener that nobody accepts from, whose queue is full: its host drops what comes. It lasts as long as what is
/// returned with its address.
pub fn silent() -> (SocketAddr, Vec<Socket>) {
    let listener = Socket::new(Domain::IPV4, Type::STREAM, None).expect("socket");
    listener.bind(&SocketAddr::new(LOCALHOST, 0).into()).expect("bind");
    listener.listen(0).expect("listen");
    let address = listener.local_addr().ok().and_then(|address| address.as_socket()).expect("address");
    let mut sockets = vec![listener];
    for _ in 0..4 {
        let client = Socket::new(Domain::IPV4, Type::STREAM.nonblocking(), None).expect("socket");
        _ = client.connect(&address.into());
        sockets.push(client);
    }
    (address, sockets)
}

/// Answers every request with `response`, and leaves the connection open, or closes it.
pub fn http(response: &'static str, closes: bool) -> SocketAddr {
    serve(move |mut stream| {
        read_request(&mut stream);
        _ = stream.write_all(response.as_bytes());
        if !closes {
            thread::spawn(move || _ = stream.read(&mut [0; 1]));
        }
    })
}

/// The first request that comes in, and an answer to it.
pub fn asked() -> (SocketAddr, std::sync::mpsc::Receiver<String>) {
    let (sender, requests) = std::sync::mpsc::channel();
    let address = serve(move |mut stream| {
        _ = sender.send(read_request(&mut stream));
        _ = stream.write_all(b"HTTP/1.1 200 OK\r\n\r\n");
    });
    (address, requests)
}

fn read_request(stream: &mut impl std::io::Read) -> String {
    let (mut request, mut byte) = (Vec::new(), [0]);
    while !request.ends_with(b"\r\n\r\n") && matches!(stream.read(&mut byte), Ok(1)) {
        request.push(byte[0]);
    }
    String::from_utf8(request).expect("text")
}

/// Speaks HTTP over TLS, with a certificate of its own for `name`; and who trusts it.
pub fn https(name: &str, response: &'static str) -> (SocketAddr, RootCertStore) {
    let CertifiedKey { cert, signing_key } =
        rcgen::generate_simple_self_signed([name.to_owned()]).expect("certificate");
    let key = PrivateKeyDer::Pkcs8(signing_key.serialize_der().into());
    let config = ServerConfig::builder_with_provider(Arc::new(aws_lc_rs::default_provider()))
        .with_safe_default_protocol_versions()
        .expect("versions")
        .with_no_client_auth()
        .with_single_cert(vec![cert.der().clone()], key)
        .expect("certificate");
    let config = Arc::new(config);
    let address = serve(move |stream| {
        let connection = ServerConnection::new(config.clone()).expect("connection");
        let mut stream = StreamOwned::new(connection, stream);
        read_request(&mut stream);
        _ = stream.write_all(response.as_bytes());
        stream.conn.send_close_notify();
        _ = stream.flush();
    });
    let mut roots = RootCertStore::empty();
    roots.add(cert.der().clone()).expect("root");
    (address, roots)
}

/// Answers each datagram with `answer`.
pub fn udp(answer: &'static [u8]) -> SocketAddr {
    let socket = UdpSocket::bind((LOCALHOST, 0)).expect("socket");
    let address = socket.local_addr().expect("address");
    thread::spawn(move || {
        let mut question = [0; 2048];
        while let Ok((_, client)) = socket.recv_from(&mut question) {
            _ = socket.send_to(answer, client);
        }
    });
    address
}
