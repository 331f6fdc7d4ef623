//! One client's stream of a connection that carries many.

use std::future::Future as _;
use std::io;
use std::net::SocketAddr;
use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll, ready};

use bytes::{Buf as _, Bytes};
use h2::client::ResponseFuture;
use h2::{Reason, RecvStream, SendStream};

/// Dropped before both directions have ended, it is reset.
#[derive(Debug)]
pub struct MuxStream {
    sending: SendStream<Bytes>,
    receiving: Receiving,
    /// What has come and has not been taken.
    rest: Bytes,
    sent_all: bool,
    received_all: bool,
    /// The other end of the connection.
    pub peer: SocketAddr,
    /// Counts it with those of the connection.
    _place: Arc<()>,
}

#[derive(Debug)]
enum Receiving {
    /// The other end has not said that it takes the stream.
    Awaited(ResponseFuture),
    Open(RecvStream),
}

impl MuxStream {
    /// One that we have opened.
    pub fn opened(
        sending: SendStream<Bytes>,
        response: ResponseFuture,
        peer: SocketAddr,
        place: Arc<()>,
    ) -> Self {
        Self::new(sending, Receiving::Awaited(response), peer, place)
    }

    /// One that the peer has.
    pub fn taken(sending: SendStream<Bytes>, receiving: RecvStream, peer: SocketAddr) -> Self {
        Self::new(sending, Receiving::Open(receiving), peer, Arc::default())
    }

    const fn new(sending: SendStream<Bytes>, receiving: Receiving, peer: SocketAddr, place: Arc<()>) -> Self {
        let (sent_all, received_all) = (false, false);
        Self { sending, receiving, rest: Bytes::new(), sent_all, received_all, peer, _place: place }
    }

    /// How much has been read; 0 at the end of the stream.
    pub fn poll_read(&mut self, cx: &mut Context<'_>, out: &mut [u8]) -> Poll<io::Result<usize>> {
        while self.rest.is_empty() && !self.received_all {
            match &mut self.receiving {
                Receiving::Awaited(response) => {
                    let response = ready!(Pin::new(response).poll(cx)).map_err(broken)?;
                    self.receiving = Receiving::Open(response.into_body());
                }
                Receiving::Open(body) => match ready!(body.poll_data(cx)) {
                    None => self.received_all = true,
                    Some(data) => self.rest = data.map_err(broken)?,
                },
            }
        }
        let length = self.rest.len().min(out.len());
        out[..length].copy_from_slice(&self.rest[..length]);
        self.rest.advance(length);
        if let (Receiving::Open(body), true) = (&mut self.receiving, length > 0) {
            body.flow_control().release_capacity(length).map_err(broken)?;
        }
        Poll::Ready(Ok(length))
    }

    /// How much has been taken.
    pub fn poll_write(&mut self, cx: &mut Context<'_>, data: &[u8]) -> Poll<io::Result<usize>> {
        self.sending.reserve_capacity(data.len());
        while self.sending.capacity() == 0 {
            match ready!(self.sending.poll_capacity(cx)) {
                Some(room) => _ = room.map_err(broken)?,
                None => return Poll::Ready(Err(io::ErrorKind::ConnectionReset.into())),
            }
        }
        let now = &data[..data.len().min(self.sending.capacity())];
        self.sending.send_data(Bytes::copy_from_slice(now), false).map_err(broken)?;
        Poll::Ready(Ok(now.len()))
    }

    /// Ends the stream.
    pub fn end(&mut self) -> io::Result<()> {
        if !self.sent_all {
            self.sent_all = true;
            self.sending.send_data(Bytes::new(), true).map_err(broken)?;
        }
        Ok(())
    }

    /// Ready when the peer has reset the stream, or the connection is gone.
    pub fn poll_reset(&mut self, cx: &mut Context<'_>) -> Poll<()> {
        if self.sent_all { Poll::Pending } else { self.sending.poll_reset(cx).map(drop) }
    }
}

impl Drop for MuxStream {
    fn drop(&mut self) {
        if !(self.sent_all && self.received_all) {
            // ahead of what it has no room for
            self.sending.send_reset(Reason::CANCEL);
        }
    }
}

fn broken(error: h2::Error) -> io::Error {
    io::Error::new(io::ErrorKind::ConnectionReset, error)
}
