//! From a write and a lookup to one guarded transaction, or etcd's error.
//!
//! Pure. Invariant: a transaction succeeds only if everything it was decided on
//! is unchanged; else the write is planned again.

mod dirs;
mod plain;
mod remove;

use jiff::Timestamp;
use model::ModRev;
use store::kv::{Compare, KeyRange, KeyValue, Op, Relation, Target, Txn};
use uuid::Uuid;

use super::error::{ErrorCode, V2Error};
use super::event::{OP_KEY, OpRecord, Prev};
use super::lookup::{KeyKind, Level, Lookup, Meta, created_of, meta_of};
use super::node::{Action, V2Event};
use super::path::{KeyPath, MAX_PARTS};
use super::request::{Condition, Content, Write, WriteKind};
use super::ttl::{self, Ttl};
pub use plain::{PlainPut, plain_put};

/// A transaction and its event.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Planned {
    /// The key that is written.
    pub key: KeyPath,
    /// Without the record and a branch for failure.
    txn: Txn,
    /// Record of the event.
    record: OpRecord,
    value: Option<Vec<u8>>,
    before: Option<Vec<u8>>,
    /// The lease that was made for the file in its place; it has no key any more.
    pub former_lease: Option<i64>,
}

impl Planned {
    /// The transaction for a request, without a branch for failure, and the record that it puts at [`OP_KEY`]. A key
    /// with a TTL is put on the lease.
    pub fn request(&self, id: Uuid, lease: i64) -> (Txn, Vec<u8>) {
        let record = OpRecord {
            id: Some(id),
            ..self.record.clone()
        };
        let record = serde_json::to_vec(&record).expect("records always serialize");
        let mut txn = self.txn.clone();
        if self.needs_lease() {
            let own = [self.key.to_string(), self.key.side()];
            for op in &mut txn.then {
                if let Op::Put { key, lease: on, .. } = op
                    && own.contains(key)
                {
                    *on = lease;
                }
            }
        }
        txn.then.push(Op::put(OP_KEY, record.clone()));
        (txn, record)
    }

    /// It puts a file with a TTL.
    pub fn needs_lease(&self) -> bool {
        self.ends() && !self.record.dir
    }

    /// What it puts has a TTL.
    pub fn ends(&self) -> bool {
        self.record.ttl.is_some()
    }

    /// The event, once the revision is known.
    pub fn event(&self, revision: i64) -> V2Event {
        self.record
            .event(revision, self.value.as_deref(), self.before.as_deref())
    }
}

/// This write needs all keys below its own, by a look at the key itself.
pub fn needs_below(write: &Write, seen: &Lookup) -> bool {
    let Some(dir) = seen.target().filter(|target| target.kind() == KeyKind::Dir) else {
        return false;
    };
    match &write.change {
        WriteKind::Delete {
            recursive: true, ..
        } => is_implied(dir) || remove::only_manifests(&dir.key),
        WriteKind::Delete { dir, .. } => *dir,
        WriteKind::Update(value) => value.is_empty() && is_implied(dir),
        _ => false,
    }
}

/// It is a directory only because of what is below it, and its index may be that of a key there.
fn is_implied(dir: &Level) -> bool {
    dir.dir_side().is_none() || dir.file.is_some()
}

/// Plans an authorized write; TTLs count from `now`.
pub fn plan(write: &Write, seen: &Lookup, now: Timestamp) -> Result<Planned, V2Error> {
    let times = Times {
        now,
        expires: write.ttl.map(|ttl| ttl::ends(ttl, now)),
        silent: write.refresh,
    };
    if let WriteKind::CreateInOrder(content) = &write.change {
        return create_in_order(&write.key, seen, times, content);
    }
    let Some(target) = seen.target() else {
        return Err(match write.change {
            // etcd knows the root by no name here.
            WriteKind::CompareAndDelete(_) => seen.error(ErrorCode::NotFile, ""),
            _ => seen.error(ErrorCode::RootReadOnly, "/"),
        });
    };
    let planner = Planner {
        seen,
        target,
        times,
    };
    match &write.change {
        WriteKind::Set(content) => planner.set(content),
        WriteKind::Create(content) => planner.create(content),
        WriteKind::CreateInOrder(_) => unreachable!("planned above"),
        WriteKind::Update(value) => planner.update(value),
        WriteKind::CompareAndSwap(condition, value) => {
            let file = planner.compared(condition)?;
            Ok(planner.rewrite(Action::CompareAndSwap, file, value))
        }
        WriteKind::CompareAndDelete(condition) => planner.compare_and_delete(condition),
        WriteKind::Delete { dir, recursive } => planner.delete(*dir, *recursive),
    }
}

/// Plans the end of a node whose TTL is over; none if it was changed since `modified`.
pub fn expire(seen: &Lookup, modified: i64, now: Timestamp) -> Option<Planned> {
    let planner = Planner {
        seen,
        target: seen.target()?,
        times: Times {
            now,
            expires: None,
            silent: false,
        },
    };
    planner.expire(modified)
}

/// The child's name is the next index: guards see to it that no later name was given before.
fn create_in_order(
    dir: &KeyPath,
    seen: &Lookup,
    times: Times,
    content: &Content,
) -> Result<Planned, V2Error> {
    let next = seen.revision + 1;
    let Some(key) = dir.child(&in_order(next)) else {
        let cause = format!("the key has more than {MAX_PARTS} parts");
        return Err(V2Error::request(ErrorCode::InvalidField, cause));
    };
    let seen = seen.with_child(key);
    let planner = Planner {
        target: seen.target().expect("it was put there"),
        seen: &seen,
        times,
    };
    let mut planned = planner.create(content)?;
    // All such names begin with a zero.
    for names in [dir.below(), dir.side_below()] {
        planned.txn.guards.push(Compare::new(
            KeyRange::prefix(&format!("{names}0")),
            Relation::Less,
            Target::Created(next),
        ));
    }
    Ok(planned)
}

/// A name of a key that sorts by its index.
pub fn in_order(index: i64) -> String {
    format!("{index:020}")
}

/// What a write says of times.
#[derive(Debug, Clone, Copy)]
struct Times {
    now: Timestamp,
    /// When what is written ends by itself.
    expires: Option<Timestamp>,
    /// Waits are not told, and the value is kept.
    silent: bool,
}

impl Times {
    fn left(&self, expires: Timestamp) -> Ttl {
        Ttl::new(expires, self.now)
    }
}

/// Plans writes of one key.
struct Planner<'a> {
    seen: &'a Lookup,
    target: &'a Level,
    times: Times,
}

enum Existing<'a> {
    File(&'a KeyValue),
    Dir,
}

impl<'a> Planner<'a> {
    fn set(&self, content: &Content) -> Result<Planned, V2Error> {
        self.fail_below_a_file()?;
        if self.times.silent {
            self.seen.walk()?;
            self.existing()?;
        }
        match (self.target.kind(), &self.target.file) {
            (KeyKind::Dir, _) => Err(self.error(ErrorCode::NotFile)),
            (KeyKind::File, Some(file)) => {
                let prev = Some(Prev {
                    file: *content == Content::Dir,
                    ..self.prev_of(file)
                });
                let mut planned = match content {
                    Content::File(_) if self.times.silent => {
                        let kept = Content::File(file.value.clone());
                        self.put(Action::Set, &kept, None, prev)
                    }
                    content => self.put(Action::Set, content, None, prev),
                };
                planned.before = Some(file.value.clone());
                self.make_dirs(&mut planned.txn);
                Ok(planned)
            }
            _ => Ok(self.put_new(Action::Set, content)),
        }
    }

    fn create(&self, content: &Content) -> Result<Planned, V2Error> {
        self.fail_below_a_file()?;
        if self.target.kind() == KeyKind::Missing {
            let mut planned = self.put_new(Action::Create, content);
            // There is nothing to refresh, so it is told.
            planned.record.silent = false;
            Ok(planned)
        } else {
            Err(self.error(ErrorCode::KeyExists))
        }
    }

    fn update(&self, value: &[u8]) -> Result<Planned, V2Error> {
        self.seen.walk()?;
        match self.existing()? {
            Existing::File(file) => Ok(self.rewrite(Action::Update, file, value)),
            // Under `/apps` none has a TTL: v3 may have made one of a manifest.
            Existing::Dir if value.is_empty() && !self.only_manifests() => Ok(self.update_dir()),
            Existing::Dir => Err(self.error(ErrorCode::NotFile)),
        }
    }

    fn error(&self, code: ErrorCode) -> V2Error {
        self.seen.error(code, self.target.key.as_str())
    }

    fn existing(&self) -> Result<Existing<'a>, V2Error> {
        match (self.target.kind(), &self.target.file) {
            (KeyKind::Dir, _) => Ok(Existing::Dir),
            (KeyKind::File, Some(file)) => Ok(Existing::File(file)),
            _ => Err(self.error(ErrorCode::KeyNotFound)),
        }
    }

    /// The file, if it is as the condition says.
    fn compared(&self, condition: &Condition) -> Result<&'a KeyValue, V2Error> {
        self.seen.walk()?;
        let Existing::File(file) = self.existing()? else {
            return Err(self.error(ErrorCode::NotFile));
        };
        let modified = file.modified.unsigned_abs();
        let mut causes = Vec::new();
        if !condition.value.is_empty() && condition.value != file.value {
            let want = String::from_utf8_lossy(&condition.value);
            let have = String::from_utf8_lossy(&file.value);
            causes.push(format!("[{want} != {have}]"));
        }
        if condition.index != 0 && condition.index != modified {
            causes.push(format!("[{} != {modified}]", condition.index));
        }
        if causes.is_empty() {
            Ok(file)
        } else {
            let cause = causes.join(" ");
            Err(self.seen.error(ErrorCode::CompareFailed, cause))
        }
    }

    /// Missing directories are made; only a file in their place is in the way.
    fn fail_below_a_file(&self) -> Result<(), V2Error> {
        match self.seen.walk() {
            Err(error) if error.code == ErrorCode::NotDir => Err(error),
            _ => Ok(()),
        }
    }

    fn put_new(&self, action: Action, content: &Content) -> Planned {
        let mut planned = self.put(action, content, None, None);
        self.make_dirs(&mut planned.txn);
        planned
    }

    /// A file that is there is given a value and keeps its created index.
    fn rewrite(&self, action: Action, file: &KeyValue, value: &[u8]) -> Planned {
        let created = created_of(file, self.target.side);
        let value = if self.times.silent {
            &file.value
        } else {
            value
        };
        let content = Content::File(value.to_vec());
        let prev = Some(self.prev_of(file));
        let mut planned = self.put(action, &content, Some(created), prev);
        planned.before = Some(file.value.clone());
        planned
    }

    fn put(
        &self,
        action: Action,
        content: &Content,
        created: Option<i64>,
        prev: Option<Prev>,
    ) -> Planned {
        let target = self.target;
        let meta = Meta {
            created,
            dir: *content == Content::Dir,
            expires: self.times.expires,
        };
        let mut then = Vec::new();
        match content {
            Content::File(value) => then.push(Op::put(&target.key, value.as_slice())),
            Content::Dir if target.file.is_some() => then.push(Op::delete(&target.key)),
            Content::Dir => {}
        }
        if meta == Meta::default() {
            // Without its side key the file counts as made now, as `set` has it.
            self.forget_side(&mut then);
        } else {
            self.put_side(&meta, &mut then);
        }
        let mut planned = self.planned(action, created, prev, meta.dir, then);
        planned.record.ttl = self.times.expires.map(|end| self.times.left(end));
        planned.former_lease = target.own_lease();
        if let Content::File(value) = content {
            planned.value = Some(value.clone());
        }
        let below = KeyRange::prefix(&target.key.below());
        planned.txn.guards.push(Compare::none_in(below));
        planned
    }

    /// Guarded by the key and its side key.
    fn planned(
        &self,
        action: Action,
        created: Option<i64>,
        prev: Option<Prev>,
        dir: bool,
        then: Vec<Op>,
    ) -> Planned {
        let target = self.target;
        let record = OpRecord {
            action,
            key: target.key.to_string(),
            created,
            dir,
            ttl: None,
            prev,
            silent: self.times.silent,
            id: None,
        };
        let modified = target.file.as_ref().map_or(0, |file| file.modified);
        let guards = vec![
            Compare::modified(&target.key, ModRev(modified)),
            side_as_seen(target),
        ];
        Planned {
            key: target.key.clone(),
            txn: Txn::new(guards, then),
            record,
            value: None,
            before: None,
            former_lease: None,
        }
    }

    fn prev_of(&self, file: &KeyValue) -> Prev {
        let meta = meta_of(file, self.target.side);
        Prev {
            created: meta.created.unwrap_or(file.modified),
            modified: file.modified,
            ttl: meta.expires.map(|end| self.times.left(end)),
            file: false,
        }
    }

    /// Writes the side key and, of a directory, where doors look for its TTL.
    fn put_side(&self, meta: &Meta, then: &mut Vec<Op>) {
        let target = self.target;
        then.push(Op::put_json(target.key.side(), meta));
        match meta.expires {
            Some(expires) if meta.dir => {
                let ttl = self.times.left(expires);
                then.push(Op::put_json(target.key.ttl_key(), &ttl));
            }
            _ if has_dir_ttl(target) => then.push(Op::delete(target.key.ttl_key())),
            _ => {}
        }
    }

    fn forget_side(&self, then: &mut Vec<Op>) {
        if self.target.side.is_some() {
            then.push(Op::delete(self.target.key.side()));
        }
        if has_dir_ttl(self.target) {
            then.push(Op::delete(self.target.key.ttl_key()));
        }
    }
}

fn has_dir_ttl(target: &Level) -> bool {
    target
        .dir_side()
        .is_some_and(|side| side.meta.expires.is_some())
}

fn side_as_seen(level: &Level) -> Compare {
    let modified = level.side.map_or(0, |side| side.modified);
    Compare::modified(level.key.side(), ModRev(modified))
}

/// Nothing in the range was written after `revision`.
fn unchanged(keys: KeyRange, revision: i64) -> Compare {
    Compare::new(keys, Relation::Less, Target::Modified(revision + 1))
}

#[cfg(test)]
mod tests;
