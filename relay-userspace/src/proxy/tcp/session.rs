//! One session: a client's connection, the one to the backend, and everything between them.

use std::future::{Future, poll_fn};
use std::pin::pin;
use std::sync::Arc;
use std::task::{Poll, ready};

use tokio::io::Interest;
use tokio::net::TcpStream;
use tokio::time::{Instant, sleep_until};

use super::connect::connect;
use super::pump::{End, Pump, SIDES};
use super::socket::Leg;
use crate::proxy::counters::{Counters, Refusal};
use crate::proxy::service::{Service, Target};
use crate::rule::Timeouts;

/// Carries a client that has come in on `port` until it is over. Dropped before that, it resets both connections.
pub async fn run(client: TcpStream, port: u16, service: Arc<Service>) {
    let _active = service.counters.begin();
    let client = Leg::new(client);
    let target = service.target();
    let Some(backend) = reach(&client, &target, port, &service.counters).await else {
        return;
    };
    let end = carry([&client, &backend], &service.counters, target.timeouts).await;
    tracing::trace!(rule = %service.rule, ?end, "session over");
    if end == End::Closed {
        client.close();
        backend.close();
    }
}

/// A connection to the backend, unless the client gives up first.
async fn reach(client: &Leg, target: &Target, port: u16, counters: &Counters) -> Option<Leg> {
    let result: Result<TcpStream, Refusal> = tokio::select! {
        biased;
        result = connect(target, target.ports.of(port)) => result,
        _ = client.ready(Interest::ERROR) => return None,
    };
    result.map(Leg::new).map_err(|refusal| counters.refuse(refusal)).ok()
}

async fn carry(legs: [&Leg; 2], counters: &Counters, timeouts: Timeouts) -> End {
    let mut pump = Pump::new(legs, counters);
    let mut failures = [pin!(legs[0].ready(Interest::ERROR)), pin!(legs[1].ready(Interest::ERROR))];
    let mut noticed = [false; 2];
    let mut last = Instant::now();
    let mut timer = pin!(sleep_until(last + timeouts.tcp_idle.min(timeouts.half_close)));
    poll_fn(|cx| {
        let mut moved = false;
        loop {
            if let Poll::Ready(end) = pump.poll(cx, &mut moved) {
                return Poll::Ready(end);
            }
            let new = |&side: &usize| {
                !noticed[side] && pump.is_unwatched(side) && failures[side].as_mut().poll(cx).is_ready()
            };
            let Some(side) = SIDES.into_iter().find(new) else { break };
            noticed[side] = true;
            let error = legs[side].take_error().ok().flatten();
            if let Poll::Ready(end) = pump.fail(side, error.as_ref()) {
                return Poll::Ready(end);
            }
        }
        if moved {
            last = Instant::now();
        }
        loop {
            ready!(timer.as_mut().poll(cx));
            let silence = if pump.is_half_closed() { timeouts.half_close } else { timeouts.tcp_idle };
            if last.elapsed() >= silence {
                return Poll::Ready(End::Silent);
            }
            timer.as_mut().reset(last + silence);
        }
    })
    .await
}
