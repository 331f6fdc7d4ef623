//! The end of the user plane: nobody new is taken in, who is there gets some time to finish.

use std::time::Duration;

use relay_common::net::Protocol;

use super::{Served, Serving, Sharing};
use crate::net::hold::Holder;
use crate::proxy::service::Phase;

impl Serving {
    /// Takes in nobody new: who comes is refused, or waits for the next relayd where there will be one. What comes to
    /// shared sockets has to be laid out anew after that.
    pub fn drain(&mut self, holder: &Holder) {
        let is_handed_over = self.sharing.as_ref().is_some_and(Sharing::lasts);
        for served in self.rules.values_mut() {
            served.keeping = None;
            served.drain(holder);
            if !is_handed_over {
                served.branches.drain();
            }
        }
        if let Some(sharing) = &self.sharing {
            sharing.drain();
            self.is_shared_anew = !is_handed_over;
        }
    }

    /// Gives connections some time to finish. UDP goes on meanwhile: its sessions have no end of their own. Then ends what
    /// is left.
    pub fn finish(mut self, holder: Holder, within: Duration) {
        drop(holder);
        self.sharing.iter_mut().for_each(|sharing| sharing.let_go());
        let (rules, sharing) = (&self.rules, &self.sharing);
        let is_over = || {
            rules.values().all(|served| served.has_no_connections())
                && sharing.as_ref().is_none_or(|sharing| sharing.has_no_connections())
        };
        self.workers.stop(within, is_over, || {
            let phases =
                |served: &Served| served.phases().for_each(|phase| _ = phase.send_replace(Phase::End));
            rules.values().for_each(|served| phases(served));
            sharing.iter().for_each(|sharing| sharing.end());
        });
    }
}

impl Served {
    fn drain(&self, holder: &Holder) {
        for (claim, open) in &self.open {
            let phase = match (claim.protocol, holder.is_stored(claim)) {
                (Protocol::Tcp, true) => Phase::HandOver,
                // the next relayd goes on from the very next datagram
                (Protocol::Udp, true) => continue,
                (_, false) => Phase::Drain,
            };
            open.phase.send_replace(phase);
        }
    }

    /// A phase that nobody follows any more is that of a listener whose sessions are over, too.
    fn has_no_connections(&self) -> bool {
        let tcp = self.open.iter().filter(|(claim, _)| claim.protocol == Protocol::Tcp);
        tcp.map(|(_, open)| &open.phase).chain(&self.ending).all(|phase| phase.is_closed())
    }
}
