//! Keys as a URL spells them, and as etcd stores them.
//!
//! Pure. Invariant: a [`KeyPath`] is clean: it begins with a slash, has no
//! empty part, no `.` and no `..`, and at most [`MAX_PARTS`] parts.

use std::fmt;

/// More parts than this would not fit one etcd transaction, which has 128 operations at most.
pub const MAX_PARTS: usize = 100;

/// Above the TTLs of directories.
pub const DIR_TTLS: &str = "/v2meta//ttl";

/// A key of the v2 tree: `/` or `/a/b`.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct KeyPath(String);

impl KeyPath {
    /// The key that a path below `/v2/keys` means; none if it has too many parts.
    pub fn new(path: &str) -> Option<Self> {
        let path = clean(path);
        (path.matches('/').count() <= MAX_PARTS).then_some(Self(path))
    }

    /// The path.
    pub fn as_str(&self) -> &str {
        &self.0
    }

    /// It is `/`.
    pub fn is_root(&self) -> bool {
        self.0 == "/"
    }

    /// Its side key, with the state that v3 does not have.
    pub fn side(&self) -> String {
        format!("{}{}", manifests::keys::V2_META, self.0)
    }

    /// Prefix of keys below it.
    pub fn below(&self) -> String {
        if self.is_root() {
            self.0.clone()
        } else {
            format!("{}/", self.0)
        }
    }

    /// Prefix of side keys below its own.
    pub fn side_below(&self) -> String {
        format!("{}{}", manifests::keys::V2_META, self.below())
    }

    /// The key at which doors note that it is a directory with a TTL. No v2 key has a double slash.
    pub fn ttl_key(&self) -> String {
        format!("{DIR_TTLS}{}", self.0)
    }

    /// Prefix of such keys for directories below it.
    pub fn ttls_below(&self) -> String {
        format!("{DIR_TTLS}{}", self.below())
    }

    /// A name below it; none if that has too many parts.
    pub fn child(&self, name: &str) -> Option<Self> {
        Self::new(&format!("{}{name}", self.below()))
    }

    /// Its directories from the top, without `/`, and itself.
    pub fn levels(&self) -> Vec<Self> {
        if self.is_root() {
            return Vec::new();
        }
        self.0
            .char_indices()
            .skip(1)
            .filter(|(_, c)| *c == '/')
            .map(|(at, _)| Self(self.0[..at].to_owned()))
            .chain([self.clone()])
            .collect()
    }
}

impl fmt::Display for KeyPath {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

/// Lexically the shortest path that means the same, always from `/`; no slash at its end.
pub fn clean(path: &str) -> String {
    if is_clean(path) {
        return path.to_owned();
    }
    let mut parts: Vec<&str> = Vec::new();
    for part in path.split('/') {
        match part {
            "" | "." => {}
            ".." => {
                parts.pop();
            }
            part => parts.push(part),
        }
    }
    format!("/{}", parts.join("/"))
}

fn is_clean(path: &str) -> bool {
    let parts = path.strip_prefix('/').map(|parts| parts.split('/'));
    parts.is_some_and(|mut parts| parts.all(|part| !matches!(part, "" | "." | "..")))
}

/// The bytes that `%xx` stand for; as text, if they are. `Err` holds the bad escape.
pub fn decode(text: &str, plus_is_space: bool) -> Result<Vec<u8>, String> {
    let bytes = text.as_bytes();
    let mut out = Vec::with_capacity(bytes.len());
    let mut at = 0;
    while let Some(&byte) = bytes.get(at) {
        at += 1;
        match byte {
            b'%' => {
                let Some(byte) = bytes.get(at..at + 2).and_then(hex) else {
                    let end = bytes.len().min(at + 2);
                    return Err(String::from_utf8_lossy(&bytes[at - 1..end]).into_owned());
                };
                out.push(byte);
                at += 2;
            }
            b'+' if plus_is_space => out.push(b' '),
            byte => out.push(byte),
        }
    }
    Ok(out)
}

fn hex(digits: &[u8]) -> Option<u8> {
    digits.iter().try_fold(0, |sum, digit| {
        let digit = char::from(*digit).to_digit(16)?;
        Some(sum * 16 + u8::try_from(digit).ok()?)
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn paths_are_cleaned_in_place() {
        for (path, key) in [
            ("", "/"),
            ("/", "/"),
            ("//a//b/", "/a/b"),
            ("/a/./b/../c", "/a/c"),
            ("/../..", "/"),
        ] {
            assert_eq!(KeyPath::new(path).expect("a key").as_str(), key);
        }
    }

    #[test]
    fn a_key_knows_its_directories_and_its_side_key() {
        let key = KeyPath::new("/a/b/c").expect("a key");
        let levels: Vec<String> = key.levels().iter().map(ToString::to_string).collect();
        assert_eq!(levels, ["/a", "/a/b", "/a/b/c"]);
        assert_eq!(key.side(), "/v2meta/a/b/c");
        assert_eq!(key.below(), "/a/b/c/");
        assert_eq!(key.side_below(), "/v2meta/a/b/c/");
        assert_eq!(key.ttl_key(), "/v2meta//ttl/a/b/c");
        assert_eq!(key.ttls_below(), "/v2meta//ttl/a/b/c/");
        assert_eq!(key.child("d"), KeyPath::new("/a/b/c/d"));
        let root = KeyPath::new("/").expect("a key");
        assert_eq!(root.child("d"), KeyPath::new("/d"));
        assert_eq!((root.levels(), root.below().as_str()), (Vec::new(), "/"));
    }

    #[test]
    fn a_key_has_a_limited_depth() {
        assert!(KeyPath::new(&"/a".repeat(MAX_PARTS)).is_some());
        assert!(KeyPath::new(&"/a".repeat(MAX_PARTS + 1)).is_none());
    }

    #[test]
    fn escapes_are_decoded() {
        assert_eq!(decode("a%2fb+c", false), Ok(b"a/b+c".to_vec()));
        assert_eq!(decode("a+b%C3%A9", true), Ok("a b\u{e9}".into()));
        assert_eq!(decode("50%zz", true), Err("%zz".to_owned()));
        assert_eq!(decode("50%", true), Err("%".to_owned()));
        assert_eq!(decode("50%4", true), Err("%4".to_owned()));
    }
}
