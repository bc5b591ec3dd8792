//! Numbers that etcd and the cluster count by.

/// Revision of a key's last change; 0 if the key is absent.
pub type ModRev = i64;

/// Revision of the manifest that first meant a version: the version's key.
pub type VersionId = i64;
