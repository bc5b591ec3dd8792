//! Revisions of etcd, by what they count.

use std::fmt;

use serde::{Deserialize, Serialize};

/// Revision of a key's last change (etcd's MOD).
#[derive(
    Debug, Clone, Copy, Default, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize,
)]
#[serde(transparent)]
pub struct ModRev(pub i64);

impl ModRev {
    /// That of a key that is not there.
    pub const ABSENT: Self = Self(0);

    /// Key of the version that a manifest of this revision may begin.
    pub const fn version(self) -> VersionId {
        VersionId(self.0)
    }
}

impl fmt::Display for ModRev {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.0.fmt(f)
    }
}

/// Key of a version: revision of the manifest that first meant it, or of the image that was found for it; negative for one that a restore left without a
/// manifest.
#[derive(
    Debug, Clone, Copy, Default, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize,
)]
#[serde(transparent)]
pub struct VersionId(pub i64);

impl VersionId {
    /// Its key in an etcd that has lost it: no manifest of that revision can mean it.
    #[must_use]
    pub const fn orphaned(self) -> Self {
        Self(-self.0.abs())
    }

    /// A restore has left it without a manifest, or not even that was known of what ran.
    pub const fn is_orphaned(self) -> bool {
        self.0 <= 0
    }

    /// Revision of the manifest that first meant it.
    pub const fn manifest_rev(self) -> ModRev {
        ModRev(self.0)
    }
}

impl fmt::Display for VersionId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.0.fmt(f)
    }
}
