//! What lies between TCP and the payload of a leg: TLS, WebSocket, both.

use std::path::PathBuf;

/// How a leg carries its payload.
#[derive(Clone, Copy, Debug, Default, Eq, PartialEq)]
pub enum Transport {
    #[default]
    Plain,
    Tls,
    Ws,
    Wss,
}

/// What a client leg is unwrapped from.
#[derive(Clone, Debug, Eq, PartialEq)]
pub struct AcceptTunnel {
    pub tls: Option<AcceptTls>,
    pub ws: Option<AcceptWs>,
}

#[derive(Clone, Debug, Eq, PartialEq)]
pub struct AcceptTls {
    pub identity: Identity,
    /// Whose certificate a client must have.
    pub client_ca: Option<PathBuf>,
    pub alpn: Vec<Box<str>>,
}

/// What a TLS server shows of itself.
#[derive(Clone, Debug, Eq, PartialEq)]
pub enum Identity {
    Files { cert: PathBuf, key: PathBuf },
    SelfSigned { name: Box<str> },
}

#[derive(Clone, Debug, Eq, PartialEq)]
pub struct AcceptWs {
    /// `None`: any.
    pub host: Option<Box<str>>,
    pub path: Box<str>,
    /// What our answer says besides.
    pub headers: Vec<(Box<str>, Box<str>)>,
    pub token: Option<Box<str>>,
}

/// What a backend leg is wrapped in.
#[derive(Clone, Debug, Eq, PartialEq)]
pub struct ConnectTunnel {
    pub tls: Option<ConnectTls>,
    pub ws: Option<ConnectWs>,
}

#[derive(Clone, Debug, Eq, PartialEq)]
pub struct ConnectTls {
    /// `None`: the backend's host.
    pub sni: Option<Box<str>>,
    pub verify: Verify,
    /// `None`: the certification authorities of the web.
    pub ca: Option<PathBuf>,
    /// Our certificate and its key.
    pub identity: Option<(PathBuf, PathBuf)>,
    pub alpn: Vec<Box<str>>,
}

/// Which certificate of a TLS server is good.
#[derive(Clone, Copy, Debug, Default, Eq, PartialEq)]
pub enum Verify {
    #[default]
    Ca,
    Insecure,
    /// The one with this SHA-256.
    Pin([u8; 32]),
}

#[derive(Clone, Debug, Eq, PartialEq)]
pub struct ConnectWs {
    /// `None`: what TLS asks for, or the backend's host.
    pub host: Option<Box<str>>,
    pub path: Box<str>,
    /// What our request says besides.
    pub headers: Vec<(Box<str>, Box<str>)>,
    pub token: Option<Box<str>>,
    pub mask: MaskChoice,
}

/// How a WebSocket client masks.
#[derive(Clone, Copy, Debug, Default, Eq, PartialEq)]
pub enum MaskChoice {
    /// As realm does: with zeros.
    #[default]
    Auto,
    Zero,
    Random,
}
