//! Keeps the lease alive on a thread of its own, whatever the rest of the process does.
//!
//! The one thing that stops it is the gate: when the main loop has not finished
//! a pass for 30 s, the agent is stuck, and must lose its slots. Times are of
//! CLOCK_BOOTTIME, which goes on while the machine sleeps, as the lease does.

use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use model::Millis;
use tokio::sync::watch;
use tracing::{debug, warn};

use super::{Clock, KvFactory, Lease};
use crate::kv::{Kv, KvError};
use crate::pace;

/// Without a finished pass for so long the lease is not renewed.
const GATE: Duration = Duration::from_secs(30);
/// Pause after an attempt that failed.
const RETRY: Duration = Duration::from_millis(100);

/// Milliseconds since the machine's boot, sleep included.
pub fn boottime() -> Millis {
    let now = rustix::time::clock_gettime(rustix::time::ClockId::Boottime);
    Millis((now.tv_sec as u64) * 1_000 + (now.tv_nsec as u64) / 1_000_000)
}

/// What the thread has seen.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct LeaseReport {
    /// etcd answered then that the lease lives on.
    pub renewed: Millis,
    /// This lease is gone.
    pub lost: Option<i64>,
}

/// The pass stamp that the gate looks at.
#[derive(Debug, Clone, Default)]
pub struct Gate(Arc<AtomicU64>);

impl Gate {
    /// The main loop finished a pass at this time.
    pub fn stamp(&self, now: Millis) {
        self.0.store(now.0, Ordering::Relaxed);
    }

    /// The main loop has finished a pass lately.
    pub fn is_open(&self, now: Millis) -> bool {
        now - Millis(self.0.load(Ordering::Relaxed)) <= GATE
    }
}

/// Where the lease is kept.
pub(super) enum Keeper {
    /// On a thread of its own.
    Thread(KvFactory),
    /// By a task of this runtime, in a simulation.
    Task(Arc<dyn Kv>),
}

/// The handle of who keeps it; that ends when this is dropped.
#[derive(Debug)]
pub(super) struct KeepAlive {
    /// Which lease to keep; none is none.
    pub(super) lease: watch::Sender<Option<Lease>>,
    pub(super) report: watch::Receiver<LeaseReport>,
    pub(super) revision: watch::Receiver<i64>,
}

impl KeepAlive {
    pub(super) fn start(keeper: Keeper, clock: Clock, gate: Gate) -> std::io::Result<Self> {
        let (lease_sender, lease_receiver) = watch::channel(None);
        let (report_sender, report) = watch::channel(LeaseReport {
            renewed: clock.now(),
            lost: None,
        });
        let (revision_sender, revision) = watch::channel(0);
        let keeping = Keeping {
            clock,
            gate,
            lease: lease_receiver,
            report: report_sender,
            revision: revision_sender,
        };
        match keeper {
            Keeper::Task(kv) => {
                tokio::spawn(keep(kv, keeping));
            }
            Keeper::Thread(factory) => {
                let runtime = tokio::runtime::Builder::new_current_thread()
                    .enable_all()
                    .build()?;
                std::thread::Builder::new()
                    .name("lease".into())
                    .spawn(move || {
                        // In a task, for to wake the future of `block_on` takes a system call each time.
                        let kept = runtime.spawn(async move {
                            // Made here, so that its connections live on this thread's runtime.
                            let kv = factory();
                            keep(kv, keeping).await;
                        });
                        // A panic has been told already, and ends the thread.
                        runtime.block_on(kept).ok();
                    })?;
            }
        }
        Ok(Self {
            lease: lease_sender,
            report,
            revision,
        })
    }
}

/// What the one who keeps a lease works with.
struct Keeping {
    clock: Clock,
    gate: Gate,
    lease: watch::Receiver<Option<Lease>>,
    report: watch::Sender<LeaseReport>,
    revision: watch::Sender<i64>,
}

async fn keep(kv: Arc<dyn Kv>, mut keeping: Keeping) {
    let mut shut = false;
    loop {
        let current = *keeping.lease.borrow_and_update();
        let Some(Lease { id, ttl }) = current else {
            if keeping.lease.changed().await.is_err() {
                return;
            }
            continue;
        };
        let open = keeping.gate.is_open(keeping.clock.now());
        if open == shut {
            shut = !open;
            if shut {
                warn!("the main loop is stuck: the lease is not renewed");
            }
        }
        let wait = if open {
            keeping.renew(&*kv, id, ttl).await
        } else {
            RETRY
        };
        tokio::select! {
            changed = keeping.lease.changed() => if changed.is_err() { return },
            () = tokio::time::sleep(wait) => {}
        }
    }
}

impl Keeping {
    /// One attempt; how long to wait until the next.
    async fn renew(&self, kv: &dyn Kv, id: i64, ttl: Duration) -> Duration {
        let asked = self.clock.now();
        let each = pace::every(ttl);
        let answer = tokio::time::timeout(pace::deadline(ttl), kv.lease_keep_alive(id)).await;
        match answer {
            Ok(Ok((_, seen))) => {
                // It goes down when a restored etcd was accepted; a member that is behind is the reader's to ignore.
                self.revision
                    .send_if_modified(|now| std::mem::replace(now, seen) != seen);
                // It lives from when etcd said so, which is not before it was asked.
                // Nobody acts on that: it wakes none.
                self.report.send_if_modified(|report| {
                    report.renewed = asked;
                    false
                });
                each
            }
            Ok(Err(KvError::LeaseNotFound)) => {
                self.report.send_modify(|r| r.lost = Some(id));
                // Nothing to keep until another lease is named.
                each
            }
            Ok(Err(error)) => {
                debug!(%error, "the lease is not renewed");
                RETRY
            }
            Err(_) => {
                debug!("the lease is not renewed in time");
                RETRY
            }
        }
    }
}
