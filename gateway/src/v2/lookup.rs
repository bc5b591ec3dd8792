//! Lookup of a key and its directories, at one revision.
//!
//! Pure: [`read`] makes the request, [`Lookup::new`] reads its reply.
//!
//! v3 has no directories. A v2 directory is a side key that says so, or it is
//! implied by keys below it; the directories above a key that v2 wrote all
//! have side keys, so an emptied directory stays. A key that v3 wrote and that
//! has keys below it is shown as a directory.

use jiff::Timestamp;
use serde::{Deserialize, Serialize};
use store::kv::{Compare, KeyRange, KeyValue, Op, OpReply, Txn, TxnReply};

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
    /// There are keys below it.
    pub parent: bool,
}

impl Level {
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

/// The reads for a key and its directories; with all that is below it if `below`.
pub fn read(key: &KeyPath, below: bool) -> Vec<Op> {
    let level = |key: &KeyPath| {
        let gets = vec![
            Op::Get(KeyRange::key(key.as_str())),
            Op::Get(KeyRange::key(key.side())),
        ];
        // Its outcome tells whether there are keys below, without reading them.
        Op::Txn(Txn {
            guards: vec![Compare::none_in(KeyRange::prefix(&key.below()))],
            then: gets.clone(),
            otherwise: gets,
        })
    };
    let mut ops: Vec<Op> = key.levels().iter().map(level).collect();
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

impl Lookup {
    /// Result of [`read`] of this key.
    pub fn new(key: &KeyPath, reply: TxnReply) -> Self {
        let mut replies = reply.replies.into_iter();
        let levels = key
            .levels()
            .into_iter()
            .zip(&mut replies)
            .map(|(key, reply)| level(key, reply))
            .collect();
        let mut ranges: Vec<Vec<KeyValue>> = replies.map(kvs).collect();
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

fn level(key: KeyPath, reply: OpReply) -> Level {
    let (succeeded, mut replies) = match reply {
        OpReply::Txn(txn) => (txn.succeeded, txn.replies.into_iter()),
        _ => (true, Vec::new().into_iter()),
    };
    let mut first = || replies.next().and_then(|reply| kvs(reply).pop());
    Level {
        key,
        file: first(),
        side: first().map(|kv| SideKey::new(&kv)),
        parent: !succeeded,
    }
}

fn kvs(reply: OpReply) -> Vec<KeyValue> {
    match reply {
        OpReply::Get(kvs) => kvs,
        _ => Vec::new(),
    }
}
