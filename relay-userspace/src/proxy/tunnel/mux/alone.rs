//! One stream in a connection of its own, for somebody who wants to know whether it works.

use std::future::{Future as _, poll_fn};
use std::io;
use std::pin::Pin;
use std::task::{Context, Poll, ready};

use h2::Reason;

use super::MuxStream;
use super::connections::{Driver, begin, shake_hands};
use crate::proxy::tcp::socket::Leg;
use crate::proxy::tunnel::{Fault, Opening};

/// What is read at once.
const PIECE: usize = 4096;

#[derive(Debug)]
pub struct Alone {
    stream: MuxStream,
    driver: Driver,
}

impl Alone {
    /// In a tunnel that is for streams.
    pub async fn begin(leg: Leg, opening: Opening) -> Result<Self, Fault> {
        let (connection, mut driver) = shake_hands(leg, opening).await.map_err(Fault::Lost)?;
        let begun = tokio::select! {
            biased;
            begun = begin(&connection) => begun,
            over = &mut driver => Err(over.err().unwrap_or_else(|| Reason::CONNECT_ERROR.into())),
        };
        Ok(Self { stream: begun.map_err(Fault::Lost)?, driver })
    }

    /// What comes next; nothing at the end of the stream.
    pub async fn receive(&mut self) -> io::Result<Vec<u8>> {
        let mut piece = vec![0; PIECE];
        let length = poll_fn(|cx| {
            self.drive(cx);
            self.stream.poll_read(cx, &mut piece)
        });
        let length = length.await?;
        piece.truncate(length);
        Ok(piece)
    }

    pub async fn send(&mut self, mut data: &[u8]) -> io::Result<()> {
        poll_fn(|cx| {
            while !data.is_empty() {
                self.drive(cx);
                let sent = ready!(self.stream.poll_write(cx, data))?;
                data = &data[sent..];
            }
            self.drive(cx);
            Poll::Ready(Ok(()))
        })
        .await
    }

    /// Takes leave: hears the other end out, and waits until nothing is under way.
    pub async fn end(mut self) {
        if self.stream.end().is_ok() {
            while self.receive().await.is_ok_and(|piece| !piece.is_empty()) {}
        }
        let Self { stream, driver } = self;
        drop(stream);
        // with nobody who could open a stream it ends by itself; one that breaks has ended, too
        _ = driver.await;
    }

    fn drive(&mut self, cx: &mut Context<'_>) {
        // what it fails with, the stream tells
        _ = Pin::new(&mut self.driver).poll(cx);
    }
}
