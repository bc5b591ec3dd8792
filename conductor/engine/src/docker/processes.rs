//! Processes of containers, as the kernel knows them.

use std::io;
use std::os::fd::OwnedFd;

use rustix::io::Errno;
use rustix::process::{Pid, PidfdFlags, pidfd_open};
use tokio::io::Interest;
use tokio::io::unix::AsyncFd;

/// Waits until a process has ended: its `pidfd_open(2)` is readable then. Kernels before 5.3 have none.
pub(super) async fn ended(pid: u32) -> io::Result<()> {
    let known = i32::try_from(pid).ok().and_then(Pid::from_raw);
    let pid = known.ok_or(io::ErrorKind::InvalidInput)?;
    match pidfd_open(pid, PidfdFlags::empty()) {
        Ok(process) => follow(process)?.readable().await.map(drop),
        Err(Errno::SRCH) => Ok(()),
        Err(error) => Err(error.into()),
    }
}

#[expect(
    deprecated,
    reason = "unsound where the descriptor can be another one later; this one is owned"
)]
fn follow(process: OwnedFd) -> io::Result<AsyncFd<OwnedFd>> {
    AsyncFd::with_interest(process, Interest::READABLE)
}
