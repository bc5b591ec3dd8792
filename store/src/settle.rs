//! Writes that etcd is asked for until it answers.
//!
//! After an `Unavailable` nobody knows whether a transaction was carried out, or
//! is still under way in a member that is slow. It may be sent again if its guards
//! hold no more once it was carried out: then that happens once at most. A later
//! try that fails its guards may have been beaten by an earlier one or by another
//! client: the history of its mark tells which.

use std::sync::Arc;
use std::time::Duration;

use tokio::time::Instant;

use crate::kv::{Kv, KvError, Range, Txn, TxnReply};

/// Pause before the next try, which goes to the next endpoint.
const PAUSE: Duration = Duration::from_millis(100);

/// What was answered at last.
#[derive(Debug)]
pub struct Tried {
    /// The answer.
    pub reply: TxnReply,
    /// A try before it may have been carried out.
    pub unsure: bool,
}

/// What a transaction puts, and no other.
#[derive(Debug, Clone, Copy)]
pub struct Mark<'a> {
    /// The key.
    pub key: &'a str,
    /// The value.
    pub value: &'a [u8],
    /// The revision that the transaction was decided on.
    pub after: i64,
}

/// Sends a transaction until it is answered; no try begins after `until`.
pub async fn try_until(kv: &dyn Kv, txn: &Txn, until: Instant) -> Result<Tried, KvError> {
    let mut unsure = None;
    loop {
        match kv.txn(txn.clone()).await {
            Ok(reply) => {
                let unsure = unsure.is_some();
                return Ok(Tried { reply, unsure });
            }
            Err(error @ KvError::Unavailable(_)) if Instant::now() < until => {
                unsure.get_or_insert(error);
                tokio::time::sleep(PAUSE).await;
            }
            // What is refused now may have been carried out before.
            Err(error) => return Err(unsure.unwrap_or(error)),
        }
    }
}

/// Carries a guarded transaction out once, and tells whether it was this one; no try begins after `until`.
///
/// One that an earlier try has carried out has no replies.
pub async fn settle(
    kv: &dyn Kv,
    txn: &Txn,
    mark: Mark<'_>,
    until: Instant,
) -> Result<TxnReply, KvError> {
    let Tried { reply, unsure } = try_until(kv, txn, until).await?;
    if unsure
        && !reply.succeeded
        && let Some(revision) = put_at(kv, mark).await?
    {
        return Ok(TxnReply {
            succeeded: true,
            revision,
            replies: Vec::new(),
        });
    }
    Ok(reply)
}

/// The revision at which the mark was put; none if it was not.
async fn put_at(kv: &dyn Kv, mark: Mark<'_>) -> Result<Option<i64>, KvError> {
    // The newest.
    let mut revision = 0;
    loop {
        let read = kv.range(Range {
            revision,
            ..Range::key(mark.key)
        });
        let found = match read.await {
            // History that could tell is gone.
            Err(error @ KvError::Compacted) => return Err(KvError::Unavailable(Arc::new(error))),
            read => read?.kvs.pop(),
        };
        match found {
            Some(kv) if kv.modified > mark.after => {
                if kv.value == mark.value {
                    return Ok(Some(kv.modified));
                }
                revision = kv.modified - 1;
            }
            _ => return Ok(None),
        }
    }
}
