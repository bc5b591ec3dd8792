//! A plain PUT: a `set` of a value without a TTL, planned without a look.
//!
//! Its guards say that [`super::plan`] would do the same: they hold where a
//! value takes the place of nothing, or of a file without a side key, in a
//! directory that v2 has made. Most PUTs meet that.

use store::kv::{Compare, KeyRange, KeyValue, Op, Relation, Target, Txn};
use store::settle::{Deletions, Mark};

use super::dirs;
use crate::v2::event::{self, OP_KEY};
use crate::v2::lookup;
use crate::v2::node::V2Event;
use crate::v2::request::{Content, Write, WriteKind};

/// etcd takes 128.
const MAX_GUARDS: usize = 120;

/// A plain PUT and its transaction.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct PlainPut {
    /// It first reads the file that is there; if it fails, what [`lookup::read_key`] asks for. There is no record: of v3,
    /// too, a PUT is told as a `set`.
    pub txn: Txn,
    key: String,
    value: Vec<u8>,
    after: i64,
}

impl PlainPut {
    /// By what the key's history tells that it was carried out.
    pub fn mark(&self) -> Mark<'_> {
        Mark {
            key: &self.key,
            value: &self.value,
            after: self.after,
            // Of v3's deletions, which put no record, nothing is known.
            deletions: Deletions::Told(OP_KEY),
        }
    }

    /// The event, once the revision and the file before it are known.
    pub fn event(&self, revision: i64, before: Option<&KeyValue>) -> V2Event {
        let now = KeyValue {
            key: self.key.clone(),
            value: self.value.clone(),
            created: revision,
            modified: revision,
            version: 1,
            lease: 0,
        };
        event::set(&now, before)
    }
}

/// Plans a plain PUT, to be carried out if nobody has written the key after `revision`; none for other writes.
pub fn plain_put(write: &Write, revision: i64) -> Option<PlainPut> {
    let WriteKind::Set(Content::File(value)) = &write.change else {
        return None;
    };
    if write.ttl.is_some() || write.refresh {
        return None;
    }
    let key = write.key.as_str();
    let levels = write.key.levels();
    let (_, above) = levels.split_last()?;
    let mut guards = vec![
        // It breaks this one itself: while the key is there, it is not carried out twice.
        Compare::new(
            KeyRange::key(key),
            Relation::Less,
            Target::Modified(revision + 1),
        ),
        Compare::absent(write.key.side()),
        Compare::none_in(KeyRange::prefix(&write.key.below())),
    ];
    guards.extend(above.iter().map(Compare::absent));
    for dir in above {
        guards.push(dirs::is_as_made(dir)?);
    }
    if guards.len() > MAX_GUARDS {
        return None;
    }
    let then = vec![Op::Get(KeyRange::key(key)), Op::put(key, value.as_slice())];
    Some(PlainPut {
        txn: Txn {
            guards,
            then,
            otherwise: lookup::read_key(&write.key),
        },
        key: key.to_owned(),
        value: value.clone(),
        after: revision,
    })
}
