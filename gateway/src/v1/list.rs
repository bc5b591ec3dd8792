//! The watched range of etcd, read by the API itself.
//!
//! What an operator changes is decided on this and guarded by its revisions,
//! never on the agent's view: that may be old, and during a hold it stays so.

use manifests::keys::{WATCH_END, WATCH_START};
use model::Snapshot;
use model::snapshot::Change;
use store::kv::{KeyRange, KeyValue, Kv, KvError, Range};

/// Keys of one page.
const PAGE: i64 = 1_000;

/// The watched range at one revision.
#[derive(Debug, Clone)]
pub struct List {
    /// Keys in order.
    pub kvs: Vec<KeyValue>,
    /// The records in them.
    pub snapshot: Snapshot,
}

impl List {
    /// A linearizable read.
    pub async fn read(kv: &dyn Kv) -> Result<Self, KvError> {
        let range = Range::new(KeyRange::range(WATCH_START, WATCH_END));
        let (kvs, revision) = read_pages(kv, range).await?;
        let mut snapshot = Snapshot::default();
        let changes = kvs.iter().map(|kv| Change::Put {
            key: kv.key.clone(),
            value: kv.value.clone(),
            modified: kv.modified,
            created: kv.created,
        });
        snapshot.apply(changes, revision);
        Ok(Self { kvs, snapshot })
    }

    /// The value of a key.
    pub fn get(&self, key: &str) -> Option<&KeyValue> {
        let at = self.kvs.binary_search_by(|kv| kv.key.as_str().cmp(key));
        self.kvs.get(at.ok()?)
    }
}

/// The keys of a range and their revision, read page by page.
pub(super) async fn read_pages(
    kv: &dyn Kv,
    mut range: Range,
) -> Result<(Vec<KeyValue>, i64), KvError> {
    range.limit = PAGE;
    let mut kvs: Vec<KeyValue> = Vec::new();
    loop {
        let reply = kv.range(range.clone()).await?;
        if range.revision == 0 {
            range.revision = reply.revision;
        }
        kvs.extend(reply.kvs);
        match kvs.last() {
            Some(last) if reply.more => range.keys.start = [last.key.as_bytes(), b"\0"].concat(),
            _ => return Ok((kvs, range.revision)),
        }
    }
}
