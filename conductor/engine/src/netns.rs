//! Work done inside the network namespace of another process.
//!
//! On a thread of its own, that ends with the work: what has entered a
//! namespace never comes back among the others.

use std::fs::File;
use std::io;
use std::os::fd::AsFd as _;

use rustix::thread::{LinkNameSpaceType, move_into_link_name_space};
use tokio::sync::oneshot;

/// Why nothing could be done there.
#[derive(Debug, thiserror::Error)]
pub enum EnterError {
    /// The process has ended, or this one may not enter.
    #[error("can't enter the network namespace of process {pid}")]
    Enter {
        /// The process.
        pid: u32,
        /// Why.
        #[source]
        source: io::Error,
    },
    /// No thread to work on.
    #[error("can't start a thread")]
    Thread(#[source] io::Error),
}

/// Does this work inside the network namespace of the process, on a thread of this name.
pub async fn inside<T: Send + 'static>(
    pid: u32,
    thread: &str,
    work: impl FnOnce() -> T + Send + 'static,
) -> Result<T, EnterError> {
    let (done, result) = oneshot::channel();
    std::thread::Builder::new()
        .name(thread.to_owned())
        .spawn(move || {
            let entered = enter(pid).map_err(|source| EnterError::Enter { pid, source });
            // Who asked may have gone.
            let _ = done.send(entered.map(|()| work()));
        })
        .map_err(EnterError::Thread)?;
    result
        .await
        .unwrap_or_else(|_| Err(EnterError::Thread(io::Error::other("it ended early"))))
}

fn enter(pid: u32) -> io::Result<()> {
    let namespace = File::open(format!("/proc/{pid}/ns/net"))?;
    move_into_link_name_space(namespace.as_fd(), Some(LinkNameSpaceType::Network))?;
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn a_process_that_is_gone_can_t_be_entered() {
        // Above the largest pid there can be.
        let gone = inside(5_000_000, "test", || ()).await;
        let Err(EnterError::Enter { source, .. }) = gone else {
            panic!("{gone:?}");
        };
        assert_eq!(source.kind(), io::ErrorKind::NotFound);
    }
}
