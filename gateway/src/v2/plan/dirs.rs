//! Directories: those above a key that is written, and one that is itself.

use store::kv::{Compare, KeyRange, KeyValue, Op, Relation, Target, Txn};

use super::{ModRev, Planned, Planner, Prev, has_dir_ttl, is_implied, side_as_seen, unchanged};
use crate::access;
use crate::v2::lookup::{KeyKind, Level, Meta};
use crate::v2::node::Action;
use crate::v2::path::KeyPath;
use crate::v2::tree::dir_index;

impl Planner<'_> {
    /// Side keys for the directories above that have none, and guards that these are as they were seen.
    pub(super) fn make_dirs(&self, txn: &mut Txn) {
        let seen = self.seen;
        let mut parent: Option<&Level> = None;
        for (at, dir) in seen.above().iter().enumerate() {
            if dir.kind() == KeyKind::Missing {
                // It and all below it are missing, so guards on it cover the rest.
                txn.guards.extend([
                    Compare::absent(&dir.key),
                    side_as_seen(dir),
                    Compare::none_in(KeyRange::prefix(&dir.key.below())),
                    unchanged(KeyRange::prefix(&dir.key.side_below()), seen.revision),
                ]);
                let missing = seen.above()[at..].iter();
                txn.then.extend(missing.filter_map(|dir| make(&dir.key)));
                break;
            }
            if dir.dir_side().is_none()
                && let Some(made) = make(&dir.key)
            {
                txn.guards.push(side_as_seen(dir));
                txn.then.push(made);
            }
            if !dir.parent {
                // Without keys below it, a value would make it a file.
                txn.guards.push(Compare::absent(&dir.key));
            }
            parent = Some(dir);
        }
        if let Some(parent) = parent.filter(|dir| dir.dir_side().is_some()) {
            txn.guards.push(side_as_seen(parent));
        }
    }

    /// A directory's update sets its TTL, or takes it away; its index is changed only in what is told.
    pub(super) fn update_dir(&self) -> Planned {
        let expires = self.times.expires;
        let mut then = Vec::new();
        if expires.is_some() || has_dir_ttl(self.target) {
            let meta = Meta {
                created: Some(dir_index(self.target, self.oldest())),
                dir: true,
                expires,
            };
            self.put_side(&meta, &mut then);
        }
        let mut planned = self.dir_event(Action::Update, Vec::new(), then);
        planned.record.ttl = expires.map(|end| self.times.left(end));
        planned
    }

    pub(super) fn dir_event(&self, action: Action, guards: Vec<Compare>, then: Vec<Op>) -> Planned {
        let target = self.target;
        let index = dir_index(target, self.oldest());
        let expires = target.dir_side().and_then(|side| side.meta.expires);
        let prev = Prev {
            created: index,
            modified: index,
            ttl: expires.map(|end| self.times.left(end)),
            file: false,
        };
        let mut planned = self.planned(action, Some(index), Some(prev), true, then);
        planned.txn.guards.extend(guards);
        // Without keys below it, a value would make one above a file.
        let above = self.seen.above().iter().filter(|dir| !dir.parent);
        let absent = above.map(|dir| Compare::absent(&dir.key));
        planned.txn.guards.extend(absent);
        if let Some(oldest) = self.oldest().filter(|_| is_implied(target)) {
            let as_seen = Compare::modified(&oldest.key, ModRev(oldest.modified));
            planned.txn.guards.push(as_seen);
        }
        planned
    }

    fn oldest(&self) -> Option<&KeyValue> {
        let below = self.seen.below.as_ref()?;
        below.files.iter().min_by_key(|kv| kv.created)
    }
}

/// The side key of a directory, where one stays when it is emptied.
fn make(dir: &KeyPath) -> Option<Op> {
    access::keeps_dirs(dir.as_str()).then(|| Op::put_json(dir.side(), &MADE))
}

/// Nothing was changed about a directory since it was made; none of one that has no side key.
pub(super) fn is_as_made(dir: &KeyPath) -> Option<Compare> {
    let value = serde_json::to_vec(&MADE).expect("records always serialize");
    let side = KeyRange::key(dir.side());
    access::keeps_dirs(dir.as_str())
        .then(|| Compare::new(side, Relation::Equal, Target::Value(value)))
}

const MADE: Meta = Meta {
    created: None,
    dir: true,
    expires: None,
};
