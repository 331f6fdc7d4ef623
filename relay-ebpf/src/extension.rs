//! IPv6 extension headers that are looked past (RFC 8200 section 4), and who has the packets behind them: those of the kernel
//! plane's flows are refused, since nobody here writes them, and the stack would answer what it does not know with a reset.

use relay_common::counters::DropReason;
use relay_common::digest::Digest;
use relay_common::flow::FlowKey;
use relay_common::net::{Ports, Protocol};

use crate::ipv6::HEADER;
use crate::packet::{Fragment, Ipv6};
use crate::skb::{Failed, Skb};
use crate::{Outcome, count, maps, user};

/// By number.
const HOP_BY_HOP: u8 = 0;
const ROUTING: u8 = 43;
const DESTINATION: u8 = 60;
/// As many are looked past.
const MOST: u32 = 4;

/// What comes behind them.
#[derive(Clone, Copy)]
pub(crate) struct Behind {
    /// By its number.
    pub(crate) protocol: u8,
    /// Where it lies.
    pub(crate) at: u32,
    /// The fragment header among them, all zero without one. Behind one that says that something comes before it nothing is
    /// looked for.
    pub(crate) fragment: Fragment,
}

impl Behind {
    /// Whether a transport header can be there.
    #[inline(always)]
    pub(crate) const fn is_later_fragment(&self) -> bool {
        self.fragment.offset & Fragment::OFFSET != 0
    }
}

/// Looks past the extension headers of a packet.
#[inline(always)]
pub(crate) fn walk(skb: Skb, l2: u32, ip: &Ipv6) -> Result<Behind, Failed> {
    let mut behind = Behind { protocol: ip.next, at: l2 + HEADER, fragment: Fragment::NONE };
    for _ in 0..MOST {
        match behind.protocol {
            HOP_BY_HOP | ROUTING | DESTINATION => {
                let [next, words] = skb.load::<[u8; 2]>(behind.at)?;
                behind.protocol = next;
                behind.at += (u32::from(words) + 1) * 8;
            }
            Fragment::NEXT => {
                let header = skb.load::<Fragment>(behind.at)?;
                behind.fragment = header;
                if behind.is_later_fragment() {
                    break;
                }
                behind.protocol = header.next;
                behind.at += Fragment::BYTES;
            }
            _ => break,
        }
    }
    Ok(behind)
}

/// A packet whose TCP or UDP header does not follow the IPv6 header at once: refused if a flow has it, else the stack's, and
/// counted if it is the user plane's.
#[inline(never)]
pub(crate) fn read(skb: Skb, l2: u32, ip: &Ipv6) -> Outcome {
    let Ok(behind) = walk(skb, l2, ip) else { return Outcome::Miss };
    if let Some(rule) = rule_of_flow(skb, ip, &behind) {
        return count::refuse(rule, DropReason::BadHeader);
    }
    if user::incoming_v6(skb, l2, ip, &behind) { Outcome::Miss } else { Outcome::Dropped }
}

/// The rule of the flow that a packet belongs to.
#[inline(always)]
fn rule_of_flow(skb: Skb, ip: &Ipv6, behind: &Behind) -> Option<u32> {
    if behind.is_later_fragment() {
        return None;
    }
    let protocol = Protocol::from_number(behind.protocol)?;
    let ports = Ports::from_wire(skb.load(behind.at).ok()?);
    let secret = &maps::settings()?.secret;
    let digest = |address| Digest::new(address, secret);
    let key = FlowKey::of_v6(digest(&ip.source), digest(&ip.destination), ports, protocol);
    let flow = maps::established(protocol, &key).or_else(|| maps::unproven(&key))?;
    Some(flow.rule())
}
