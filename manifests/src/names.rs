//! Names of apps, containers, services, hosts and instances.
//!
//! Apps, containers and services are DNS labels (RFC 1123) of at most 40
//! characters in lower case without `---`, because that separates the parts
//! of a Docker container's name. A host may have a longer, dotted name.

use std::fmt;
use std::marker::PhantomData;
use std::str::FromStr;

use serde::de::{self, Visitor};
use serde::{Deserialize, Deserializer, Serialize};

/// Longest name of an app, a container or a service, in characters.
pub const MAX_NAME: usize = 40;

/// Error of parsing a name.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum NameError {
    /// An empty string.
    #[error("is empty; expected a DNS label such as `web-1`")]
    Empty,
    /// More characters than allowed.
    #[error("has {0} characters; expected at most {1}")]
    TooLong(usize, usize),
    /// A character outside `a-z`, `0-9`, `-`, or `-` at an end.
    #[error(
        "`{}` is not a DNS label; expected lower-case letters, digits and inner hyphens, such as `web-1`",
        .0.escape_debug()
    )]
    NotALabel(String),
    /// The separator of Docker names.
    #[error(
        "`{0}` contains `---`; expected a name without it, because it separates the parts of a container's name"
    )]
    Separator(String),
}

fn check_label(text: &str, max: usize) -> Result<(), NameError> {
    if text.is_empty() {
        return Err(NameError::Empty);
    }
    let length = text.chars().count();
    if length > max {
        return Err(NameError::TooLong(length, max));
    }
    let legal = text
        .bytes()
        .all(|b| b.is_ascii_lowercase() || b.is_ascii_digit() || b == b'-');
    if !legal || text.starts_with('-') || text.ends_with('-') {
        return Err(NameError::NotALabel(text.to_owned()));
    }
    Ok(())
}

/// Reads a name where it stands in the text, without a copy of it before it is checked.
struct Text<T>(PhantomData<T>);

impl<T: FromStr<Err = NameError>> Visitor<'_> for Text<T> {
    type Value = T;

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("a string")
    }

    fn visit_str<E: de::Error>(self, text: &str) -> Result<T, E> {
        text.parse().map_err(E::custom)
    }
}

macro_rules! name {
    ($(#[$doc:meta])* $name:ident, $check:expr) => {
        $(#[$doc])*
        #[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize)]
        #[serde(into = "String")]
        pub struct $name(std::sync::Arc<str>);

        impl $name {
            /// The name as text.
            pub fn as_str(&self) -> &str {
                &self.0
            }
        }

        impl FromStr for $name {
            type Err = NameError;

            fn from_str(text: &str) -> Result<Self, NameError> {
                let check: fn(&str) -> Result<(), NameError> = $check;
                check(text)?;
                Ok(Self(text.into()))
            }
        }

        impl<'de> Deserialize<'de> for $name {
            fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
                deserializer.deserialize_str(Text(PhantomData))
            }
        }

        impl TryFrom<String> for $name {
            type Error = NameError;

            fn try_from(text: String) -> Result<Self, NameError> {
                text.parse()
            }
        }

        impl From<$name> for String {
            fn from(name: $name) -> String {
                name.0.to_string()
            }
        }

        impl fmt::Display for $name {
            fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.pad(&self.0)
            }
        }
    };
}

fn check_name(text: &str) -> Result<(), NameError> {
    check_label(text, MAX_NAME)?;
    if text.contains("---") {
        return Err(NameError::Separator(text.to_owned()));
    }
    Ok(())
}

/// A host name: labels of at most 63 characters joined by dots, at most 253 in all (RFC 1123).
fn check_host(text: &str) -> Result<(), NameError> {
    if text.len() > 253 {
        return Err(NameError::TooLong(text.len(), 253));
    }
    text.split('.').try_for_each(|label| check_label(label, 63))
}

/// An instance: any token without `/`; ours are UUIDs.
fn check_instance(text: &str) -> Result<(), NameError> {
    if text.is_empty() {
        return Err(NameError::Empty);
    }
    if text.len() > 64 {
        return Err(NameError::TooLong(text.len(), 64));
    }
    if !text.bytes().all(|b| b.is_ascii_alphanumeric() || b == b'-') {
        return Err(NameError::NotALabel(text.to_owned()));
    }
    Ok(())
}

name!(
    /// The first part of a manifest's key.
    AppName,
    check_name
);
name!(
    /// The second part of a manifest's key.
    ContainerName,
    check_name
);
name!(
    /// A named port of a container.
    ServiceName,
    check_name
);
name!(
    /// A host, by its name in claims.
    HostName,
    check_host
);
name!(
    /// Identity of one started container: a UUID in its label and its claim.
    InstanceId,
    check_instance
);

/// A manifest of an app: `app/container`.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
pub struct ContainerId {
    /// Its app.
    pub app: AppName,
    /// Its name within the app.
    pub container: ContainerName,
}

impl ContainerId {
    /// The id of `container` in `app`.
    pub fn new(app: AppName, container: ContainerName) -> Self {
        Self { app, container }
    }

    /// The slot of that number.
    pub fn slot(&self, slot: u32) -> SlotId {
        SlotId {
            container: self.clone(),
            slot,
        }
    }
}

impl fmt::Display for ContainerId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}/{}", self.app, self.container)
    }
}

impl FromStr for ContainerId {
    type Err = NameError;

    fn from_str(text: &str) -> Result<Self, NameError> {
        let (app, container) = text
            .split_once('/')
            .ok_or_else(|| NameError::NotALabel(text.to_owned()))?;
        Ok(Self::new(app.parse()?, container.parse()?))
    }
}

/// One of the `scale` instances of a container.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
pub struct SlotId {
    /// The container.
    pub container: ContainerId,
    /// Its number, from 0.
    pub slot: u32,
}

impl SlotId {
    /// Name of its container in Docker: `<app>---<container>` for slot 0,
    /// `<app>---<container>---<slot>` for the others.
    pub fn docker_name(&self) -> String {
        let ContainerId { app, container } = &self.container;
        match self.slot {
            0 => format!("{app}---{container}"),
            slot => format!("{app}---{container}---{slot}"),
        }
    }

    /// Name of one of its volumes in Docker: `<app>---<container>---<slot>---<name>`.
    pub fn volume_name(&self, name: &str) -> String {
        let ContainerId { app, container } = &self.container;
        format!("{app}---{container}---{}---{name}", self.slot)
    }
}

impl fmt::Display for SlotId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}/{}", self.container, self.slot)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_are_short_dns_labels_without_the_separator() {
        for text in ["a", "0", "web-1", "a--b", &"a".repeat(MAX_NAME)] {
            assert_eq!(text.parse::<AppName>().expect(text).as_str(), text);
        }
        let error = |text: &str| text.parse::<ServiceName>().expect_err(text);
        assert_eq!(error(""), NameError::Empty);
        assert_eq!(error(&"é".repeat(41)), NameError::TooLong(41, MAX_NAME));
        assert_eq!(error("a---b"), NameError::Separator("a---b".into()));
        for text in ["A", "a.b", "a_b", "-a", "a-", "a b", "é", "a\n"] {
            assert_eq!(error(text), NameError::NotALabel(text.into()));
        }
        assert!(!error("a\n").to_string().contains('\n'));
    }

    #[test]
    fn hosts_may_be_dotted_and_longer() {
        let long = format!("{0}.{0}.{0}", "a".repeat(63));
        for text in ["h1", "host-1.example.com", "a---b", &long] {
            assert!(text.parse::<HostName>().is_ok(), "{text}");
        }
        for text in [
            "",
            ".",
            "a..b",
            "a.",
            "Host",
            &"a".repeat(64),
            &"a.".repeat(127),
        ] {
            assert!(text.parse::<HostName>().is_err(), "{text}");
        }
    }

    #[test]
    fn instances_are_tokens() {
        for text in ["00000000-0000-4000-8000-000000000000", "A", &"a".repeat(64)] {
            assert!(text.parse::<InstanceId>().is_ok(), "{text}");
        }
        for text in ["", "a/b", "a b", &"a".repeat(65)] {
            assert!(text.parse::<InstanceId>().is_err(), "{text}");
        }
    }

    #[test]
    fn slot_0_has_the_containers_name_in_docker() {
        let container: ContainerId = "dummy/nginx".parse().expect("valid");
        assert_eq!(container.slot(0).docker_name(), "dummy---nginx");
        assert_eq!(container.slot(7).docker_name(), "dummy---nginx---7");
        assert_eq!(container.slot(7).to_string(), "dummy/nginx/7");
        let volume = container.slot(0).volume_name("data");
        assert_eq!(volume, "dummy---nginx---0---data");
        assert!("dummy".parse::<ContainerId>().is_err());
        assert!("a/b/c".parse::<ContainerId>().is_err());
    }
}
