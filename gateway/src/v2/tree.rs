//! The v2 tree that keys and side keys make.
//!
//! Pure. Keys that v2 could not name (an empty part, `.`, `..`, too deep) are
//! not shown; neither are names that begin with `_`, nor side keys.

use std::collections::BTreeMap;

use jiff::Timestamp;
use store::kv::KeyValue;

use super::lookup::{Below, KeyKind, Level, Lookup, SideKey, meta_of};
use super::node::V2Node;
use super::path::{KeyPath, MAX_PARTS};
use super::ttl::Ttl;

#[derive(Default)]
struct Dir<'a> {
    files: BTreeMap<&'a str, (&'a KeyValue, Option<SideKey>)>,
    dirs: BTreeMap<&'a str, Dir<'a>>,
    /// Its side key.
    own: Option<SideKey>,
    /// The least index of a key below it; none if there is no key.
    implied: Option<i64>,
}

impl<'a> Dir<'a> {
    /// The directory of these names, made as needed. `index` is of the key for which it is looked up.
    fn at(&mut self, names: &[&'a str], index: Option<i64>) -> &mut Self {
        let mut dir = self;
        dir.imply(index);
        for name in names {
            dir = dir.dirs.entry(name).or_default();
            dir.imply(index);
        }
        dir
    }

    fn imply(&mut self, index: Option<i64>) {
        self.implied = match (self.implied, index) {
            (Some(a), Some(b)) => Some(a.min(b)),
            (a, b) => a.or(b),
        };
    }

    fn node(&self, key: String, nodes: Vec<V2Node>, now: Timestamp) -> V2Node {
        let index = self.own.map(|own| own.dir_index()).or(self.implied);
        let expires = self.own.and_then(|own| own.meta.expires);
        V2Node {
            nodes,
            ..dir_node(key, index.unwrap_or(0), expires, now)
        }
    }

    fn nodes(&self, key: &str, recursive: bool, now: Timestamp) -> Vec<V2Node> {
        let mut nodes = BTreeMap::new();
        for (name, dir) in &self.dirs {
            if hidden(name) || (self.files.contains_key(name) && dir.implied.is_none()) {
                continue;
            }
            let key = format!("{key}{name}");
            let nodes_below = if recursive {
                dir.nodes(&format!("{key}/"), true, now)
            } else {
                Vec::new()
            };
            nodes.insert(*name, dir.node(key, nodes_below, now));
        }
        for (name, (file, side)) in &self.files {
            if !hidden(name) {
                nodes
                    .entry(name)
                    .or_insert_with(|| file_node(format!("{key}{name}"), file, *side, now));
            }
        }
        nodes.into_values().collect()
    }
}

/// Listings leave these out; read by their own name they are there.
fn hidden(name: &str) -> bool {
    name.starts_with('_')
}

/// A file as v2 shows it.
pub fn file_node(key: String, file: &KeyValue, side: Option<SideKey>, now: Timestamp) -> V2Node {
    let meta = meta_of(file, side);
    V2Node {
        key,
        value: Some(file.value.as_slice().into()),
        ttl: meta.expires.map(|end| Ttl::new(end, now)),
        modified: file.modified,
        created: meta.created.unwrap_or(file.modified),
        ..V2Node::default()
    }
}

/// A directory as v2 shows it: its indexes are those of its creation.
fn dir_node(key: String, index: i64, expires: Option<Timestamp>, now: Timestamp) -> V2Node {
    V2Node {
        key,
        dir: true,
        ttl: expires.map(|end| Ttl::new(end, now)),
        modified: index,
        created: index,
        ..V2Node::default()
    }
}

/// The key and what is below it; none if it is not there. Needs all below to be read.
pub fn node(key: &KeyPath, seen: &Lookup, recursive: bool, now: Timestamp) -> Option<V2Node> {
    let nothing = Below::default();
    let below = seen.below.as_ref().unwrap_or(&nothing);
    let Some(target) = seen.target() else {
        let nodes = build(key, below).nodes("/", recursive, now);
        return Some(V2Node {
            dir: true,
            nodes,
            ..V2Node::default()
        });
    };
    match (target.kind(), &target.file) {
        (KeyKind::Dir, _) => {
            let nodes = build(key, below).nodes(&key.below(), recursive, now);
            let oldest = below.files.iter().min_by_key(|kv| kv.created);
            let expires = target.dir_side().and_then(|side| side.meta.expires);
            Some(V2Node {
                nodes,
                ..dir_node(key.to_string(), dir_index(target, oldest), expires, now)
            })
        }
        (KeyKind::File, Some(file)) => Some(file_node(key.to_string(), file, target.side, now)),
        _ => None,
    }
}

/// A directory's index: that of its side key, else that of the `oldest` key below it.
pub fn dir_index(dir: &Level, oldest: Option<&KeyValue>) -> i64 {
    dir.dir_side()
        .map(|side| side.dir_index())
        .or(oldest.map(|kv| kv.created))
        .or(dir.file.as_ref().map(|file| file.created))
        .unwrap_or(0)
}

/// The names below a directory that a key stands for; none if v2 could not say it.
fn names<'a>(prefix: &str, key: &'a str) -> Option<Vec<&'a str>> {
    let names: Vec<&str> = key.strip_prefix(prefix)?.split('/').collect();
    let sayable = names.iter().all(|name| !matches!(*name, "" | "." | ".."));
    (sayable && names.len() <= MAX_PARTS).then_some(names)
}

fn build<'a>(key: &KeyPath, below: &'a Below) -> Dir<'a> {
    let mut root = Dir::default();
    let prefix = key.side_below();
    let mut sides: BTreeMap<&str, SideKey> = BTreeMap::new();
    for kv in &below.sides {
        let side = SideKey::new(kv);
        let Some(names) = names(&prefix, &kv.key) else {
            continue;
        };
        if side.meta.dir {
            root.at(&names, None).own = Some(side);
        } else {
            sides.insert(kv.key.strip_prefix(&prefix).unwrap_or_default(), side);
        }
    }
    let prefix = key.below();
    for kv in &below.files {
        let Some(names) = names(&prefix, &kv.key) else {
            continue;
        };
        if let Some((name, dirs)) = names.split_last() {
            let side = sides.get(kv.key.strip_prefix(&prefix).unwrap_or_default());
            root.at(dirs, Some(kv.created))
                .files
                .insert(name, (kv, side.copied()));
        }
    }
    root
}
