//! What a backend does with a connection that has come about: speaks first, echoes, waits, or closes.

use std::io::{self, ErrorKind};
use std::time::Duration;

use tokio::time::timeout;

use super::remedy::options;
use super::{Stage, Step, Way};
use crate::proxy::tcp::socket::Leg;
use crate::proxy::tunnel::{Alone, Fault, Layers, Opening};

/// How long a backend may take to say something.
const MOMENT: Duration = Duration::from_secs(1);
/// An empty line, which protocols of text overlook.
const BYTE: &[u8] = b"\n";
/// What is read at once.
const PIECE: usize = 4096;
/// So much of what a backend says is shown.
const SHOWN: usize = 64;
/// Before the payload there has to be room for a frame's head.
const HEADROOM: usize = 16;

/// What leads to a backend.
pub(super) enum Line {
    /// A connection of its own.
    Own(Box<Wire>),
    /// A stream of a connection that could have others.
    Stream(Box<Alone>),
}

/// A connection with what it is wrapped in.
pub(super) struct Wire {
    leg: Leg,
    layers: Layers,
    /// What has come and not been decoded.
    raw: Vec<u8>,
    payload: Vec<u8>,
    ended: bool,
    /// What has to go ahead of everything.
    header: Vec<u8>,
}

/// Why nothing more comes.
enum Break {
    /// The end of the stream.
    End,
    Reset,
    Fault(Fault),
}

impl Line {
    pub fn plain(leg: Leg, header: Vec<u8>) -> Self {
        let layers = Layers::default();
        Self::Own(Box::new(Wire { leg, layers, raw: Vec::new(), payload: Vec::new(), ended: false, header }))
    }

    pub fn wrapped(leg: Leg, opening: Opening) -> Self {
        let Opening { layers, undecoded, payload, end, .. } = opening;
        Self::Own(Box::new(Wire { leg, layers, raw: undecoded, payload, ended: end, header: Vec::new() }))
    }

    /// Sends what has to go ahead of everything.
    async fn begin(&mut self) -> Result<(), Break> {
        match self {
            Self::Own(wire) => wire.write(&wire.header).await,
            Self::Stream(_) => Ok(()),
        }
    }

    /// What comes next of the payload.
    async fn receive(&mut self) -> Result<Vec<u8>, Break> {
        match self {
            Self::Own(wire) => wire.receive().await,
            Self::Stream(stream) => {
                let piece = stream.receive().await?;
                if piece.is_empty() { Err(Break::End) } else { Ok(piece) }
            }
        }
    }

    async fn send(&mut self, payload: &[u8]) -> Result<(), Break> {
        match self {
            Self::Own(wire) => wire.send(payload).await,
            Self::Stream(stream) => Ok(stream.send(payload).await?),
        }
    }

    /// Takes leave.
    pub(super) async fn end(self) {
        match self {
            Self::Own(wire) => wire.end().await,
            // whoever does not end its half has had its moment
            Self::Stream(stream) => _ = timeout(MOMENT, stream.end()).await,
        }
    }
}

impl Wire {
    /// What comes next of the payload.
    async fn receive(&mut self) -> Result<Vec<u8>, Break> {
        loop {
            if !self.payload.is_empty() {
                return Ok(std::mem::take(&mut self.payload));
            }
            if self.ended {
                return Err(Break::End);
            }
            self.leg.readable().await?;
            self.raw.reserve(PIECE);
            match self.leg.try_read_buf(&mut self.raw) {
                Ok(0) => {
                    self.layers.end_of_stream(self.raw.len())?;
                    return Err(Break::End);
                }
                Ok(_) => self.open().await?,
                Err(error) if error.kind() == ErrorKind::WouldBlock => {}
                Err(error) => return Err(error.into()),
            }
        }
    }

    async fn open(&mut self) -> Result<(), Break> {
        let mut answers = Vec::new();
        let opened = self.layers.open(&mut self.raw, &mut answers);
        self.write(&answers).await?;
        let opened = opened?;
        self.ended |= opened.end;
        self.payload.extend_from_slice(&self.raw[..opened.payload]);
        self.raw.drain(..opened.rest);
        Ok(())
    }

    async fn send(&mut self, payload: &[u8]) -> Result<(), Break> {
        let mut data = [&[0; HEADROOM], payload].concat();
        let mut sealed = Vec::new();
        let wrapped = self.layers.wrap(&mut data, HEADROOM, payload.len(), &mut sealed)?.to_vec();
        self.write(&wrapped).await
    }

    async fn write(&self, mut bytes: &[u8]) -> Result<(), Break> {
        while !bytes.is_empty() {
            self.leg.writable().await?;
            match self.leg.try_write(bytes) {
                Ok(sent) => bytes = &bytes[sent..],
                Err(error) if error.kind() == ErrorKind::WouldBlock => {}
                Err(error) => return Err(error.into()),
            }
        }
        Ok(())
    }

    /// Takes leave.
    pub async fn end(mut self) {
        let mut farewell = Vec::new();
        if self.layers.end(&mut farewell).is_ok() {
            // whoever is gone needs none
            _ = timeout(MOMENT, self.write(&farewell)).await;
        }
        self.leg.close();
    }
}

/// Waits for the backend to say something; then sends it a byte.
pub(super) async fn listen(mut line: Line, way: Way<'_>) -> Step {
    let step = converse(&mut line, way).await.unwrap_or_else(|broken| broken.step(way));
    line.end().await;
    step
}

async fn converse(line: &mut Line, way: Way<'_>) -> Result<Step, Break> {
    line.begin().await?;
    let passed = |text: String| Ok(Step::passed(Stage::Payload, text));
    if let Ok(first) = timeout(MOMENT, line.receive()).await {
        let first = first?;
        return passed(format!("the server speaks first: {}", excerpt(&first)));
    }
    line.send(BYTE).await?;
    match timeout(MOMENT, line.receive()).await {
        Ok(Ok(answer)) if answer == BYTE => passed("a byte comes back as it was sent".into()),
        Ok(Ok(answer)) => passed(format!("the server answers an empty line: {}", excerpt(&answer))),
        // it was there until something came that is none of its protocol
        Ok(Err(Break::End | Break::Reset)) => {
            passed("the connection stands; the server closes it at an empty line".into())
        }
        Ok(Err(broken)) => Ok(broken.step(way)),
        Err(_silent) => passed("the connection stands; the server waits for more than an empty line".into()),
    }
}

impl Break {
    fn step(&self, way: Way<'_>) -> Step {
        let behind = if way.tunnel.is_some() {
            "what is behind the other end is not there (see its own `relayctl test`), or turns this host away"
        } else {
            "it wants no connection of this host's, or something ahead of it"
        };
        let options: &[&str] = if way.connect.proxy_protocol.is_some() {
            &["connect.proxy_protocol"]
        } else if way.tunnel.is_none() {
            &["connect.transport", "connect.proxy_protocol"]
        } else {
            &["connect.proxy_protocol"]
        };
        match self {
            Self::End => {
                let text = format!("the connection is closed at once, without a byte: {behind}");
                Step::failed(Stage::Payload, "closed_at_once", options, text)
            }
            Self::Reset => {
                let text = format!("the connection is reset at once: {behind}");
                Step::failed(Stage::Payload, "reset_at_once", options, text)
            }
            Self::Fault(fault) => {
                Step::failed(Stage::Payload, fault.as_str(), self::options(fault), fault.to_string())
            }
        }
    }
}

impl From<io::Error> for Break {
    fn from(_gone: io::Error) -> Self {
        Self::Reset
    }
}

impl<E: Into<Fault>> From<E> for Break {
    fn from(fault: E) -> Self {
        Self::Fault(fault.into())
    }
}

/// The beginning of what a server says, in one line.
fn excerpt(bytes: &[u8]) -> String {
    let shown = bytes[..bytes.len().min(SHOWN)].trim_ascii_end().escape_ascii();
    let more = if bytes.len() > SHOWN { "..." } else { "" };
    format!("\"{shown}{more}\"")
}
