//! Records of others in etcd, in SkyDNS's format: `/skydns/<domain reversed>/…`.
//!
//! They are answers in DNS and nothing else: no link goes there. Immutable to
//! readers, as the directory is. A key's path is kept with a `/` at its end, so
//! that what is below a name is one range.

mod parse;
mod saved;

use std::ops::Bound;
use std::sync::Arc;

pub use parse::{Record, RecordError, Target, published, publisher};
use rpds::RedBlackTreeMapSync;

/// Longest label of a name.
const MAX_LABEL: usize = 63;
/// Longest path: a name of 253 octets.
const MAX_PATH: usize = 254;
/// Keys that are no records, of which is known why; those beyond are in the log alone.
pub const MAX_UNREADABLE: usize = 1_000;
/// Characters of such a key: more than any name has.
const MAX_KEY: usize = 512;
/// Labels that stand for any one label.
pub const WILDCARDS: [&str; 2] = ["*", "any"];

/// The table: records by path.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Records {
    table: RedBlackTreeMapSync<Path, Arc<Record>>,
    /// What is no record, by key.
    unreadable: RedBlackTreeMapSync<Arc<str>, RecordError>,
    is_saved: bool,
}

/// Labels from the root down, each with a `/` behind it: `local/skydns/shop/`.
type Path = Arc<str>;

/// A record, and the labels of its name from the root down.
pub type Found<'a> = (Vec<&'a str>, &'a Record);

impl Records {
    /// A key was put. What is no record takes away the one that was there.
    pub fn put(&mut self, key: &str, value: &[u8]) -> Result<(), RecordError> {
        let result = self.insert(key, value);
        let key = cut(key);
        match &result {
            Ok(()) => {
                self.unreadable.remove_mut(key);
            }
            Err(error) => {
                if self.unreadable.size() < MAX_UNREADABLE || self.unreadable.contains_key(key) {
                    self.unreadable.insert_mut(key.into(), error.clone());
                }
            }
        }
        result
    }

    fn insert(&mut self, key: &str, value: &[u8]) -> Result<(), RecordError> {
        let path = path(key).ok_or(RecordError::NotAName)?;
        let parsed = parse::parse(value);
        if let Ok(Some(record)) = parsed {
            self.table.insert_mut(path, Arc::new(record));
            return Ok(());
        }
        self.table.remove_mut(&path);
        parsed.map(drop)
    }

    /// A key was deleted.
    pub fn delete(&mut self, key: &str) {
        self.unreadable.remove_mut(cut(key));
        if let Some(path) = path(key) {
            self.table.remove_mut(&path);
        }
    }

    /// They were read from disk, and etcd has not confirmed them.
    pub fn is_saved(&self) -> bool {
        self.is_saved
    }

    /// Keys at a name and below it that are no records, and why. The labels may be wildcards; without any it is all keys.
    pub fn unreadable(&self, labels: &[&str]) -> impl Iterator<Item = (&str, &RecordError)> {
        let keys = self.unreadable.iter();
        keys.filter(|(key, _)| is_below(key, labels))
            .map(|(key, error)| (key.as_ref(), error))
    }

    /// How many there are.
    pub fn len(&self) -> usize {
        self.table.size()
    }

    /// There is none.
    pub fn is_empty(&self) -> bool {
        self.table.is_empty()
    }

    /// The record at a name, given by its labels from the root down.
    pub fn at(&self, labels: &[&str]) -> Option<&Record> {
        let path = labels.iter().flat_map(|label| [*label, "/"]);
        let record = self.table.get(path.collect::<String>().as_str());
        record.map(Arc::as_ref)
    }

    /// The records at a name and below it, the first `most` by path. The labels may be wildcards; with those, so many
    /// names at most are looked at.
    pub fn below(&self, labels: &[&str], most: usize) -> Vec<Found<'_>> {
        let mut found = Vec::new();
        self.collect(String::new(), labels, &mut { most }, &mut found);
        found
    }

    fn collect<'a>(
        &'a self,
        mut prefix: String,
        labels: &[&str],
        left: &mut usize,
        found: &mut Vec<Found<'a>>,
    ) {
        let wild = labels.iter().position(|label| WILDCARDS.contains(label));
        let exact = &labels[..wild.unwrap_or(labels.len())];
        for label in exact {
            prefix.push_str(label);
            prefix.push('/');
        }
        let Some(wild) = wild else {
            for (path, record) in self.from(Bound::Included(&prefix)) {
                if *left == 0 || !path.starts_with(&prefix) {
                    break;
                }
                *left -= 1;
                found.push((path.split_terminator('/').collect(), record));
            }
            return;
        };
        // Each name below in turn: what is below that name is passed over.
        let mut after = prefix.clone();
        while *left > 0 {
            let next = self.from(Bound::Excluded(&after)).next();
            let label = next
                .and_then(|(path, _)| path.strip_prefix(&prefix))
                .and_then(|rest| rest.split('/').next());
            let Some(label) = label else {
                break;
            };
            *left -= 1;
            let name = format!("{prefix}{label}/");
            // The character behind the `/` that ends it.
            after = format!("{prefix}{label}0");
            self.collect(name, &labels[wild + 1..], left, found);
        }
    }

    fn from(&self, start: Bound<&str>) -> impl Iterator<Item = (&Path, &Record)> {
        let range = self.table.range::<str, _>((start, Bound::Unbounded));
        range.map(|(path, record)| (path, record.as_ref()))
    }
}

/// A key, as it is known where it is no record's.
fn cut(key: &str) -> &str {
    let end = key.char_indices().nth(MAX_KEY);
    end.map_or(key, |(end, _)| &key[..end])
}

/// Begins with these labels; it may be no name's.
fn is_below(key: &str, labels: &[&str]) -> bool {
    let key = key.strip_prefix(manifests::keys::SKYDNS).unwrap_or(key);
    let mut parts = key.split('/');
    labels.iter().all(|label| {
        let part = parts.next();
        part.is_some_and(|part| WILDCARDS.contains(label) || part.eq_ignore_ascii_case(label))
    })
}

/// The path of a key; none if it is not that of a name.
fn path(key: &str) -> Option<Path> {
    let labels = key.strip_prefix(manifests::keys::SKYDNS)?;
    // CoreDNS takes a `/` at the end for the name itself.
    let labels = labels.strip_suffix('/').unwrap_or(labels);
    let is_label = |label: &str| {
        let is_legal = |octet: u8| octet.is_ascii_graphic() && octet != b'.';
        (1..=MAX_LABEL).contains(&label.len())
            && label.bytes().all(is_legal)
            && !WILDCARDS.contains(&label)
    };
    let fits = labels.len() < MAX_PATH && labels.split('/').all(is_label);
    fits.then(|| format!("{}/", labels.to_ascii_lowercase()).into())
}

#[cfg(test)]
mod tests;
