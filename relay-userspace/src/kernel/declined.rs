//! Telling the programs which UDP clients have a session of the user plane.

use std::net::IpAddr;

use aya::maps::{HashMap, MapData};
use relay_common::digest::{Digest, Secret};
use relay_common::flow::FlowKey;
use relay_common::names;
use relay_common::net::{Port, Ports, Protocol, ipv6_to_wire};

use super::apply::{absent_is_fine, map_error};
use super::load::{Dataplane, take};
use super::{KernelError, Unavailable};
use crate::proxy::kept::Ends;

/// Clients whose packets are left to the user plane for as long as it has their sessions, whoever carries the rule.
pub struct Declined {
    clients: HashMap<MapData, FlowKey, u32>,
    secret: Secret,
}

impl Declined {
    pub(super) fn open(ebpf: &mut aya::Ebpf, secret: Secret) -> Result<Self, Unavailable> {
        Ok(Self { clients: take(ebpf, names::DECLINED)?, secret })
    }

    /// A client's session is there, or is not any more.
    pub fn set(&mut self, ends: &Ends, there: bool) -> Result<(), KernelError> {
        let Some(key) = self.key(ends) else { return Ok(()) };
        let clients = &mut self.clients;
        let done = if there { clients.insert(key, 0, 0) } else { absent_is_fine(clients.remove(&key)) };
        done.map_err(map_error(names::DECLINED))
    }

    /// What the client's packets are looked up by.
    fn key(&self, Ends { client, asked }: &Ends) -> Option<FlowKey> {
        let ports = Ports::new(Port::new(client.port()), Port::new(asked.port()));
        let digest = |address| Digest::new(&ipv6_to_wire(address), &self.secret);
        match (client.ip(), asked.ip()) {
            (IpAddr::V4(client), IpAddr::V4(asked)) => {
                Some(FlowKey::new(client.into(), asked.into(), ports, Protocol::Udp))
            }
            (IpAddr::V6(client), IpAddr::V6(asked)) => {
                Some(FlowKey::of_v6(digest(client), digest(asked), ports, Protocol::Udp))
            }
            _ => None,
        }
    }
}

impl Dataplane {
    /// To be had once.
    pub const fn declined(&mut self) -> Option<Declined> {
        self.declined.take()
    }
}
