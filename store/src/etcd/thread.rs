//! A thread for etcd's connections and watches: while nothing changes, what is said on them wakes no other.

use std::io;

use hyper::rt::Executor;
use tokio::runtime::{Builder, Handle};

/// Starts the thread, which lasts as long as the process: for `EtcdOptions::runs_on`.
pub fn etcd_thread() -> io::Result<Handle> {
    let runtime = Builder::new_current_thread().enable_all().build()?;
    let handle = runtime.handle().clone();
    std::thread::Builder::new()
        .name("etcd".into())
        .spawn(move || runtime.block_on(std::future::pending::<()>()))?;
    Ok(handle)
}

/// Runs what a connection spawns on that runtime.
pub(super) struct Spawner(pub(super) Handle);

impl<F> Executor<F> for Spawner
where
    F: Future<Output = ()> + Send + 'static,
{
    fn execute(&self, future: F) {
        self.0.spawn(future);
    }
}
