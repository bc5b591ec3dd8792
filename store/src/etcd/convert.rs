//! Our values to etcd's, and back.

use etcd_client::proto::{
    PbEvent, PbKeyValue, PbRangeResponse, PbTxnOpResponse, PbTxnResponse, PbWatchResponse,
};
use etcd_client::{CompareOp, DeleteOptions, GetOptions, PutOptions, TxnOp, WatchOptions};

use crate::kv::{
    Alarm, Compare, Event, KeyRange, KeyValue, Op, OpReply, Range, RangeReply, Relation, Target,
    Txn, TxnReply,
};

pub(super) fn txn(txn: Txn) -> etcd_client::Txn {
    let guards: Vec<_> = txn.guards.into_iter().map(compare).collect();
    let then: Vec<_> = txn.then.into_iter().map(op).collect();
    let otherwise: Vec<_> = txn.otherwise.into_iter().map(op).collect();
    etcd_client::Txn::new()
        .when(guards)
        .and_then(then)
        .or_else(otherwise)
}

fn compare(guard: Compare) -> etcd_client::Compare {
    let relation = match guard.relation {
        Relation::Equal => CompareOp::Equal,
        Relation::NotEqual => CompareOp::NotEqual,
        Relation::Greater => CompareOp::Greater,
        Relation::Less => CompareOp::Less,
    };
    let KeyRange { start, end } = guard.keys;
    let compare = match guard.target {
        Target::Version(than) => etcd_client::Compare::version(start, relation, than),
        Target::Created(than) => etcd_client::Compare::create_revision(start, relation, than),
        Target::Modified(than) => etcd_client::Compare::mod_revision(start, relation, than),
        Target::Value(than) => etcd_client::Compare::value(start, relation, than),
    };
    match end {
        Some(end) => compare.with_range(end),
        None => compare,
    }
}

fn op(op: Op) -> TxnOp {
    match op {
        Op::Put { key, value, lease } => {
            let options = (lease != 0).then(|| PutOptions::new().with_lease(lease));
            TxnOp::put(key, value, options)
        }
        Op::Delete(keys) => {
            let options = keys.end.map(|end| DeleteOptions::new().with_range(end));
            TxnOp::delete(keys.start, options)
        }
        Op::Get(keys) => {
            let options = keys.end.map(|end| GetOptions::new().with_range(end));
            TxnOp::get(keys.start, options)
        }
        Op::First(keys) => {
            let first = Range {
                limit: 1,
                keys_only: true,
                ..Range::new(keys)
            };
            let options = get_options(&first);
            TxnOp::get(first.keys.start, Some(options))
        }
        Op::Txn(inner) => TxnOp::txn(txn(inner)),
    }
}

/// From what a member says is wrong, such as `memberID:3319814642761637952 alarm:NOSPACE `.
pub(super) fn alarm(errors: &[String]) -> Option<Alarm> {
    let stands = |name: &str| errors.iter().any(|error| error.contains(name));
    if stands("alarm:CORRUPT") {
        Some(Alarm::Corrupt)
    } else {
        stands("alarm:NOSPACE").then_some(Alarm::NoSpace)
    }
}

pub(super) fn get_options(range: &Range) -> GetOptions {
    let mut options = GetOptions::new()
        .with_revision(range.revision)
        .with_limit(range.limit)
        .with_min_mod_revision(range.min_modified);
    if let Some(end) = &range.keys.end {
        options = options.with_range(end.clone());
    }
    if range.serializable {
        options = options.with_serializable();
    }
    if range.keys_only {
        options = options.with_keys_only();
    }
    if range.count_only {
        options = options.with_count_only();
    }
    options
}

pub(super) fn watch_options(end: Option<Vec<u8>>, from: i64, previous: bool) -> WatchOptions {
    let mut options = WatchOptions::new()
        .with_start_revision(from)
        .with_fragment();
    if let Some(end) = end {
        options = options.with_range(end);
    }
    if previous {
        options = options.with_prev_key();
    }
    options
}

pub(super) fn key_value(kv: PbKeyValue) -> KeyValue {
    KeyValue {
        // Keys that are not text are nobody's here; they are kept so that counts are right.
        key: String::from_utf8(kv.key)
            .unwrap_or_else(|error| String::from_utf8_lossy(error.as_bytes()).into_owned()),
        value: kv.value,
        created: kv.create_revision,
        modified: kv.mod_revision,
        version: kv.version,
        lease: kv.lease,
    }
}

pub(super) fn range_reply(reply: PbRangeResponse, revision: i64) -> RangeReply {
    RangeReply {
        kvs: reply.kvs.into_iter().map(key_value).collect(),
        revision,
        more: reply.more,
        count: reply.count,
    }
}

/// Nested replies get the outer one's revision: etcd leaves theirs empty.
pub(super) fn txn_reply(reply: PbTxnResponse, revision: i64) -> TxnReply {
    let replies = reply
        .responses
        .into_iter()
        .filter_map(|op| op.response)
        .map(|op| match op {
            PbTxnOpResponse::ResponsePut(_) => OpReply::Put,
            PbTxnOpResponse::ResponseDeleteRange(reply) => OpReply::Delete(reply.deleted),
            PbTxnOpResponse::ResponseRange(reply) => {
                OpReply::Get(reply.kvs.into_iter().map(key_value).collect())
            }
            PbTxnOpResponse::ResponseTxn(reply) => OpReply::Txn(txn_reply(reply, revision)),
        })
        .collect();
    TxnReply {
        succeeded: reply.succeeded,
        revision,
        replies,
    }
}

pub(super) fn events(reply: &mut PbWatchResponse) -> impl Iterator<Item = Event> + '_ {
    reply.events.drain(..).filter_map(event)
}

/// None without a key, which etcd does not send.
fn event(event: PbEvent) -> Option<Event> {
    const DELETE: i32 = 1;
    let now = key_value(event.kv?);
    let before = event.prev_kv.map(key_value);
    Some(if event.r#type == DELETE {
        Event::Delete {
            key: now.key,
            modified: now.modified,
            before,
        }
    } else {
        Event::Put { now, before }
    })
}
