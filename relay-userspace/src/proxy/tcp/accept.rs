//! Accepting, whatever happens: no error ends a listener.

use std::cell::RefCell;
use std::fmt;
use std::fs::File;
use std::future::poll_fn;
use std::io;
use std::iter;
use std::net::SocketAddr;
use std::sync::Arc;
use std::task::Poll;
use std::time::Duration;

use nix::errno::Errno;
use relay_common::net::Protocol;
use tokio::net::{TcpListener, TcpStream};
use tokio::time::{Instant, sleep_until};

use super::pipe::Pipe;
use super::socket::{Leg, prepare_listener};
use crate::proxy::counters::Refusal;
use crate::proxy::descriptors;
use crate::proxy::ending::{Ending, Record};
use crate::proxy::service::Service;
use crate::proxy::shared::Shared;
use crate::rule::Keepalive;

/// How long clients wait in the kernel after we have run out of descriptors.
const PAUSE: Duration = Duration::from_millis(50);
/// How many of them are turned away before each pause.
const MOST_TURNED_AWAY: usize = 64;
/// A listener has no more to say than that.
const BETWEEN_LOGS: Duration = Duration::from_secs(1);

thread_local! {
    /// A descriptor to let go of when there is no other, so that clients can be accepted and turned away.
    static RESERVE: RefCell<Option<File>> = const { RefCell::new(None) };
}

/// Whose clients a listening socket takes in.
pub enum Front {
    Rule(Arc<Service>),
    Shared(Arc<Shared>),
}

impl Front {
    /// What accepted sockets begin with.
    fn keepalive(&self) -> Keepalive {
        match self {
            Self::Rule(service) => service.target().timeouts.keepalive,
            Self::Shared(_) => Keepalive::default(),
        }
    }

    /// Whose client this is; nobody's if its rule has gone meanwhile.
    fn service(&self, client: &TcpStream) -> Option<Arc<Service>> {
        match self {
            Self::Rule(service) => Some(service.clone()),
            Self::Shared(shared) => {
                let to = client.local_addr().ok()?;
                shared.table().find(Protocol::Tcp, to).map(|entry| entry.service.clone())
            }
        }
    }

    /// Resets a client for want of descriptors.
    fn turn_away(&self, client: TcpStream, address: SocketAddr) {
        if let Some(service) = self.service(&client) {
            service.counters.refuse(Refusal::Descriptors);
            let ending = Ending::Refused(Refusal::Descriptors);
            Record { ending, ..Record::new(address) }.log_refused(&service, Protocol::Tcp);
        }
        drop(Leg::new(client));
    }
}

impl fmt::Display for Front {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Rule(service) => service.rule.fmt(f),
            Self::Shared(_) => f.write_str("(shared)"),
        }
    }
}

/// A listening socket.
pub struct Acceptor {
    listener: TcpListener,
    address: SocketAddr,
    front: Front,
    /// What accepted sockets begin with.
    keepalive: Keepalive,
    resume: Option<Instant>,
    logged: Option<Instant>,
}

impl Acceptor {
    pub fn new(listener: std::net::TcpListener, front: Front) -> io::Result<Self> {
        let keepalive = front.keepalive();
        prepare_listener(&listener, keepalive)?;
        fill_reserve();
        Ok(Self {
            address: listener.local_addr()?,
            listener: TcpListener::from_std(listener)?,
            front,
            keepalive,
            resume: None,
            logged: None,
        })
    }

    /// The port that clients come in on.
    pub const fn port(&self) -> u16 {
        self.address.port()
    }

    /// How accepted sockets are asked whether their clients are there still.
    pub const fn keepalive(&self) -> Keepalive {
        self.keepalive
    }

    /// The next client. Nothing is lost if the future is dropped.
    pub async fn accept(&mut self) -> (TcpStream, SocketAddr) {
        loop {
            if let Some(resume) = self.resume {
                sleep_until(resume).await;
                self.resume = None;
            }
            match self.listener.accept().await {
                Ok((client, address)) => match descriptors::check(&client) {
                    Ok(()) => return (client, address),
                    Err(error) => self.leave_out(client, address, &error),
                },
                Err(error) => self.failed(&error).await,
            }
        }
    }

    /// A client that is waiting already.
    async fn accept_now(&self) -> Option<(TcpStream, SocketAddr)> {
        poll_fn(|cx| match self.listener.poll_accept(cx) {
            Poll::Ready(Ok(client)) => Poll::Ready(Some(client)),
            Poll::Ready(Err(_)) | Poll::Pending => Poll::Ready(None),
        })
        .await
    }

    /// Stops listening. Who is waiting by then comes out: the kernel is asked, which knows of more clients than the runtime
    /// has heard of yet.
    pub fn close(self) -> impl Iterator<Item = (TcpStream, SocketAddr)> {
        let listener = self.listener.into_std().ok();
        let next = move || loop {
            match listener.as_ref()?.accept() {
                Ok((client, address)) => return Some((non_blocking(client).ok()?, address)),
                Err(error) if is_of_one_client(&error) => {}
                Err(_) => return None,
            }
        };
        iter::from_fn(next)
    }

    /// A client that took one of the last descriptors.
    fn leave_out(&mut self, client: TcpStream, address: SocketAddr, error: &io::Error) {
        self.log(error);
        Pipe::close_idle();
        self.front.turn_away(client, address);
    }

    async fn failed(&mut self, error: &io::Error) {
        self.log(error);
        if is_exhaustion(error) {
            Pipe::close_idle();
            self.turn_away().await;
            self.resume = Some(Instant::now() + PAUSE);
        } else if !is_of_one_client(error) {
            self.resume = Some(Instant::now() + PAUSE);
        }
    }

    /// Resets the clients that wait, by means of the reserve.
    async fn turn_away(&self) {
        if RESERVE.take().is_none() {
            return;
        }
        for _ in 0..MOST_TURNED_AWAY {
            match self.accept_now().await {
                Some((client, address)) => self.front.turn_away(client, address),
                None => break,
            }
        }
        fill_reserve();
    }

    fn log(&mut self, error: &io::Error) {
        let now = Instant::now();
        if self.logged.is_none_or(|logged| now - logged >= BETWEEN_LOGS) {
            self.logged = Some(now);
            tracing::warn!(rule = %self.front, address = %self.address, %error, "cannot accept");
        }
    }
}

fn non_blocking(client: std::net::TcpStream) -> io::Result<TcpStream> {
    client.set_nonblocking(true)?;
    TcpStream::from_std(client)
}

fn fill_reserve() {
    RESERVE.with_borrow_mut(|reserve| {
        if reserve.is_none() {
            *reserve = File::open("/dev/null").ok();
        }
    });
}

fn is_exhaustion(error: &io::Error) -> bool {
    let errno = error.raw_os_error().map(Errno::from_raw);
    matches!(errno, Some(Errno::EMFILE | Errno::ENFILE | Errno::ENOBUFS | Errno::ENOMEM))
}

/// Errors that belong to the connection that would have been accepted, as accept(2) says.
fn is_of_one_client(error: &io::Error) -> bool {
    let errno = error.raw_os_error().map(Errno::from_raw);
    matches!(
        errno,
        Some(
            Errno::ECONNABORTED
                | Errno::EPROTO
                | Errno::EPERM
                | Errno::ENETDOWN
                | Errno::ENETUNREACH
                | Errno::EHOSTDOWN
                | Errno::EHOSTUNREACH
                | Errno::ENONET
                | Errno::ENOPROTOOPT
                | Errno::EOPNOTSUPP
        )
    )
}
