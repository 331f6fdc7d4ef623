//! Frames: a head of fixed length that says whose flow it is about and what, and a datagram or what else there is to say.
//!
//! ```text
//! 0       2       3        4       8
//! | length | kind | 0      | flow  | `length` bytes
//! ```
//!
//! All numbers are big-endian. The end that has the clients numbers their flows; it uses a number once as long as the
//! tunnel lasts.

use std::net::{IpAddr, Ipv6Addr, SocketAddr};
use std::ops::Range;

use thiserror::Error;

/// A head's length.
pub const HEAD: usize = 8;
/// The longest payload of a UDP datagram over IPv4.
pub const LONGEST: usize = 65_507;
/// An address, IPv4 ones mapped (RFC 4291 section 2.5.5.2), and a port.
const ANNOUNCEMENT: usize = 18;

/// What a frame is for.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub enum Kind {
    /// A datagram.
    Data,
    /// A flow begins; it says who its client is. Sent by the end that has the clients.
    Begin,
    /// A flow is over: its number means nobody until it begins anew.
    End,
    /// No flow begins in this tunnel any more; those that are there go on. Sent by the end with the backends.
    GoAway,
}

/// A frame, and where in the data what it carries lies.
#[derive(Clone, Debug, Eq, PartialEq)]
pub struct Frame {
    pub kind: Kind,
    pub flow: u32,
    pub payload: Range<usize>,
}

impl Frame {
    /// Where all of it lies.
    pub const fn whole(&self) -> Range<usize> {
        self.payload.start - HEAD..self.payload.end
    }
}

/// What the other end has sent is no frame.
#[derive(Clone, Debug, Eq, Error, PartialEq)]
pub enum FrameFault {
    #[error("it sent a frame of a kind ({0}) that is not known here: is it a Relay of a later version?")]
    Kind(u8),
    #[error("it sent a frame of kind {kind:?} with {length} bytes, which cannot be")]
    Length { kind: Kind, length: usize },
    #[error("it sent a frame of kind {0:?}, which only the other end of a tunnel sends")]
    Direction(Kind),
}

impl Kind {
    const fn number(self) -> u8 {
        match self {
            Self::Data => 0,
            Self::Begin => 1,
            Self::End => 2,
            Self::GoAway => 3,
        }
    }

    const fn of(number: u8) -> Option<Self> {
        match number {
            0 => Some(Self::Data),
            1 => Some(Self::Begin),
            2 => Some(Self::End),
            3 => Some(Self::GoAway),
            _ => None,
        }
    }

    const fn fits(self, length: usize) -> bool {
        match self {
            Self::Data => length <= LONGEST,
            Self::Begin => length == ANNOUNCEMENT,
            Self::End | Self::GoAway => length == 0,
        }
    }

    /// The head of a frame with so many bytes; `None`: it cannot have as many.
    pub fn head(self, flow: u32, length: usize) -> Option<[u8; HEAD]> {
        let [a, b] = u16::try_from(length).ok().filter(|_| self.fits(length))?.to_be_bytes();
        let [c, d, e, f] = flow.to_be_bytes();
        Some([a, b, self.number(), 0, c, d, e, f])
    }
}

/// Takes whole frames off the front.
#[derive(Debug)]
pub struct Frames<'a> {
    data: &'a [u8],
    at: usize,
}

impl<'a> Frames<'a> {
    /// `at`: where in `data` the first one begins.
    pub const fn new(data: &'a [u8], at: usize) -> Self {
        Self { data, at }
    }

    /// Where what has not been taken begins: in the end, a frame that is not whole.
    pub const fn rest(&self) -> usize {
        self.at
    }

    fn take(&mut self) -> Result<Option<Frame>, FrameFault> {
        let Some((head, rest)) = self.data[self.at..].split_first_chunk::<HEAD>() else { return Ok(None) };
        let [a, b, kind, reserved, c, d, e, f] = *head;
        let length = usize::from(u16::from_be_bytes([a, b]));
        let kind = Kind::of(kind).filter(|_| reserved == 0).ok_or(FrameFault::Kind(kind))?;
        if !kind.fits(length) {
            return Err(FrameFault::Length { kind, length });
        }
        if rest.len() < length {
            return Ok(None);
        }
        let begin = self.at + HEAD;
        self.at = begin + length;
        Ok(Some(Frame { kind, flow: u32::from_be_bytes([c, d, e, f]), payload: begin..self.at }))
    }
}

/// A fault comes again and again.
impl Iterator for Frames<'_> {
    type Item = Result<Frame, FrameFault>;

    fn next(&mut self) -> Option<Self::Item> {
        self.take().transpose()
    }
}

/// What a flow begins with.
pub fn announcement(client: SocketAddr) -> [u8; ANNOUNCEMENT] {
    let mut bytes = [0; ANNOUNCEMENT];
    let address = match client.ip() {
        IpAddr::V4(address) => address.to_ipv6_mapped(),
        IpAddr::V6(address) => address,
    };
    bytes[..16].copy_from_slice(&address.octets());
    bytes[16..].copy_from_slice(&client.port().to_be_bytes());
    bytes
}

/// Whom an announcement names; `None`: it is none.
pub fn announced(payload: &[u8]) -> Option<SocketAddr> {
    let bytes: &[u8; ANNOUNCEMENT] = payload.try_into().ok()?;
    let (address, port) = bytes.split_first_chunk::<16>()?;
    let port = u16::from_be_bytes(port.try_into().ok()?);
    Some((Ipv6Addr::from(*address).to_canonical(), port).into())
}
