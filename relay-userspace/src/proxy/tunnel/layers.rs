//! What lies between a connection's bytes and their payload: TLS, WebSocket, both, or nothing.

use std::{fmt, mem};

use super::fault::Fault;
use super::tls::Tls;
use super::ws::{Decoded, Decoder, Encoder, Role, Violation};

/// The layers of one connection, from the wire inwards. Their handshakes are over.
#[derive(Default)]
pub struct Layers {
    tls: Option<Box<Tls>>,
    ws: Option<Ws>,
}

#[derive(Debug)]
pub struct Ws {
    decoder: Decoder,
    encoder: Encoder,
    /// The frame that answers the peer's last ping and has not been asked for yet. Empty as a rule.
    pong: Vec<u8>,
}

impl Ws {
    pub const fn new(role: Role) -> Self {
        Self { decoder: Decoder::new(role), encoder: Encoder::new(role), pong: Vec::new() }
    }

    /// Takes apart what came right behind the handshake, as [`Layers::open`] does later.
    pub fn decode(&mut self, data: &mut [u8], answers: &mut Vec<u8>) -> Result<Decoded, Violation> {
        self.decoder.decode(data, answers)
    }
}

impl fmt::Debug for Layers {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        // keys are nobody's business
        f.debug_struct("Layers").field("tls", &self.tls.is_some()).field("ws", &self.ws).finish()
    }
}

/// What bytes have turned out to be.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub struct Opened {
    /// So much payload lies at the front.
    pub payload: usize,
    /// From here on lies the beginning of something that is not whole.
    pub rest: usize,
    /// The peer has ended its stream.
    pub end: bool,
    /// The number of the last ping of ours that it has answered.
    pub pong: Option<u32>,
}

impl Layers {
    pub const fn new(tls: Option<Box<Tls>>, ws: Option<Ws>) -> Self {
        Self { tls, ws }
    }

    /// Takes apart what has come: what was left over before, and what is new. What must be answered is appended to
    /// `answers`, also when this fails.
    pub fn open(&mut self, data: &mut [u8], answers: &mut Vec<u8>) -> Result<Opened, Fault> {
        let opened = self.open_silently(data, answers);
        self.pong(answers)?;
        opened
    }

    /// The same. Pings are answered by [`Self::pong`] only: by who answers at once, payload that came ahead of them would
    /// seem to have arrived where it may still lie for long.
    pub fn open_silently(&mut self, data: &mut [u8], answers: &mut Vec<u8>) -> Result<Opened, Fault> {
        let mut opened = Opened { payload: data.len(), rest: data.len(), end: false, pong: None };
        if let Some(tls) = &mut self.tls {
            let received = tls.receive(data, answers)?;
            opened = Opened { payload: received.payload, rest: received.rest, end: received.end, ..opened };
        }
        let Some(ws) = &mut self.ws else { return Ok(opened) };
        let mut pong = Vec::new();
        let decoded = ws.decoder.decode(&mut data[..opened.payload], &mut pong);
        if !pong.is_empty() {
            ws.pong = pong;
        }
        let decoded = decoded?;
        if opened.end {
            self.end_of_stream(0)?;
        }
        Ok(Opened { payload: decoded.payload, end: opened.end || decoded.end, pong: decoded.pong, ..opened })
    }

    /// What the end of the peer's connection means: the end of its stream, also without a leave-taking, unless it comes
    /// in the middle of something. `left_over`: bytes of a record that is not whole.
    pub fn end_of_stream(&self, left_over: usize) -> Result<(), Fault> {
        if let Some(tls) = &self.tls {
            tls.end_of_stream(left_over)?;
        }
        self.ws.as_ref().map_or(Ok(()), |ws| ws.decoder.end_of_stream().map_err(Fault::from))
    }

    /// Wraps the payload `data[at..at + length]`, which has room before it. Returns what is to be sent, which lies in
    /// `data` or in `sealed`, which must be empty.
    pub fn wrap<'a>(
        &mut self,
        data: &'a mut [u8],
        at: usize,
        length: usize,
        sealed: &'a mut Vec<u8>,
    ) -> Result<&'a [u8], Fault> {
        let begin = match &mut self.ws {
            Some(ws) => ws.encoder.frame(data, at, length),
            None => at,
        };
        let framed = &data[begin..at + length];
        match &mut self.tls {
            None => Ok(framed),
            Some(tls) => {
                tls.seal(framed, sealed)?;
                Ok(sealed)
            }
        }
    }

    /// Whether the peer can be asked whether it is there.
    pub const fn has_pings(&self) -> bool {
        self.ws.is_some()
    }

    /// Asks it. The answer has the same number.
    pub fn ping(&mut self, number: u32, out: &mut Vec<u8>) -> Result<(), Fault> {
        let Some(ws) = &self.ws else { return Ok(()) };
        let mut ping = Vec::new();
        ws.encoder.ping(number, &mut ping);
        self.seal(&ping, out)
    }

    /// Answers the last ping of the peer's that has not been.
    pub fn pong(&mut self, out: &mut Vec<u8>) -> Result<(), Fault> {
        match &mut self.ws {
            Some(ws) if !ws.pong.is_empty() => {
                let pong = mem::take(&mut ws.pong);
                self.seal(&pong, out)
            }
            _ => Ok(()),
        }
    }

    /// Says that the stream ends here.
    pub fn end(&mut self, out: &mut Vec<u8>) -> Result<(), Fault> {
        if let Some(ws) = &mut self.ws {
            let mut close = Vec::new();
            ws.encoder.close(&mut close);
            self.seal(&close, out)?;
        }
        if let Some(tls) = &mut self.tls {
            tls.close(out);
        }
        Ok(())
    }

    fn seal(&mut self, framed: &[u8], out: &mut Vec<u8>) -> Result<(), Fault> {
        match &mut self.tls {
            None => out.extend_from_slice(framed),
            Some(tls) => tls.seal(framed, out)?,
        }
        Ok(())
    }
}
