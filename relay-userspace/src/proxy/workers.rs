//! Worker threads: each carries its share of every listener.

use std::io;
use std::net::{TcpListener, UdpSocket};
use std::sync::Arc;
use std::thread::{self, JoinHandle};
use std::time::{Duration, Instant};

use tokio::runtime;
use tokio::sync::{mpsc, watch};
use tokio::task::JoinSet;

use super::service::{Phase, Service};
use super::shared::Shared;
use super::tcp::Entrance;
use super::{tcp, udp};

/// The threads of the user plane.
#[derive(Debug)]
pub struct Workers {
    workers: Vec<Worker>,
}

#[derive(Debug)]
struct Worker {
    orders: mpsc::UnboundedSender<Order>,
    thread: JoinHandle<()>,
}

/// A listening TCP socket or a bound UDP socket, non-blocking.
#[derive(Debug)]
pub enum Listening {
    Tcp(TcpListener),
    Udp(UdpSocket),
}

enum Order {
    Serve {
        socket: Listening,
        whose: Whose,
        phase: watch::Receiver<Phase>,
    },
    /// Tunnels are held open for the clients of a rule.
    Keep(Arc<Service>, watch::Receiver<Box<[Entrance]>>),
    /// Let go of when everything that was ordered before has begun.
    Begun(mpsc::Sender<()>),
}

/// Whose clients come in on a socket.
enum Whose {
    Rule(Arc<Service>),
    Shared(Arc<Shared>),
}

/// How often somebody who stops looks whether the workers have finished.
const LOOK: Duration = Duration::from_millis(5);
/// What workers get to end everything at once.
const LAST_MOMENT: Duration = Duration::from_millis(500);

impl Workers {
    pub fn start(count: usize) -> io::Result<Self> {
        let workers = (0..count).map(Worker::start).collect::<io::Result<_>>()?;
        Ok(Self { workers })
    }

    pub fn count(&self) -> usize {
        self.workers.len()
    }

    /// Has worker number `worker` (counted round) carry what comes in on a socket, until `phase` ends it.
    pub fn serve(
        &self,
        worker: usize,
        socket: Listening,
        service: Arc<Service>,
        phase: watch::Receiver<Phase>,
    ) {
        self.order(worker, Order::Serve { socket, whose: Whose::Rule(service), phase });
    }

    /// Has worker number `worker` carry what comes in on a socket that many ports share.
    pub fn serve_shared(
        &self,
        worker: usize,
        socket: Listening,
        shared: Arc<Shared>,
        phase: watch::Receiver<Phase>,
    ) {
        self.order(worker, Order::Serve { socket, whose: Whose::Shared(shared), phase });
    }

    /// Has worker number `worker` hold tunnels open for the clients of a rule, until nobody can change `entrances` any more.
    pub fn keep(&self, worker: usize, service: Arc<Service>, entrances: watch::Receiver<Box<[Entrance]>>) {
        self.order(worker, Order::Keep(service, entrances));
    }

    fn order(&self, worker: usize, order: Order) {
        let worker = &self.workers[worker % self.workers.len()];
        let _only_at_the_end = worker.orders.send(order);
    }

    /// Waits until the workers have begun whatever they were ordered so far, and so have what memory that needs.
    pub async fn begun(&self) {
        let (begun, mut all) = mpsc::channel(1);
        for worker in &self.workers {
            let _only_at_the_end = worker.orders.send(Order::Begun(begun.clone()));
        }
        drop(begun);
        all.recv().await;
    }

    /// Waits until all sessions have ended, which their phases must have been told to, or there is nothing more to wait
    /// for. `end` ends those that are left then, or after so long.
    pub fn stop(self, within: Duration, is_over: impl Fn() -> bool, end: impl FnOnce()) {
        let threads: Vec<JoinHandle<()>> = self.workers.into_iter().map(|worker| worker.thread).collect();
        let wait = |within, is_over: &dyn Fn() -> bool| {
            let until = Instant::now() + within;
            let goes_on = || threads.iter().any(|thread| !thread.is_finished()) && !is_over();
            while goes_on() && Instant::now() < until {
                thread::sleep(LOOK);
            }
        };
        wait(within, &is_over);
        end();
        wait(LAST_MOMENT, &|| false);
    }
}

impl Worker {
    fn start(number: usize) -> io::Result<Self> {
        let (orders, inbox) = mpsc::unbounded_channel();
        let runtime = runtime::Builder::new_current_thread().enable_all().build()?;
        let thread = thread::Builder::new()
            .name(format!("worker-{number}"))
            .spawn(move || runtime.block_on(work(inbox)))?;
        Ok(Self { orders, thread })
    }
}

/// Ends when there are no more orders to come and all listeners have ended.
async fn work(mut orders: mpsc::UnboundedReceiver<Order>) {
    let mut listeners = JoinSet::new();
    loop {
        tokio::select! {
            order = orders.recv() => match order {
                None => break,
                // tasks have their first turn in the order in which they were spawned
                Some(Order::Begun(begun)) => _ = listeners.spawn(async move { drop(begun) }),
                Some(Order::Keep(service, entrances)) => {
                    listeners.spawn(tcp::keep(service, entrances));
                }
                Some(Order::Serve { socket, whose, phase }) => _ = match (socket, whose) {
                    (Listening::Tcp(socket), Whose::Rule(service)) => {
                        listeners.spawn(tcp::serve(socket, service, phase))
                    }
                    (Listening::Udp(socket), Whose::Rule(service)) => {
                        listeners.spawn(udp::serve(socket, service, phase))
                    }
                    (Listening::Tcp(socket), Whose::Shared(shared)) => {
                        listeners.spawn(tcp::serve_shared(socket, shared, phase))
                    }
                    (Listening::Udp(socket), Whose::Shared(shared)) => {
                        listeners.spawn(udp::serve_shared(socket, shared, phase))
                    }
                },
            },
            Some(_) = listeners.join_next() => {}
        }
    }
    while listeners.join_next().await.is_some() {}
}
