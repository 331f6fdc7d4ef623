//! The end of a connection of many streams that opens them. Each worker has connections of its own.

use std::cell::RefCell;
use std::collections::HashMap;
use std::future::poll_fn;
use std::net::{IpAddr, SocketAddr};
use std::pin::Pin;
use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use h2::client::SendRequest;
use h2::{Ping, PingPong};
use http::{Method, Request, Uri};
use tokio::sync::watch;
use tokio::time::{Instant, MissedTickBehavior, Sleep, interval};

use super::{FRAMES, LONGEST_HEAD, MuxStream, RESET_LASTS, RESET_STREAMS, STREAMS, UNSENT, WINDOW, WINDOWS};
use crate::proxy::counters::Refusal;
use crate::proxy::service::{Service, Target};
use crate::proxy::tcp::failover::{Dial, Dialled, Wanted, open_for};
use crate::proxy::tcp::socket::{Leg, probe};
use crate::proxy::tunnel::purpose::Purpose;
use crate::proxy::tunnel::stream::TunnelStream;
use crate::proxy::tunnel::{Connector, Opening};
use crate::rule::Connect;

/// How often a connection is looked after.
const LOOK: Duration = Duration::from_secs(5);
/// How long it is kept without a stream.
const IDLE: Duration = Duration::from_secs(30);
/// One whose streams wait for an answer to a ping so long is gone.
const SILENCE: Duration = Duration::from_secs(30);

thread_local! {
    static CONNECTIONS: RefCell<HashMap<Key, Shelf>> = RefCell::default();
}

/// What connections have in common: where they lead, and by what.
#[derive(Clone, Debug, Eq, Hash, PartialEq)]
struct Key {
    addresses: Arc<[IpAddr]>,
    port: u16,
    backend: Arc<str>,
    /// Made anew when its certificates change.
    connector: usize,
    source: Option<IpAddr>,
    interface: Option<Box<str>>,
    mptcp: bool,
}

#[derive(Debug, Default)]
struct Shelf {
    open: Vec<Connection>,
    /// Says what comes of the one that is being opened: all who need it wait for one.
    opening: Option<watch::Receiver<Option<Refusal>>>,
}

#[derive(Clone, Debug)]
pub(super) struct Connection {
    sender: SendRequest<Bytes>,
    peer: SocketAddr,
    /// One for each stream, one here and one for who looks after it.
    places: Arc<()>,
}

/// How a session gets on with finding a connection.
enum Found {
    Open(Connection),
    Opening(watch::Receiver<Option<Refusal>>),
    /// Somebody has to open one, and tell.
    Nothing(watch::Sender<Option<Refusal>>),
}

/// A stream to the backend of this index, in a connection that is there or a new one.
async fn open(wanted: Wanted<'_>, index: usize, limit: Pin<&mut Sleep>) -> Result<MuxStream, Refusal> {
    let end = wanted.target.ends.end(index).ok_or(Refusal::NoBackend)?;
    let connector = wanted.target.connector.as_ref().ok_or(Refusal::NoBackend)?;
    let connect: &Connect = &wanted.target.connect;
    let key = Key {
        addresses: end.addresses.clone(),
        port: end.port(wanted.target.first_port, wanted.port),
        backend: end.name.clone(),
        connector: Arc::<Connector>::as_ptr(connector).addr(),
        source: connect.source,
        interface: connect.interface.clone(),
        mptcp: connect.mptcp,
    };
    tokio::select! {
        biased;
        stream = take(wanted, index, &key) => stream,
        () = limit => Err(Refusal::BackendTimeout),
    }
}

#[expect(
    clippy::disallowed_methods,
    reason = "a connection outlives the session that asks for it, and ends by itself"
)]
async fn take(wanted: Wanted<'_>, index: usize, key: &Key) -> Result<MuxStream, Refusal> {
    loop {
        let mut opening = match find(key) {
            Found::Open(connection) => match begin(&connection).await {
                Ok(stream) => return Ok(stream),
                // it is gone, or takes no more
                Err(_) => {
                    forget(key, &connection.places);
                    continue;
                }
            },
            Found::Opening(opening) => opening,
            Found::Nothing(tell) => {
                let opening = tell.subscribe();
                // not the session's own: others wait for it too
                let (service, target) = (wanted.service.clone(), wanted.target.clone());
                let (place, key) = ((index, wanted.port), key.clone());
                tokio::spawn(async move { connect(&service, &target, place, &key, tell).await });
                opening
            }
        };
        // ends when the one that opens has been told of, too
        while opening.changed().await.is_ok() {
            if let Some(refusal) = *opening.borrow() {
                return Err(refusal);
            }
        }
    }
}

fn find(key: &Key) -> Found {
    CONNECTIONS.with_borrow_mut(|all| {
        let shelf = all.entry(key.clone()).or_default();
        if let Some(connection) = shelf.open.iter().find(|connection| connection.has_room()) {
            return Found::Open(connection.clone());
        }
        if let Some(opening) = &shelf.opening
            && opening.has_changed().is_ok()
        {
            return Found::Opening(opening.clone());
        }
        let (tell, told) = watch::channel(None);
        shelf.opening = Some(told);
        Found::Nothing(tell)
    })
}

impl Connection {
    /// Who has its places without being a stream.
    const NOT_STREAMS: usize = 2;

    fn has_room(&self) -> bool {
        // a peer that allows none is waited for rather than asked by one connection after the other
        let most = self.sender.current_max_send_streams().clamp(1, STREAMS as usize);
        Arc::strong_count(&self.places) < most + Self::NOT_STREAMS
    }
}

pub(super) async fn begin(connection: &Connection) -> Result<MuxStream, h2::Error> {
    let place = connection.places.clone();
    let mut sender = connection.sender.clone().ready().await?;
    let mut request = Request::new(());
    *request.method_mut() = Method::CONNECT;
    *request.uri_mut() = Uri::from_static("relay:0");
    let (response, sending) = sender.send_request(request, false)?;
    Ok(MuxStream::opened(sending, response, connection.peer, place))
}

/// Opens a connection, and looks after it until it is over.
async fn connect(
    service: &Service,
    target: &Target,
    (index, port): (usize, u16),
    key: &Key,
    tell: watch::Sender<Option<Refusal>>,
) {
    let opened = match open_for(Purpose::Streams, service, target, index, port).await {
        Ok((leg, tunnel)) => {
            // streams may be silent for long
            _ = probe(&*leg, target.timeouts.keepalive);
            shake_hands(leg, tunnel).await.map_err(|_gone| Refusal::BackendTunnel)
        }
        Err(refusal) => Err(refusal),
    };
    match opened {
        Err(refusal) => _ = tell.send_replace(Some(refusal)),
        Ok((connection, driver)) => {
            let places = connection.places.clone();
            CONNECTIONS.with_borrow_mut(|all| all.entry(key.clone()).or_default().open.push(connection));
            drop(tell);
            look_after(driver, key, &places).await;
            forget(key, &places);
        }
    }
}

/// What has to be polled for anything to move.
pub(super) type Driver = h2::client::Connection<TunnelStream<Leg>, Bytes>;

pub(super) async fn shake_hands(leg: Leg, tunnel: Opening) -> Result<(Connection, Driver), h2::Error> {
    let peer = leg.peer_addr().map_err(|_gone| h2::Error::from(h2::Reason::CONNECT_ERROR))?;
    let mut builder = h2::client::Builder::new();
    builder
        .enable_push(false)
        .initial_max_send_streams(STREAMS as usize)
        .initial_window_size(WINDOW)
        .initial_connection_window_size(WINDOWS)
        .max_send_buffer_size(UNSENT)
        .data_frame_budget(FRAMES)
        .max_header_list_size(LONGEST_HEAD)
        .max_concurrent_reset_streams(RESET_STREAMS)
        .reset_stream_duration(RESET_LASTS);
    let (sender, driver) = builder.handshake(TunnelStream::new(leg, tunnel)).await?;
    Ok((Connection { sender, peer, places: Arc::default() }, driver))
}

/// Carries its streams. Returns when the connection is over: it broke, answers no more, or nobody has needed it for a while.
async fn look_after(mut driver: Driver, key: &Key, places: &Arc<()>) {
    let mut ticks = interval(LOOK);
    ticks.set_missed_tick_behavior(MissedTickBehavior::Delay);
    let mut pings = driver.ping_pong();
    let (mut used, mut asked) = (Instant::now(), None::<Instant>);
    loop {
        tokio::select! {
            _ = &mut driver => return,
            () = answered(&mut pings, asked.is_some()) => asked = None,
            _ = ticks.tick() => {
                if Arc::strong_count(places) > Connection::NOT_STREAMS {
                    used = Instant::now();
                } else if used.elapsed() >= IDLE {
                    // with nobody who could open a stream it ends by itself
                    forget(key, places);
                    continue;
                }
                match asked {
                    Some(since) if since.elapsed() >= SILENCE => return,
                    Some(_) => {}
                    None => {
                        let sent = pings.as_mut().map(|pings| pings.send_ping(Ping::opaque()));
                        asked = sent.and_then(Result::ok).map(|()| Instant::now());
                    }
                }
            }
        }
    }
}

async fn answered(pings: &mut Option<PingPong>, is_asked: bool) {
    match pings {
        // one that is gone is the connection's to tell
        Some(pings) if is_asked => _ = poll_fn(|cx| pings.poll_pong(cx)).await,
        _ => std::future::pending().await,
    }
}

/// No stream is opened in it any more.
fn forget(key: &Key, places: &Arc<()>) {
    CONNECTIONS.with_borrow_mut(|all| {
        let Some(shelf) = all.get_mut(key) else { return };
        shelf.open.retain(|connection| !Arc::ptr_eq(&connection.places, places));
        let is_opening = shelf.opening.as_ref().is_some_and(|opening| opening.has_changed().is_ok());
        if shelf.open.is_empty() && !is_opening {
            all.remove(key);
        }
    });
}

impl Dial for MuxStream {
    async fn dial(wanted: Wanted<'_>, index: usize, mut limit: Pin<&mut Sleep>) -> Dialled<Self> {
        let timeouts = &wanted.target.timeouts;
        limit.as_mut().reset(Instant::now() + timeouts.connect + timeouts.handshake);
        // whose round trip it would be is not this client's
        Ok((open(wanted, index, limit).await?, None))
    }
}
