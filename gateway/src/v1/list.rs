//! The watched range as etcd has it now, read by the door itself.
//!
//! What an operator changes is decided on this and guarded by its revisions,
//! never on the agent's view: that may be old, and in hold it is kept on purpose.

use manifests::keys::{WATCH_END, WATCH_START};
use model::Snapshot;
use model::snapshot::Change;
use store::kv::{KeyRange, KeyValue, Kv, KvError, Range};

/// Keys read at once.
const PAGE: i64 = 1_000;

/// Everything at one revision.
#[derive(Debug, Clone)]
pub struct List {
    /// The keys, in order.
    pub kvs: Vec<KeyValue>,
    /// What they say.
    pub snapshot: Snapshot,
}

impl List {
    /// Reads it, linearizable.
    pub async fn read(kv: &dyn Kv) -> Result<Self, KvError> {
        let mut keys = KeyRange::range(WATCH_START, WATCH_END);
        let mut revision = 0;
        let mut kvs: Vec<KeyValue> = Vec::new();
        loop {
            let range = Range {
                revision,
                limit: PAGE,
                ..Range::new(keys.clone())
            };
            let reply = kv.range(range).await?;
            if revision == 0 {
                revision = reply.revision;
            }
            kvs.extend(reply.kvs);
            match kvs.last() {
                Some(last) if reply.more => keys.start = [last.key.as_bytes(), b"\0"].concat(),
                _ => break,
            }
        }
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

    /// A key as it is.
    pub fn get(&self, key: &str) -> Option<&KeyValue> {
        let at = self
            .kvs
            .binary_search_by(|kv| kv.key.as_str().cmp(key))
            .ok()?;
        self.kvs.get(at)
    }
}
