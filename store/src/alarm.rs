//! Follows etcd's alarms.
//!
//! While one stands, writes are refused unevenly. With NOSPACE a put and a new
//! lease are, so a host's record that has ended can't be put again; keep-alives,
//! deletions and whatever is in a nested transaction pass, and so do claims. The
//! member that is asked answers from what it has, so looking costs no write.

use std::sync::Arc;
use std::time::Duration;

use tokio_util::sync::CancellationToken;

use crate::kv::{Alarm, Kv};

/// How often is looked. A record lives longer than this, so none ends in an alarm that nobody has seen.
pub const EVERY: Duration = Duration::from_secs(4);

/// Says which alarm stands, whenever that changes, until `stop`. While etcd does not answer it is the last known one.
pub async fn follow(
    kv: Arc<dyn Kv>,
    every: Duration,
    says: impl Fn(Option<Alarm>),
    stop: CancellationToken,
) {
    let mut known = None;
    loop {
        let answer = tokio::select! {
            () = stop.cancelled() => return,
            answer = kv.status() => answer,
        };
        if let Ok(status) = answer
            && status.alarm != known
        {
            known = status.alarm;
            says(known);
        }
        tokio::select! {
            () = stop.cancelled() => return,
            () = tokio::time::sleep(every) => {}
        }
    }
}
