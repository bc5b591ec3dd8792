//! The view on disk, so that a restarted agent resumes where it was and sees deletions as events.
//!
//! It ends with a mark: a torn or foreign file is an error, never half a view.

use std::io::{Read, Write};
use std::sync::Arc;

use manifests::keys::Key;
use model::records::Cluster;
use rpds::RedBlackTreeMapSync;

use model::ModRev;
use model::kv::KeyValue;
use model::snapshot::Rev;

const MAGIC: &[u8; 8] = b"dokkaav1";
const END: &[u8; 8] = b"dokkaa.\n";
/// No key or value in etcd is near this; a length above it is a broken file.
const LONGEST: u32 = 256 << 20;

/// A value as it was in etcd; without its text where the key is not ours.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Raw {
    pub(super) value: Arc<[u8]>,
    pub(super) created: i64,
    pub(super) modified: i64,
}

impl Raw {
    pub(super) fn of(kv: &KeyValue) -> Self {
        Self::under(Key::parse(&kv.key).as_ref(), kv)
    }

    /// Of a key that is read already; none is not ours.
    pub(super) fn under(key: Option<&Key>, kv: &KeyValue) -> Self {
        Self::new(key, &kv.value, kv.created, kv.modified)
    }

    /// Of a user's own key in the watched range only the revisions are kept: history is proven by all keys of the range,
    /// and what they hold may be large and is nobody's business here.
    fn new(key: Option<&Key>, value: &[u8], created: i64, modified: i64) -> Self {
        Self {
            value: key.map_or(&[][..], |_| value).into(),
            created,
            modified,
        }
    }

    /// For a snapshot: the text is shared.
    pub(super) fn rev(&self) -> Rev<Arc<[u8]>> {
        Rev {
            value: Arc::clone(&self.value),
            modified: ModRev(self.modified),
            created: ModRev(self.created),
        }
    }
}

/// A view at one revision, with the raw keys.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct SavedView {
    /// Which cluster it shows.
    pub cluster: Cluster,
    /// At which revision.
    pub revision: i64,
    pub(super) raw: RedBlackTreeMapSync<String, Raw>,
}

impl SavedView {
    /// Number of keys.
    pub fn len(&self) -> usize {
        self.raw.size()
    }

    /// It has no keys.
    pub fn is_empty(&self) -> bool {
        self.raw.is_empty()
    }

    /// The raw keys with their last change.
    pub fn keys(&self) -> impl Iterator<Item = (&str, i64)> {
        self.raw
            .iter()
            .map(|(key, raw)| (key.as_str(), raw.modified))
    }

    /// Writes it to a file.
    pub fn write(&self, out: &mut impl Write) -> std::io::Result<()> {
        out.write_all(MAGIC)?;
        bytes(out, &serde_json::to_vec(&self.cluster)?)?;
        out.write_all(&self.revision.to_le_bytes())?;
        out.write_all(&(self.raw.size() as u64).to_le_bytes())?;
        for (key, raw) in &self.raw {
            bytes(out, key.as_bytes())?;
            out.write_all(&raw.created.to_le_bytes())?;
            out.write_all(&raw.modified.to_le_bytes())?;
            bytes(out, &raw.value)?;
        }
        out.write_all(END)
    }

    /// Reads it from a file; none if it is not a saved view.
    pub fn read(from: &mut impl Read) -> std::io::Result<Option<Self>> {
        if &array::<8>(from)? != MAGIC {
            return Ok(None);
        }
        let Some(Ok(cluster)) = take(from)?.map(|json| serde_json::from_slice(&json)) else {
            return Ok(None);
        };
        let revision = i64::from_le_bytes(array(from)?);
        let count = u64::from_le_bytes(array(from)?);
        let mut raw = RedBlackTreeMapSync::new_sync();
        for _ in 0..count {
            let Some(Ok(key)) = take(from)?.map(String::from_utf8) else {
                return Ok(None);
            };
            let created = i64::from_le_bytes(array(from)?);
            let modified = i64::from_le_bytes(array(from)?);
            let Some(value) = take(from)? else {
                return Ok(None);
            };
            let kept = Raw::new(Key::parse(&key).as_ref(), &value, created, modified);
            raw.insert_mut(key, kept);
        }
        let whole = &array::<8>(from)? == END;
        Ok(whole.then_some(Self {
            cluster,
            revision,
            raw,
        }))
    }
}

fn bytes(out: &mut impl Write, bytes: &[u8]) -> std::io::Result<()> {
    out.write_all(&(bytes.len() as u32).to_le_bytes())?;
    out.write_all(bytes)
}

fn array<const N: usize>(from: &mut impl Read) -> std::io::Result<[u8; N]> {
    let mut bytes = [0; N];
    from.read_exact(&mut bytes)?;
    Ok(bytes)
}

/// None if the length can't be.
fn take(from: &mut impl Read) -> std::io::Result<Option<Vec<u8>>> {
    let length = u32::from_le_bytes(array(from)?);
    if length > LONGEST {
        return Ok(None);
    }
    let mut bytes = Vec::new();
    from.take(u64::from(length)).read_to_end(&mut bytes)?;
    Ok((bytes.len() as u32 == length).then_some(bytes))
}

#[cfg(test)]
#[expect(clippy::disallowed_methods, reason = "any id will do in a test")]
mod tests;
