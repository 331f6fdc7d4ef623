//! What lies between TCP and the payload of a leg: TLS, WebSocket, both.

use std::path::{Path, PathBuf};

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

impl Transport {
    pub const ALL: [Self; 4] = [Self::Plain, Self::Tls, Self::Ws, Self::Wss];

    pub fn parse(text: &str) -> Option<Self> {
        Self::ALL.into_iter().find(|transport| transport.as_str() == text)
    }

    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Plain => "plain",
            Self::Tls => "tls",
            Self::Ws => "ws",
            Self::Wss => "wss",
        }
    }

    pub const fn has_tls(self) -> bool {
        matches!(self, Self::Tls | Self::Wss)
    }

    pub const fn has_ws(self) -> bool {
        matches!(self, Self::Ws | Self::Wss)
    }

    const fn of(has_tls: bool, has_ws: bool) -> Self {
        match (has_tls, has_ws) {
            (false, false) => Self::Plain,
            (true, false) => Self::Tls,
            (false, true) => Self::Ws,
            (true, true) => Self::Wss,
        }
    }
}

impl AcceptTunnel {
    pub const fn transport(&self) -> Transport {
        Transport::of(self.tls.is_some(), self.ws.is_some())
    }

    /// The same with all paths below a folder, but for those that begin at the root.
    pub fn in_folder(mut self, folder: &Path) -> Self {
        if let Some(tls) = &mut self.tls {
            if let Identity::Files { cert, key } = &mut tls.identity {
                (*cert, *key) = (folder.join(&*cert), folder.join(&*key));
            }
            tls.client_ca = tls.client_ca.take().map(|path| folder.join(path));
        }
        self
    }
}

impl Identity {
    /// Whose self-signed certificate it is where nobody says.
    pub const USUAL_NAME: &str = "relay";
}

impl ConnectTunnel {
    pub const fn transport(&self) -> Transport {
        Transport::of(self.tls.is_some(), self.ws.is_some())
    }

    /// The same with all paths below a folder, but for those that begin at the root.
    pub fn in_folder(mut self, folder: &Path) -> Self {
        if let Some(tls) = &mut self.tls {
            tls.ca = tls.ca.take().map(|path| folder.join(path));
            tls.identity = tls.identity.take().map(|(cert, key)| (folder.join(cert), folder.join(key)));
        }
        self
    }
}

/// What a WebSocket asks for where nobody says.
pub const USUAL_PATH: &str = "/";

impl MaskChoice {
    pub const ALL: [Self; 3] = [Self::Auto, Self::Zero, Self::Random];

    pub fn parse(text: &str) -> Option<Self> {
        Self::ALL.into_iter().find(|mask| mask.as_str() == text)
    }

    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Auto => "auto",
            Self::Zero => "zero",
            Self::Random => "random",
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn paths_begin_at_their_folder_or_at_the_root() {
        let identity = Identity::Files { cert: "c.pem".into(), key: "/k.pem".into() };
        let tls = AcceptTls { identity, client_ca: Some("ca/c.pem".into()), alpn: Vec::new() };
        let tls = AcceptTunnel { tls: Some(tls), ws: None }.in_folder(Path::new("/etc/relay")).tls;
        let tls = tls.expect("TLS");
        let identity = Identity::Files { cert: "/etc/relay/c.pem".into(), key: "/k.pem".into() };
        assert_eq!(tls.identity, identity);
        assert_eq!(tls.client_ca, Some("/etc/relay/ca/c.pem".into()));
    }
}
