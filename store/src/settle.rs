//! Writes that etcd is asked for until it answers.
//!
//! After an `Unavailable` nobody knows whether a transaction was carried out, or
//! is still under way in a member that is slow. It may be sent again if it is not
//! carried out once more after it was: its own guards say so while what it has put
//! is there, those that are added here also if others have deleted that. A later
//! try that fails its guards may have been beaten by an earlier one or by another
//! client: the history of its mark tells which, or that nobody can tell.

use std::sync::Arc;
use std::time::Duration;

use tokio::time::Instant;

use crate::kv::{Compare, KeyRange, KeyValue, Kv, KvError, Range, Relation, Target, Txn, TxnReply};

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

/// What a transaction puts: by the key's history, what became of the transaction.
///
/// Whoever else puts the same value after the same revision is taken for it.
#[derive(Debug, Clone, Copy)]
pub struct Mark<'a> {
    /// The key.
    pub key: &'a str,
    /// The value.
    pub value: &'a [u8],
    /// The revision that the transaction was decided on: if it is carried out, that is later.
    pub after: i64,
    /// How the key is deleted.
    pub deletions: Deletions<'a>,
}

/// How a key is deleted: that takes the history before out of reach.
#[derive(Debug, Clone, Copy)]
pub enum Deletions<'a> {
    /// Not at all.
    Never,
    /// In transactions that put this other key, which is deleted by nobody.
    Told(&'a str),
    /// By anybody.
    Untold,
}

impl<'a> Mark<'a> {
    /// A key that is put when the mark's key is deleted, or if that never is, the mark's key.
    fn witness(&self) -> Option<&'a str> {
        match self.deletions {
            Deletions::Never => Some(self.key),
            Deletions::Told(witness) => Some(witness),
            Deletions::Untold => None,
        }
    }

    /// What a later try requires besides, so that it fails once an earlier one was carried out: a key that was there
    /// before is still there, and one that was not was not deleted.
    fn guard(&self, was_there: bool) -> Option<Compare> {
        if was_there {
            let key = KeyRange::key(self.key);
            return Some(Compare::new(key, Relation::Greater, Target::Version(0)));
        }
        let witness = KeyRange::key(self.witness()?);
        let unchanged = Target::Modified(self.after + 1);
        Some(Compare::new(witness, Relation::Less, unchanged))
    }
}

/// Deleted by somebody, so that nobody knows what was there before.
#[derive(Debug, thiserror::Error)]
#[error("the key was deleted by others meanwhile")]
struct Deleted;

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
    let lost = match kv.txn(txn.clone()).await {
        Err(error @ KvError::Unavailable(_)) if Instant::now() < until => error,
        answered => return answered,
    };
    tokio::time::sleep(PAUSE).await;
    // Whatever fails from here on, the first try may have been carried out.
    settle_again(kv, txn, mark, until).await.map_err(|_| lost)
}

/// After a try whose answer was lost.
async fn settle_again(
    kv: &dyn Kv,
    txn: &Txn,
    mark: Mark<'_>,
    until: Instant,
) -> Result<TxnReply, KvError> {
    let was_there = match mark.deletions {
        Deletions::Never => false,
        _ => was_there(kv, mark, until).await?,
    };
    let mut again = txn.clone();
    again.guards.extend(mark.guard(was_there));
    let reply = try_until(kv, &again, until).await?.reply;
    if reply.succeeded {
        return Ok(reply);
    }
    match put_at(kv, mark, was_there, until).await? {
        Some(revision) => Ok(TxnReply {
            succeeded: true,
            revision,
            replies: Vec::new(),
        }),
        None => Ok(reply),
    }
}

/// The mark's key was there when the transaction was decided on.
async fn was_there(kv: &dyn Kv, mark: Mark<'_>, until: Instant) -> Result<bool, KvError> {
    if mark.after == 0 {
        // Before all that is known; etcd takes it for the newest.
        return Ok(false);
    }
    let found = at(kv, mark.key, mark.after, until).await?;
    Ok(found.is_some())
}

/// The revision at which the mark was put; none if it was not. It is an error if that cannot be told.
async fn put_at(
    kv: &dyn Kv,
    mark: Mark<'_>,
    was_there: bool,
    until: Instant,
) -> Result<Option<i64>, KvError> {
    // The newest.
    let mut revision = 0;
    while let Some(found) = at(kv, mark.key, revision, until).await? {
        if found.modified <= mark.after {
            return Ok(None);
        }
        if found.value == mark.value {
            return Ok(Some(found.modified));
        }
        revision = found.modified - 1;
    }
    // It was not there then: never since, or somebody has deleted it.
    let deleted = was_there
        || match mark.deletions {
            Deletions::Told(witness) => at(kv, witness, 0, until)
                .await?
                .is_some_and(|witness| witness.modified > mark.after),
            Deletions::Never | Deletions::Untold => false,
        };
    if deleted {
        return Err(KvError::Unavailable(Arc::new(Deleted)));
    }
    Ok(None)
}

/// A key at a revision; 0 is the newest.
async fn at(
    kv: &dyn Kv,
    key: &str,
    revision: i64,
    until: Instant,
) -> Result<Option<KeyValue>, KvError> {
    let range = Range {
        revision,
        ..Range::key(key)
    };
    loop {
        match kv.range(range.clone()).await {
            Err(KvError::Unavailable(_)) if Instant::now() < until => {
                tokio::time::sleep(PAUSE).await;
            }
            read => return Ok(read?.kvs.pop()),
        }
    }
}
