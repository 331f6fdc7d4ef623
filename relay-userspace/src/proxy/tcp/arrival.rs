//! A client's arrival: whose connection it is, which a proxy before us may say ahead of its data.

use std::io::ErrorKind;
use std::net::SocketAddr;
use std::pin::Pin;

use tokio::time::Sleep;

use super::socket::Leg;
use crate::proxy::counters::Refusal;
use crate::proxy::proxy_protocol::{self, Flaw, Header, Origin};

/// What is read at once, and with the longest header the most that a client may make us keep.
const PIECE: usize = 2048;

/// Who has come, and what it has sent already.
#[derive(Debug)]
pub struct Arrival {
    /// What the proxy before us says.
    pub header: Option<Header>,
    /// What came behind it.
    pub data: Vec<u8>,
}

impl Arrival {
    /// A client that nobody announces.
    pub const PLAIN: Self = Self { header: None, data: Vec::new() };

    /// Whose connection it is, and what it was made to; the connection's own ends unless a proxy says otherwise.
    pub fn client(&self, own: SocketAddr) -> SocketAddr {
        match &self.header {
            Some(Header { origin: Origin::Client { source, .. }, .. }) => *source,
            _ => own,
        }
    }
}

/// Reads the header that every connection begins with. `None` as the error: the client has gone.
pub async fn announced(client: &Leg, limit: Pin<&mut Sleep>) -> Result<Arrival, Option<Refusal>> {
    tokio::select! {
        biased;
        arrival = read(client) => arrival,
        () = limit => Err(Some(Refusal::HandshakeTimeout)),
    }
}

async fn read(client: &Leg) -> Result<Arrival, Option<Refusal>> {
    let mut data = Vec::with_capacity(PIECE);
    loop {
        client.readable().await.map_err(|_gone| None)?;
        if data.len() == data.capacity() {
            data.reserve(PIECE);
        }
        match client.try_read_buf(&mut data) {
            // connected to see whether anybody listens, and went
            Ok(0) if data.is_empty() => return Err(None),
            Ok(0) => return Err(Some(Refusal::ProxyMalformed)),
            Ok(_) => {}
            Err(error) if error.kind() == ErrorKind::WouldBlock => continue,
            Err(_gone) => return Err(None),
        }
        if let Some((header, length)) = proxy_protocol::parse(&data).map_err(refusal)? {
            data.drain(..length);
            return Ok(Arrival { header: Some(header), data });
        }
    }
}

fn refusal(flaw: Flaw) -> Option<Refusal> {
    Some(match flaw {
        Flaw::Missing => Refusal::ProxyMissing,
        Flaw::Malformed => Refusal::ProxyMalformed,
        Flaw::TooLong => Refusal::ProxyTooLong,
    })
}
