//! From a write and a lookup to one guarded transaction, or etcd's error.
//!
//! Pure. Invariant: a transaction succeeds only if everything it was decided on
//! is unchanged; else the write is planned again.

use model::ModRev;
use store::kv::{Compare, KeyRange, KeyValue, Op, Relation, Target, Txn};
use uuid::Uuid;

use super::error::{ErrorCode, V2Error};
use super::event::{OP_KEY, OpRecord, PrevIndexes};
use super::lookup::{Below, KeyKind, Level, Lookup, Meta, created_of};
use super::node::{Action, V2Event};
use super::path::KeyPath;
use super::request::{Condition, Write, WriteKind};
use super::tree::dir_index;
use crate::access;

/// etcd takes 128 operations in one transaction.
const MAX_OPS: usize = 120;

/// A transaction and its event.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Planned {
    /// Without the record and a branch for failure.
    txn: Txn,
    /// Record of the event.
    record: OpRecord,
    value: Option<Vec<u8>>,
    before: Option<Vec<u8>>,
}

impl Planned {
    /// The transaction for a request, without a branch for failure, and the record that it puts at [`OP_KEY`].
    pub fn request(&self, id: Uuid) -> (Txn, Vec<u8>) {
        let record = OpRecord {
            id: Some(id),
            ..self.record.clone()
        };
        let record = serde_json::to_vec(&record).expect("records always serialize");
        let mut txn = self.txn.clone();
        txn.then.push(Op::put(OP_KEY, record.clone()));
        (txn, record)
    }

    /// The event, once the revision is known.
    pub fn event(&self, revision: i64) -> V2Event {
        self.record
            .event(revision, self.value.as_deref(), self.before.as_deref())
    }
}

/// This write needs all keys below its own.
pub fn needs_below(change: &WriteKind) -> bool {
    match change {
        WriteKind::Delete { dir, recursive } => *dir || *recursive,
        // The index of a directory may be that of a key below it.
        WriteKind::Update(value) => value.is_empty(),
        _ => false,
    }
}

/// Plans an authorized write.
pub fn plan(write: &Write, seen: &Lookup) -> Result<Planned, V2Error> {
    let Some(target) = seen.target() else {
        return Err(match write.change {
            // etcd knows the root by no name here.
            WriteKind::CompareAndDelete(_) => seen.error(ErrorCode::NotFile, ""),
            _ => seen.error(ErrorCode::RootReadOnly, "/"),
        });
    };
    match &write.change {
        WriteKind::Set(value) => set(target, seen, value),
        WriteKind::Create(value) => create(target, seen, value),
        WriteKind::Update(value) => {
            seen.walk()?;
            match existing(target, seen)? {
                Existing::File(file) => Ok(rewrite(Action::Update, target, file, value)),
                Existing::Dir if value.is_empty() => Ok(touch_dir(target, seen)),
                Existing::Dir => Err(seen.error(ErrorCode::NotFile, target.key.as_str())),
            }
        }
        WriteKind::CompareAndSwap(condition, value) => {
            let file = compared(target, seen, condition)?;
            Ok(rewrite(Action::CompareAndSwap, target, file, value))
        }
        WriteKind::CompareAndDelete(condition) => {
            let file = compared(target, seen, condition)?;
            may_go(target, seen)?;
            Ok(delete_file(Action::CompareAndDelete, target, file))
        }
        WriteKind::Delete { dir, recursive } => {
            seen.walk()?;
            match existing(target, seen)? {
                Existing::File(file) => {
                    may_go(target, seen)?;
                    Ok(delete_file(Action::Delete, target, file))
                }
                Existing::Dir if *recursive && only_manifests(target) => {
                    delete_manifests(target, seen)
                }
                Existing::Dir if *recursive => Ok(delete_dir(target, seen)),
                Existing::Dir if *dir => delete_empty_dir(target, seen),
                Existing::Dir => Err(seen.error(ErrorCode::NotFile, target.key.as_str())),
            }
        }
    }
}

fn only_manifests(target: &Level) -> bool {
    access::delete(target.key.as_str()) == Ok(access::Delete::Manifests)
}

/// Under `/apps`, v3 may have put a file where a directory belongs.
fn may_go(target: &Level, seen: &Lookup) -> Result<(), V2Error> {
    let key = target.key.as_str();
    if only_manifests(target) && !access::is_manifest(key) {
        let refusal = access::Refusal::NotAManifest(key.to_owned());
        return Err(seen.error(ErrorCode::Unauthorized, refusal.to_string()));
    }
    Ok(())
}

enum Existing<'a> {
    File(&'a KeyValue),
    Dir,
}

fn existing<'a>(target: &'a Level, seen: &Lookup) -> Result<Existing<'a>, V2Error> {
    match (target.kind(), &target.file) {
        (KeyKind::Dir, _) => Ok(Existing::Dir),
        (KeyKind::File, Some(file)) => Ok(Existing::File(file)),
        _ => Err(seen.error(ErrorCode::KeyNotFound, target.key.as_str())),
    }
}

/// The file, if it is as the condition says.
fn compared<'a>(
    target: &'a Level,
    seen: &Lookup,
    condition: &Condition,
) -> Result<&'a KeyValue, V2Error> {
    seen.walk()?;
    let Existing::File(file) = existing(target, seen)? else {
        return Err(seen.error(ErrorCode::NotFile, target.key.as_str()));
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
        Err(seen.error(ErrorCode::CompareFailed, causes.join(" ")))
    }
}

fn set(target: &Level, seen: &Lookup, value: &[u8]) -> Result<Planned, V2Error> {
    fail_below_a_file(seen)?;
    match (target.kind(), &target.file) {
        (KeyKind::Dir, _) => Err(seen.error(ErrorCode::NotFile, target.key.as_str())),
        (KeyKind::File, Some(file)) => {
            let prev = Some(prev_of(target, file));
            let mut planned = put(Action::Set, target, value, None, prev);
            planned.before = Some(file.value.clone());
            // Without its side key the file counts as made now, as `set` has it.
            forget_side(target, &mut planned.txn.then);
            make_dirs(seen, &mut planned.txn);
            Ok(planned)
        }
        _ => Ok(put_new(Action::Set, target, seen, value)),
    }
}

fn create(target: &Level, seen: &Lookup, value: &[u8]) -> Result<Planned, V2Error> {
    fail_below_a_file(seen)?;
    if target.kind() == KeyKind::Missing {
        Ok(put_new(Action::Create, target, seen, value))
    } else {
        Err(seen.error(ErrorCode::KeyExists, target.key.as_str()))
    }
}

/// Missing directories are made; only a file in their place is in the way.
fn fail_below_a_file(seen: &Lookup) -> Result<(), V2Error> {
    match seen.walk() {
        Err(error) if error.code == ErrorCode::NotDir => Err(error),
        _ => Ok(()),
    }
}

fn put_new(action: Action, target: &Level, seen: &Lookup, value: &[u8]) -> Planned {
    let mut planned = put(action, target, value, None, None);
    forget_side(target, &mut planned.txn.then);
    make_dirs(seen, &mut planned.txn);
    planned
}

/// SideKey keys for the directories above that have none, and guards that these are as they were seen.
fn make_dirs(seen: &Lookup, txn: &mut Txn) {
    let mut parent: Option<&Level> = None;
    for dir in seen.above() {
        if !dir.has_dir_side() {
            txn.then.push(put_meta(
                &dir.key,
                &Meta {
                    dir: true,
                    created: None,
                },
            ));
        }
        if dir.kind() == KeyKind::Missing {
            // It and all below it are missing, so guards on it cover the rest.
            txn.guards.extend([
                Compare::absent(&dir.key),
                side_as_seen(dir),
                Compare::none_in(KeyRange::prefix(&dir.key.below())),
                unchanged(KeyRange::prefix(&dir.key.side_below()), seen.revision),
            ]);
            for dir in seen.above().iter().filter(|below| below.key > dir.key) {
                let meta = Meta {
                    dir: true,
                    created: None,
                };
                txn.then.push(put_meta(&dir.key, &meta));
            }
            break;
        }
        if !dir.parent {
            // Without keys below it, a value would make it a file.
            txn.guards.push(Compare::absent(&dir.key));
        }
        parent = Some(dir);
    }
    if let Some(parent) = parent {
        txn.guards.push(side_as_seen(parent));
    }
}

/// A file that is there is given a value and keeps its created index.
fn rewrite(action: Action, target: &Level, file: &KeyValue, value: &[u8]) -> Planned {
    let created = created_of(file, target.side);
    let prev = Some(prev_of(target, file));
    let mut planned = put(action, target, value, Some(created), prev);
    planned.before = Some(file.value.clone());
    planned.txn.then.push(put_meta(
        &target.key,
        &Meta {
            created: Some(created),
            dir: false,
        },
    ));
    planned
}

fn put(
    action: Action,
    target: &Level,
    value: &[u8],
    created: Option<i64>,
    prev: Option<PrevIndexes>,
) -> Planned {
    let then = vec![Op::put(&target.key, value)];
    let mut planned = planned(action, target, created, prev, false, then);
    planned.value = Some(value.to_vec());
    planned
}

/// A directory's update without a value changes nothing but the index.
fn touch_dir(target: &Level, seen: &Lookup) -> Planned {
    dir_event(Action::Update, target, seen, Vec::new(), Vec::new())
}

fn delete_file(action: Action, target: &Level, file: &KeyValue) -> Planned {
    let prev = prev_of(target, file);
    let mut then = vec![Op::delete(&target.key)];
    forget_side(target, &mut then);
    let mut planned = planned(action, target, Some(prev.created), Some(prev), false, then);
    planned.before = Some(file.value.clone());
    planned
}

fn delete_dir(target: &Level, seen: &Lookup) -> Planned {
    let mut then = vec![
        Op::Delete(KeyRange::prefix(&target.key.below())),
        Op::Delete(KeyRange::prefix(&target.key.side_below())),
    ];
    if target.file.is_some() {
        then.push(Op::delete(&target.key));
    }
    forget_side(target, &mut then);
    dir_event(Action::Delete, target, seen, Vec::new(), then)
}

fn delete_empty_dir(target: &Level, seen: &Lookup) -> Result<Planned, V2Error> {
    let below = seen.below.as_ref();
    let has_dirs = below.is_some_and(|below| {
        let dir = |kv| super::lookup::SideKey::new(kv).meta.dir;
        below.sides.iter().any(dir)
    });
    if target.parent || has_dirs {
        return Err(seen.error(ErrorCode::DirNotEmpty, target.key.as_str()));
    }
    let guards = vec![
        Compare::none_in(KeyRange::prefix(&target.key.below())),
        unchanged(KeyRange::prefix(&target.key.side_below()), seen.revision),
    ];
    let mut then = vec![Op::Delete(KeyRange::prefix(&target.key.side_below()))];
    forget_side(target, &mut then);
    Ok(dir_event(Action::Delete, target, seen, guards, then))
}

/// Under `/apps`: the manifests go; what else is there, which only v3 can have put, stays.
fn delete_manifests(target: &Level, seen: &Lookup) -> Result<Planned, V2Error> {
    let nothing = Below::default();
    let below = seen.below.as_ref().unwrap_or(&nothing);
    let staying: Vec<&str> = below
        .files
        .iter()
        .map(|kv| kv.key.as_str())
        .filter(|key| !access::is_manifest(key))
        .collect();
    let whole = KeyRange::prefix(&target.key.below());
    let guards = vec![unchanged(whole.clone(), seen.revision)];
    let mut then = Vec::new();
    if staying.is_empty() && target.file.is_none() {
        then.push(Op::Delete(whole));
        then.push(Op::Delete(KeyRange::prefix(&target.key.side_below())));
        forget_side(target, &mut then);
    } else {
        // The gaps between what stays.
        let mut start = whole.start;
        for key in &staying {
            then.push(Op::Delete(KeyRange::range(start, *key)));
            start = [key.as_bytes(), &[0]].concat();
        }
        then.push(Op::Delete(KeyRange::range(
            start,
            whole.end.unwrap_or_default(),
        )));
    }
    if then.len() > MAX_OPS {
        let cause = format!(
            "{} keys below {} are no manifests and stay; delete single manifests",
            staying.len(),
            target.key
        );
        return Err(seen.error(ErrorCode::Unauthorized, cause));
    }
    Ok(dir_event(Action::Delete, target, seen, guards, then))
}

fn dir_event(
    action: Action,
    target: &Level,
    seen: &Lookup,
    guards: Vec<Compare>,
    then: Vec<Op>,
) -> Planned {
    let below = seen.below.as_ref();
    let oldest = below.and_then(|below| below.files.iter().min_by_key(|kv| kv.created));
    let index = dir_index(target, oldest);
    let prev = PrevIndexes {
        created: index,
        modified: index,
    };
    let mut planned = planned(action, target, Some(index), Some(prev), true, then);
    planned.txn.guards.extend(guards);
    let implied = !target.has_dir_side() || target.file.is_some();
    if let Some(oldest) = oldest.filter(|_| implied) {
        // It is a directory only because of what is below it.
        planned
            .txn
            .guards
            .push(Compare::modified(&oldest.key, ModRev(oldest.modified)));
    }
    planned
}

fn planned(
    action: Action,
    target: &Level,
    created: Option<i64>,
    prev: Option<PrevIndexes>,
    dir: bool,
    then: Vec<Op>,
) -> Planned {
    let record = OpRecord {
        action,
        key: target.key.to_string(),
        created,
        dir,
        prev,
        id: None,
    };
    let mut guards = vec![
        Compare::modified(
            &target.key,
            ModRev(target.file.as_ref().map_or(0, |file| file.modified)),
        ),
        side_as_seen(target),
    ];
    if !dir {
        guards.push(Compare::none_in(KeyRange::prefix(&target.key.below())));
    }
    Planned {
        txn: Txn::new(guards, then),
        record,
        value: None,
        before: None,
    }
}

fn prev_of(target: &Level, file: &KeyValue) -> PrevIndexes {
    PrevIndexes {
        created: created_of(file, target.side),
        modified: file.modified,
    }
}

fn side_as_seen(level: &Level) -> Compare {
    Compare::modified(
        level.key.side(),
        ModRev(level.side.map_or(0, |side| side.modified)),
    )
}

/// Nothing in the range was written after `revision`.
fn unchanged(keys: KeyRange, revision: i64) -> Compare {
    Compare::new(keys, Relation::Less, Target::Modified(revision + 1))
}

fn put_meta(key: &KeyPath, meta: &Meta) -> Op {
    Op::put_json(key.side(), meta)
}

fn forget_side(target: &Level, then: &mut Vec<Op>) {
    if target.side.is_some() {
        then.push(Op::delete(target.key.side()));
    }
}
