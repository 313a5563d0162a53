//! What drivers say of their XDP: the kernel's "netdev" generic netlink family (Documentation/netlink/specs/netdev.yaml), Linux 6.3
//! and newer.

use std::collections::BTreeMap;
use std::io;
use std::os::fd::{AsRawFd, OwnedFd};

use nix::sys::socket::{
    AddressFamily, MsgFlags, SockFlag, SockProtocol, SockType, recv, send, setsockopt, socket,
    sockopt,
};
use nix::sys::time::TimeVal;

/// `GENL_ID_CTRL`: the family that knows the others.
const CONTROL: u16 = 0x10;
const CTRL_CMD_GETFAMILY: u8 = 3;
const CTRL_ATTR_FAMILY_ID: u16 = 1;
const CTRL_ATTR_FAMILY_NAME: u16 = 2;
const NETDEV_CMD_DEV_GET: u8 = 1;
const NETDEV_A_DEV_IFINDEX: u16 = 1;
const NETDEV_A_DEV_XDP_FEATURES: u16 = 3;
/// `NETDEV_XDP_ACT_BASIC` and `_REDIRECT`.
const NATIVE: u64 = 1 | 2;
/// `NETDEV_XDP_ACT_XSK_ZEROCOPY`.
const ZERO_COPY: u64 = 8;

const NLM_F_REQUEST: u16 = 1;
const NLM_F_DUMP: u16 = 0x300;
const NLMSG_ERROR: u16 = 2;
const NLMSG_DONE: u16 = 3;
/// Bytes of `struct nlmsghdr`, and of `struct genlmsghdr` behind it.
const HEADER: usize = 16;
const GENERIC: usize = 4;

/// What an interface's driver can do.
#[derive(Clone, Copy, Debug, Default, Eq, PartialEq)]
pub(super) struct Features {
    /// It runs XDP programs itself, redirects included.
    pub native: bool,
    /// It has zero-copy AF_XDP.
    pub zero_copy: bool,
}

/// The features of every interface of the calling thread's network namespace, by index.
///
/// # Errors
///
/// `ENOENT` where the kernel is older than the family.
pub(super) fn all() -> io::Result<BTreeMap<u32, Features>> {
    let flags = SockFlag::SOCK_CLOEXEC;
    let socket = socket(
        AddressFamily::Netlink,
        SockType::Raw,
        flags,
        SockProtocol::NetlinkGeneric,
    )?;
    setsockopt(&socket, sockopt::ReceiveTimeout, &TimeVal::new(1, 0))?;
    let mut family = None;
    let name = attribute(CTRL_ATTR_FAMILY_NAME, b"netdev\0");
    ask(
        &socket,
        CONTROL,
        0,
        CTRL_CMD_GETFAMILY,
        &name,
        |attributes| {
            for (kind, value) in Attributes(attributes) {
                if kind == CTRL_ATTR_FAMILY_ID {
                    family = value.first_chunk().map(|bytes| u16::from_ne_bytes(*bytes));
                }
            }
        },
    )?;
    let family = family.ok_or_else(|| io::Error::from(io::ErrorKind::NotFound))?;
    let mut found = BTreeMap::new();
    ask(
        &socket,
        family,
        NLM_F_DUMP,
        NETDEV_CMD_DEV_GET,
        &[],
        |attributes| {
            let (mut index, mut bits) = (None, 0);
            for (kind, value) in Attributes(attributes) {
                match kind {
                    NETDEV_A_DEV_IFINDEX => {
                        index = value.first_chunk().map(|bytes| u32::from_ne_bytes(*bytes))
                    }
                    NETDEV_A_DEV_XDP_FEATURES => {
                        bits = value
                            .first_chunk()
                            .map_or(0, |bytes| u64::from_ne_bytes(*bytes))
                    }
                    _ => {}
                }
            }
            if let Some(index) = index {
                let features = Features {
                    native: bits & NATIVE == NATIVE,
                    zero_copy: bits & ZERO_COPY != 0,
                };
                found.insert(index, features);
            }
        },
    )?;
    Ok(found)
}

/// One attribute, padded to 4.
fn attribute(kind: u16, value: &[u8]) -> Vec<u8> {
    // Names are short.
    let length = (value.len() + 4) as u16;
    let mut bytes = [length.to_ne_bytes(), kind.to_ne_bytes()].concat();
    bytes.extend(value);
    bytes.resize(bytes.len().next_multiple_of(4), 0);
    bytes
}

/// Sends one request and hands each answer's attributes to `each`, until the kernel says it is done (a dump) or has answered.
fn ask(
    socket: &OwnedFd,
    family: u16,
    flags: u16,
    command: u8,
    body: &[u8],
    mut each: impl FnMut(&[u8]),
) -> io::Result<()> {
    let length = (HEADER + GENERIC + body.len()) as u32;
    let mut request = length.to_ne_bytes().to_vec();
    request.extend(family.to_ne_bytes());
    request.extend((NLM_F_REQUEST | flags).to_ne_bytes());
    request.extend([0; 8]);
    request.extend([command, 1, 0, 0]);
    request.extend(body);
    send(socket.as_raw_fd(), &request, MsgFlags::empty())?;
    let mut buffer = vec![0; 64 * 1024];
    loop {
        let got = recv(socket.as_raw_fd(), &mut buffer, MsgFlags::empty())?;
        let mut rest = buffer.get(..got).unwrap_or_default();
        if rest.is_empty() {
            return Err(io::Error::from(io::ErrorKind::UnexpectedEof));
        }
        while let Some((kind, message)) = take_message(&mut rest) {
            match kind {
                NLMSG_DONE => return Ok(()),
                NLMSG_ERROR => {
                    let code = message
                        .first_chunk()
                        .map_or(0, |bytes| i32::from_ne_bytes(*bytes));
                    return if code == 0 {
                        Ok(())
                    } else {
                        Err(io::Error::from_raw_os_error(-code))
                    };
                }
                _ => each(message.get(GENERIC..).unwrap_or_default()),
            }
        }
        if flags & NLM_F_DUMP == 0 {
            return Ok(());
        }
    }
}

/// The next message's type and what follows its header.
fn take_message<'a>(rest: &mut &'a [u8]) -> Option<(u16, &'a [u8])> {
    let length = u32::from_ne_bytes(*rest.first_chunk()?) as usize;
    let kind = u16::from_ne_bytes(*rest.get(4..)?.first_chunk()?);
    let message = rest.get(HEADER..length)?;
    *rest = rest.get(length.next_multiple_of(4)..).unwrap_or_default();
    Some((kind, message))
}

/// The attributes in a message: kind and value.
struct Attributes<'a>(&'a [u8]);

impl<'a> Iterator for Attributes<'a> {
    type Item = (u16, &'a [u8]);

    fn next(&mut self) -> Option<Self::Item> {
        let length = usize::from(u16::from_ne_bytes(*self.0.first_chunk()?));
        let kind = u16::from_ne_bytes(*self.0.get(2..)?.first_chunk()?);
        let value = self.0.get(4..length)?;
        self.0 = self.0.get(length.next_multiple_of(4)..).unwrap_or_default();
        // The two highest bits say nested and byte order.
        Some((kind & 0x3fff, value))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_kernel_tells_or_is_too_old_to() {
        match all() {
            Ok(found) => {
                let lo = nix::net::if_::if_nametoindex("lo").unwrap();
                assert_eq!(
                    found.get(&lo),
                    Some(&Features::default()),
                    "the loopback interface has no XDP of its own: {found:?}"
                );
            }
            Err(error) => eprintln!("skipped: no netdev netlink family ({error})"),
        }
    }

    #[test]
    fn cut_off_answers_end_the_list() {
        let mut bytes = attribute(3, &8_u64.to_ne_bytes());
        bytes.extend(attribute(1, &7_u32.to_ne_bytes()));
        let kinds = |bytes: &[u8]| {
            Attributes(bytes)
                .map(|(kind, value)| (kind, value.len()))
                .collect::<Vec<_>>()
        };
        assert_eq!(kinds(&bytes), [(3, 8), (1, 4)]);
        for cut in 0..bytes.len() {
            assert!(kinds(&bytes[..cut]).len() < 2);
        }
        assert!(
            kinds(&[3, 0, 1, 0, 9, 9]).is_empty(),
            "shorter than its own header"
        );
        assert!(take_message(&mut &[200, 0, 0, 0, 1, 0, 0, 0][..]).is_none());
    }
}
