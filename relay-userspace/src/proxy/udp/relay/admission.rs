//! New clients: who is let in, and what each gets.

use std::io;
use std::net::{Ipv4Addr, SocketAddr};
use std::sync::Arc;

use super::super::clients::{Id, Tick};
use super::super::envelope::Local;
use super::super::open::{Opened, open_any};
use super::super::sender::Sender;
use super::super::session::{Key, Out, Session, Told, Via, lacks_descriptors, refusal};
use super::super::share::{self, Place};
use super::super::socket::Replies;
use super::{MOST_EVICTED, Relay, Way};
use crate::proxy::counters::Refusal;
use crate::proxy::kept::Ends;
use crate::proxy::pool::Lease;
use crate::proxy::service::{Target, UdpNat};

impl Relay {
    /// A new client, unless there is a reason against it, which is counted.
    pub(super) fn admit(&mut self, key: Key, replies: &Replies, now: Tick) -> Option<Id> {
        if !key.is_for_us() {
            return None;
        }
        match self.open(key, replies, now) {
            Ok(id) => Some(id),
            Err((reason, detail)) => {
                let asked = Some(self.asked(&key)).filter(|asked| !asked.ip().is_unspecified());
                self.service.turn_away(reason, key.client, asked);
                if !reason.is_policy() && share::may_log() {
                    tracing::warn!("rule {}: no session for {}: {detail}", self.service.rule, key.client);
                }
                None
            }
        }
    }

    fn open(&mut self, key: Key, replies: &Replies, now: Tick) -> Result<Id, (Refusal, String)> {
        if !self.accepts {
            return Err((Refusal::Draining, String::new()));
        }
        let (speaker, client) = (self.speaker(key.client.ip()), key.client.ip());
        self.service.gate.admit_by(speaker, client).map_err(|refusal| (refusal, String::new()))?;
        let target = self.service.target();
        let asked = self.asked(&key);
        let place = self.make_room()?;
        let sender = self.sender(key)?;
        let (out, lease) = self.way_out(&key, asked.port(), &target)?;
        let ends = Ends { client: key.client, asked };
        let told = match (&self.way, key.via) {
            (Way::Tunnel(inward), Via::Flow(number)) => Told::Tunnel(inward.begin(number)),
            _ => Told::Kernel(self.service.kept.keep(ends)),
        };
        let session = Session::new(&self.service, out, sender, lease, place, told, ends);
        let id = self.clients.insert(key, session, now);
        self.watch(id, replies).map_err(|error| {
            drop(self.clients.remove(id));
            refusal(&error, "its backend")
        })?;
        Ok(id)
    }

    /// A client's way to a backend: a socket, or a flow of a carrier.
    fn way_out(
        &mut self,
        key: &Key,
        port: u16,
        target: &Arc<Target>,
    ) -> Result<(Out, Lease), (Refusal, String)> {
        let nowhere = || (Refusal::NoBackend, "its backend has no address".to_owned());
        if target.connect.sends_datagrams() {
            let begun = self.carriers.begin(&self.service, target, key.client.ip(), port);
            return begun.map(|(flow, lease)| (Out::Carrier(flow), lease)).map_err(|reason| match reason {
                Refusal::Descriptors => (
                    reason,
                    "it has as many tunnels for UDP as it may, 1,024 or an eighth of LimitNOFILE=".to_owned(),
                ),
                _ => nowhere(),
            });
        }
        let gate = &self.service.gate;
        let opened = open_any(target, gate, key, port, || self.clients.evict().is_some());
        let Opened { socket, backend, lease } = opened.map_err(|failure| match failure {
            Some((error, backend)) => refusal(&error, backend),
            None => nowhere(),
        })?;
        let is_connected = target.udp_nat != UdpNat::FullCone;
        Ok((Out::Socket { socket, backend, is_connected }, lease))
    }

    /// Has a new client's answers told of.
    fn watch(&mut self, id: Id, replies: &Replies) -> io::Result<()> {
        match self.clients.get_mut(id).map(|(_, session)| &session.out) {
            None => Ok(()),
            Some(Out::Socket { socket, .. }) => replies.add(socket, id),
            Some(Out::Carrier(flow)) => {
                self.carriers.assign(flow, id);
                Ok(())
            }
        }
    }

    /// The address and port that a client sends to.
    fn asked(&self, key: &Key) -> SocketAddr {
        match (&self.way, key.local()) {
            (Way::Tunnel(inward), _) => (Ipv4Addr::UNSPECIFIED, inward.port()).into(),
            (Way::Port(listener), None) => *listener,
            (Way::Port(listener), Some(local)) => (local.address, listener.port()).into(),
            (Way::Shared(_), local) => local.map_or((Ipv4Addr::UNSPECIFIED, 0).into(), Local::socket_address),
        }
    }

    /// What a client of a shared listener is answered by. Where there is no descriptor for it, clients go that never got
    /// an answer.
    fn sender(&mut self, key: Key) -> Result<Option<Arc<Sender>>, (Refusal, String)> {
        let (Way::Shared(senders), Some(local)) = (&mut self.way, key.local()) else { return Ok(None) };
        let mut sender = senders.for_answers_from(local);
        for _ in 0..MOST_EVICTED {
            match &sender {
                Err(error) if lacks_descriptors(error) && self.clients.evict().is_some() => {}
                _ => break,
            }
            sender = senders.for_answers_from(local);
        }
        let from = local.socket_address();
        sender.map(Some).map_err(|error| refusal(&error, format_args!("clients from {from}")))
    }

    /// Room for one more; where there is none, the longest silent client goes that never got an answer.
    fn make_room(&mut self) -> Result<Place, (Refusal, String)> {
        let most = share::most_of_a_listener(self.way.descriptors());
        let (own, all) = (self.clients.len(), self.service.clients());
        let is_full = own >= share::MOST_CLIENTS || (own >= most / share::OWN_PART && all >= most as u64);
        if is_full && self.clients.evict().is_none() {
            let most = most.min(share::MOST_CLIENTS);
            return Err((Refusal::TableFull, format!("all of its {most} clients are in use")));
        }
        let place = Place::take().or_else(|| self.clients.evict().and_then(|_| Place::take()));
        place.ok_or_else(|| {
            let why = "UDP clients have their share of the file descriptors; raise LimitNOFILE=";
            (Refusal::Descriptors, why.to_owned())
        })
    }
}
