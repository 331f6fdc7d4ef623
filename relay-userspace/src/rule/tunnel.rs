//! What a rule's legs are wrapped in: TLS, WebSocket, both, or nothing.

use std::path::PathBuf;

/// What is spoken on a leg.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub enum Transport {
    Plain,
    Tls,
    Ws,
    Wss,
}

/// What clients have to speak.
#[derive(Clone, Debug, Eq, PartialEq)]
pub struct AcceptTunnel {
    pub tls: Option<AcceptTls>,
    pub ws: Option<AcceptWs>,
}

/// TLS with clients.
#[derive(Clone, Debug, Eq, PartialEq)]
pub struct AcceptTls {
    pub identity: Identity,
    /// Clients need a certificate of one of these authorities.
    pub client_ca: Option<PathBuf>,
    pub alpn: Vec<Box<str>>,
}

/// Where the certificate that clients see is from.
#[derive(Clone, Debug, Eq, PartialEq)]
pub enum Identity {
    Files { cert: PathBuf, key: PathBuf },
    SelfSigned { name: Box<str> },
}

/// WebSocket with clients.
#[derive(Clone, Debug, Eq, PartialEq)]
pub struct AcceptWs {
    pub host: Option<Box<str>>,
    pub path: Box<str>,
    /// More of them in our answer.
    pub headers: Vec<(Box<str>, Box<str>)>,
    pub token: Option<Box<str>>,
}

/// What is spoken with backends.
#[derive(Clone, Debug, Eq, PartialEq)]
pub struct ConnectTunnel {
    pub tls: Option<ConnectTls>,
    pub ws: Option<ConnectWs>,
}

/// TLS with backends.
#[derive(Clone, Debug, Eq, PartialEq)]
pub struct ConnectTls {
    /// `None`: the backend's host.
    pub sni: Option<Box<str>>,
    pub verify: Verify,
    /// Authorities in place of the public ones.
    pub ca: Option<PathBuf>,
    /// Our own certificate and its key.
    pub identity: Option<(PathBuf, PathBuf)>,
    pub alpn: Vec<Box<str>>,
}

/// What a backend's certificate has to be.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub enum Verify {
    Ca,
    Insecure,
    /// This one, or one with this key: the SHA-256 of either.
    Pin([u8; 32]),
}

/// WebSocket with backends.
#[derive(Clone, Debug, Eq, PartialEq)]
pub struct ConnectWs {
    /// `None`: the name of TLS, else the backend's host.
    pub host: Option<Box<str>>,
    pub path: Box<str>,
    /// More of them in our request.
    pub headers: Vec<(Box<str>, Box<str>)>,
    pub token: Option<Box<str>>,
    pub mask: MaskChoice,
}

/// The keys that our frames are masked with.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub enum MaskChoice {
    /// Zero.
    Auto,
    Zero,
    Random,
}
