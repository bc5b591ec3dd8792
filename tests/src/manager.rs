//! What systemd is to an agent: a socket for its notifications, and the store of
//! descriptors that outlives a restart.

use std::io::{IoSliceMut, Result};
use std::mem::{ManuallyDrop, MaybeUninit};
use std::os::fd::{FromRawFd, OwnedFd, RawFd};
use std::os::unix::net::UnixDatagram;
use std::os::unix::process::CommandExt;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::sync::{Arc, Condvar, Mutex, MutexGuard, PoisonError};
use std::thread::JoinHandle;

use rustix::net::{RecvAncillaryBuffer, RecvAncillaryMessage, RecvFlags, recvmsg};

/// As the unit says.
const STORE_MAX: usize = 512;
/// The first descriptor that is passed (`SD_LISTEN_FDS_START`).
const FIRST: RawFd = 3;
/// Above all that are passed.
const HIGH: RawFd = 2_000;
/// Runs the command that follows, with its own process id as the one that the
/// descriptors are for.
pub(crate) const AS_MAIN_PROCESS: &str = r#"export LISTEN_PID=$$; exec "$@""#;
/// Messages of this process to itself.
const SYNC: &str = "HARNESS_SYNC";
const END: &str = "HARNESS_END";

/// The manager of one agent, and of those that follow it.
#[derive(Debug)]
pub struct Manager {
    path: PathBuf,
    shared: Arc<Shared>,
    reader: Option<JoinHandle<()>>,
}

#[derive(Debug, Default)]
struct Shared {
    state: Mutex<State>,
    synced: Condvar,
}

#[derive(Debug, Default)]
struct State {
    stored: Vec<(String, OwnedFd)>,
    syncs: usize,
}

impl Manager {
    /// With an empty store; the agent's notifications come to `path`.
    pub fn new(path: &Path) -> Result<Self> {
        std::fs::remove_file(path).ok();
        let socket = UnixDatagram::bind(path)?;
        let shared = Arc::new(Shared::default());
        let state = Arc::clone(&shared);
        let reader = std::thread::spawn(move || while state.take(&socket) {});
        Ok(Self {
            path: path.to_owned(),
            shared,
            reader: Some(reader),
        })
    }

    /// The names of what is stored, in order.
    pub fn stored(&self) -> Result<Vec<String>> {
        let state = self.settled()?;
        let names = state.stored.iter().map(|(name, _)| name.clone());
        Ok(names.collect())
    }

    /// Makes a command's process one of this manager's, which gets what is
    /// stored. The command runs [`AS_MAIN_PROCESS`].
    pub(crate) fn start(&self, command: &mut Command) -> Result<()> {
        let state = self.settled()?;
        let names: Vec<&str> = state.stored.iter().map(|(name, _)| name.as_str()).collect();
        command
            .env("NOTIFY_SOCKET", &self.path)
            .env("LISTEN_FDS", names.len().to_string())
            .env("LISTEN_FDNAMES", names.join(":"));
        let copies = state
            .stored
            .iter()
            .map(|(_, fd)| Ok(rustix::io::fcntl_dupfd_cloexec(fd, HIGH)?));
        let copies: Vec<OwnedFd> = copies.collect::<Result<_>>()?;
        let pass = move || {
            for (number, copy) in (FIRST..).zip(&copies) {
                #[expect(unsafe_code, reason = "its number is what it is passed by")]
                // SAFETY: closed by nobody but `dup2`, if it is open at all.
                let mut at = ManuallyDrop::new(unsafe { OwnedFd::from_raw_fd(number) });
                rustix::io::dup2(copy, &mut at)?;
            }
            Ok(())
        };
        #[expect(unsafe_code, reason = "only the new process can get them by number")]
        // SAFETY: between fork and exec it makes system calls, and allocates nothing.
        unsafe {
            command.pre_exec(pass);
        }
        Ok(())
    }

    /// The state after all that was sent so far.
    fn settled(&self) -> Result<MutexGuard<'_, State>> {
        let before = self.shared.lock().syncs;
        UnixDatagram::unbound()?.send_to(SYNC.as_bytes(), &self.path)?;
        let state = self.shared.lock();
        let settled = self
            .shared
            .synced
            .wait_while(state, |state| state.syncs == before);
        Ok(settled.unwrap_or_else(PoisonError::into_inner))
    }
}

impl Drop for Manager {
    fn drop(&mut self) {
        let said =
            UnixDatagram::unbound().and_then(|socket| socket.send_to(END.as_bytes(), &self.path));
        if let (Ok(_), Some(reader)) = (said, self.reader.take()) {
            reader.join().ok();
        }
    }
}

impl Shared {
    fn lock(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Takes one message; false after the last.
    fn take(&self, socket: &UnixDatagram) -> bool {
        let mut text = [0; 4096];
        let mut space = [MaybeUninit::uninit(); rustix::cmsg_space!(ScmRights(253))];
        let mut control = RecvAncillaryBuffer::new(&mut space);
        let iov = &mut [IoSliceMut::new(&mut text)];
        let Ok(received) = recvmsg(socket, iov, &mut control, RecvFlags::CMSG_CLOEXEC) else {
            return false;
        };
        let passed = control.drain().filter_map(|message| match message {
            RecvAncillaryMessage::ScmRights(fds) => Some(fds),
            _ => None,
        });
        let passed: Vec<OwnedFd> = passed.flatten().collect();
        let text = String::from_utf8_lossy(&text[..received.bytes]).into_owned();
        if text == END {
            return false;
        }
        if text == SYNC {
            self.lock().syncs += 1;
            self.synced.notify_all();
            return true;
        }
        self.lock().notified(&text, passed);
        true
    }
}

impl State {
    fn notified(&mut self, text: &str, passed: Vec<OwnedFd>) {
        let says = |wanted: &str| text.lines().any(|line| line == wanted);
        let name = text.lines().find_map(|line| line.strip_prefix("FDNAME="));
        let name = name.unwrap_or("stored");
        if says("FDSTOREREMOVE=1") {
            self.stored.retain(|(stored, _)| stored != name);
        }
        if says("FDSTORE=1") {
            let named = passed.into_iter().map(|fd| (name.to_owned(), fd));
            self.stored.extend(named);
            // What finds no room is closed.
            self.stored.truncate(STORE_MAX);
        }
    }
}

#[cfg(test)]
mod tests {
    use std::os::fd::AsFd;

    use rustix::net::{SendAncillaryBuffer, SendAncillaryMessage, SendFlags, sendmsg};

    use super::*;

    fn say(manager: &Manager, text: &str, fds: &[&OwnedFd]) {
        let socket = UnixDatagram::unbound().expect("a socket");
        socket.connect(&manager.path).expect("connected");
        let fds: Vec<_> = fds.iter().map(|fd| fd.as_fd()).collect();
        let mut space = [MaybeUninit::uninit(); rustix::cmsg_space!(ScmRights(8))];
        let mut control = SendAncillaryBuffer::new(&mut space);
        if !fds.is_empty() {
            assert!(control.push(SendAncillaryMessage::ScmRights(&fds)));
        }
        let text = [std::io::IoSlice::new(text.as_bytes())];
        sendmsg(&socket, &text, &mut control, SendFlags::empty()).expect("sent");
    }

    #[test]
    fn the_next_process_gets_what_was_stored_and_not_removed() {
        let folder = tempfile::tempdir().expect("a folder");
        let manager = Manager::new(&folder.path().join("notify")).expect("a manager");
        let file = |text: &str| {
            let path = folder.path().join(text);
            std::fs::write(&path, text).expect("written");
            OwnedFd::from(std::fs::File::open(path).expect("a file"))
        };
        say(&manager, "READY=1", &[]);
        say(&manager, "FDSTORE=1\nFDNAME=a", &[&file("one")]);
        say(&manager, "FDSTORE=1\nFDNAME=b", &[&file("two")]);
        say(&manager, "FDSTORE=1\nFDNAME=a", &[&file("three")]);
        assert_eq!(manager.stored().expect("names"), ["a", "b", "a"]);
        say(&manager, "FDSTOREREMOVE=1\nFDNAME=b", &[]);

        let mut command = Command::new("sh");
        let show =
            "[ $LISTEN_PID = $$ ] && echo $LISTEN_FDS $LISTEN_FDNAMES && cat <&3 <&4 && cat <&3";
        command.args(["-c", AS_MAIN_PROCESS, "main", "sh", "-c", show]);
        manager.start(&mut command).expect("passed");
        let said = command.output().expect("run");
        assert_eq!(String::from_utf8_lossy(&said.stdout), "2 a:a\nthreeone");
    }
}
