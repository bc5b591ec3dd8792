//! The service manager's store of file descriptors: what is in it outlives this process.
//!
//! systemd keeps what a service sends with `FDSTORE=1` (`sd_notify(3)`) while the
//! service is restarted, and passes it to the next process as `LISTEN_FDS`
//! (`sd_listen_fds(3)`). It drops all of it when the service is stopped.

use std::io::{self, IoSlice};
use std::mem::MaybeUninit;
use std::net::SocketAddr;
use std::os::fd::{BorrowedFd, FromRawFd, OwnedFd};
use std::os::unix::net::UnixDatagram;
use std::sync::Arc;
use std::time::Duration;

use manifests::manifest::Protocol;
use rustix::net::{SendAncillaryBuffer, SendAncillaryMessage, SendFlags, sendmsg};

/// Time that a manager with a full queue is waited for.
const PATIENCE: Duration = Duration::from_millis(200);
/// Descriptors of one entry: both ends of a pair.
const MOST: usize = 2;

/// Meaning of an entry, which is its name in the store.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub enum Entry {
    /// A listening socket, or a bound one of UDP.
    Socket(Protocol, SocketAddr),
    /// Open connections, in a [`crate::Parcel`].
    Connections,
}

/// Open connections by the name they have since this version; another encoding gets another name.
const CONNECTIONS: &str = "connections-1";

impl Entry {
    /// The name. The manager allows no `:`.
    pub fn name(self) -> String {
        match self {
            Self::Socket(protocol, addr) => format!("{protocol}-{addr}").replace(':', "_"),
            Self::Connections => CONNECTIONS.to_owned(),
        }
    }

    /// The entry of a name, if it has a meaning.
    pub fn of(name: &str) -> Option<Self> {
        if name == CONNECTIONS {
            return Some(Self::Connections);
        }
        let (protocol, addr) = name.split_once('-')?;
        let addr = addr.replace('_', ":").parse().ok()?;
        [Protocol::Tcp, Protocol::Udp]
            .into_iter()
            .find(|known| known.to_string() == protocol)
            .map(|protocol| Self::Socket(protocol, addr))
    }
}

/// The store of the service manager that started this process.
#[derive(Debug, Clone)]
pub struct FdStore {
    manager: Arc<UnixDatagram>,
}

impl FdStore {
    /// None without a service manager. One that has no room closes what it is sent.
    pub fn of_manager() -> Option<Self> {
        let path = std::env::var_os("NOTIFY_SOCKET")?;
        let manager = UnixDatagram::unbound().ok()?;
        manager.connect(path).ok()?;
        manager.set_write_timeout(Some(PATIENCE)).ok()?;
        Some(Self {
            manager: Arc::new(manager),
        })
    }

    /// Adds descriptors to the entry of this name. Blocks while the manager is busy.
    pub fn keep(&self, name: &str, fds: &[BorrowedFd<'_>]) -> io::Result<()> {
        // Not watched by the manager: a peer that has gone is for the next process to see.
        self.send(&format!("FDSTORE=1\nFDPOLL=0\nFDNAME={name}"), fds)
    }

    /// Closes the entry of this name.
    pub fn remove(&self, name: &str) -> io::Result<()> {
        self.send(&format!("FDSTOREREMOVE=1\nFDNAME={name}"), &[])
    }

    fn send(&self, text: &str, fds: &[BorrowedFd<'_>]) -> io::Result<()> {
        let mut space = [MaybeUninit::uninit(); rustix::cmsg_space!(ScmRights(MOST))];
        let mut control = SendAncillaryBuffer::new(&mut space);
        if !fds.is_empty() && !control.push(SendAncillaryMessage::ScmRights(fds)) {
            return Err(io::ErrorKind::InvalidInput.into());
        }
        let text = [IoSlice::new(text.as_bytes())];
        sendmsg(&*self.manager, &text, &mut control, SendFlags::NOSIGNAL)?;
        Ok(())
    }
}

/// Descriptors that the service manager has passed to this process, with their names.
///
/// Called once, and before any other process is started: until then they are
/// inherited by each.
pub fn received() -> Vec<(String, OwnedFd)> {
    let Ok(passed) = sd_notify::listen_fds_with_names() else {
        return Vec::new();
    };
    #[expect(
        unsafe_code,
        reason = "descriptors that are passed by number have no owner yet"
    )]
    let owned = |(fd, name)| {
        // SAFETY: the manager has opened it for this process, which
        // `LISTEN_PID` names, and nothing else owns it: called once.
        (name, unsafe { OwnedFd::from_raw_fd(fd) })
    };
    passed.map(owned).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_name_says_what_the_entry_is() {
        let entries = [
            ("tcp-172.17.0.1_10000", "172.17.0.1:10000", Protocol::Tcp),
            ("udp-0.0.0.0_53", "0.0.0.0:53", Protocol::Udp),
            ("tcp-[fd00__1]_53", "[fd00::1]:53", Protocol::Tcp),
            ("udp-[fe80__1%2]_53", "[fe80::1%2]:53", Protocol::Udp),
        ];
        for (name, addr, protocol) in entries {
            let entry = Entry::Socket(protocol, addr.parse().expect("an address"));
            assert_eq!(entry.name(), name);
            assert_eq!(Entry::of(name), Some(entry));
        }
        let connections = Entry::Connections;
        assert_eq!(Entry::of(&connections.name()), Some(connections));
        for other in ["", "stored", "connections", "sctp-127.0.0.1_1", "tcp-1"] {
            assert_eq!(Entry::of(other), None, "{other}");
        }
    }

    #[test]
    fn names_are_such_as_systemd_takes() {
        let longest: SocketAddr = "[1111:2222:3333:4444:5555:6666:7777:8888%4294967295]:65535"
            .parse()
            .expect("an address");
        for entry in [Entry::Socket(Protocol::Tcp, longest), Entry::Connections] {
            let name = entry.name();
            assert!(name.len() <= 255, "{name}");
            let is_allowed = |c: char| c.is_ascii() && !c.is_ascii_control() && c != ':';
            assert!(name.chars().all(is_allowed), "{name}");
        }
    }
}
