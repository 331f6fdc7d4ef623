//! The end of a connection of many streams that takes them.

use std::net::SocketAddr;

use bytes::Bytes;
use http::Response;

use super::{
    FRAMES, LONGEST_HEAD, MuxStream, RESET_LASTS, RESET_STREAMS, STREAMS, UNSEEN_RESETS, UNSENT, WINDOW,
    WINDOWS,
};
use crate::proxy::tcp::socket::Leg;
use crate::proxy::tunnel::Opening;
use crate::proxy::tunnel::stream::TunnelStream;

/// A client's connection.
#[derive(Debug)]
pub struct Exit<'a> {
    connection: h2::server::Connection<TunnelStream<&'a Leg>, Bytes>,
    peer: SocketAddr,
}

impl<'a> Exit<'a> {
    /// `peer`: whose connection it is.
    pub async fn begin(leg: &'a Leg, opening: Opening, peer: SocketAddr) -> Result<Self, h2::Error> {
        let mut builder = h2::server::Builder::new();
        builder
            .max_concurrent_streams(STREAMS)
            .initial_window_size(WINDOW)
            .initial_connection_window_size(WINDOWS)
            .max_send_buffer_size(UNSENT)
            .data_frame_budget(FRAMES)
            .max_header_list_size(LONGEST_HEAD)
            .max_concurrent_reset_streams(RESET_STREAMS)
            .reset_stream_duration(RESET_LASTS)
            .max_pending_accept_reset_streams(UNSEEN_RESETS);
        let connection = builder.handshake(TunnelStream::new(leg, opening)).await?;
        Ok(Self { connection, peer })
    }

    /// The next stream, and carries all of them meanwhile. `None`: there will be no more, and all have ended.
    pub async fn accept(&mut self) -> Option<Result<MuxStream, h2::Error>> {
        loop {
            let (request, mut respond) = match self.connection.accept().await? {
                Ok(accepted) => accepted,
                Err(error) => return Some(Err(error)),
            };
            // one that has been reset meanwhile cannot be answered
            if let Ok(sending) = respond.send_response(Response::new(()), false) {
                return Some(Ok(MuxStream::taken(sending, request.into_body(), self.peer)));
            }
        }
    }

    /// Takes no more streams; the other end opens another connection for them.
    pub fn drain(&mut self) {
        self.connection.graceful_shutdown();
    }
}
