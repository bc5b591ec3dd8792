//! What removes a key: deletions, and the end of a TTL.

use store::kv::{Compare, KeyRange, KeyValue, Op};

use super::{Existing, Planned, Planner, unchanged};
use crate::access;
use crate::v2::error::{ErrorCode, V2Error};
use crate::v2::lookup::{Below, KeyKind, SideKey, meta_of};
use crate::v2::node::Action;
use crate::v2::path::KeyPath;
use crate::v2::request::Condition;

/// etcd takes 128 operations in one transaction.
const MAX_OPS: usize = 120;

pub(super) fn only_manifests(key: &KeyPath) -> bool {
    access::delete(key.as_str()) == Ok(access::Delete::Manifests)
}

impl Planner<'_> {
    pub(super) fn delete(&self, dir: bool, recursive: bool) -> Result<Planned, V2Error> {
        self.seen.walk()?;
        match self.existing()? {
            Existing::File(file) => {
                self.may_go()?;
                Ok(self.delete_file(Action::Delete, file))
            }
            Existing::Dir if recursive && self.only_manifests() => self.delete_manifests(),
            Existing::Dir if recursive => Ok(self.delete_dir(Action::Delete)),
            Existing::Dir if dir => self.delete_empty_dir(),
            Existing::Dir => Err(self.error(ErrorCode::NotFile)),
        }
    }

    pub(super) fn compare_and_delete(&self, condition: &Condition) -> Result<Planned, V2Error> {
        let file = self.compared(condition)?;
        self.may_go()?;
        Ok(self.delete_file(Action::CompareAndDelete, file))
    }

    /// None if it was changed since `modified`.
    pub(super) fn expire(&self, modified: i64) -> Option<Planned> {
        let target = self.target;
        match (target.kind(), &target.file, target.dir_side()) {
            (KeyKind::File, Some(file), _) if file.modified == modified => {
                meta_of(file, target.side).expires?;
                Some(self.delete_file(Action::Expire, file))
            }
            (KeyKind::Dir, _, Some(side)) if side.modified == modified => {
                side.meta.expires?;
                Some(self.delete_dir(Action::Expire))
            }
            _ => None,
        }
    }

    pub(super) fn only_manifests(&self) -> bool {
        only_manifests(&self.target.key)
    }

    /// Under `/apps`, v3 may have put a file where a directory belongs.
    fn may_go(&self) -> Result<(), V2Error> {
        let key = self.target.key.as_str();
        if self.only_manifests() && !access::is_manifest(key) {
            let refusal = access::Refusal::NotAManifest(key.to_owned());
            return Err(self
                .seen
                .error(ErrorCode::Unauthorized, refusal.to_string()));
        }
        Ok(())
    }

    fn delete_file(&self, action: Action, file: &KeyValue) -> Planned {
        let target = self.target;
        let prev = self.prev_of(file);
        let mut then = vec![Op::delete(&target.key)];
        self.forget_side(&mut then);
        let mut planned = self.planned(action, Some(prev.created), Some(prev), false, then);
        planned.before = Some(file.value.clone());
        planned.former_lease = target.own_lease();
        let below = KeyRange::prefix(&target.key.below());
        planned.txn.guards.push(Compare::none_in(below));
        planned
    }

    fn delete_dir(&self, action: Action) -> Planned {
        let target = self.target;
        let mut then = vec![
            Op::Delete(KeyRange::prefix(&target.key.below())),
            Op::Delete(KeyRange::prefix(&target.key.side_below())),
            Op::Delete(KeyRange::prefix(&target.key.ttls_below())),
        ];
        if target.file.is_some() {
            then.push(Op::delete(&target.key));
        }
        self.forget_side(&mut then);
        self.dir_event(action, Vec::new(), then)
    }

    fn delete_empty_dir(&self) -> Result<Planned, V2Error> {
        let target = self.target;
        let below = self.seen.below.as_ref();
        let has_dirs = below.is_some_and(|below| {
            let dir = |kv| SideKey::new(kv).meta.dir;
            below.sides.iter().any(dir)
        });
        if target.parent || has_dirs {
            return Err(self.error(ErrorCode::DirNotEmpty));
        }
        let sides = KeyRange::prefix(&target.key.side_below());
        let guards = vec![
            Compare::none_in(KeyRange::prefix(&target.key.below())),
            unchanged(sides.clone(), self.seen.revision),
        ];
        let mut then = vec![Op::Delete(sides)];
        self.forget_side(&mut then);
        Ok(self.dir_event(Action::Delete, guards, then))
    }

    /// Under `/apps`: the manifests go; what else is there, which only v3 can have put, stays.
    fn delete_manifests(&self) -> Result<Planned, V2Error> {
        let (target, seen) = (self.target, self.seen);
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
            self.forget_side(&mut then);
        } else {
            // The gaps between what stays.
            let mut start = whole.start;
            for key in &staying {
                then.push(Op::Delete(KeyRange::range(start, *key)));
                start = [key.as_bytes(), &[0]].concat();
            }
            let end = whole.end.unwrap_or_default();
            then.push(Op::Delete(KeyRange::range(start, end)));
        }
        if then.len() > MAX_OPS {
            let cause = format!(
                "{} keys below {} are no manifests and stay; delete single manifests",
                staying.len(),
                target.key
            );
            return Err(seen.error(ErrorCode::Unauthorized, cause));
        }
        Ok(self.dir_event(Action::Delete, guards, then))
    }
}
