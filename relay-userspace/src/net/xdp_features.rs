//! Which interfaces take redirected XDP frames (netdev generic netlink family, Linux 6.3 and later).

use std::io;
use std::os::fd::AsRawFd as _;

use nix::sys::socket::{AddressFamily, MsgFlags, SockFlag, SockProtocol, SockType, recv, send, socket};

const GENL_ID_CTRL: u16 = 16;
const CTRL_CMD_GETFAMILY: u8 = 3;
const CTRL_ATTR_FAMILY_ID: u16 = 1;
const CTRL_ATTR_FAMILY_NAME: u16 = 2;
const NETDEV_CMD_DEV_GET: u8 = 1;
const NETDEV_A_DEV_IFINDEX: u16 = 1;
const NETDEV_A_DEV_XDP_FEATURES: u16 = 3;
/// `NETDEV_XDP_ACT_NDO_XMIT`: frames may be redirected to this device.
const NDO_XMIT: u64 = 4;
const NLMSG_ERROR: u16 = 2;
const NLM_F_REQUEST: u16 = 1;
/// `struct nlmsghdr` and `struct genlmsghdr`.
const HEADERS: usize = 20;

/// Whether frames redirected to an interface arrive; `None` on kernels that do not say.
pub fn takes_redirects(interface: u32) -> Option<bool> {
    let family = family("netdev").ok()?;
    let answer =
        ask(family, NETDEV_CMD_DEV_GET, &attribute(NETDEV_A_DEV_IFINDEX, &interface.to_ne_bytes())).ok()?;
    let features = find(&answer, NETDEV_A_DEV_XDP_FEATURES)?;
    let features = u64::from_ne_bytes(features.get(..8)?.try_into().ok()?);
    Some(features & NDO_XMIT != 0)
}

/// The number of a generic netlink family.
fn family(name: &str) -> io::Result<u16> {
    let mut text = name.as_bytes().to_vec();
    text.push(0);
    let answer = ask(GENL_ID_CTRL, CTRL_CMD_GETFAMILY, &attribute(CTRL_ATTR_FAMILY_NAME, &text))?;
    let id = find(&answer, CTRL_ATTR_FAMILY_ID).and_then(|bytes| bytes.get(..2)?.try_into().ok());
    id.map(u16::from_ne_bytes).ok_or_else(|| io::Error::from(io::ErrorKind::NotFound))
}

/// Sends one request; returns the attributes of the answer.
fn ask(family: u16, command: u8, attributes: &[u8]) -> io::Result<Vec<u8>> {
    let flags = SockFlag::SOCK_CLOEXEC;
    let socket = socket(AddressFamily::Netlink, SockType::Raw, flags, SockProtocol::NetlinkGeneric)?;
    let mut message = Vec::with_capacity(HEADERS + attributes.len());
    message.extend((HEADERS as u32 + attributes.len() as u32).to_ne_bytes());
    message.extend(family.to_ne_bytes());
    message.extend(NLM_F_REQUEST.to_ne_bytes());
    message.extend([0; 8]);
    message.extend([command, 1, 0, 0]);
    message.extend(attributes);
    send(socket.as_raw_fd(), &message, MsgFlags::empty())?;
    let mut buffer = vec![0; 16 * 1024];
    let length = recv(socket.as_raw_fd(), &mut buffer, MsgFlags::empty())?;
    buffer.truncate(length);
    if length < HEADERS || u16::from_ne_bytes([buffer[4], buffer[5]]) == NLMSG_ERROR {
        return Err(io::Error::from(io::ErrorKind::Unsupported));
    }
    Ok(buffer.split_off(HEADERS))
}

/// One netlink attribute, padded.
fn attribute(kind: u16, value: &[u8]) -> Vec<u8> {
    let mut bytes = Vec::new();
    bytes.extend((4 + value.len() as u16).to_ne_bytes());
    bytes.extend(kind.to_ne_bytes());
    bytes.extend(value);
    bytes.resize(bytes.len().next_multiple_of(4), 0);
    bytes
}

/// The value of an attribute.
fn find(mut attributes: &[u8], kind: u16) -> Option<&[u8]> {
    while attributes.len() >= 4 {
        let length = usize::from(u16::from_ne_bytes([attributes[0], attributes[1]]));
        if u16::from_ne_bytes([attributes[2], attributes[3]]) & 0x3fff == kind {
            return attributes.get(4..length);
        }
        attributes = attributes.get(length.max(4).next_multiple_of(4)..)?;
    }
    None
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn attributes_are_found_among_others() {
        let mut bytes = attribute(7, b"abc");
        bytes.extend(attribute(3, &4u64.to_ne_bytes()));
        assert_eq!(find(&bytes, 3), Some(&4u64.to_ne_bytes()[..]));
        assert_eq!(find(&bytes, 7), Some(&b"abc"[..]));
        assert_eq!(find(&bytes, 9), None);
        assert_eq!(find(&[0, 0, 9, 0], 3), None);
    }
}
