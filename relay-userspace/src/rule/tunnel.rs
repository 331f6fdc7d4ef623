//! What lies between TCP and the payload of a leg: TLS, WebSocket, both.

use std::fmt;
use std::path::{Path, PathBuf};

use data_encoding::{BASE64, BASE64_NOPAD, HEXLOWER_PERMISSIVE};

/// How a leg carries its payload.
#[derive(Clone, Copy, Debug, Default, Eq, Hash, PartialEq)]
pub enum Transport {
    #[default]
    Plain,
    Tls,
    Ws,
    Wss,
}

/// What a client leg is unwrapped from.
#[derive(Clone, Debug, Eq, Hash, PartialEq)]
pub struct AcceptTunnel {
    pub tls: Option<AcceptTls>,
    pub ws: Option<AcceptWs>,
    /// `None`: the rule carries none.
    pub udp_over: Option<UdpOver>,
}

#[derive(Clone, Debug, Eq, Hash, PartialEq)]
pub struct AcceptTls {
    pub identity: Identity,
    /// Whose certificate a client must have.
    pub client_ca: Option<PathBuf>,
    pub alpn: Vec<Box<str>>,
}

/// What a TLS server shows of itself.
#[derive(Clone, Debug, Eq, Hash, PartialEq)]
pub enum Identity {
    Files { cert: PathBuf, key: PathBuf },
    SelfSigned { name: Box<str> },
}

#[derive(Clone, Debug, Eq, Hash, PartialEq)]
pub struct AcceptWs {
    /// `None`: any.
    pub host: Option<Box<str>>,
    pub path: Box<str>,
    /// What our answer says besides.
    pub headers: Vec<(Box<str>, Box<str>)>,
    pub token: Option<Box<str>>,
}

/// What a backend leg is wrapped in.
#[derive(Clone, Debug, Eq, Hash, PartialEq)]
pub struct ConnectTunnel {
    pub tls: Option<ConnectTls>,
    pub ws: Option<ConnectWs>,
    /// `None`: the rule carries none.
    pub udp_over: Option<UdpOver>,
    /// Many clients' streams go through one tunnel, which only another Relay takes apart.
    pub mux: bool,
}

#[derive(Clone, Debug, Eq, Hash, PartialEq)]
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

/// Which way UDP goes where TCP goes through a tunnel.
#[derive(Clone, Copy, Debug, Eq, Hash, PartialEq)]
pub enum UdpOver {
    /// Through it, to another Relay.
    Tunnel,
    /// Beside it, as it is, as with realm.
    Plain,
}

/// Which certificate of a TLS server is good.
#[derive(Clone, Copy, Debug, Default, Eq, Hash, PartialEq)]
pub enum Verify {
    #[default]
    Ca,
    Insecure,
    /// The one with this SHA-256.
    Pin([u8; 32]),
}

#[derive(Clone, Debug, Eq, Hash, PartialEq)]
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
#[derive(Clone, Copy, Debug, Default, Eq, Hash, PartialEq)]
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

    /// All that are tunnels.
    pub const TUNNELS: [Self; 3] = [Self::Tls, Self::Ws, Self::Wss];

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

impl UdpOver {
    pub const ALL: [Self; 2] = [Self::Tunnel, Self::Plain];

    pub fn parse(text: &str) -> Option<Self> {
        Self::ALL.into_iter().find(|over| over.as_str() == text)
    }

    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Tunnel => "tunnel",
            Self::Plain => "plain",
        }
    }
}

impl Verify {
    /// What it may look like, for error texts.
    pub const FORMS: &str =
        r#""ca", "insecure" or "pin:sha256/..." with the certificate's SHA-256 in base64 or hex"#;
    const PIN: &str = "pin:sha256/";

    /// Colons between hexadecimal digits, as openssl prints them, do not matter.
    pub fn parse(text: &str) -> Option<Self> {
        match text {
            "ca" => Some(Self::Ca),
            "insecure" => Some(Self::Insecure),
            _ => digest(text.strip_prefix(Self::PIN)?).map(Self::Pin),
        }
    }
}

/// 32 bytes.
fn digest(text: &str) -> Option<[u8; 32]> {
    let hex: String = text.split(':').collect();
    let unpadded = text.strip_suffix('=').unwrap_or(text);
    let (encoding, digits) =
        if hex.len() == 64 { (&HEXLOWER_PERMISSIVE, hex.as_str()) } else { (&BASE64_NOPAD, unpadded) };
    let mut digest = [0; 32];
    let fits = encoding.decode_len(digits.len()) == Ok(digest.len());
    (fits && encoding.decode_mut(digits.as_bytes(), &mut digest).is_ok()).then_some(digest)
}

impl fmt::Display for Verify {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Ca => f.write_str("ca"),
            Self::Insecure => f.write_str("insecure"),
            Self::Pin(digest) => write!(f, "{}{}", Self::PIN, BASE64.encode_display(digest)),
        }
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
    fn pins_read_and_print() {
        let printed = "pin:sha256/AAECAwQFBgcICQoLDA0ODxAREhMUFRYXGBkaGxwdHh8=";
        let hex = "000102030405060708090a0b0c0d0e0f101112131415161718191A1B1C1D1E1F";
        let pairs: Vec<&str> = (0..32).map(|index| &hex[2 * index..2 * index + 2]).collect();
        let verify = Verify::Pin(std::array::from_fn(|index| u8::try_from(index).expect("a byte")));
        for text in [
            printed.to_owned(),
            printed.trim_end_matches('=').to_owned(),
            format!("pin:sha256/{hex}"),
            format!("pin:sha256/{}", pairs.join(":")),
        ] {
            assert_eq!(Verify::parse(&text), Some(verify), "{text}");
        }
        assert_eq!(verify.to_string(), printed);
        for text in [
            "",
            "CA",
            "pin",
            "pin:sha256/",
            "pin:sha1/AAEC",
            &printed[..40],
            &format!("{printed}="),
            "pin:sha256/é",
        ] {
            assert_eq!(Verify::parse(text), None, "{text}");
        }
    }

    #[test]
    fn paths_begin_at_their_folder_or_at_the_root() {
        let identity = Identity::Files { cert: "c.pem".into(), key: "/k.pem".into() };
        let tls = AcceptTls { identity, client_ca: Some("ca/c.pem".into()), alpn: Vec::new() };
        let tls =
            AcceptTunnel { tls: Some(tls), ws: None, udp_over: None }.in_folder(Path::new("/etc/relay")).tls;
        let tls = tls.expect("TLS");
        let identity = Identity::Files { cert: "/etc/relay/c.pem".into(), key: "/k.pem".into() };
        assert_eq!(tls.identity, identity);
        assert_eq!(tls.client_ca, Some("/etc/relay/ca/c.pem".into()));
    }
}
