//! Access control of the APIs: one table of key prefixes.
//!
//! An API has its agent's rights in etcd, so a user's are checked here, before
//! anything is read or written. Pure.
//!
//! Invariant: under `/apps` users write only manifests, and keys of agents
//! never.

use std::str::FromStr;

use manifests::keys::Key;
use manifests::names::NameError;
use manifests::{AppName, ContainerId};

/// Access to the keys below a first part.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Tree {
    /// Neither readable nor writable: side keys of the v2 API.
    Hidden,
    /// Readable; written by agents.
    Agents,
    /// Readable; users write only manifests.
    Manifests,
}

/// Other keys are the user's own.
const TABLE: [(&str, Tree); 6] = [
    ("v2meta", Tree::Hidden),
    ("apps", Tree::Manifests),
    ("claims", Tree::Agents),
    ("hosts", Tree::Agents),
    ("dokkaa", Tree::Agents),
    ("status", Tree::Agents),
];

/// Why a write is denied.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum Refusal {
    /// Written by agents only.
    #[error("{0} is read-only: only agents write it")]
    ReadOnly(String),
    /// Not the key of a manifest.
    #[error("{0} is not a manifest, and nothing else is written under /apps: {key}", key = right_key(.0))]
    NotAManifest(String),
    /// A manifest is a file.
    #[error("{0} is the key of a manifest: it cannot be a directory")]
    NotADirectory(String),
    /// A manifest key with an invalid name.
    #[error("{key}: the {part} {reason}")]
    Name {
        /// The key.
        key: String,
        /// `app` or `container`.
        part: &'static str,
        /// The error in the name.
        reason: String,
    },
}

/// An allowed write.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Put {
    /// A manifest, which is validated first.
    Manifest(ContainerId),
    /// The user's own key.
    Own,
}

/// An allowed deletion.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Delete {
    /// All keys at and below it.
    Own,
    /// Only the manifests at and below it.
    Manifests,
}

/// The key is not readable.
pub fn hidden(key: &str) -> bool {
    tree(key) == Some(Tree::Hidden)
}

/// Checks a write of `key`.
pub fn put(key: &str) -> Result<Put, Refusal> {
    match tree(key) {
        None => Ok(Put::Own),
        Some(Tree::Hidden | Tree::Agents) => Err(Refusal::ReadOnly(key.to_owned())),
        Some(Tree::Manifests) => match parts(key).as_slice() {
            [_, app, container, "manifest"] => {
                Ok(Put::Manifest(container_id(key, app, container)?))
            }
            _ => Err(Refusal::NotAManifest(key.to_owned())),
        },
    }
}

/// Checks a deletion of `key` and the keys below it.
pub fn delete(key: &str) -> Result<Delete, Refusal> {
    match tree(key) {
        None => Ok(Delete::Own),
        Some(Tree::Hidden | Tree::Agents) => Err(Refusal::ReadOnly(key.to_owned())),
        Some(Tree::Manifests) => {
            match parts(key).as_slice() {
                [_, app] => drop(name::<AppName>("app", key, app)?),
                [_, app, container] | [_, app, container, "manifest"] => {
                    container_id(key, app, container)?;
                }
                _ => return Err(Refusal::NotAManifest(key.to_owned())),
            }
            Ok(Delete::Manifests)
        }
    }
}

/// The key is that of a manifest.
pub fn is_manifest(key: &str) -> bool {
    matches!(Key::parse(key), Some(Key::Manifest(_)))
}

/// A directory stays there when it is emptied, as in etcd v2. Not those of an app: nothing is left of one that ends.
pub fn keeps_dirs(key: &str) -> bool {
    tree(key) != Some(Tree::Manifests) || parts(key).len() == 1
}

/// The key that was meant, as far as that can be told.
fn right_key(key: &str) -> String {
    match parts(key).as_slice() {
        [_, app, container, ..] if container_id(key, app, container).is_ok() => {
            format!("the manifest of {app}/{container} is /apps/{app}/{container}/manifest")
        }
        _ => "it is /apps/<app>/<container>/manifest".to_owned(),
    }
}

fn tree(key: &str) -> Option<Tree> {
    let first = parts(key).first().copied()?;
    TABLE
        .iter()
        .find(|(name, _)| *name == first)
        .map(|(_, tree)| *tree)
}

fn parts(key: &str) -> Vec<&str> {
    key.split('/').filter(|part| !part.is_empty()).collect()
}

fn container_id(key: &str, app: &str, container: &str) -> Result<ContainerId, Refusal> {
    let container = name("container", key, container);
    Ok(ContainerId::new(name("app", key, app)?, container?))
}

fn name<T: FromStr<Err = NameError>>(
    part: &'static str,
    key: &str,
    text: &str,
) -> Result<T, Refusal> {
    text.parse().map_err(|error: NameError| Refusal::Name {
        key: key.to_owned(),
        part,
        reason: error.to_string(),
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn under_apps_only_manifests_with_valid_names_are_written() {
        let id = "dummy/nginx".parse().expect("an id");
        assert_eq!(put("/apps/dummy/nginx/manifest"), Ok(Put::Manifest(id)));
        for key in [
            "/apps",
            "/apps/dummy",
            "/apps/dummy/nginx",
            "/apps/dummy/nginx/other",
            "/apps/dummy/nginx/manifest/x",
        ] {
            assert_eq!(put(key), Err(Refusal::NotAManifest(key.to_owned())));
        }
        let says = |key: &str| put(key).expect_err("no manifest").to_string();
        for key in ["/apps/dummy/nginx", "/apps/dummy/nginx/other"] {
            assert!(
                says(key).ends_with("is /apps/dummy/nginx/manifest"),
                "{key}"
            );
        }
        assert!(says("/apps/dummy").ends_with("it is /apps/<app>/<container>/manifest"));
        for (key, text) in [
            ("/apps/Dummy/nginx/manifest", "the app `Dummy` is not"),
            (
                "/apps/dummy/a---b/manifest",
                "the container `a---b` contains",
            ),
            ("/apps/_dummy/nginx/manifest", "the app `_dummy` is not"),
        ] {
            let refusal = put(key).expect_err("a bad name").to_string();
            assert!(refusal.contains(text), "{refusal}");
        }
    }

    #[test]
    fn what_agents_write_is_read_only() {
        for tree in ["claims", "hosts", "dokkaa", "status", "v2meta"] {
            for key in [format!("/{tree}"), format!("/{tree}/x/y")] {
                assert_eq!(put(&key), Err(Refusal::ReadOnly(key.clone())));
                assert_eq!(delete(&key), Err(Refusal::ReadOnly(key.clone())));
                assert_eq!(hidden(&key), tree == "v2meta");
            }
        }
    }

    #[test]
    fn other_keys_are_the_users_own() {
        for key in ["/", "/mine", "/appsx/a", "/v2metaphor", "/hosts2", "/_h"] {
            assert_eq!(put(key), Ok(Put::Own), "{key}");
            assert_eq!(delete(key), Ok(Delete::Own), "{key}");
            assert!(!hidden(key));
        }
    }

    #[test]
    fn directories_of_an_app_last_as_long_as_its_manifests() {
        for key in ["/apps", "/mine", "/mine/a"] {
            assert!(keeps_dirs(key), "{key}");
        }
        for key in ["/apps/a1", "/apps/a1/c1"] {
            assert!(!keeps_dirs(key), "{key}");
        }
    }

    #[test]
    fn an_app_a_container_and_a_manifest_can_be_deleted_and_nothing_else() {
        for key in ["/apps/a1", "/apps/a1/c1", "/apps/a1/c1/manifest"] {
            assert_eq!(delete(key), Ok(Delete::Manifests), "{key}");
        }
        for key in ["/apps", "/apps/a1/c1/other", "/apps/a1/c1/manifest/x"] {
            assert_eq!(delete(key), Err(Refusal::NotAManifest(key.to_owned())));
        }
        assert!(delete("/apps/A").is_err());
    }
}
