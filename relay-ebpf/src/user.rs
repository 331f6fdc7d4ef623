//! The user plane's packets: counted on their way to the host's stack and from it, and never touched.
//!
//! Counted is what a rule listens for and the kernel plane leaves alone, at tc ingress, and what the host itself sends
//! from a rule's listener, at tc egress. Packets that the kernel plane sends pass tc egress too, and were counted.

use relay_common::flow::{FragmentEntry, FragmentKey};
use relay_common::net::{Ports, Protocol};

use crate::established::Frame as _;
use crate::extension::Behind;
use crate::ipv6::HEADER;
use crate::listening::{self, Address};
use crate::maps::{self, Entry};
use crate::packet::{self, Fragment, Ipv4, Ipv6};
use crate::skb::{Failed, Skb};
use crate::slow::Packet;
use crate::{count, extension, fragment, socket};

/// Counts a packet that the slow path leaves to the stack.
#[inline(never)]
pub(crate) fn incoming(skb: Skb, packet: &Packet) {
    if maps::rule(packet.rule).is_none_or(|rule| rule.shared != 0 && !socket::shares(skb, packet)) {
        return;
    }
    let (segment_size, segments) = (skb.segment_size(), skb.segments());
    let (packets, bytes) = count::on_wire(packet.length, packet.header_length, segment_size, segments);
    count::add(packet.rule, false, packets, bytes);
    if packet.fragment & packet::MORE_FRAGMENTS != 0 {
        fragment::put(packet, &FragmentEntry::of_user(packet.rule, false, packet.now));
    }
}

/// Counts an IPv6 packet that comes in with extension headers.
#[inline(always)]
pub(crate) fn incoming_v6(skb: Skb, l2: u32, ip: &Ipv6, behind: &Behind) {
    let _not_ours = ipv6(skb, l2, ip, behind, false);
}

/// Counts a packet that leaves.
#[inline(always)]
pub(crate) fn outgoing(skb: Skb, l2: u32) {
    // what is forwarded was received; tagged frames have passed the VLAN's own interface
    if skb.was_received() || skb.is_vlan_tagged() {
        return;
    }
    let _not_ours = match skb.protocol() {
        packet::IPV4 => outgoing_v4(skb, l2),
        packet::IPV6 => outgoing_v6(skb, l2),
        _ => return,
    };
}

#[inline(never)]
fn outgoing_v4(skb: Skb, l2: u32) -> Result<(), Failed> {
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
        count_later(maps::fragment(&key), true, length);
        return Ok(());
    }
    let seen = Seen { protocol, l2, transport: l2 + header, length };
    let rule = count_first(skb, &seen, [&ip.source, &ip.destination], true).ok_or(Failed)?;
    if ip.fragment & packet::MORE_FRAGMENTS != 0 {
        maps::put_fragment(&key, &FragmentEntry::of_user(rule, true, maps::now()));
    }
    Ok(())
}

#[inline(never)]
fn outgoing_v6(skb: Skb, l2: u32) -> Result<(), Failed> {
    let ip = skb.load::<Ipv6>(l2)?;
    let behind = extension::walk(skb, l2, &ip)?;
    ipv6(skb, l2, &ip, &behind, true)
}

#[inline(always)]
fn ipv6(skb: Skb, l2: u32, ip: &Ipv6, behind: &Behind, egress: bool) -> Result<(), Failed> {
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
        count_later(maps::fragment_v6(&key(fragment.identification)), egress, length);
        return Ok(());
    }
    let protocol = Protocol::from_number(behind.protocol).ok_or(Failed)?;
    let seen = Seen { protocol, l2, transport: behind.at, length };
    let rule = count_first(skb, &seen, [&ip.source, &ip.destination], egress).ok_or(Failed)?;
    if fragment.offset & Fragment::MORE != 0 {
        let entry = FragmentEntry::of_user(rule, egress, maps::now());
        maps::put_fragment_v6(&key(fragment.identification), &entry);
    }
    Ok(())
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

/// Counts a packet that shows its ports, if a rule listens at the host's end of it. Returns the rule.
#[inline(always)]
fn count_first<A: Address>(
    skb: Skb,
    seen: &Seen,
    [source, destination]: [&A; 2],
    egress: bool,
) -> Option<u32> {
    let ports = Ports::from_wire(skb.load(seen.transport).ok()?);
    // as if it came in
    let (remote, own, ports) =
        if egress { (destination, source, ports.swapped()) } else { (source, destination, ports) };
    let id = listening::find(seen.protocol, own, ports.destination(), skb.interface())?.rule;
    let rule = maps::rule(id)?;
    if !A::is_left_to_user(rule) {
        return None;
    }
    if rule.shared != 0 && !socket::is_shared(skb, seen.protocol, &mut remote.ends(own, ports)) {
        return None;
    }
    let segment_size = skb.segment_size();
    let header_length = if segment_size == 0 { 0 } else { seen.header_length(skb).ok()? };
    let (packets, bytes) = count::on_wire(seen.length, header_length, segment_size, skb.segments());
    count::add(id, egress, packets, bytes);
    Some(id)
}

/// Counts a fragment without ports for the rule of the first one.
#[inline(always)]
fn count_later(first: Option<Entry<FragmentEntry>>, egress: bool, length: u32) {
    if let Some(first) = first
        && first.is_of_user(egress)
        && fragment::is_fresh(first)
    {
        count::add(first.rule, egress, 1, length.into());
    }
}
