//! Looking for our filter on a clsact qdisc (rtnetlink(7), RTM_GETTFILTER); aya has no question for that.

use std::io;
use std::os::fd::AsRawFd as _;

use nix::net::if_::if_nametoindex;
use nix::sys::socket::{AddressFamily, MsgFlags, SockFlag, SockProtocol, SockType, recv, send, socket};

use super::tc::TcHook;

const RTM_NEWTFILTER: u16 = 44;
const RTM_GETTFILTER: u16 = 46;
const NLMSG_ERROR: u16 = 2;
const NLMSG_DONE: u16 = 3;
const NLM_F_REQUEST_DUMP: u16 = 0x301;
/// `TC_H_MAKE(TC_H_CLSACT, TC_H_MIN_INGRESS)` and `..._EGRESS`.
const CLSACT_INGRESS: u32 = 0xffff_fff2;
const CLSACT_EGRESS: u32 = 0xffff_fff3;
const HEADER: usize = 16;
/// `struct tcmsg`.
const TCMSG: usize = 20;

/// Whether a filter with this priority and handle is on an interface.
pub fn has_filter(interface: &str, hook: TcHook, priority: u16, handle: u32) -> io::Result<bool> {
    let index = if_nametoindex(interface)?;
    let flags = SockFlag::SOCK_CLOEXEC;
    let socket = socket(AddressFamily::Netlink, SockType::Raw, flags, SockProtocol::NetlinkRoute)?;
    send(socket.as_raw_fd(), &request(index, hook), MsgFlags::empty())?;
    let mut buffer = vec![0; 32 * 1024];
    let mut found = false;
    loop {
        let length = recv(socket.as_raw_fd(), &mut buffer, MsgFlags::empty())?;
        let mut rest = &buffer[..length];
        while rest.len() >= HEADER {
            let word = |at: usize| u32::from_ne_bytes([rest[at], rest[at + 1], rest[at + 2], rest[at + 3]]);
            let (size, kind) = (word(0) as usize, u16::from_ne_bytes([rest[4], rest[5]]));
            if kind == NLMSG_DONE || kind == NLMSG_ERROR || size < HEADER {
                return Ok(found);
            }
            if kind == RTM_NEWTFILTER && rest.len() >= HEADER + TCMSG {
                // handle at 8 and info at 16 of struct tcmsg; the priority is info's upper half
                found |= word(HEADER + 8) == handle && word(HEADER + 16) >> 16 == u32::from(priority);
            }
            rest = rest.get(size.next_multiple_of(4)..).unwrap_or(&[]);
        }
    }
}

fn request(index: u32, hook: TcHook) -> Vec<u8> {
    let mut bytes = Vec::with_capacity(HEADER + TCMSG);
    bytes.extend(((HEADER + TCMSG) as u32).to_ne_bytes());
    bytes.extend(RTM_GETTFILTER.to_ne_bytes());
    bytes.extend(NLM_F_REQUEST_DUMP.to_ne_bytes());
    bytes.extend([0; 8]);
    bytes.extend([0; 4]);
    bytes.extend(index.to_ne_bytes());
    bytes.extend(0u32.to_ne_bytes());
    let parent = match hook {
        TcHook::Ingress => CLSACT_INGRESS,
        TcHook::Egress => CLSACT_EGRESS,
    };
    bytes.extend(parent.to_ne_bytes());
    bytes.extend(0u32.to_ne_bytes());
    bytes
}
