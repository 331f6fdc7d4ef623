//! Sends many datagrams in one system call. Those of one receiver and size travel as one (`UDP_SEGMENT`), which costs
//! the host's stack little more than a single one.

use std::ops::AddAssign;
use std::os::fd::{AsFd, AsRawFd as _, RawFd};

use nix::errno::Errno;
use nix::libc;
use nix::sys::socket::{MsgFlags, send};

use super::clients::Id;
use super::envelope::{Control, Name};
use super::inbox::{Train, empty_header};

/// The kernel cuts a parcel into no more datagrams than this (`UDP_MAX_SEGMENTS` of older kernels).
const MOST_SEGMENTS: usize = 64;
/// And takes no more bytes at once.
const MOST_BYTES: usize = 65_000;
/// How often a datagram is tried again when the kernel reports what became of an earlier one instead of sending it.
const MOST_TRIES: usize = 3;

/// What is handed to the kernel as one message.
#[derive(Clone, Copy, Debug)]
struct Parcel {
    owner: Id,
    name: Name,
    control: Control,
    /// Without [`Control::push_segment`]'s message.
    plain: Control,
    first: usize,
    trains: usize,
    datagrams: usize,
    length: usize,
    size: usize,
    /// Nothing fits behind a datagram that is shorter than the others.
    closed: bool,
}

impl Parcel {
    /// One datagram with nothing to say about it.
    const fn is_bare(&self) -> bool {
        self.datagrams == 1 && self.name.len() == 0 && self.plain.len() == 0
    }
}

/// What became of a batch, in datagrams.
#[derive(Clone, Copy, Debug, Default, Eq, PartialEq)]
pub struct Sent {
    pub datagrams: u64,
    pub bytes: u64,
    pub lost: u64,
    /// How often the kernel said that an earlier datagram was refused.
    pub refused: u64,
}

impl AddAssign for Sent {
    fn add_assign(&mut self, more: Self) {
        self.datagrams += more.datagrams;
        self.bytes += more.bytes;
        self.lost += more.lost;
        self.refused += more.refused;
    }
}

/// Messages to be sent through one socket.
#[derive(Default)]
pub struct Outbox {
    parcels: Vec<Parcel>,
    trains: Vec<Train>,
    vectors: Vec<libc::iovec>,
    headers: Vec<libc::mmsghdr>,
}

impl Outbox {
    /// Adds datagrams for `owner`. Those of `limit` bytes and more travel alone. `envelope`: where to, where from.
    pub fn push(&mut self, owner: Id, train: Train, limit: usize, envelope: impl Fn() -> (Name, Control)) {
        if train.datagrams() > 1 && train.size >= limit {
            for single in train.singles() {
                self.open(owner, single, envelope());
            }
        } else if !self.join(owner, train, limit) {
            self.open(owner, train, envelope());
        }
    }

    fn join(&mut self, owner: Id, train: Train, limit: usize) -> bool {
        let Some(parcel) = self.parcels.last_mut() else { return false };
        let fits = parcel.owner == owner
            && !parcel.closed
            && train.length > 0
            && train.size < limit
            && (train.size == parcel.size || (train.datagrams() == 1 && train.size < parcel.size))
            && parcel.datagrams + train.datagrams() <= MOST_SEGMENTS
            && parcel.length + train.length <= MOST_BYTES;
        if fits {
            parcel.closed = !train.length.is_multiple_of(parcel.size);
            parcel.trains += 1;
            parcel.datagrams += train.datagrams();
            parcel.length += train.length;
            self.trains.push(train);
        }
        fits
    }

    fn open(&mut self, owner: Id, train: Train, (name, plain): (Name, Control)) {
        let first = self.trains.len();
        self.trains.push(train);
        let closed = train.length == 0 || !train.length.is_multiple_of(train.size);
        let (datagrams, length, size) = (train.datagrams(), train.length, train.size);
        let parcel =
            Parcel { owner, name, control: plain, plain, first, trains: 1, datagrams, length, size, closed };
        self.parcels.push(parcel);
    }

    /// Sends everything from `memory`, and is empty then. A datagram that cannot be sent is lost, as in a network, and
    /// no other. `whole`: called for an owner whose datagrams of that size the kernel does not take several at once.
    pub fn send(&mut self, socket: impl AsFd, memory: &[u8], mut whole: impl FnMut(Id, usize)) -> Sent {
        let descriptor = socket.as_fd().as_raw_fd();
        let mut sent = Sent::default();
        let (mut next, mut tries) = (0, 0);
        self.prepare(memory);
        while next < self.parcels.len() {
            let parcel = self.parcels[next];
            match self.send_from(descriptor, memory, next) {
                Ok(count) => {
                    for parcel in &self.parcels[next..next + count] {
                        sent.datagrams += parcel.datagrams as u64;
                        sent.bytes += parcel.length as u64;
                    }
                    next += count;
                    tries = 0;
                }
                Err(Errno::EINTR) => {}
                Err(Errno::ECONNREFUSED) if tries < MOST_TRIES => {
                    sent.refused += 1;
                    tries += 1;
                }
                Err(Errno::EINVAL | Errno::EIO | Errno::EMSGSIZE) if parcel.datagrams > 1 => {
                    whole(parcel.owner, parcel.size);
                    self.split(next);
                    self.prepare(memory);
                }
                Err(_) => {
                    sent.lost += parcel.datagrams as u64;
                    next += 1;
                    tries = 0;
                }
            }
        }
        self.parcels.clear();
        self.trains.clear();
        sent
    }

    /// Sends what one system call takes, from parcel `next` on.
    fn send_from(&mut self, descriptor: RawFd, memory: &[u8], next: usize) -> nix::Result<usize> {
        let flags = MsgFlags::MSG_DONTWAIT | MsgFlags::MSG_NOSIGNAL;
        if let [parcel] = &self.parcels[..]
            && parcel.is_bare()
        {
            // Much traffic comes one by one, and this call has less to look at.
            let train = self.trains[parcel.first];
            let payload = &memory[train.start..train.start + train.length];
            return send(descriptor, payload, flags).map(|_| 1);
        }
        let headers = &mut self.headers[next..];
        let count = headers.len() as libc::c_uint;
        let flags = flags.bits() as _;
        // SAFETY: `prepare` has pointed every header at a name, a control buffer and vectors that lie in `memory`;
        // `parcels`, `vectors` and `memory` have not been moved or written since.
        let sent = unsafe { libc::sendmmsg(descriptor, headers.as_mut_ptr(), count, flags) };
        Ok(Errno::result(sent)?.cast_unsigned() as usize)
    }

    /// Makes one parcel of every datagram of a parcel.
    fn split(&mut self, place: usize) {
        let parcel = self.parcels[place];
        let first = self.trains.len();
        for train in parcel.first..parcel.first + parcel.trains {
            self.trains.extend(self.trains[train].singles());
        }
        let singles = (first..).zip(&self.trains[first..]).map(|(first, train)| Parcel {
            control: parcel.plain,
            first,
            trains: 1,
            datagrams: 1,
            length: train.length,
            size: train.size,
            ..parcel
        });
        self.parcels.splice(place..=place, singles);
    }

    fn prepare(&mut self, memory: &[u8]) {
        self.vectors.clear();
        self.headers.clear();
        self.vectors.extend(self.trains.iter().map(|train| {
            let payload = &memory[train.start..train.start + train.length];
            libc::iovec { iov_base: payload.as_ptr().cast_mut().cast(), iov_len: payload.len() }
        }));
        let vectors = self.vectors.as_mut_ptr();
        for parcel in &mut self.parcels {
            parcel.control = parcel.plain;
            if parcel.datagrams > 1 {
                parcel.control.push_segment(parcel.size as u16);
            }
            let mut header = empty_header();
            if parcel.name.len() > 0 {
                header.msg_hdr.msg_name = parcel.name.as_mut_ptr().cast();
                header.msg_hdr.msg_namelen = parcel.name.len();
            }
            header.msg_hdr.msg_iov = vectors.wrapping_add(parcel.first);
            header.msg_hdr.msg_iovlen = parcel.trains as _;
            if parcel.control.len() > 0 {
                header.msg_hdr.msg_control = parcel.control.as_mut_ptr().cast();
                header.msg_hdr.msg_controllen = parcel.control.len() as _;
            }
            self.headers.push(header);
        }
    }
}
