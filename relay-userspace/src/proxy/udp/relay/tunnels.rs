//! Frames: datagrams that come or go by tunnels, to backends (carriers) or from clients (a tunnel that came in).

use std::net::{IpAddr, UdpSocket};
use std::ops::Range;
use std::sync::Arc;
use std::task::{Context, Poll, ready};
use std::time::Instant;

use super::super::carrier::{Flow, Flows};
use super::super::clients::Id;
use super::super::inbox::Train;
use super::super::outbox::Sent;
use super::super::sender::Sender;
use super::super::session::{Key, Out, Via};
use super::super::socket::Replies;
use super::{BUFFERS, Buffers, Item, Left, Relay, Way, count, is_same, proven, receive};
use crate::proxy::counters::Refusal;
use crate::proxy::tunnel::Fault;
use crate::proxy::tunnel::datagrams::{
    Frame, FrameFault, Frames, Kind, Line, PIECES, Piece, Stop, Writer, announced,
};

/// Pieces that are taken from tunnels before others get their turn.
const TURN: usize = 16;

/// A tunnel by which clients come in.
#[derive(Debug)]
pub struct Inward {
    line: Line,
    flows: Flows,
    speaker: IpAddr,
    port: u16,
    /// The other end has been told that no flow begins any more.
    is_leaving: bool,
}

impl Inward {
    /// `speaker`: who was let in, and speaks for the clients. `port`: that it came in on.
    pub fn new(line: Line, speaker: IpAddr, port: u16) -> Self {
        Self { line, flows: Flows::default(), speaker, port, is_leaving: false }
    }

    /// Says that no flow begins any more. Where there is no room for that now, it is to be said again.
    fn leave(&mut self) {
        if !self.is_leaving {
            let line = &mut self.line;
            let said = Writer::with(|writer| {
                let has_room = writer.push(line, Kind::GoAway, 0, &[])?;
                writer.flush(line).map(|()| has_room)
            });
            // what cannot be sealed any more is found again when it is read
            self.is_leaving = said.unwrap_or(true);
        }
    }

    pub const fn speaker(&self) -> IpAddr {
        self.speaker
    }

    pub const fn port(&self) -> u16 {
        self.port
    }

    pub fn begin(&self, number: u32) -> Flow {
        self.flows.begin(number)
    }

    /// Sends an answer back.
    fn answer(
        &mut self,
        writer: &mut Writer<'_>,
        flow: u32,
        payload: &[u8],
        sent: &mut Sent,
        full: &mut u64,
    ) {
        // what cannot be sealed any more is found again when it is read
        if writer.push(&mut self.line, Kind::Data, flow, payload).unwrap_or(false) {
            sent.datagrams += 1;
            sent.bytes += payload.len() as u64;
        } else {
            *full += 1;
        }
    }

    /// Sends what waits, and the ends of flows; reads the next piece.
    fn poll(
        &mut self,
        cx: &mut Context<'_>,
        piece: &mut Piece,
        is_there: impl FnMut(Id) -> bool,
    ) -> Poll<Result<Range<usize>, Stop>> {
        self.flows.wake(cx.waker());
        let over = self.flows.settle(is_there);
        if !over.is_empty() {
            Writer::with(|writer| {
                for flow in over {
                    writer.push(&mut self.line, Kind::End, flow, &[])?;
                }
                writer.flush(&mut self.line)
            })?;
        }
        if let Poll::Ready(Err(stop)) = self.line.poll_flush(cx) {
            return Poll::Ready(Err(stop));
        }
        self.line.poll_read(cx, piece)
    }
}

impl Relay {
    /// Lets no new client in any more, and tells the other end of the tunnel. Whether the last one has gone.
    pub fn leave(&mut self) -> bool {
        self.accept(false);
        if let Way::Tunnel(inward) = &mut self.way {
            inward.leave();
        }
        self.clients.len() == 0
    }

    pub fn has_no_carriers(&self) -> bool {
        self.carriers.are_none()
    }

    /// Ends the tunnel in peace.
    pub async fn end_tunnel(&mut self) {
        if let Way::Tunnel(inward) = &mut self.way {
            inward.line.end();
            inward.line.finish().await;
        }
    }

    /// Carries what comes by tunnels, in both directions. An error: the one that clients came in by is over.
    pub fn poll_tunnels(
        &mut self,
        cx: &mut Context<'_>,
        listener: Option<&UdpSocket>,
        replies: &Replies,
    ) -> Poll<Result<Left, Stop>> {
        if self.carriers.are_none() && !matches!(self.way, Way::Tunnel(_)) {
            return Poll::Pending;
        }
        self.revoke();
        PIECES.with_borrow_mut(|piece| {
            for turn in 0..TURN {
                let questions = self.poll_questions(cx, piece, replies)?;
                let answers = self.poll_answers(cx, piece, listener);
                if questions.is_pending() && answers.is_pending() {
                    // whoever has come or gone may have changed what is due next
                    return if turn == 0 { Poll::Pending } else { Poll::Ready(Ok(Left::Nothing)) };
                }
            }
            Poll::Ready(Ok(Left::Perhaps))
        })
    }

    /// A piece from the tunnel of clients, sent on.
    fn poll_questions(
        &mut self,
        cx: &mut Context<'_>,
        piece: &mut Piece,
        replies: &Replies,
    ) -> Poll<Result<(), Stop>> {
        let Self { way: Way::Tunnel(inward), clients, .. } = self else { return Poll::Pending };
        let range = ready!(inward.poll(cx, piece, |id| clients.get_mut(id).is_some()))?;
        let data = &piece.memory[..range.end];
        let mut frames = Frames::new(data, range.start);
        BUFFERS.with_borrow_mut(|Buffers { order, outbox, .. }| {
            order.clear();
            let mut over = 0;
            for frame in &mut frames {
                match self.asked_by(&frame?, data, replies)? {
                    Asked::Item(item) => order.push(item),
                    Asked::Nothing => {}
                    Asked::Over => over += 1,
                }
            }
            if over > 0 {
                self.service.lose(Refusal::FlowOver, over, None);
            }
            self.forward(order, data, outbox);
            Ok::<_, Stop>(())
        })?;
        if let Way::Tunnel(inward) = &mut self.way {
            inward.line.keep(&data[frames.rest()..]);
        }
        Poll::Ready(Ok(()))
    }

    /// What a frame of clients is.
    fn asked_by(&mut self, frame: &Frame, data: &[u8], replies: &Replies) -> Result<Asked, FrameFault> {
        let Way::Tunnel(inward) = &mut self.way else { return Ok(Asked::Nothing) };
        let known = inward.flows.find(frame.flow);
        let payload = &data[frame.payload.clone()];
        match (frame.kind, known) {
            (Kind::End, Some(id)) => drop(self.clients.remove(id)),
            (Kind::End, None) => {}
            (Kind::GoAway, _) => return Err(FrameFault::Direction(frame.kind)),
            (Kind::Begin, _) => {
                if known.is_none_or(|id| self.clients.get_mut(id).is_none())
                    && let Some(client) = announced(payload)
                {
                    self.let_in(Key { client, via: Via::Flow(frame.flow) }, frame.flow, replies);
                }
            }
            (Kind::Data, None) => {
                // the word that it is over may have been lost to a full queue
                drop(inward.flows.begin(frame.flow));
                return Ok(Asked::Over);
            }
            (Kind::Data, Some(id)) => {
                let Some(&key) = self.clients.get_mut(id).map(|(key, _)| key) else { return Ok(Asked::Over) };
                let client = self.still(id).or_else(|| {
                    let id = self.let_in(key, frame.flow, replies)?;
                    self.still(id)
                });
                let (start, length) = (frame.payload.start, frame.payload.len());
                let train = Train { start, length, size: length };
                let item = client.map(|(client, lane)| Asked::Item(Item { lane, client, train }));
                return Ok(item.unwrap_or(Asked::Nothing));
            }
        }
        Ok(Asked::Nothing)
    }

    fn let_in(&mut self, key: Key, flow: u32, replies: &Replies) -> Option<Id> {
        let now = self.now();
        let id = self.admit(key, replies, now);
        if let Way::Tunnel(inward) = &mut self.way {
            match id {
                Some(id) => inward.flows.assign(flow, id),
                // the other end announces it again, and may find more room then
                None => drop(inward.flows.begin(flow)),
            }
        }
        id
    }

    /// A piece from a carrier, handed to the clients.
    fn poll_answers(
        &mut self,
        cx: &mut Context<'_>,
        piece: &mut Piece,
        listener: Option<&UdpSocket>,
    ) -> Poll<()> {
        let (lane, range) = ready!(self.carriers.poll(cx, &self.service, piece));
        let data = &piece.memory[..range.end];
        let mut frames = Frames::new(data, range.start);
        let handed = match self.way {
            Way::Port(_) | Way::Shared(_) => self.hand_out(lane, &mut frames, data, listener),
            Way::Tunnel(_) => self.hand_on(lane, &mut frames, data),
        };
        match handed {
            Ok(()) => self.carriers.keep(lane, &data[frames.rest()..]),
            Err(fault) => self.carriers.blame(&self.service, lane, Fault::from(fault)),
        }
        Poll::Ready(())
    }

    /// Whose answer a frame is; `None`: it is none, or nobody's, which is counted.
    fn answered_by(&mut self, lane: u32, frame: &Frame) -> Result<Option<Id>, FrameFault> {
        if frame.kind == Kind::GoAway {
            self.carriers.leave(lane);
            return Ok(None);
        }
        let id = self.carriers.find(lane, frame.flow);
        let Some((id, (_, session))) = id.and_then(|id| Some((id, self.clients.get_mut(id)?))) else {
            if frame.kind == Kind::Data {
                self.service.lose(Refusal::FlowOver, 1, None);
            }
            return Ok(None);
        };
        match frame.kind {
            Kind::Begin | Kind::GoAway => return Err(FrameFault::Direction(frame.kind)),
            Kind::End => {
                if let Out::Carrier(flow) = &mut session.out {
                    flow.forgotten();
                }
                return Ok(None);
            }
            Kind::Data => {}
        }
        let moment = Instant::now();
        session.live.add(1, frame.payload.len() as u64);
        session.live.touch(moment);
        session.answer();
        let now = self.tick(moment);
        self.clients.answered(id, now);
        Ok(Some(id))
    }

    /// Sends answers to clients by the listener, or by their ports' own sockets.
    fn hand_out(
        &mut self,
        lane: u32,
        frames: &mut Frames<'_>,
        data: &[u8],
        listener: Option<&UdpSocket>,
    ) -> Result<(), FrameFault> {
        BUFFERS.with_borrow_mut(|Buffers { outbox, .. }| {
            let mut total = Sent::default();
            let mut sender: Option<Arc<Sender>> = None;
            let mut result = Ok(());
            for frame in frames {
                let answered = frame.and_then(|frame| Ok((self.answered_by(lane, &frame)?, frame)));
                let (id, frame) = match answered {
                    Ok((Some(id), frame)) => (id, frame),
                    Ok((None, _)) => continue,
                    Err(fault) => {
                        result = Err(fault);
                        break;
                    }
                };
                let Some((&key, session)) = self.clients.get_mut(id) else { continue };
                let (next, limit) = (session.sender.clone(), session.egress_limit);
                if !is_same(sender.as_ref(), next.as_ref()) {
                    total += self.reply(data, outbox, listener, sender.as_deref());
                }
                sender = next;
                let (start, length) = (frame.payload.start, frame.payload.len());
                outbox.push(id, Train { start, length, size: length }, limit, || key.envelope());
            }
            total += self.reply(data, outbox, listener, sender.as_deref());
            count(&self.service, self.service.payload()[1], total);
            result
        })
    }

    /// Sends answers to clients by the tunnel that they came in by.
    fn hand_on(&mut self, lane: u32, frames: &mut Frames<'_>, data: &[u8]) -> Result<(), FrameFault> {
        let (mut sent, mut full) = (Sent::default(), 0);
        let result = Writer::with(|writer| {
            let result = frames.try_for_each(|frame| {
                let frame = frame?;
                let Some(id) = self.answered_by(lane, &frame)? else { return Ok(()) };
                let Self { way: Way::Tunnel(inward), clients, .. } = self else { return Ok(()) };
                if let Some((Key { via: Via::Flow(flow), .. }, _)) = clients.get_mut(id) {
                    inward.answer(writer, *flow, &data[frame.payload], &mut sent, &mut full);
                }
                Ok(())
            });
            self.flush_inward(writer);
            result
        });
        self.count_answers(sent, full);
        result
    }

    /// Sends answers of backends' sockets by the tunnel that the clients came in by.
    pub(super) fn collect_frames(&mut self, Buffers { inbox, ready, .. }: &mut Buffers) {
        let moment = Instant::now();
        let now = self.tick(moment);
        let (mut sent, mut full) = (Sent::default(), 0);
        Writer::with(|writer| {
            for &id in &*ready {
                let Self { way: Way::Tunnel(inward), clients, service, .. } = self else { return };
                let Some((&Key { via: Via::Flow(flow), .. }, session)) = clients.get_mut(id) else {
                    continue;
                };
                let received = receive(inbox, session, 0, service);
                for single in (0..received).flat_map(|slot| inbox.train(slot).singles()) {
                    let payload = &inbox.memory()[single.start..single.start + single.length];
                    session.live.add(1, single.length as u64);
                    inward.answer(writer, flow, payload, &mut sent, &mut full);
                }
                if received > 0 {
                    session.answer();
                    session.live.touch(moment);
                    clients.answered(id, now);
                }
                if received == super::TURN {
                    self.unfinished.push(id);
                }
            }
            self.flush_inward(writer);
        });
        self.count_answers(sent, full);
    }

    fn flush_inward(&mut self, writer: &mut Writer<'_>) {
        if let Way::Tunnel(inward) = &mut self.way {
            // what cannot be sealed any more is found again when it is read
            _ = writer.flush(&mut inward.line);
        }
    }

    fn count_answers(&self, sent: Sent, full: u64) {
        count(&self.service, self.service.payload()[1], sent);
        if full > 0 {
            self.service.lose(Refusal::TunnelFull, full, None);
        }
    }

    /// Sends clients' datagrams by carriers: those of one carrier together.
    pub(super) fn send_by_carriers(&mut self, carried: &[Item], memory: &[u8]) -> Sent {
        let moment = Instant::now();
        let now = self.tick(moment);
        let mut total = Sent::default();
        Writer::with(|writer| {
            for of_carrier in carried.chunk_by(|one, other| one.lane == other.lane) {
                for run in of_carrier.chunk_by(|one, other| one.client == other.client) {
                    let id = run[0].client;
                    let Some((key, _)) = self.clients.get_mut(id) else { continue };
                    let client = key.client;
                    let Some(session) = proven(&mut self.clients, &self.service, run) else { continue };
                    let Out::Carrier(flow) = &mut session.out else { continue };
                    for single in run.iter().flat_map(|item| item.train.singles()) {
                        let payload = &memory[single.start..single.start + single.length];
                        match self.carriers.send(writer, flow, client, payload) {
                            Ok(()) => {
                                total.datagrams += 1;
                                total.bytes += payload.len() as u64;
                                session.live.add(0, payload.len() as u64);
                            }
                            Err(refusal) => self.service.lose(refusal, 1, Some(client)),
                        }
                    }
                    session.live.touch(moment);
                    self.clients.heard(id, now);
                }
                self.carriers.flush(of_carrier[0].lane, writer);
            }
        });
        total
    }
}

/// What a frame of clients comes to.
enum Asked {
    Item(Item),
    Nothing,
    /// It is of a flow that nobody has.
    Over,
}
