//! What etcd refuses before it looks at any guard: too many operations, and a key that is written twice.

use std::collections::BTreeSet;

use crate::kv::{KeyRange, KvError, Op, Txn};

/// etcd's `--max-txn-ops`.
const MAX_OPS: usize = 128;

pub(super) fn check(txn: &Txn) -> Result<(), KvError> {
    count(txn, MAX_OPS)?;
    for branch in [&txn.then, &txn.otherwise] {
        writes(branch)?;
    }
    Ok(())
}

/// The longest list of a transaction counts, and takes from what those nested in it may have.
fn count(txn: &Txn, left: usize) -> Result<(), KvError> {
    let most = txn
        .guards
        .len()
        .max(txn.then.len())
        .max(txn.otherwise.len());
    if most > left {
        let refused = "etcdserver: too many operations in txn request";
        return Err(KvError::Refused(refused.into()));
    }
    for op in txn.then.iter().chain(&txn.otherwise) {
        if let Op::Txn(inner) = op {
            count(inner, left - most)?;
        }
    }
    Ok(())
}

/// Keys put and ranges deleted in a branch, those of nested transactions included.
///
/// The order of the checks is etcd's: a nested put is compared with the deletions of its own level and of nested
/// transactions before it; both branches of one nested transaction may put the same key.
fn writes(branch: &[Op]) -> Result<(BTreeSet<String>, Vec<KeyRange>), KvError> {
    let mut puts: BTreeSet<String> = BTreeSet::new();
    let mut deletes: Vec<KeyRange> = branch
        .iter()
        .filter_map(|op| match op {
            Op::Delete(keys) => Some(keys.clone()),
            _ => None,
        })
        .collect();
    for op in branch {
        let Op::Txn(inner) = op else { continue };
        let (then, then_deletes) = writes(&inner.then)?;
        let (otherwise, otherwise_deletes) = writes(&inner.otherwise)?;
        for key in then.iter().chain(&otherwise) {
            if puts.contains(key) || deletes.iter().any(|range| range.contains(key)) {
                return Err(duplicate());
            }
        }
        puts.extend(then);
        puts.extend(otherwise);
        deletes.extend(then_deletes);
        deletes.extend(otherwise_deletes);
    }
    for op in branch {
        if let Op::Put { key, .. } = op {
            let deleted = deletes.iter().any(|range| range.contains(key));
            if deleted || !puts.insert(key.clone()) {
                return Err(duplicate());
            }
        }
    }
    Ok((puts, deletes))
}

fn duplicate() -> KvError {
    KvError::Refused("etcdserver: duplicate key given in txn request".into())
}
