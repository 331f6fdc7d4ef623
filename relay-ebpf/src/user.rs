//! The user plane's packets: counted on their way to the host's stack and from it, and never touched.
//!
//! Counted is what a rule listens for and the kernel plane leaves alone, at tc ingress, and what the host itself sends
//! from a rule's listener, at tc egress. Packets that the kernel plane sends pass tc egress too, and were counted.

use relay_common::flow::{FragmentEntry, FragmentKey};
use relay_common::net::{Port, Ports, Protocol};

use crate::established::Frame as _;
use crate::extension::Behind;
use crate::ipv6::HEADER;
use crate::listening::{self, Address};
use crate::maps::{self, Entry};
use crate::note::Where;
use crate::packet::{self, Fragment, Ipv4, Ipv6};
use crate::skb::{Failed, Skb};
use crate::slow::Packet;
use crate::{Outcome, count, extension, fragment, note, observe, police, socket};

/// Whether a packet goes on. Errors mean that it is not the user plane's: it does.
type Passes = Result<bool, Failed>;

/// Counts a packet that the slow path leaves to the stack. `false`: it is refused instead.
#[inline(never)]
pub(crate) fn incoming(skb: Skb, packet: &Packet) -> bool {
    if maps::rule(packet.rule).is_none_or(|rule| rule.shared != 0 && !socket::shares(skb, packet)) {
        return true;
    }
    let (segment_size, segments) = (skb.segment_size(), skb.segments());
    let traffic = count::on_wire(packet.length, packet.header_length, segment_size, segments);
    let note = || note::of_packet(skb, packet.l2, packet.rule, false, Where::at(packet.transport));
    // what comes in goes no way of ours
    let passes = count::add(packet.rule, false, traffic, note, || {});
    if passes && packet.fragment & packet::MORE_FRAGMENTS != 0 {
        fragment::put(
            packet,
            &FragmentEntry::of_user(packet.rule, packet.key.ports().destination(), false, packet.now),
        );
    }
    passes
}

/// Counts an IPv6 packet that comes in with extension headers. `false`: it is refused instead.
#[inline(always)]
pub(crate) fn incoming_v6(skb: Skb, l2: u32, ip: &Ipv6, behind: &Behind) -> bool {
    ipv6(skb, l2, ip, behind, false).unwrap_or(true)
}

/// Counts a packet that leaves, if it may.
#[inline(always)]
pub(crate) fn outgoing(skb: Skb, l2: u32) -> Outcome {
    // what is forwarded was received, and has been judged there; tagged frames have passed the VLAN's own interface
    if skb.was_received() {
        if let Some((rule, egress)) = skb.payment() {
            pace(skb, rule, egress);
        }
        return Outcome::Miss;
    }
    if skb.is_vlan_tagged() {
        return Outcome::Miss;
    }
    let passes = match skb.protocol() {
        packet::IPV4 => outgoing_v4(skb, l2),
        packet::IPV6 => outgoing_v6(skb, l2),
        _ => Ok(true),
    };
    if passes.unwrap_or(true) {
        return Outcome::Miss;
    }
    observe::refused(skb, l2);
    Outcome::Dropped
}

/// Has the packet leave when its rule's meter says, where the queue behind this hook keeps it until then.
#[inline(always)]
fn pace(skb: Skb, rule: u32, egress: bool) {
    if maps::is_paced(skb.interface()) {
        skb.depart_at(police::due(rule, egress));
    }
}

#[inline(never)]
fn outgoing_v4(skb: Skb, l2: u32) -> Passes {
    let ip = skb.load::<Ipv4>(l2)?;
    let header = u32::from(ip.version_length & 0xf) * 4;
    let length = skb.ip_length(l2, u16::from_be(ip.length).into())?;
    let protocol = Protocol::from_number(ip.protocol).ok_or(Failed)?;
    let key = FragmentKey {
        source: ip.source,
        destination: ip.destination,
        identification: ip.identification.into(),
        protocol: ip.protocol.into(),
    };
    if ip.fragment & packet::FRAGMENT_OFFSET != 0 {
        return Ok(count_later(skb, l2, maps::fragment(&key), true, length));
    }
    let seen = Seen { protocol, l2, transport: l2 + header, length };
    let Some((rule, port)) = count_first(skb, &seen, [&ip.source, &ip.destination], true)? else {
        return Ok(false);
    };
    if ip.fragment & packet::MORE_FRAGMENTS != 0 {
        maps::put_fragment(&key, &FragmentEntry::of_user(rule, port, true, maps::now()));
    }
    Ok(true)
}

#[inline(never)]
fn outgoing_v6(skb: Skb, l2: u32) -> Passes {
    let ip = skb.load::<Ipv6>(l2)?;
    let behind = extension::walk(skb, l2, &ip)?;
    ipv6(skb, l2, &ip, &behind, true)
}

#[inline(always)]
fn ipv6(skb: Skb, l2: u32, ip: &Ipv6, behind: &Behind, egress: bool) -> Passes {
    let length = skb.ip_length(l2, HEADER + u32::from(u16::from_be(ip.length)))?;
    // a fragment header, or the least that a transport header has
    if behind.at + 8 > l2 + length {
        return Err(Failed);
    }
    let key = |identification| FragmentKey {
        source: ip.source,
        destination: ip.destination,
        identification,
        protocol: 0,
    };
    let fragment = behind.fragment;
    if behind.is_later_fragment() {
        return Ok(count_later(skb, l2, maps::fragment_v6(&key(fragment.identification)), egress, length));
    }
    let protocol = Protocol::from_number(behind.protocol).ok_or(Failed)?;
    let seen = Seen { protocol, l2, transport: behind.at, length };
    let Some((rule, port)) = count_first(skb, &seen, [&ip.source, &ip.destination], egress)? else {
        return Ok(false);
    };
    if fragment.offset & Fragment::MORE != 0 {
        let entry = FragmentEntry::of_user(rule, port, egress, maps::now());
        maps::put_fragment_v6(&key(fragment.identification), &entry);
    }
    Ok(true)
}

/// A packet whose transport header begins at `transport`.
struct Seen {
    protocol: Protocol,
    l2: u32,
    transport: u32,
    /// IP bytes.
    length: u32,
}

impl Seen {
    /// IP and transport header bytes, which every segment of a super-packet repeats.
    #[inline(always)]
    fn header_length(&self, skb: Skb) -> Result<u32, Failed> {
        let transport = match self.protocol {
            Protocol::Tcp => u32::from(skb.load::<u8>(self.transport + 12)? >> 4) * 4,
            Protocol::Udp => 8,
        };
        Ok(self.transport - self.l2 + transport)
    }
}

/// Counts a packet that shows its ports, if a rule listens at the host's end of it. Returns the rule and its port; `None`: it is refused.
#[inline(always)]
fn count_first<A: Address>(
    skb: Skb,
    seen: &Seen,
    [source, destination]: [&A; 2],
    egress: bool,
) -> Result<Option<(u32, Port)>, Failed> {
    let ports = Ports::from_wire(skb.load(seen.transport)?);
    // as if it came in
    let (remote, own, ports) =
        if egress { (destination, source, ports.swapped()) } else { (source, destination, ports) };
    let id = listening::find(seen.protocol, own, ports.destination(), skb.interface()).ok_or(Failed)?.rule;
    let rule = maps::rule(id).ok_or(Failed)?;
    if !A::is_left_to_user(rule) {
        return Err(Failed);
    }
    if rule.shared != 0 && !socket::is_shared(skb, seen.protocol, &mut remote.ends(own, ports)) {
        return Err(Failed);
    }
    let segment_size = skb.segment_size();
    let header_length = if segment_size == 0 { 0 } else { seen.header_length(skb)? };
    let traffic = count::on_wire(seen.length, header_length, segment_size, skb.segments());
    let note = || note::of_packet(skb, seen.l2, id, egress, Where::at(seen.transport));
    let passes = count::add(id, egress, traffic, note, || {});
    if passes && egress && police::is_on(id) {
        pace(skb, id, true);
    }
    Ok(passes.then_some((id, ports.destination())))
}

/// Counts a fragment without ports for the rule of the first one. `false`: it is refused instead.
#[inline(always)]
fn count_later(skb: Skb, l2: u32, first: Option<Entry<FragmentEntry>>, egress: bool, length: u32) -> bool {
    let first = first.filter(|first| first.is_of_user(egress) && fragment::is_fresh(first));
    first.is_none_or(|first| {
        let ports = Where::known(first.port_of_user());
        let is_noted = note::if_asked(first.rule, egress, (skb, l2), None, ports);
        count::one(first.rule, egress, length, is_noted)
    })
}
