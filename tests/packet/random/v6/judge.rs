//! What must hold of any packet that tc hands back where IPv6 is on a leg or both, worked out without Relay's arithmetic.

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};

use harness::packet::{ICMP, ICMPV6, SYN, TCP, UDP, checksum};
use harness::plane::{
    BACKEND_NARROW, BACKEND_NARROW_V6, Change, MTU, NARROW_MTU, RELAY_NARROW, RELAY_NARROW_V6, RELAY_SECOND,
    Ran, Verdict,
};
use harness::world::{BACKEND, BACKEND_V6, RELAY, RELAY_INSIDE, RELAY_INSIDE_V6, RELAY_V6};

use super::make::Made;
use crate::random::judge::Finding;

const IP: usize = 14;
const OWN: [Ipv4Addr; 4] = [RELAY, RELAY_SECOND, RELAY_INSIDE, RELAY_NARROW];
const OWN_V6: [Ipv6Addr; 3] = [RELAY_V6, RELAY_INSIDE_V6, RELAY_NARROW_V6];

macro_rules! demand {
    ($so:expr, $($text:tt)*) => {
        if !$so {
            return Err(format!($($text)*));
        }
    };
}

fn is_own(address: IpAddr) -> bool {
    match address {
        IpAddr::V4(address) => OWN.contains(&address),
        IpAddr::V6(address) => OWN_V6.contains(&address),
    }
}

/// Sums to 0 if the checksum in it is right, with both zeros of one's complement made one.
fn residue(bytes: &[u8]) -> u16 {
    match checksum(bytes) {
        0xffff => 0,
        other => other,
    }
}

/// A packet of either family, as far as its headers say. A fragment header of IPv6 is looked past, others are not.
#[derive(Debug)]
struct View<'a> {
    ttl: u8,
    source: IpAddr,
    destination: IpAddr,
    protocol: u8,
    /// IP bytes.
    length: usize,
    /// Bytes before it, and whether more comes behind.
    place: (u16, bool),
    /// Of IPv4, what is left over when the header is summed.
    header: u16,
    /// Behind the headers.
    body: &'a [u8],
}

impl<'a> View<'a> {
    /// `cut`: the packet may end before its header says so.
    fn of(packet: &'a [u8], cut: bool) -> Result<Self, String> {
        let word = |at: usize| u16::from_be_bytes([packet[at], packet[at + 1]]);
        demand!(packet.len() >= 20, "no room for a header");
        let is_v6 = packet[0] >> 4 == 6;
        demand!(is_v6 && packet.len() >= 40 || packet[0] >> 4 == 4, "no IP header: {packet:x?}");
        let length = usize::from(if is_v6 { word(4) } else { word(2) }) + if is_v6 { 40 } else { 0 };
        let end = if cut { length.min(packet.len()) } else { length };
        let (mut protocol, mut header) =
            if is_v6 { (packet[6], 40) } else { (packet[9], usize::from(packet[0] & 0xf) * 4) };
        let mut place = if is_v6 { (0, false) } else { ((word(6) & 0x1fff) * 8, word(6) & 0x2000 != 0) };
        if is_v6 && protocol == 44 && packet.len() >= 48 {
            (place, protocol, header) = ((word(42) & !7, word(42) & 1 != 0), packet[40], 48);
        }
        demand!(header <= end && end <= packet.len(), "a packet longer than its bytes: {packet:x?}");
        let four =
            |at: usize| IpAddr::V4(Ipv4Addr::from_octets(packet[at..at + 4].try_into().expect("4 bytes")));
        let six =
            |at: usize| IpAddr::V6(Ipv6Addr::from_octets(packet[at..at + 16].try_into().expect("16 bytes")));
        let (source, destination) = if is_v6 { (six(8), six(24)) } else { (four(12), four(16)) };
        let ttl = packet[if is_v6 { 7 } else { 8 }];
        let (sum, body) = (if is_v6 { 0 } else { residue(&packet[..header]) }, &packet[header..end]);
        Ok(Self { ttl, source, destination, protocol, length, place, header: sum, body })
    }

    /// A whole frame that leaves.
    fn sent(frame: &'a [u8]) -> Result<Self, String> {
        let packet = frame.get(IP..).ok_or("no room for a header")?;
        let view = Self::of(packet, false)?;
        let kind: [u8; 2] = if view.is_v6() { [0x86, 0xdd] } else { [8, 0] };
        // where the family changes the link header is the kernel's to write
        demand!(
            frame[12..14] == kind || frame[12..14] == [8, 0] || frame[12..14] == [0x86, 0xdd],
            "no IP frame"
        );
        Ok(view)
    }

    const fn is_v6(&self) -> bool {
        self.source.is_ipv6()
    }

    const fn is_icmp(&self) -> bool {
        matches!(self.protocol, ICMP | ICMPV6) && self.place.0 == 0
    }

    /// What is left over when everything that the transport checksum covers is summed.
    fn residue(&self) -> u16 {
        let mut bytes = Vec::new();
        match (self.source, self.destination) {
            (IpAddr::V4(_), _) if self.protocol == ICMP => return residue(self.body),
            (IpAddr::V4(from), IpAddr::V4(to)) => bytes.extend([from.octets(), to.octets()].concat()),
            (IpAddr::V6(from), IpAddr::V6(to)) => bytes.extend([from.octets(), to.octets()].concat()),
            mixed => panic!("{mixed:?}"),
        }
        bytes.extend((self.body.len() as u32).to_be_bytes());
        bytes.extend([0, 0, 0, self.protocol]);
        bytes.extend(self.body);
        residue(&bytes)
    }
}

pub(super) fn judge(made: &Made, ran: &Ran) -> Result<Finding, String> {
    match ran.verdict {
        Verdict::Pass => {
            demand!(ran.frame == made.frame, "passed, but changed to {:x?}", ran.frame);
            Ok(Finding::Passed)
        }
        Verdict::Drop => Ok(Finding::Dropped),
        Verdict::Redirect => {
            let came = View::of(&made.frame[IP..], false)?;
            let sent = View::sent(&ran.frame).map_err(|what| format!("{what} in {:x?}", ran.frame))?;
            // what is broken is not mended, unless its header goes
            let may_be_broken = !came.is_v6() && !sent.is_icmp();
            demand!(
                sent.header == if may_be_broken && !sent.is_v6() { came.header } else { 0 },
                "a bad header {sent:x?}"
            );
            let found = match (came.is_icmp(), sent.is_icmp()) {
                (true, true) => passed_on(made, &came, &sent),
                (false, true) => answered(&came, &sent),
                _ => forwarded(made, &came, &sent),
            };
            found.map_err(|what| format!("{what}\n{sent:x?}"))
        }
        Verdict::Other(code) => Err(format!("verdict {code}")),
    }
}

/// What is counted is what is on the client's leg.
fn counted(made: &Made, came: &View<'_>, sent: &View<'_>) -> Finding {
    Finding::Forwarded { packets: 1, bytes: if made.from_client { came.length } else { sent.length } as u64 }
}

/// An error about the packet, to its sender.
fn answered(came: &View<'_>, sent: &View<'_>) -> Result<Finding, String> {
    demand!(sent.residue() == 0, "a bad checksum in the answer");
    demand!((sent.source, sent.destination) == (came.destination, came.source), "who answers whom?");
    demand!(is_own(sent.source), "an answer in another's name");
    let kind = match (came.ttl <= 1, sent.is_v6()) {
        (true, false) => [11, 0],
        (true, true) => [3, 0],
        (false, false) => [3, 4],
        (false, true) => [2, 0],
    };
    demand!(sent.body[..2] == kind, "the wrong answer");
    let quoted = View::of(&sent.body[8..], true)?;
    demand!((quoted.source, quoted.destination) == (came.source, came.destination), "quotes another packet");
    demand!(came.body.starts_with(quoted.body) && quoted.body.len() >= 8, "a wrong quote");
    Ok(Finding::Answered)
}

/// An error about a flow: from whom the flow sends, about a packet of its receiver.
fn passed_on(made: &Made, came: &View<'_>, sent: &View<'_>) -> Result<Finding, String> {
    demand!(came.residue() == 0, "a broken error went on");
    demand!(sent.residue() == 0, "a bad checksum in the error");
    demand!(came.ttl >= 2 && is_own(came.destination) && is_own(sent.source), "whose is it?");
    let quoted = View::of(&sent.body[8..], true)?;
    demand!(
        (quoted.source, quoted.destination) == (sent.destination, sent.source),
        "quotes another's packet"
    );
    demand!(matches!(quoted.protocol, TCP | UDP) && quoted.body.len() >= 8, "quotes something else");
    let kinds = if sent.is_v6() { 1..=4 } else { 3..=12 };
    demand!(kinds.contains(&sent.body[0]), "no error");
    Ok(counted(made, came, sent))
}

/// The same packet between other addresses and ports.
fn forwarded(made: &Made, came: &View<'_>, sent: &View<'_>) -> Result<Finding, String> {
    demand!(came.ttl >= 2 && sent.ttl == came.ttl - 1, "TTL {} to {}", came.ttl, sent.ttl);
    // later fragments may say what they like
    let is_same = came.protocol == sent.protocol || (came.place.0 != 0 && matches!(sent.protocol, TCP | UDP));
    demand!(is_same && came.place == sent.place, "another kind of packet");
    demand!(is_own(came.destination) && is_own(sent.source), "not between our addresses");
    let backends: [IpAddr; 2] = [BACKEND.into(), BACKEND_V6.into()];
    let narrow: [IpAddr; 2] = [BACKEND_NARROW.into(), BACKEND_NARROW_V6.into()];
    let is_narrow = narrow.contains(&sent.destination);
    if made.from_client {
        demand!(is_narrow || backends.contains(&sent.destination), "to no backend");
    }
    demand!(sent.length <= if is_narrow { NARROW_MTU } else { MTU } as usize, "{} bytes", sent.length);
    demand!(came.body.len() == sent.body.len(), "a body of another size");
    if came.place.0 != 0 {
        demand!(came.body == sent.body, "a later fragment changed");
        return Ok(counted(made, came, sent));
    }
    let sum_at = if came.protocol == TCP { 16 } else { 6 };
    let word = |view: &View<'_>| u16::from_be_bytes([view.body[sum_at], view.body[sum_at + 1]]);
    let head = if came.protocol == TCP { usize::from(came.body[12] >> 4) * 4 } else { 8 };
    let is_syn = came.protocol == TCP && came.body[13] & SYN != 0;
    for at in (4..sent.body.len()).filter(|&at| came.body[at] != sent.body[at]) {
        let may = (sum_at..sum_at + 2).contains(&at) || (is_syn && (20..head).contains(&at));
        demand!(may, "byte {at} of the body changed");
    }
    if came.protocol == UDP && word(came) == 0 {
        demand!(
            came.is_v6() || !sent.is_v6() || sent.residue() == 0,
            "a wrong checksum where there was none"
        );
        demand!(came.is_v6() == sent.is_v6() || sent.is_v6() || word(sent) == 0, "a checksum out of nothing");
    } else {
        demand!(came.residue() == sent.residue(), "the transport checksum came out wrong");
        demand!(came.protocol == TCP || word(sent) != 0, "the checksum has gone");
    }
    Ok(counted(made, came, sent))
}

/// What passes may be the user plane's, whole, and is nothing else's.
pub(super) fn left(made: &Made, change: &Change) -> Result<Finding, String> {
    if change.is_empty() {
        return Ok(Finding::Passed);
    }
    let came = View::of(&made.frame[IP..], false)?;
    let (packets, bytes) = (change.packets(), change.bytes());
    let is_one = change.all_drops() == 0 && (packets, bytes) == (1, came.length as u64);
    demand!(is_one && is_own(came.destination), "it passes and is counted as {change}");
    Ok(Finding::Left { packets, bytes })
}
