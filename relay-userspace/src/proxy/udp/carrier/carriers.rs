//! All carriers of one listener at one worker.

use std::collections::{BTreeMap, HashMap};
use std::net::{IpAddr, SocketAddr};
use std::ops::Bound::{Excluded, Unbounded};
use std::ops::Range;
use std::sync::Arc;
use std::task::{Context, Poll, Waker};

use relay_common::net::Protocol;

use super::super::clients::Id;
use super::dial::{Carrier, News, Way};
use super::standing::CarrierFlow;
use crate::proxy::counters::Refusal;
use crate::proxy::pool::Lease;
use crate::proxy::service::{Service, Target};
use crate::proxy::tunnel::Fault;
use crate::proxy::tunnel::datagrams::{Piece, Writer};

/// Carriers by their lanes: numbers from 1 on.
#[derive(Debug, Default)]
pub struct Carriers {
    lanes: BTreeMap<u32, Carrier>,
    /// Whom new flows use towards a backend's port.
    latest: HashMap<(Arc<str>, u16), u32>,
    next: u32,
    /// The lane that was heard last: others come first then.
    last: u32,
    /// Of the task that polls them, which may not be the one that sends.
    waker: Option<Waker>,
}

impl Carriers {
    pub fn are_none(&self) -> bool {
        self.lanes.is_empty()
    }

    /// A flow for a new client towards the backend that is chosen; towards another one if there is no way to that for
    /// now. `port`: that the client asks.
    pub fn begin(
        &mut self,
        service: &Arc<Service>,
        target: &Arc<Target>,
        client: IpAddr,
        port: u16,
    ) -> Result<(CarrierFlow, Lease), Refusal> {
        let (mut first, mut failure) = (None, Refusal::NoBackend);
        for index in target.ends.candidates(Protocol::Udp, client, &service.gate) {
            let Some(end) = target.ends.end(index).filter(|end| !end.addresses.is_empty()) else { continue };
            let way = Way { target: target.clone(), index, port };
            let Some(lane) = self.lane(service, way, &end.name) else {
                failure = Refusal::Descriptors;
                continue;
            };
            first = first.or(Some((lane, index)));
            if self.lanes.get(&lane).is_some_and(|carrier| !carrier.is_failing()) {
                first = Some((lane, index));
                break;
            }
        }
        let (lane, index) = first.ok_or(failure)?;
        let flow = self.lanes.get_mut(&lane).ok_or(failure)?.begin(lane);
        self.wake();
        Ok((flow, target.ends.lease(Protocol::Udp, index)))
    }

    /// The carrier to a backend's port, begun if there is none that suits. `None`: there are as many as there may be.
    fn lane(&mut self, service: &Arc<Service>, way: Way, backend: &Arc<str>) -> Option<u32> {
        let key = (backend.clone(), way.port);
        let known = self.latest.get(&key).copied();
        let suits =
            |lane: &u32| self.lanes.get(lane).is_some_and(|carrier| carrier.suits(&way.target, way.index));
        if let Some(lane) = known.filter(suits) {
            return Some(lane);
        }
        let carrier = Carrier::begin_to(service, way, backend.clone())?;
        loop {
            self.next = self.next.wrapping_add(1);
            if self.next > 0 && !self.lanes.contains_key(&self.next) {
                break;
            }
        }
        self.lanes.insert(self.next, carrier);
        self.latest.insert(key, self.next);
        Some(self.next)
    }

    /// A flow is this client's.
    pub fn assign(&mut self, flow: &CarrierFlow, client: Id) {
        if let Some(carrier) = self.lanes.get_mut(&flow.lane) {
            carrier.flows().assign(flow.flow.number, client);
        }
    }

    /// Whose a flow is.
    pub fn find(&mut self, lane: u32, number: u32) -> Option<Id> {
        self.lanes.get_mut(&lane)?.flows().find(number)
    }

    /// Sends a datagram, or keeps it for a moment.
    pub fn send(
        &mut self,
        writer: &mut Writer<'_>,
        flow: &mut CarrierFlow,
        client: SocketAddr,
        payload: &[u8],
    ) -> Result<(), Refusal> {
        let carrier = self.lanes.get_mut(&flow.lane).ok_or(Refusal::TunnelDown)?;
        carrier.send(writer, flow, client, payload)
    }

    /// Sends what has been put together for a carrier.
    pub fn flush(&mut self, lane: u32, writer: &mut Writer<'_>) {
        if self.lanes.get_mut(&lane).is_some_and(|carrier| carrier.flush(writer)) {
            self.wake();
        }
    }

    fn wake(&mut self) {
        if let Some(waker) = self.waker.take() {
            waker.wake();
        }
    }

    /// The next piece that has come by a carrier.
    pub fn poll(
        &mut self,
        cx: &mut Context<'_>,
        service: &Arc<Service>,
        piece: &mut Piece,
    ) -> Poll<(u32, Range<usize>)> {
        self.waker = Some(cx.waker().clone());
        let (mut over, last) = (Vec::new(), self.last);
        let mut look = |lane: u32, carrier: &mut Carrier| match carrier.poll(cx, service, piece) {
            Poll::Pending => None,
            Poll::Ready(News::Heard(range)) => Some((lane, range)),
            Poll::Ready(News::Over) => {
                over.push(lane);
                None
            }
        };
        let after = self.lanes.range_mut((Excluded(last), Unbounded));
        let mut heard = after.into_iter().find_map(|(lane, carrier)| look(*lane, carrier));
        if heard.is_none() {
            heard = self.lanes.range_mut(..=last).find_map(|(lane, carrier)| look(*lane, carrier));
        }
        for lane in over {
            self.lanes.remove(&lane);
            self.latest.retain(|_, latest| *latest != lane);
        }
        let Some((lane, range)) = heard else { return Poll::Pending };
        self.last = lane;
        Poll::Ready((lane, range))
    }

    /// What has been left of a piece.
    pub fn keep(&mut self, lane: u32, rest: &[u8]) {
        if let Some(carrier) = self.lanes.get_mut(&lane) {
            carrier.keep(rest);
        }
    }

    /// The other end of a carrier takes no new flows any more.
    pub fn leave(&self, lane: u32) {
        if let Some(carrier) = self.lanes.get(&lane) {
            carrier.leave();
        }
    }

    /// What has come by a carrier is nothing that can be.
    pub fn blame(&mut self, service: &Arc<Service>, lane: u32, fault: Fault) {
        if let Some(carrier) = self.lanes.get_mut(&lane) {
            carrier.blame(service, fault);
        }
    }
}
