//! Both halves of a flow that begins.

use super::{FlowEntry, FlowFlags, FlowKey, Hop, Owner, Translation};
use crate::checksum::Delta;
use crate::net::{Address, Port, Ports, Protocol};

/// An IPv6 client, and the number of the own address that it talks to.
#[derive(Clone, Copy, Debug)]
pub struct ClientV6<'a> {
    pub address: &'a [u32; 4],
    pub number: u32,
}

/// Makes a flow just opened one with IPv6 on a leg. `client`: of an IPv6 client. `to_v6`: the backend has an IPv6 address, and
/// addresses of that leg have been given by their numbers. `outside`, `inside`: the sums of the legs' addresses.
#[inline(always)]
pub const fn open_v6(
    halves: (&mut FlowEntry, &mut FlowEntry),
    client: Option<ClientV6<'_>>,
    to_v6: bool,
    (outside, inside): (u64, u64),
) {
    let delta = Delta::pairs(outside, inside);
    halves.0.address_delta = delta.raw();
    halves.1.address_delta = delta.inverse().raw();
    if to_v6 {
        halves.0.flags |= FlowFlags::TO_V6.0;
    }
    if let Some(client) = client {
        halves.1.send_to_v6(client.address, client.number);
    }
}

/// Fills in both halves of a new flow from the client's `key` to `endpoint`, sent from `source`, but for the source
/// port: [`FlowEntry::send_from`] and [`FlowEntry::answer_to`] add it.
///
/// In place, because two entries by value would crowd a BPF stack.
#[inline(always)]
pub const fn open(
    halves: (&mut FlowEntry, &mut FlowEntry),
    key: &FlowKey,
    protocol: Protocol,
    source: Address,
    endpoint: (Address, Port),
    owner: Owner,
    hops: (Hop, Hop),
    now: u32,
) {
    let (client_flags, backend_flags) = match protocol {
        Protocol::Tcp => (FlowFlags::SLOW, FlowFlags::SLOW.with(FlowFlags::EGRESS)),
        Protocol::Udp => (FlowFlags::NONE, FlowFlags::SLOW.with(FlowFlags::EGRESS)),
    };
    let unclaimed = Port::new(0);
    let to_backend =
        Translation { source, destination: endpoint.0, ports: Ports::new(unclaimed, endpoint.1) };
    *halves.0 = FlowEntry::new(key, to_backend, owner, hops.0, client_flags, now);
    let to_client =
        Translation { source: key.destination(), destination: key.source(), ports: key.ports().swapped() };
    let reply = FlowKey::new(endpoint.0, source, to_backend.ports.swapped(), protocol);
    *halves.1 = FlowEntry::new(&reply, to_client, owner, hops.1, backend_flags, now);
}

#[cfg(test)]
mod tests {
    use core::net::Ipv4Addr;

    use super::*;
    use crate::net::Direction;

    const fn address(last: u8) -> Address {
        Address::from_wire(u32::from_ne_bytes([10, 0, 0, last]))
    }

    #[test]
    fn the_halves_find_each_other() {
        let key = FlowKey::new(
            Address::from(Ipv4Addr::new(198, 51, 100, 7)),
            address(1),
            Ports::new(Port::new(40000), Port::new(8388)),
            Protocol::Udp,
        );
        let owner = Owner { rule: 3, generation: 9, endpoint: 5 };
        let blank = FlowEntry::new(
            &key,
            Translation { source: address(0), destination: address(0), ports: key.ports() },
            owner,
            Hop::default(),
            FlowFlags::NONE,
            0,
        );
        let (mut client, mut backend) = (blank, blank);
        let endpoint = (address(9), Port::new(443));
        let hops = (Hop::default(), Hop::default());
        open((&mut client, &mut backend), &key, Protocol::Udp, address(2), endpoint, owner, hops, 7);
        client.send_from(Port::new(1500));
        backend.answer_to(Port::new(0), Port::new(1500));
        let reply_key =
            FlowKey::new(address(9), address(2), Ports::new(Port::new(443), Port::new(1500)), Protocol::Udp);
        assert_eq!(client.opposite(Protocol::Udp), reply_key);
        assert_eq!(backend.opposite(Protocol::Udp), key);
        assert_eq!(client.direction(), Direction::Ingress);
        assert_eq!(backend.direction(), Direction::Egress);
        assert_eq!((backend.rule(), backend.endpoint(), backend.seen), (3, 5, 7));
        let whole = |key: &FlowKey, half: &FlowEntry| {
            FlowEntry::new(key, half.translation(), owner, Hop::default(), FlowFlags::NONE, 0)
        };
        assert_eq!(client.port_delta().apply(77), whole(&key, &client).port_delta().apply(77));
        assert_eq!(backend.port_delta().apply(77), whole(&reply_key, &backend).port_delta().apply(77));
    }
}
