//! Lookup of a key and its directories, at one revision.
//!
//! Pure: [`read_key`] and [`read`] make the requests, [`Lookup::of_key`] and [`Lookup::new`] read their replies.
//!
//! v3 has no directories. A v2 directory is a side key that says so, or it is
//! implied by keys below it; the directories above a key that v2 wrote all
//! have side keys, so an emptied directory stays. A key that v3 wrote and that
//! has keys below it is shown as a directory.

use jiff::Timestamp;
use serde::{Deserialize, Serialize};
use store::kv::{KeyRange, KeyValue, Op, OpReply, Txn, TxnReply};

use super::error::{ErrorCode, V2Error};
use super::path::KeyPath;

/// The value of a side key.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Meta {
    /// Its created index. Without it that is the last change of its key, as v2's `set` has it.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub created: Option<i64>,
    /// It is a directory.
    #[serde(default, skip_serializing_if = "std::ops::Not::not")]
    pub dir: bool,
    /// When it ends by itself.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub expires: Option<Timestamp>,
}

/// A side key as it was found.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct SideKey {
    /// Its value.
    pub meta: Meta,
    /// The revision that wrote it last.
    pub modified: i64,
}

impl SideKey {
    /// Reads a side key; one that cannot be read says nothing.
    pub fn new(kv: &KeyValue) -> Self {
        Self {
            meta: serde_json::from_slice(&kv.value).unwrap_or_default(),
            modified: kv.modified,
        }
    }

    /// The index of the directory.
    pub fn dir_index(&self) -> i64 {
        self.meta.created.unwrap_or(self.modified)
    }
}

/// Kind of a node.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum KeyKind {
    /// Not there.
    Missing,
    /// A value.
    File,
    /// A directory.
    Dir,
}

/// A key, or a directory above it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Level {
    /// The key.
    pub key: KeyPath,
    /// Its v3 key.
    pub file: Option<KeyValue>,
    /// Its side key.
    pub side: Option<SideKey>,
    /// There are keys below it, as far as that was asked.
    pub parent: bool,
}

impl Level {
    /// What was found of it, without what is below.
    fn new(key: KeyPath, mut file: Vec<KeyValue>, mut side: Vec<KeyValue>) -> Self {
        Self {
            key,
            file: file.pop(),
            side: side.pop().map(|kv| SideKey::new(&kv)),
            parent: false,
        }
    }

    /// Kind of the node.
    pub fn kind(&self) -> KeyKind {
        if self.parent {
            KeyKind::Dir
        } else if self.file.is_some() {
            KeyKind::File
        } else if self.dir_side().is_some() {
            KeyKind::Dir
        } else {
            KeyKind::Missing
        }
    }

    /// The lease that was made for its TTL.
    pub fn own_lease(&self) -> Option<i64> {
        let file = self.file.as_ref()?;
        meta_of(file, self.side).expires?;
        Some(file.lease).filter(|lease| *lease != 0)
    }

    /// Its side key, if that is of a directory.
    pub fn dir_side(&self) -> Option<SideKey> {
        self.side.filter(|side| side.meta.dir)
    }
}

/// What v3 does not say of a file; all defaults if its side key is of an earlier change.
pub fn meta_of(file: &KeyValue, side: Option<SideKey>) -> Meta {
    side.filter(|side| side.modified == file.modified)
        .map(|side| side.meta)
        .unwrap_or_default()
}

/// A file's created index.
pub fn created_of(file: &KeyValue, side: Option<SideKey>) -> i64 {
    meta_of(file, side).created.unwrap_or(file.modified)
}

/// All keys below one, and their side keys.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Below {
    /// The keys.
    pub files: Vec<KeyValue>,
    /// The side keys.
    pub sides: Vec<KeyValue>,
}

/// A key with its directories, at one revision.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Lookup {
    /// The revision.
    pub revision: i64,
    /// From the first part of the key down to the key itself; none for the root.
    pub levels: Vec<Level>,
    /// Keys below it, if requested.
    pub below: Option<Below>,
}

/// The most reads that are not nested: three more may follow, and etcd takes 128.
const MAX_READS: usize = 125;

/// The reads that suffice for a file, and to tell a directory.
pub fn read_alone(key: &KeyPath) -> Vec<Op> {
    if key.is_root() {
        return Vec::new();
    }
    let mut reads = of_level(key);
    reads.push(first_below(key));
    reads
}

/// The reads that suffice for most keys: whether there are keys below is asked of the key itself only. For the first
/// key of a range, too, etcd goes through the names of all.
pub fn read_key(key: &KeyPath) -> Vec<Op> {
    let mut reads: Vec<Vec<Op>> = key.levels().iter().map(of_level).collect();
    if let Some(last) = reads.last_mut() {
        last.push(first_below(key));
    }
    flat(reads)
}

/// The reads for a key and its directories; with all that is below it if `below`.
pub fn read(key: &KeyPath, below: bool) -> Vec<Op> {
    let reads = |key: &KeyPath| {
        let mut reads = of_level(key);
        reads.push(first_below(key));
        reads
    };
    let mut ops = flat(key.levels().iter().map(reads).collect());
    if below {
        if key.is_root() {
            // The side keys lie in the middle of all keys.
            let meta = format!("{}/", manifests::keys::V2_META);
            let end = manifests::keys::prefix_end(&meta);
            ops.push(Op::Get(KeyRange::range("/", meta)));
            ops.push(Op::Get(KeyRange::range(end, "0")));
        } else {
            ops.push(Op::Get(KeyRange::prefix(&key.below())));
        }
        ops.push(Op::Get(KeyRange::prefix(&key.side_below())));
    }
    ops
}

fn of_level(key: &KeyPath) -> Vec<Op> {
    vec![
        Op::Get(KeyRange::key(key.as_str())),
        Op::Get(KeyRange::key(key.side())),
    ]
}

fn first_below(key: &KeyPath) -> Op {
    Op::First(KeyRange::prefix(&key.below()))
}

/// Nested only if there are too many: etcd writes such a transaction to its log, as if it were no read.
fn flat(reads: Vec<Vec<Op>>) -> Vec<Op> {
    if reads.iter().map(Vec::len).sum::<usize>() <= MAX_READS {
        return reads.into_iter().flatten().collect();
    }
    let nested = |reads| Op::Txn(Txn::new(Vec::new(), reads));
    reads.into_iter().map(nested).collect()
}

impl Lookup {
    /// Result of [`read_alone`] of this key; none if it is not there. Only the key itself is told of: what is above it
    /// are directories.
    pub fn alone(key: &KeyPath, reply: TxnReply) -> Option<Self> {
        let mut replies = reply.replies.into_iter().flat_map(found);
        let mut next = || replies.next().unwrap_or_default();
        let mut levels = Vec::new();
        if !key.is_root() {
            let level = Level::new(key.clone(), next(), next());
            let parent = !next().is_empty();
            levels.push(Level { parent, ..level });
        }
        let seen = Self {
            revision: reply.revision,
            levels,
            below: None,
        };
        let is_there = seen
            .target()
            .is_none_or(|target| target.kind() != KeyKind::Missing);
        is_there.then_some(seen)
    }

    /// Result of [`read_key`] of this key; none if that does not tell which of its directories are there.
    pub fn of_key(key: &KeyPath, reply: TxnReply) -> Option<Self> {
        let mut replies = reply.replies.into_iter().flat_map(found);
        let mut next = || replies.next().unwrap_or_default();
        let mut levels: Vec<Level> = key
            .levels()
            .into_iter()
            .map(|key| Level::new(key, next(), next()))
            .collect();
        let mut below = !next().is_empty();
        for (height, level) in levels.iter_mut().rev().enumerate() {
            level.parent = below;
            // A directory by its side key is one whatever is below it.
            let is_told = below || (level.file.is_none() && level.dir_side().is_some());
            if height > 0 && !is_told {
                return None;
            }
            below |= level.file.is_some();
        }
        Some(Self {
            revision: reply.revision,
            levels,
            below: None,
        })
    }

    /// Result of [`read`] of this key.
    pub fn new(key: &KeyPath, reply: TxnReply) -> Self {
        let mut replies = reply.replies.into_iter().flat_map(found);
        let mut next = || replies.next().unwrap_or_default();
        let levels = key
            .levels()
            .into_iter()
            .map(|key| {
                let level = Level::new(key, next(), next());
                let parent = !next().is_empty();
                Level { parent, ..level }
            })
            .collect();
        let mut ranges: Vec<Vec<KeyValue>> = replies.collect();
        let below = ranges.pop().map(|sides| Below {
            files: ranges
                .into_iter()
                .flatten()
                .filter(|kv| kv.key != manifests::keys::V2_META)
                .collect(),
            sides,
        });
        Self {
            revision: reply.revision,
            levels,
            below,
        }
    }

    /// An error at this revision.
    pub fn error(&self, code: ErrorCode, cause: impl Into<String>) -> V2Error {
        V2Error::at(code, cause, self.revision)
    }

    /// The directories above the key can be walked: none is missing, none is a file.
    pub fn walk(&self) -> Result<(), V2Error> {
        for level in self.above() {
            match level.kind() {
                KeyKind::Dir => {}
                KeyKind::File => return Err(self.error(ErrorCode::NotDir, level.key.as_str())),
                KeyKind::Missing => {
                    return Err(self.error(ErrorCode::KeyNotFound, level.key.as_str()));
                }
            }
        }
        Ok(())
    }

    /// The key is a directory, as the root is.
    pub fn is_dir(&self) -> bool {
        self.target()
            .is_none_or(|target| target.kind() == KeyKind::Dir)
    }

    /// The key itself; none for the root.
    pub fn target(&self) -> Option<&Level> {
        self.levels.last()
    }

    /// Of a name below it, as if nothing were there.
    #[must_use]
    pub fn with_child(&self, key: KeyPath) -> Self {
        let mut levels = self.levels.clone();
        levels.push(Level {
            key,
            file: None,
            side: None,
            parent: false,
        });
        Self {
            revision: self.revision,
            levels,
            below: None,
        }
    }

    /// The directories above the key, from the top.
    pub fn above(&self) -> &[Level] {
        self.levels.split_last().map_or(&[], |(_, above)| above)
    }
}

/// What each read has found.
fn found(reply: OpReply) -> Vec<Vec<KeyValue>> {
    match reply {
        OpReply::Get(kvs) => vec![kvs],
        OpReply::Txn(nested) => nested.replies.into_iter().flat_map(found).collect(),
        OpReply::Put | OpReply::Delete(_) => Vec::new(),
    }
}

#[cfg(test)]
mod tests {
    use store::memory::MemEtcd;

    use super::*;

    #[test]
    fn a_key_that_is_there_says_that_its_directories_are() {
        let mut etcd = MemEtcd::new();
        let keys = [
            ("/v2meta/own", r#"{"dir":true}"#),
            ("/own/file", "1"),
            ("/v2meta/own/empty", r#"{"dir":true}"#),
            ("/implied/file", "1"),
            ("/both", "1"),
            ("/both/file", "1"),
        ];
        let puts = keys.map(|(key, value)| Op::put(key, value)).into();
        etcd.txn(&Txn::new(Vec::new(), puts)).expect("a write");
        for (key, is_told) in [
            ("/", true),
            ("/own", true),
            ("/own/file", true),
            ("/own/new", true),
            ("/own/empty", true),
            ("/own/empty/new", true),
            ("/own/file/new", false),
            ("/implied", true),
            ("/implied/file", true),
            ("/implied/new", false),
            ("/both", true),
            ("/both/file", true),
            ("/both/new", false),
            ("/none", true),
            ("/none/new", false),
        ] {
            let key = KeyPath::new(key).expect("a key");
            let mut ask = |reads| etcd.txn(&Txn::new(Vec::new(), reads)).expect("a read");
            let whole = Lookup::new(&key, ask(read(&key, false)));
            let told = Lookup::of_key(&key, ask(read_key(&key)));
            assert_eq!(told.is_some(), is_told, "{key}");
            let alone = Lookup::alone(&key, ask(read_alone(&key)));
            let is_there = |whole: &Lookup| {
                let target = whole.target();
                target.is_none_or(|target| target.kind() != KeyKind::Missing)
            };
            assert_eq!(alone.is_some(), is_there(&whole), "{key}");
            if let Some(alone) = alone {
                assert_eq!(alone.target(), whole.target(), "{key}");
            }
            let kinds = |seen: &Lookup| seen.levels.iter().map(Level::kind).collect::<Vec<_>>();
            if let Some(told) = told {
                assert_eq!(kinds(&told), kinds(&whole), "{key}");
                assert_eq!(told.target(), whole.target(), "{key}");
            }
        }
    }

    #[test]
    fn the_deepest_key_fits_one_transaction() {
        let mut etcd = MemEtcd::new();
        for depth in [41, 42, 62, 63, super::super::path::MAX_PARTS] {
            let key = KeyPath::new(&"/a".repeat(depth)).expect("a key");
            etcd.txn(&Txn::new(Vec::new(), vec![Op::put(&key, "1")]))
                .expect("a write");
            let mut ask = |reads| etcd.txn(&Txn::new(Vec::new(), reads)).expect("a read");
            let whole = Lookup::new(&key, ask(read(&key, true)));
            let told = Lookup::of_key(&key, ask(read_key(&key))).expect("it is there");
            assert_eq!(told.levels, whole.levels, "{depth}");
            assert_eq!(whole.levels.len(), depth);
        }
    }
}
