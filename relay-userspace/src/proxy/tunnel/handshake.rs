//! Opening a tunnel on a connection: both roles, TLS first, WebSocket within it.

use std::io::ErrorKind;
use std::net::Shutdown;
use std::ptr;
use std::sync::Arc;
use std::time::Duration;

use rustls::ClientConfig;
use rustls::client::Resumption;
use socket2::SockRef;
use tokio::time::{Instant, timeout};

use super::fault::Fault;
use super::layers::{Layers, Ws};
use super::purpose::{Purpose, Willing};
use super::tls::{self, Agreed, Fingerprint, Tls};
use super::ws::{self, Expected, HandshakeFault, Role};
use crate::proxy::tcp::socket::Leg;
use crate::rule::tunnel::{AcceptWs, ConnectTunnel, ConnectWs};

/// What is read at once.
const PIECE: usize = 4096;
/// The longest that a peer's half of a handshake may be: certificates and a head.
pub(super) const MOST: usize = 128 * 1024;
/// How long a realm that comes to us must not get anything behind our answer, unless it has sent something: what comes in
/// one piece with the answer is lost to it.
const GRACE: Duration = Duration::from_millis(20);
/// How long a peer that is turned away gets to take the reason.
pub(super) const PARTING: Duration = Duration::from_secs(1);

/// Takes tunnels in, for all sessions of a rule.
#[derive(Debug)]
pub struct Acceptor {
    pub tls: Option<Arc<rustls::ServerConfig>>,
    pub ws: Option<AcceptWs>,
    /// What clients may ask for besides sessions.
    pub willing: Willing,
    /// The certificate's that clients are shown.
    pub fingerprint: Option<Fingerprint>,
}

/// Opens tunnels to a rule's backends.
#[derive(Debug)]
pub struct Connector {
    tls: Option<Arc<ClientConfig>>,
    /// The same without tickets: whoever comes with one is not shown the certificate.
    afresh: Option<Arc<ClientConfig>>,
    pub tunnel: Arc<ConnectTunnel>,
}

/// What a tunnel to a backend begins with.
pub struct Beginning {
    pub tls: Option<Box<Tls>>,
    /// The WebSocket's request, and what answers it.
    pub upgrade: Option<(Vec<u8>, Expected)>,
}

/// A tunnel that is open.
#[derive(Debug)]
pub struct Opening {
    pub layers: Layers,
    /// What the two ends have agreed to use it for.
    pub purpose: Purpose,
    /// What has come of a record that is not whole.
    pub undecoded: Vec<u8>,
    /// Payload that came with the handshake.
    pub payload: Vec<u8>,
    /// The peer's stream has ended with it.
    pub end: bool,
    /// Until when the peer must not be sent anything unless it has sent something.
    pub grace: Option<Instant>,
}

/// One that was made anew is another one.
impl PartialEq for Acceptor {
    fn eq(&self, other: &Self) -> bool {
        ptr::eq(self, other)
    }
}

impl Eq for Acceptor {}

impl PartialEq for Connector {
    fn eq(&self, other: &Self) -> bool {
        ptr::eq(self, other)
    }
}

impl Eq for Connector {}

impl Acceptor {
    /// `data`: what the client has sent already.
    pub(in crate::proxy) async fn accept(&self, leg: &Leg, data: Vec<u8>) -> Result<Opening, Fault> {
        let mut wire = Wire { raw: data, ..Wire::new(leg, None) };
        let mut purpose = Purpose::Session;
        if let Some(config) = &self.tls {
            if self.ws.is_none() {
                purpose = wire.asked(self.willing).await?;
            }
            wire.tls = Some(Box::new(Tls::server(&agreeing(config, purpose))?));
        }
        wire.open().await?;
        wire.finish_tls().await?;
        let Some(settings) = &self.ws else {
            wire.flush().await?;
            return Ok(wire.opening(None, None, purpose));
        };
        let asked = loop {
            match ws::read_request(&wire.plain, settings, self.willing) {
                Ok(Some(asked)) => break asked,
                Ok(None) => wire.more().await?,
                Err(fault) => {
                    if let Some(page) = fault.page() {
                        wire.say(page)?;
                        wire.flush().await?;
                    }
                    return Err(fault.into());
                }
            }
        };
        wire.say(&asked.response)?;
        wire.flush().await?;
        wire.plain.drain(..asked.length);
        let grace = asked.is_realm.then(|| Instant::now() + GRACE);
        wire.decoded(Ws::new(Role::Server), grace, asked.purpose).await
    }
}

impl Connector {
    /// `tls` goes with the tunnel's.
    pub fn new(tls: Option<Arc<ClientConfig>>, tunnel: Arc<ConnectTunnel>) -> Self {
        let afresh = tls.as_deref().map(|config| {
            let mut config = config.clone();
            config.resumption = Resumption::disabled();
            Arc::new(config)
        });
        Self { tls, afresh, tunnel }
    }

    /// The beginning of a tunnel to `host` in which the other end has to show all it has.
    pub fn begin_afresh(&self, host: &str) -> Result<Beginning, Fault> {
        self.begin(Purpose::Session, self.afresh.as_ref(), host)
    }

    fn begin(
        &self,
        purpose: Purpose,
        config: Option<&Arc<ClientConfig>>,
        host: &str,
    ) -> Result<Beginning, Fault> {
        let sni = self.tunnel.tls.as_ref().map(|tls| tls.sni.as_deref().unwrap_or(host));
        let tls = match (config, sni) {
            (Some(config), Some(sni)) => {
                let said = if self.tunnel.ws.is_some() { Purpose::Session } else { purpose };
                Some(Box::new(Tls::client(&asking(config, said), tls::server_name(sni)?)?))
            }
            _ => None,
        };
        let ask = |ws: &ConnectWs| ws::request(ws, ws.host.as_deref().or(sni).unwrap_or(host), purpose);
        Ok(Beginning { tls, upgrade: self.tunnel.ws.as_ref().map(ask) })
    }

    /// `purpose`: what the other end has to agree to. `host`: the backend's, as the rule calls it. `header`: what the
    /// backend is sent ahead of all else.
    pub(in crate::proxy) async fn connect_for(
        &self,
        purpose: Purpose,
        leg: &Leg,
        host: &str,
        header: &[u8],
    ) -> Result<Opening, Fault> {
        self.connect_telling(purpose, leg, host, header, |_agreed| {}).await
    }

    /// The same. `secured` is told when TLS stands.
    pub(in crate::proxy) async fn connect_telling(
        &self,
        purpose: Purpose,
        leg: &Leg,
        host: &str,
        header: &[u8],
        secured: impl FnOnce(&Agreed),
    ) -> Result<Opening, Fault> {
        let Beginning { tls, upgrade } = self.begin(purpose, self.tls.as_ref(), host)?;
        let mut wire = Wire { unsent: header.to_vec(), ..Wire::new(leg, tls) };
        wire.open().await?;
        wire.finish_tls().await.map_err(|fault| about(purpose, fault))?;
        if let Some(agreed) = wire.tls.as_ref().and_then(|tls| tls.agreed()) {
            secured(agreed);
        }
        let (Some(settings), Some((request, expected))) = (&self.tunnel.ws, upgrade) else {
            wire.flush().await?;
            wire.has_agreed(purpose)?;
            return Ok(wire.opening(None, None, purpose));
        };
        wire.say(&request)?;
        let length = loop {
            match ws::read_response(&wire.plain, &expected)? {
                Some(length) => break length,
                None => wire.more().await.map_err(in_upgrade)?,
            }
        };
        wire.plain.drain(..length);
        wire.decoded(Ws::new(Role::Client(settings.mask.into())), None, purpose).await
    }
}

/// A server's settings for a client that is agreed with about a purpose. Of what it offers besides nothing is taken.
fn agreeing(config: &Arc<rustls::ServerConfig>, purpose: Purpose) -> Arc<rustls::ServerConfig> {
    let Some(protocol) = purpose.protocol() else { return config.clone() };
    let mut config = rustls::ServerConfig::clone(config);
    config.alpn_protocols = vec![protocol.into()];
    config.into()
}

/// A client's settings that ask for a purpose, and for nothing that the other end could agree to instead.
fn asking(config: &Arc<ClientConfig>, purpose: Purpose) -> Arc<ClientConfig> {
    let Some(protocol) = purpose.protocol() else { return config.clone() };
    let mut config = ClientConfig::clone(config);
    config.alpn_protocols = vec![protocol.into()];
    config.into()
}

/// A TLS server may have nothing to do with a client whose only offer it does not know.
fn about(purpose: Purpose, fault: Fault) -> Fault {
    match &fault {
        Fault::Tls(refused) if purpose != Purpose::Session && refused.is_no_common_alpn() => {
            HandshakeFault::Unwilling(purpose).into()
        }
        _ => fault,
    }
}

/// realm turns who asks for another host or path away without a word.
fn in_upgrade(fault: Fault) -> Fault {
    if matches!(fault, Fault::Silent | Fault::Ended) { HandshakeFault::Closed.into() } else { fault }
}

/// A connection during its handshake.
struct Wire<'a> {
    leg: &'a Leg,
    tls: Option<Box<Tls>>,
    /// What is to be sent, in one piece, before anything more is waited for.
    unsent: Vec<u8>,
    /// What has come and has not been decrypted.
    raw: Vec<u8>,
    /// What has been, and is for the layer within.
    plain: Vec<u8>,
    /// The peer has sent something.
    heard: bool,
    /// It has ended its stream.
    ended: bool,
}

impl<'a> Wire<'a> {
    const fn new(leg: &'a Leg, tls: Option<Box<Tls>>) -> Self {
        Self { leg, tls, unsent: Vec::new(), raw: Vec::new(), plain: Vec::new(), heard: false, ended: false }
    }

    /// Takes what there is apart, and answers it. A client begins with this, too.
    async fn open(&mut self) -> Result<(), Fault> {
        let Some(tls) = &mut self.tls else {
            self.plain.append(&mut self.raw);
            return Ok(());
        };
        let received = tls.receive(&mut self.raw, &mut self.unsent);
        if received.is_err() {
            self.flush().await?;
        }
        let received = received?;
        self.ended |= received.end;
        self.plain.extend_from_slice(&self.raw[..received.payload]);
        self.raw.drain(..received.rest);
        Ok(())
    }

    async fn finish_tls(&mut self) -> Result<(), Fault> {
        while self.tls.as_ref().is_some_and(|tls| tls.is_handshaking()) {
            self.more().await?;
        }
        Ok(())
    }

    /// What a client asks TLS for in its first message, which stays where it is.
    async fn asked(&mut self, willing: Willing) -> Result<Purpose, Fault> {
        if willing == Willing::default() {
            return Ok(Purpose::Session);
        }
        loop {
            match tls::of_protocols(&self.raw, |asks| willing.choose(asks)) {
                Some(purpose) => return Ok(purpose),
                None => self.hear().await?,
            }
        }
    }

    /// Whether the other end has agreed to a purpose in the handshake of TLS.
    fn has_agreed(&self, purpose: Purpose) -> Result<(), Fault> {
        let agreed = self.tls.as_ref().and_then(|tls| tls.agreed()?.alpn.as_deref());
        let is_agreed = purpose.protocol().is_none_or(|protocol| agreed == Some(protocol));
        if is_agreed { Ok(()) } else { Err(HandshakeFault::Unwilling(purpose).into()) }
    }

    /// Waits for more, and takes it apart.
    async fn more(&mut self) -> Result<(), Fault> {
        self.hear().await?;
        self.open().await
    }

    /// Waits for more.
    async fn hear(&mut self) -> Result<(), Fault> {
        self.flush().await?;
        loop {
            self.leg.readable().await.map_err(|_gone| Fault::Ended)?;
            self.raw.reserve(PIECE);
            match self.leg.try_read_buf(&mut self.raw) {
                Ok(0) if !self.heard => return Err(Fault::Silent),
                Ok(0) => return Err(Fault::Ended),
                Ok(_) => {
                    self.heard = true;
                    break;
                }
                Err(error) if error.kind() == ErrorKind::WouldBlock => {}
                Err(_gone) => return Err(Fault::Ended),
            }
        }
        if self.raw.len() + self.plain.len() > MOST {
            return Err(Fault::TooMuch);
        }
        Ok(())
    }

    /// Wraps a message of the layer within, and adds it to what is to be sent.
    fn say(&mut self, message: &[u8]) -> Result<(), Fault> {
        match &mut self.tls {
            None => self.unsent.extend_from_slice(message),
            Some(tls) => tls.seal(message, &mut self.unsent)?,
        }
        Ok(())
    }

    async fn flush(&mut self) -> Result<(), Fault> {
        let mut rest = &self.unsent[..];
        while !rest.is_empty() {
            self.leg.writable().await.map_err(|_gone| Fault::Ended)?;
            match self.leg.try_write(rest) {
                Ok(sent) => rest = &rest[sent..],
                Err(error) if error.kind() == ErrorKind::WouldBlock => {}
                Err(_gone) => return Err(Fault::Ended),
            }
        }
        self.unsent.clear();
        Ok(())
    }

    /// The tunnel, with the frames that came right behind the head.
    async fn decoded(
        mut self,
        mut ws: Ws,
        grace: Option<Instant>,
        purpose: Purpose,
    ) -> Result<Opening, Fault> {
        let mut answers = Vec::new();
        let decoded = ws.decode(&mut self.plain, &mut answers)?;
        self.plain.truncate(decoded.payload);
        self.ended |= decoded.end;
        if !answers.is_empty() {
            self.say(&answers)?;
            self.flush().await?;
        }
        Ok(self.opening(Some(ws), grace, purpose))
    }

    fn opening(self, ws: Option<Ws>, grace: Option<Instant>, purpose: Purpose) -> Opening {
        let Self { tls, raw, plain, ended, .. } = self;
        let layers = Layers::new(tls, ws);
        Opening { layers, purpose, undecoded: raw, payload: plain, end: ended, grace }
    }
}

/// Ends the connection of a peer that has been turned away, so that what it was told last reaches it.
pub async fn part(leg: Leg) {
    say_farewell(&leg).await;
    leg.close();
}

/// The same for one that is somebody's still.
pub(super) async fn say_farewell(leg: &Leg) {
    // fails only for a connection that is gone already
    _ = SockRef::from(&**leg).shutdown(Shutdown::Write);
    _ = timeout(PARTING, drain(leg)).await;
}

/// Reads to the end: what nobody has read turns the end of a connection into a reset.
async fn drain(leg: &Leg) {
    let mut piece = [0; PIECE];
    let mut left = MOST;
    while leg.readable().await.is_ok() {
        match leg.try_read(&mut piece) {
            Ok(0) => return,
            Ok(length) => match left.checked_sub(length) {
                Some(less) => left = less,
                None => return,
            },
            Err(error) if error.kind() == ErrorKind::WouldBlock => {}
            Err(_gone) => return,
        }
    }
}
