//! Writes: planned by `plan` on what is there, until one plan has held.

use std::sync::Arc;
use std::time::Duration;

use axum::http::StatusCode;
use axum::response::Response;
use jiff::Timestamp;
use store::kv::{KeyValue, KvError, Op, OpReply, Range, Txn, TxnReply};
use store::settle::{self, Deletions, Mark};
use tokio::time::Instant;
use uuid::Uuid;

use super::answer::success;
use super::error::{ErrorCode, V2Error, unanswered};
use super::event::OP_KEY;
use super::lookup::{self, Lookup};
use super::node::V2Event;
use super::path::KeyPath;
use super::plan::PlainPut;
use super::request::Write;
use super::state::V2;
use super::{expiry, plan};
use crate::OUTCOME_UNKNOWN;

/// No try of a write begins later, while others write the same key or etcd does not answer.
const PATIENCE: Duration = Duration::from_secs(10);

/// Carried out to its end also if the client has gone: it would leave a lease, and a key that nobody ends on time.
pub(super) async fn write(v2: &Arc<V2>, write: Write) -> Result<Response, V2Error> {
    let no_value = write.no_value;
    let whole = carry_out(v2.clone(), write);
    let (mut event, revision) = match tokio::spawn(whole).await {
        Ok(written) => written?,
        Err(error) => match error.try_into_panic() {
            Ok(panic) => std::panic::resume_unwind(panic),
            Err(_) => return Err(V2Error::request(ErrorCode::RaftInternal, OUTCOME_UNKNOWN)),
        },
    };
    let created = event.is_creation();
    if no_value {
        event.node = None;
        event.prev = None;
    }
    let mut response = success(v2, event.body(), revision).await;
    if created {
        *response.status_mut() = StatusCode::CREATED;
    }
    Ok(response)
}

async fn carry_out(v2: Arc<V2>, write: Write) -> Result<(V2Event, i64), V2Error> {
    let mut lease = None;
    let written = write_once(&v2, &write, &mut lease).await;
    if let (Err(error), Some(lease)) = (&written, lease)
        && error.code != ErrorCode::RaftInternal
    {
        expiry::revoke(&v2.kv, lease);
    }
    written
}

/// The event of a write and its revision. A key with a TTL is put on a `lease` that is made for it.
async fn write_once(
    v2: &V2,
    write: &Write,
    lease: &mut Option<i64>,
) -> Result<(V2Event, i64), V2Error> {
    let (begun, now) = (Instant::now(), Timestamp::now());
    let until = begun + PATIENCE;
    let told = match plan::plain_put(write, v2.revision()) {
        Some(put) => match put_plain(v2, &write.key, &put, until).await? {
            Plain::Written(event, revision) => return Ok((*event, revision)),
            Plain::Failed(found) => found,
        },
        None => ask(v2, lookup::read_key(&write.key), until).await?,
    };
    let mut seen = match Lookup::of_key(&write.key, told) {
        Some(seen) => seen,
        None => look(v2, &write.key, false, until).await?,
    };
    let id = Uuid::new_v4();
    loop {
        if seen.below.is_none() && plan::needs_below(write, &seen) {
            seen = look(v2, &write.key, true, until).await?;
        }
        let planned = plan::plan(write, &seen, now)?;
        let ttl = write.ttl.filter(|_| planned.ends());
        if let Some(ttl) = ttl.filter(|_| planned.needs_lease() && lease.is_none()) {
            *lease = Some(
                expiry::lease(&*v2.kv, ttl, until)
                    .await
                    .map_err(unanswered)?,
            );
        }
        let (mut txn, record) = planned.request(id, lease.unwrap_or(0));
        txn.otherwise = lookup::read(&write.key, seen.below.is_some());
        let mark = Mark {
            key: OP_KEY,
            value: &record,
            after: seen.revision,
            deletions: Deletions::Never,
        };
        let before = v2.revision();
        let reply = settle::settle(&*v2.kv, &txn, mark, until).await;
        let reply = reply.map_err(unsettled)?;
        if reply.succeeded {
            let revision = reply.revision;
            v2.note_write(before, revision);
            match ttl {
                Some(ttl) => {
                    let ends = begun + Duration::from_secs(ttl);
                    v2.expiry.ends(&planned.key, revision, ends);
                }
                None => v2.expiry.stays(&planned.key, revision),
            }
            if let Some(former) = planned.former_lease {
                expiry::revoke(&v2.kv, former);
            }
            return Ok((planned.event(revision), revision));
        }
        if Instant::now() > until {
            let cause = "too many concurrent writes of this key";
            return Err(V2Error::at(ErrorCode::RaftInternal, cause, reply.revision));
        }
        seen = Lookup::new(&write.key, reply);
    }
}

/// What became of a plain PUT.
enum Plain {
    /// Its event and revision.
    Written(Box<V2Event>, i64),
    /// It needs a look at what is there, which [`lookup::read_key`] has found.
    Failed(TxnReply),
}

/// A plain PUT in one request.
async fn put_plain(
    v2: &V2,
    key: &KeyPath,
    put: &PlainPut,
    until: Instant,
) -> Result<Plain, V2Error> {
    let known = put.mark().after;
    let settled = settle::settle(&*v2.kv, &put.txn, put.mark(), until).await;
    let reply = settled.map_err(unsettled)?;
    let revision = reply.revision;
    if !reply.succeeded {
        v2.note(known, revision);
        return Ok(Plain::Failed(reply));
    }
    v2.note_write(known, revision);
    v2.expiry.stays(key, revision);
    let before = match reply.replies.into_iter().next() {
        Some(OpReply::Get(mut found)) => found.pop(),
        _ => before(v2, key, revision).await?,
    };
    let event = put.event(revision, before.as_ref());
    Ok(Plain::Written(Box::new(event), revision))
}

/// The file before a plain PUT that an earlier try has carried out: its replies are lost, so the file is read at the
/// revision before. If the key has changed again, nobody can tell whose PUT it was.
async fn before(v2: &V2, key: &KeyPath, revision: i64) -> Result<Option<KeyValue>, V2Error> {
    let at = async |revision| {
        let read = v2.kv.range(Range {
            revision,
            ..Range::key(key)
        });
        let unknown = |_| V2Error::request(ErrorCode::RaftInternal, OUTCOME_UNKNOWN);
        Ok(read.await.map_err(unknown)?.kvs.pop())
    };
    let newest: Option<KeyValue> = at(0).await?;
    if newest.is_none_or(|kv| kv.modified != revision) {
        return Err(V2Error::request(ErrorCode::RaftInternal, OUTCOME_UNKNOWN));
    }
    at(revision - 1).await
}

async fn look(v2: &V2, key: &KeyPath, below: bool, until: Instant) -> Result<Lookup, V2Error> {
    let reply = ask(v2, lookup::read(key, below), until).await?;
    Ok(Lookup::new(key, reply))
}

async fn ask(v2: &V2, reads: Vec<Op>, until: Instant) -> Result<TxnReply, V2Error> {
    let txn = Txn::new(Vec::new(), reads);
    let before = v2.revision();
    let asked = settle::try_until(&*v2.kv, &txn, until).await;
    let reply = asked.map_err(unanswered)?.reply;
    v2.note(before, reply.revision);
    Ok(reply)
}

/// Of a write that was sent.
fn unsettled(error: KvError) -> V2Error {
    let unknown = matches!(error, KvError::Unavailable(_));
    let mut error = unanswered(error);
    if unknown {
        error.cause = format!("{}; {OUTCOME_UNKNOWN}", error.cause);
    }
    error
}
