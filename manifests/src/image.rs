//! Image references, by Docker's grammar: `[registry/]path[:tag][@digest]`.

use std::fmt;
use std::str::FromStr;

/// Longest registry and path together, in bytes.
const MAX_NAME: usize = 255;
/// Longest tag, in bytes.
const MAX_TAG: usize = 128;
/// Docker Hub, the default registry.
const HUB: &str = "docker.io";
/// Default namespace on Docker Hub.
const LIBRARY: &str = "library";

/// The parts of an image reference.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Reference {
    /// The registry, if it is named.
    pub registry: Option<String>,
    /// The repository within the registry, as written.
    pub path: String,
    /// The tag.
    pub tag: Option<String>,
    /// The digest, such as `sha256:…`.
    pub digest: Option<String>,
}

/// Error of parsing an image reference.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum ImageError {
    /// An empty string.
    #[error("is empty")]
    Empty,
    /// Whitespace at an end or within.
    #[error("contains whitespace")]
    Blank,
    /// Upper-case letters in the repository.
    #[error("has upper-case letters in `{0}`")]
    UpperCase(String),
    /// An invalid registry.
    #[error("`{0}` is not a valid registry")]
    Registry(String),
    /// An invalid part of the repository.
    #[error("`{0}` is not a valid repository component")]
    Path(String),
    /// An invalid tag.
    #[error("`{0}` is not a valid tag")]
    Tag(String),
    /// An invalid digest.
    #[error("`{0}` is not a valid digest")]
    Digest(String),
    /// A name above Docker's limit.
    #[error("has a name of {0} bytes, more than {MAX_NAME}")]
    TooLong(usize),
    /// 64 hexadecimal digits.
    #[error("is an image ID, not a name")]
    BareId,
}

impl Reference {
    /// The registry that Docker pulls from.
    pub fn registry(&self) -> &str {
        match self.registry.as_deref() {
            None | Some("index.docker.io" | "registry-1.docker.io") => HUB,
            Some(registry) => registry,
        }
    }

    /// Registry and path in full: `docker.io/library/nginx`.
    pub fn repository(&self) -> String {
        let registry = self.registry();
        if registry == HUB && !self.path.contains('/') {
            return format!("{registry}/{LIBRARY}/{}", self.path);
        }
        format!("{registry}/{}", self.path)
    }

    /// Repository as Docker shows it, without Docker Hub's defaults, as in a RepoDigest.
    pub fn familiar_repository(&self) -> String {
        if self.registry() != HUB {
            return self.repository();
        }
        let short = self.path.strip_prefix(LIBRARY);
        let short = short.and_then(|rest| rest.strip_prefix('/'));
        short.unwrap_or(&self.path).to_owned()
    }

    /// Digest, or else tag, or else `latest`.
    pub fn version(&self) -> &str {
        let version = self.digest.as_deref().or(self.tag.as_deref());
        version.unwrap_or("latest")
    }

    /// The reference as Docker shows it.
    pub fn familiar(&self) -> String {
        let separator = if self.digest.is_some() { '@' } else { ':' };
        format!(
            "{}{separator}{}",
            self.familiar_repository(),
            self.version()
        )
    }
}

impl fmt::Display for Reference {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        if let Some(registry) = &self.registry {
            write!(f, "{registry}/")?;
        }
        f.write_str(&self.path)?;
        if let Some(tag) = &self.tag {
            write!(f, ":{tag}")?;
        }
        if let Some(digest) = &self.digest {
            write!(f, "@{digest}")?;
        }
        Ok(())
    }
}

impl FromStr for Reference {
    type Err = ImageError;

    fn from_str(text: &str) -> Result<Self, ImageError> {
        if text.is_empty() {
            return Err(ImageError::Empty);
        }
        if text.contains(char::is_whitespace) {
            return Err(ImageError::Blank);
        }
        let (rest, digest) = match text.split_once('@') {
            Some((rest, digest)) if is_digest(digest) => (rest, Some(digest.to_owned())),
            Some((_, digest)) => return Err(ImageError::Digest(digest.to_owned())),
            None => (text, None),
        };
        // A colon after the last slash begins a tag; one before it, a port.
        let path_start = rest.rfind('/').map_or(0, |slash| slash + 1);
        let (name, tag) = match rest[path_start..].find(':') {
            Some(colon) => {
                let (name, tag) = rest.split_at(path_start + colon);
                let tag = &tag[1..];
                if !is_tag(tag) {
                    return Err(ImageError::Tag(tag.to_owned()));
                }
                (name, Some(tag.to_owned()))
            }
            None => (rest, None),
        };
        let (registry, path) = match name.split_once('/') {
            Some((first, path)) if names_a_registry(first) => {
                if !is_registry(first) {
                    return Err(ImageError::Registry(first.to_owned()));
                }
                (Some(first.to_owned()), path)
            }
            _ => (None, name),
        };
        for part in path.split('/') {
            if !is_path_component(part) {
                return Err(if is_path_component(&part.to_ascii_lowercase()) {
                    ImageError::UpperCase(part.to_owned())
                } else {
                    ImageError::Path(part.to_owned())
                });
            }
        }
        if name.len() > MAX_NAME {
            return Err(ImageError::TooLong(name.len()));
        }
        if name.len() == 64 && name.bytes().all(|b| b.is_ascii_hexdigit()) {
            return Err(ImageError::BareId);
        }
        Ok(Self {
            registry,
            path: path.to_owned(),
            tag,
            digest,
        })
    }
}

/// Docker's rule that tells a registry from a namespace.
fn names_a_registry(first: &str) -> bool {
    first == "localhost"
        || first.contains(['.', ':'])
        || first.bytes().any(|b| b.is_ascii_uppercase())
}

fn is_registry(text: &str) -> bool {
    let (host, port) = if text.starts_with('[') {
        let Some(end) = text.find(']') else {
            return false;
        };
        let address = &text[1..end];
        if address.parse::<std::net::Ipv6Addr>().is_err() {
            return false;
        }
        match text[end + 1..].strip_prefix(':') {
            Some(port) => (None, Some(port)),
            None => return text.len() == end + 1,
        }
    } else {
        match text.split_once(':') {
            Some((host, port)) => (Some(host), Some(port)),
            None => (Some(text), None),
        }
    };
    let host = host.is_none_or(|host| {
        host.split('.').all(|label| {
            !label.is_empty()
                && label
                    .bytes()
                    .all(|b| b.is_ascii_alphanumeric() || b == b'-')
                && !label.starts_with('-')
                && !label.ends_with('-')
        })
    });
    let port = port
        .is_none_or(|port| port.bytes().all(|b| b.is_ascii_digit()) && port.parse::<u16>().is_ok());
    host && port
}

/// Letters and digits in groups, joined by one dot, one or two underscores, or any number of hyphens.
fn is_path_component(text: &str) -> bool {
    let group = |b: u8| b.is_ascii_lowercase() || b.is_ascii_digit();
    let ends = |end: Option<&u8>| end.is_some_and(|b| group(*b));
    if !ends(text.as_bytes().first()) || !ends(text.as_bytes().last()) {
        return false;
    }
    text.split(|c: char| c.is_ascii() && group(c as u8))
        .all(|joint| matches!(joint, "" | "." | "_" | "__") || joint.bytes().all(|b| b == b'-'))
}

fn is_tag(text: &str) -> bool {
    let word = |b: u8| b.is_ascii_alphanumeric() || b == b'_';
    text.len() <= MAX_TAG
        && text.bytes().next().is_some_and(word)
        && text.bytes().all(|b| word(b) || b == b'.' || b == b'-')
}

fn is_digest(text: &str) -> bool {
    text.split_once(':').is_some_and(|(algorithm, hex)| {
        let hex_length = if algorithm == "sha256" {
            64..=64
        } else {
            32..=256
        };
        !algorithm.is_empty()
            && algorithm.split(['-', '_', '+', '.']).all(|part| {
                part.starts_with(|c: char| c.is_ascii_alphabetic())
                    && part.bytes().all(|b| b.is_ascii_alphanumeric())
            })
            && hex_length.contains(&hex.len())
            && hex.bytes().all(|b| b.is_ascii_hexdigit())
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    const DIGEST: &str = "sha256:0123456789abcdef0123456789abcdef0123456789abcdef0123456789abcdef";

    #[test]
    fn good_references_read_back_as_they_are_written() {
        for text in [
            "nginx",
            "nginx:1.27",
            "dockerfile/nginx",
            "library/a__b/c-d--e.f:Latest_1",
            "localhost/x",
            "localhost:5000/x/y:t",
            "registry.example.com/a/b",
            "Registry/a",
            "[::1]:5000/a:b",
            "sha256:0123456789abcdef",
        ] {
            let reference: Reference = text.parse().expect(text);
            assert_eq!(reference.to_string(), text);
        }
        let full: Reference = format!("r.io:1/a/b:t@{DIGEST}").parse().expect("valid");
        assert_eq!(full.registry(), "r.io:1");
        assert_eq!(full.repository(), "r.io:1/a/b");
        assert_eq!(full.tag.as_deref(), Some("t"));
        assert_eq!(full.digest.as_deref(), Some(DIGEST));
        let short: Reference = "dockerfile/nginx".parse().expect("valid");
        assert_eq!(short.registry(), "docker.io");
    }

    #[test]
    fn errors_name_the_invalid_part() {
        for (text, error) in [
            ("", ImageError::Empty),
            ("ngi nx", ImageError::Blank),
            ("nginx\n", ImageError::Blank),
            ("Nginx", ImageError::UpperCase("Nginx".into())),
            ("a/Nginx", ImageError::UpperCase("Nginx".into())),
            ("-a", ImageError::Path("-a".into())),
            ("a..b", ImageError::Path("a..b".into())),
            ("a___b", ImageError::Path("a___b".into())),
            ("a//b", ImageError::Path(String::new())),
            ("/a", ImageError::Path(String::new())),
            ("a/", ImageError::Path(String::new())),
            ("http://a/b", ImageError::Registry("http:".into())),
            ("ä", ImageError::Path("ä".into())),
            ("a:", ImageError::Tag(String::new())),
            ("a:-t", ImageError::Tag("-t".into())),
            ("a:b:c", ImageError::Tag("b:c".into())),
            ("a@sha256:12", ImageError::Digest("sha256:12".into())),
            ("r_.io/a", ImageError::Registry("r_.io".into())),
            ("r.io:99999/a", ImageError::Registry("r.io:99999".into())),
            (&"a".repeat(64), ImageError::BareId),
            (&"a".repeat(256), ImageError::TooLong(256)),
        ] {
            assert_eq!(text.parse::<Reference>(), Err(error), "{text}");
        }
    }

    fn reference(text: &str) -> Reference {
        text.parse().expect("a reference")
    }

    #[test]
    fn names_are_split_as_docker_splits_them() {
        let digest = format!("sha256:{}", "a".repeat(64));
        for (text, repository, familiar) in [
            ("nginx", "docker.io/library/nginx", "nginx:latest"),
            ("nginx:1.27", "docker.io/library/nginx", "nginx:1.27"),
            (
                "dockerfile/nginx",
                "docker.io/dockerfile/nginx",
                "dockerfile/nginx:latest",
            ),
            (
                "docker.io/library/nginx",
                "docker.io/library/nginx",
                "nginx:latest",
            ),
            ("index.docker.io/x/y:1", "docker.io/x/y", "x/y:1"),
            ("localhost/x", "localhost/x", "localhost/x:latest"),
            (
                "r.example:5000/a/b/c:v_1",
                "r.example:5000/a/b/c",
                "r.example:5000/a/b/c:v_1",
            ),
            (
                "r.example/x_y/z--0",
                "r.example/x_y/z--0",
                "r.example/x_y/z--0:latest",
            ),
        ] {
            assert_eq!(reference(text).repository(), repository, "{text}");
            assert_eq!(reference(text).familiar(), familiar, "{text}");
        }
        let both = reference(&format!("nginx:1.27@{digest}"));
        assert_eq!(both.version(), digest);
        assert_eq!(both.familiar(), format!("nginx@{digest}"));
        assert_eq!(both.registry(), "docker.io");
    }
}
