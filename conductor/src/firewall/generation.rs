//! Whether any rule of the machine has changed: nf_tables counts its changes, and tells the count (`NFT_MSG_GETGEN` of
//! nfnetlink).
//!
//! One exchange with the kernel instead of a program that reads all rules. Rules of `iptables-legacy` are not counted:
//! where a program is of that kind, the rules themselves are read each time.

use std::io;
use std::os::fd::OwnedFd;
use std::time::Duration;

use rustix::io::retry_on_intr;
use rustix::net::{
    self, AddressFamily, RecvFlags, SendFlags, SocketFlags, SocketType, netlink, sockopt,
};

/// The kernel answers at once; whatever happens, the look ends.
const PATIENCE: Duration = Duration::from_secs(2);
/// Length of `nlmsghdr`.
const HEADER: usize = 16;
/// Length of `nlmsghdr` and `nfgenmsg`.
const HEADERS: usize = HEADER + 4;
/// `NFNL_SUBSYS_NFTABLES << 8 | NFT_MSG_GETGEN`
const GET: u16 = 0x0a10;
/// `NFNL_SUBSYS_NFTABLES << 8 | NFT_MSG_NEWGEN`
const NEW: u16 = 0x0a0f;
/// `NLM_F_REQUEST`
const REQUEST: u16 = 1;
/// `NFTA_GEN_ID`
const ID: u16 = 1;

/// The count of the network namespace in which it was opened.
#[derive(Debug)]
pub(super) struct Generation {
    socket: OwnedFd,
    sequence: u32,
}

impl Generation {
    pub(super) fn open() -> io::Result<Self> {
        let socket = net::socket_with(
            AddressFamily::NETLINK,
            SocketType::RAW,
            SocketFlags::CLOEXEC,
            Some(netlink::NETFILTER),
        )?;
        sockopt::set_socket_timeout(&socket, sockopt::Timeout::Recv, Some(PATIENCE))?;
        net::connect(&socket, &netlink::SocketAddrNetlink::new(0, 0))?;
        Ok(Self {
            socket,
            sequence: 0,
        })
    }

    /// How many changes there were. The kernel answers within the calls that ask it: nothing is waited for.
    pub(super) fn read(&mut self) -> io::Result<u32> {
        self.sequence = self.sequence.wrapping_add(1);
        let request = request(self.sequence);
        retry_on_intr(|| net::send(&self.socket, &request, SendFlags::empty()))?;
        let mut answer = [0; 256];
        loop {
            let (length, _) =
                retry_on_intr(|| net::recv(&self.socket, &mut answer, RecvFlags::empty()))?;
            // One that came too late is of a request before this.
            let bytes = answer.get(..length).unwrap_or_default();
            if u32_at(bytes, 8) == Some(self.sequence) {
                return read(bytes).ok_or_else(|| io::ErrorKind::Unsupported.into());
            }
        }
    }
}

fn request(sequence: u32) -> [u8; HEADERS] {
    let mut bytes = [0; HEADERS];
    bytes[..4].copy_from_slice(&(HEADERS as u32).to_ne_bytes());
    bytes[4..6].copy_from_slice(&GET.to_ne_bytes());
    bytes[6..8].copy_from_slice(&REQUEST.to_ne_bytes());
    bytes[8..12].copy_from_slice(&sequence.to_ne_bytes());
    bytes
}

/// The count in an answer; none in a refusal, or where the bytes do not hold together.
fn read(bytes: &[u8]) -> Option<u32> {
    let message = bytes.get(..u32_at(bytes, 0)? as usize)?;
    if u16_at(message, 4)? != NEW {
        return None;
    }
    let mut attributes = message.get(HEADERS..)?;
    loop {
        let length = usize::from(u16_at(attributes, 0)?);
        let attribute = attributes.get(..length)?;
        if u16_at(attribute, 2)? == ID {
            return Some(u32::from_be_bytes(attribute.get(4..8)?.try_into().ok()?));
        }
        attributes = attributes.get(length.next_multiple_of(4)..)?;
    }
}

fn u16_at(bytes: &[u8], at: usize) -> Option<u16> {
    Some(u16::from_ne_bytes(bytes.get(at..at + 2)?.try_into().ok()?))
}

fn u32_at(bytes: &[u8], at: usize) -> Option<u32> {
    Some(u32::from_ne_bytes(bytes.get(at..at + 4)?.try_into().ok()?))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn answer(kind: u16, attributes: &[(u16, &[u8])]) -> Vec<u8> {
        let mut bytes = vec![0; HEADERS];
        bytes[4..6].copy_from_slice(&kind.to_ne_bytes());
        for (name, value) in attributes {
            bytes.extend((4 + value.len() as u16).to_ne_bytes());
            bytes.extend(name.to_ne_bytes());
            bytes.extend(*value);
            bytes.resize(bytes.len().next_multiple_of(4), 0);
        }
        let length = bytes.len() as u32;
        bytes[..4].copy_from_slice(&length.to_ne_bytes());
        bytes
    }

    #[test]
    fn the_count_is_found_and_nothing_is_read_beyond_the_bytes() {
        let name: (u16, &[u8]) = (3, b"nft\0x");
        let whole = answer(NEW, &[name, (ID, &[0, 0, 1, 2])]);
        assert_eq!(read(&whole), Some(258));
        for cut in 0..whole.len() {
            assert_eq!(read(&whole[..cut]), None, "{cut} bytes");
        }
        assert_eq!(read(&answer(2, &[(ID, &[0, 0, 1, 2])])), None, "a refusal");
        assert_eq!(read(&answer(NEW, &[name])), None);
        assert_eq!(read(&answer(NEW, &[(ID, &[1])])), None);
        let mut endless = answer(NEW, &[name]);
        endless[HEADERS..HEADERS + 2].copy_from_slice(&0_u16.to_ne_bytes());
        assert_eq!(read(&endless), None);
    }
}
