//! Holds tunnels to a rule's backends open for clients to come: one task a rule.

use std::collections::HashMap;
use std::pin::pin;
use std::sync::Arc;
use std::time::Duration;

use relay_common::net::Protocol;
use tokio::sync::watch;
use tokio::task::JoinSet;
use tokio::time::{MissedTickBehavior, interval, sleep};

use super::failover::{Connected, open};
use crate::proxy::counters::Refusal;
use crate::proxy::descriptors;
use crate::proxy::pool::Signal;
use crate::proxy::service::{Service, Target};
use crate::proxy::tunnel::purpose::Purpose;
use crate::proxy::tunnel::{By, Due, Open, Place, Spare, Spares, Wanted};

/// How often tunnels that wait are looked at: whether they have ended, ask for an answer, or are to be renewed.
const LOOK: Duration = Duration::from_secs(1);
/// How many handshakes of a rule may be under way without a client.
const AT_ONCE: usize = 16;

/// A port that clients come in on, where it is the only one of its listener: of ranges most are never asked for.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub struct Entrance {
    /// Where its listener begins.
    pub first: u16,
    pub port: u16,
}

/// What is looked at.
#[derive(Clone, Copy, Debug)]
enum Scope {
    All,
    /// Where a client has come, or a tunnel.
    Changed,
}

/// Keeps on until nobody can give orders any more. `service`: has what the rule says, and takes no clients itself.
pub async fn keep(service: Arc<Service>, mut entrances: watch::Receiver<Box<[Entrance]>>) {
    let mut opening = JoinSet::new();
    let mut last = None;
    let mut look = interval(LOOK);
    look.set_missed_tick_behavior(MissedTickBehavior::Delay);
    let mut scope = Scope::All;
    loop {
        let target = service.target();
        if let Some(spares) = target.ends.spares().cloned() {
            let wanted =
                wanted(&target, &entrances.borrow_and_update(), AT_ONCE - opening.len().min(AT_ONCE));
            let due = wanted.map(|wanted| match scope {
                Scope::All => spares.tend(&wanted),
                Scope::Changed => spares.tend_changed(&wanted),
            });
            let Due { lacking, broken } = due.unwrap_or_default();
            for (index, end) in target.ends.in_turn(Protocol::Tcp) {
                if broken.contains(&end.name) {
                    target.ends.fail(Protocol::Tcp, index, Signal::Reset);
                }
            }
            for place in lacking {
                opening.spawn(open_one(service.clone(), target.clone(), spares.clone(), place));
            }
            last = Some(spares);
        }
        let asked = async {
            match &last {
                Some(spares) => spares.asked().await,
                None => std::future::pending().await,
            }
        };
        scope = tokio::select! {
            changed = entrances.changed() => if changed.is_err() { break } else { Scope::All },
            Some(_) = opening.join_next() => Scope::Changed,
            () = asked => Scope::Changed,
            _ = look.tick() => Scope::All,
        }
    }
    opening.shutdown().await;
    last.iter().for_each(|spares| spares.clear());
}

fn wanted(target: &Target, entrances: &[Entrance], room: usize) -> Option<Wanted> {
    let by = By { connector: target.connector.clone()?, connect: target.connect.clone() };
    let mut ends = HashMap::new();
    for (_, end) in target.ends.in_turn(Protocol::Tcp) {
        let ports = entrances.iter().map(|entrance| end.port(entrance.first, entrance.port)).collect();
        ends.insert(end.name.clone(), Open { addresses: end.addresses.clone(), ports });
    }
    Some(Wanted { by, count: target.connect.pool.into(), ends, room })
}

async fn open_one(service: Arc<Service>, target: Arc<Target>, spares: Arc<Spares>, place: Place) {
    match dial(&service, &target, &place).await {
        Ok(spare) => spares.put(&place, spare),
        Err(()) => spares.fail(&place),
    }
}

/// Opens one. What goes wrong is told to the backend's judge.
async fn dial(service: &Service, target: &Target, (backend, port): &Place) -> Result<Spare, ()> {
    // clients have more use for descriptors
    descriptors::are_plenty().map_err(drop)?;
    let by = By { connector: target.connector.clone().ok_or(())?, connect: target.connect.clone() };
    let (index, end) = target.ends.in_turn(Protocol::Tcp).find(|(_, end)| end.name == *backend).ok_or(())?;
    let limit = pin!(sleep(target.timeouts.connect));
    let opened = open(service, target, (end, *port), (Purpose::Session, &[]), limit).await;
    let (Connected { leg, tunnel, .. }, _) = opened.map_err(|refusal: Refusal| {
        if let Some(signal) = Signal::of(refusal) {
            target.ends.fail(Protocol::Tcp, index, signal);
        }
    })?;
    let peer = leg.peer_addr().map_err(drop)?.ip().to_canonical();
    let socket = leg.into_std().map_err(drop)?;
    descriptors::check_plenty(&socket).map_err(drop)?;
    Ok(Spare::new(socket, *tunnel.ok_or(())?, by, peer))
}
