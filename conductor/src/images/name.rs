//! The name of an image, as `docker pull` takes it, and its parts. Pure.

/// `[registry/]path[:tag][@digest]`
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ImageName {
    registry: String,
    path: String,
    tag: Option<String>,
    digest: Option<String>,
}

/// Not the name of an image.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error(
    "`{0}` is not an image's name; expected one such as `nginx:1.27` or `registry.example:5000/team/app`"
)]
pub struct ImageNameError(pub String);

/// The registry of names without one.
const HUB: &str = "docker.io";
/// The folder of names without one, on that registry.
const LIBRARY: &str = "library";

impl ImageName {
    /// Reads a name.
    pub fn parse(text: &str) -> Result<Self, ImageNameError> {
        Self::read(text).ok_or_else(|| ImageNameError(text.to_owned()))
    }

    fn read(text: &str) -> Option<Self> {
        let (name, digest) = match text.split_once('@') {
            Some((name, digest)) => (name, Some(digest)),
            None => (text, None),
        };
        // A colon before the last slash belongs to the registry's port.
        let last = name.rfind('/').map_or(0, |slash| slash + 1);
        let (name, tag) = match name[last..].split_once(':') {
            Some((end, tag)) => (&name[..last + end.len()], Some(tag)),
            None => (name, None),
        };
        let (registry, path) = match name.split_once('/') {
            Some((first, rest)) if first.contains(['.', ':']) || first == "localhost" => {
                (first, rest.to_owned())
            }
            _ => (HUB, name.to_owned()),
        };
        let registry = match registry {
            "index.docker.io" | "registry-1.docker.io" => HUB,
            other => other,
        };
        let path = if registry == HUB && !path.contains('/') {
            format!("{LIBRARY}/{path}")
        } else {
            path
        };
        let legal = path.split('/').all(is_component)
            && tag.is_none_or(is_tag)
            && digest.is_none_or(is_digest);
        legal.then(|| Self {
            registry: registry.to_owned(),
            path,
            tag: tag.map(str::to_owned),
            digest: digest.map(str::to_owned),
        })
    }

    /// Its registry, `docker.io` if it names none.
    pub fn registry(&self) -> &str {
        &self.registry
    }

    /// The digest that it names.
    pub fn digest(&self) -> Option<&str> {
        self.digest.as_deref()
    }

    /// Registry and path in full.
    pub fn repository(&self) -> String {
        format!("{}/{}", self.registry, self.path)
    }

    /// Registry and path as Docker shows them: without what is Docker Hub's.
    pub fn familiar_repository(&self) -> String {
        if self.registry != HUB {
            return self.repository();
        }
        let short = self.path.strip_prefix(LIBRARY);
        let short = short.and_then(|rest| rest.strip_prefix('/'));
        short.unwrap_or(&self.path).to_owned()
    }

    /// The digest, or else the tag, or else `latest`.
    pub fn version(&self) -> String {
        let version = self.digest.as_deref().or(self.tag.as_deref());
        version.unwrap_or("latest").to_owned()
    }

    /// The whole as Docker shows it.
    pub fn familiar(&self) -> String {
        let separator = if self.digest.is_some() { '@' } else { ':' };
        format!(
            "{}{separator}{}",
            self.familiar_repository(),
            self.version()
        )
    }
}

fn is_component(text: &str) -> bool {
    let alphanumeric = |byte: u8| byte.is_ascii_lowercase() || byte.is_ascii_digit();
    let bytes = text.as_bytes();
    bytes.first().copied().is_some_and(alphanumeric)
        && bytes.last().copied().is_some_and(alphanumeric)
        && bytes
            .iter()
            .all(|byte| alphanumeric(*byte) || b"._-".contains(byte))
}

fn is_tag(text: &str) -> bool {
    let word = |byte: u8| byte.is_ascii_alphanumeric() || byte == b'_';
    text.len() <= 128
        && text.bytes().next().is_some_and(word)
        && text.bytes().all(|byte| word(byte) || b".-".contains(&byte))
}

fn is_digest(text: &str) -> bool {
    text.split_once(':').is_some_and(|(algorithm, hex)| {
        !algorithm.is_empty() && hex.len() >= 32 && hex.bytes().all(|byte| byte.is_ascii_hexdigit())
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    fn name(text: &str) -> ImageName {
        ImageName::parse(text).expect("a name")
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
            assert_eq!(name(text).repository(), repository, "{text}");
            assert_eq!(name(text).familiar(), familiar, "{text}");
        }
        let both = name(&format!("nginx:1.27@{digest}"));
        assert_eq!(both.version(), digest);
        assert_eq!(both.familiar(), format!("nginx@{digest}"));
        assert_eq!(both.registry(), "docker.io");
    }

    #[test]
    fn what_docker_refuses_is_refused() {
        for text in [
            "",
            " ",
            "Nginx",
            "nginx:",
            "nginx:a b",
            "/nginx",
            "nginx/",
            "a//b",
            "-x",
            "nginx@",
            "nginx@sha256:zz",
            "r.example:5000/",
            "x:y:z",
            "ngi nx",
        ] {
            assert_eq!(
                ImageName::parse(text),
                Err(ImageNameError(text.to_owned())),
                "{text}"
            );
        }
    }
}
