//! One client's stream of a connection that carries many.

use std::future::Future as _;
use std::io;
use std::mem;
use std::net::SocketAddr;
use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll, ready};

use bytes::{Buf as _, Bytes};
use h2::client::ResponseFuture;
use h2::{Reason, RecvStream, SendStream};

use super::{FEW, LITTLE, UNSENT};
use crate::proxy::tunnel::Fault;

/// Dropped before both directions have ended, it is reset.
#[derive(Debug)]
pub struct MuxStream {
    sending: SendStream<Bytes>,
    receiving: Receiving,
    /// What has come and has not been taken.
    rest: Bytes,
    /// What has come since, in one piece: frames of a byte each would take the memory of large ones.
    gathered: Vec<u8>,
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
        Self {
            sending,
            receiving,
            rest: Bytes::new(),
            gathered: Vec::new(),
            sent_all: false,
            received_all: false,
            peer,
            _place: place,
        }
    }

    /// How much has been read; 0 at the end of the stream.
    pub fn poll_read(&mut self, cx: &mut Context<'_>, out: &mut [u8]) -> Poll<io::Result<usize>> {
        if self.rest.is_empty() {
            self.rest = mem::take(&mut self.gathered).into();
        }
        while self.rest.is_empty()
            && let Some(data) = ready!(self.poll_frame(cx))?
        {
            self.rest = data;
        }
        let length = self.rest.len().min(out.len());
        out[..length].copy_from_slice(&self.rest[..length]);
        self.rest.advance(length);
        if let (Receiving::Open(body), true) = (&mut self.receiving, length > 0) {
            body.flow_control().release_capacity(length).map_err(broken)?;
        }
        Poll::Ready(Ok(length))
    }

    /// What comes next; `None` at the end of the stream.
    fn poll_frame(&mut self, cx: &mut Context<'_>) -> Poll<io::Result<Option<Bytes>>> {
        while !self.received_all {
            match &mut self.receiving {
                Receiving::Awaited(response) => {
                    let response = ready!(Pin::new(response).poll(cx)).map_err(broken)?;
                    self.receiving = Receiving::Open(response.into_body());
                }
                Receiving::Open(body) => match ready!(body.poll_data(cx)) {
                    None => self.received_all = true,
                    Some(data) => return Poll::Ready(data.map(Some).map_err(broken)),
                },
            }
        }
        Poll::Ready(Ok(None))
    }

    /// Takes what comes while nobody reads: no more than the window, which stays as it is. Ready when the stream is
    /// reset, or its connection gone.
    pub fn poll_failure(&mut self, cx: &mut Context<'_>) -> Poll<io::Error> {
        loop {
            match ready!(self.poll_frame(cx)) {
                Ok(Some(data)) => self.gathered.extend_from_slice(&data),
                Ok(None) => break,
                Err(error) => return Poll::Ready(error),
            }
        }
        if self.sent_all {
            return Poll::Pending;
        }
        match ready!(self.sending.poll_reset(cx)) {
            Ok(Reason::CANCEL) => Poll::Ready(io::ErrorKind::ConnectionReset.into()),
            // the end of a connection has one, too
            Ok(reason) => Poll::Ready(broken(reason.into())),
            Err(error) => Poll::Ready(broken(error)),
        }
    }

    /// How much has been taken. A little waits until the connection has taken most of what there was before, so that it
    /// becomes more: each piece is a frame.
    pub fn poll_write(&mut self, cx: &mut Context<'_>, data: &[u8]) -> Poll<io::Result<usize>> {
        self.sending.reserve_capacity(UNSENT);
        let room = loop {
            let room = self.sending.capacity();
            if room >= UNSENT - FEW || room.min(data.len()) >= LITTLE {
                break room;
            }
            match ready!(self.sending.poll_capacity(cx)) {
                Some(room) => _ = room.map_err(broken)?,
                None => return self.poll_failure(cx).map(Err),
            }
        };
        let now = &data[..data.len().min(room)];
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
}

impl Drop for MuxStream {
    fn drop(&mut self) {
        if !(self.sent_all && self.received_all) {
            // ahead of what it has no room for
            self.sending.send_reset(Reason::CANCEL);
        }
    }
}

/// What happens to a stream alone is a reset; everything else happens to its connection.
fn broken(error: h2::Error) -> io::Error {
    if error.is_reset() {
        io::ErrorKind::ConnectionReset.into()
    } else {
        io::Error::new(io::ErrorKind::ConnectionReset, Fault::Lost(error))
    }
}
