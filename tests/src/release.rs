//! Which releases of Docker Engine and etcd a lab runs: the machine's own, or
//! those of a newer Debian, which the set-up unpacks under `target/roots`.

use std::fmt;
use std::path::PathBuf;
use std::str::FromStr;

use anyhow::bail;

use crate::needs;

/// A Docker Engine, by its major version.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum EngineRelease {
    /// The machine's own: 20.10 on Debian 12.
    Machine,
    /// 26.1, of Debian trixie.
    Docker26,
    /// 28.5, of Debian sid.
    Docker28,
    /// The same with the containerd image store, which a fresh engine has from
    /// 29 on.
    Docker28Containerd,
}

impl EngineRelease {
    const ALL: [(Self, &str); 4] = [
        (Self::Machine, "20"),
        (Self::Docker26, "26"),
        (Self::Docker28, "28"),
        (Self::Docker28Containerd, "28-containerd"),
    ];

    /// Where its programs are, unless they are the machine's.
    pub fn root(self) -> anyhow::Result<Option<PathBuf>> {
        match self {
            Self::Machine => Ok(None),
            Self::Docker26 => needs::root("trixie").map(Some),
            Self::Docker28 | Self::Docker28Containerd => needs::root("sid").map(Some),
        }
    }

    /// What its `/etc/docker/daemon.json` says.
    pub fn settings(self) -> Option<&'static str> {
        (self == Self::Docker28Containerd)
            .then_some(r#"{"features":{"containerd-snapshotter":true}}"#)
    }
}

impl FromStr for EngineRelease {
    type Err = anyhow::Error;

    fn from_str(text: &str) -> anyhow::Result<Self> {
        named(&Self::ALL, text, "Docker Engine")
    }
}

impl fmt::Display for EngineRelease {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(name(&Self::ALL, *self))
    }
}

/// An etcd, by its minor version.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum EtcdRelease {
    /// The machine's own: 3.4 on Debian 12.
    Machine,
    /// 3.5, of Debian sid.
    Etcd35,
}

impl EtcdRelease {
    const ALL: [(Self, &str); 2] = [(Self::Machine, "3.4"), (Self::Etcd35, "3.5")];

    /// Where its programs are, unless they are the machine's.
    pub fn root(self) -> anyhow::Result<Option<PathBuf>> {
        match self {
            Self::Machine => Ok(None),
            Self::Etcd35 => needs::root("sid").map(Some),
        }
    }

    /// The given one, else that of `LAB_ETCD`, else the machine's.
    pub fn wanted(given: Option<Self>) -> anyhow::Result<Self> {
        let first = given.or(variable(LAB_ETCD)?.first().copied());
        Ok(first.unwrap_or(Self::Machine))
    }
}

impl FromStr for EtcdRelease {
    type Err = anyhow::Error;

    fn from_str(text: &str) -> anyhow::Result<Self> {
        named(&Self::ALL, text, "etcd")
    }
}

impl fmt::Display for EtcdRelease {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(name(&Self::ALL, *self))
    }
}

/// The engines of labs that name none, in turn for each host: `20,28-containerd`.
pub const LAB_ENGINE: &str = "LAB_ENGINE";
/// The etcd of labs, and of tests without one, that name none.
pub const LAB_ETCD: &str = "LAB_ETCD";
/// The oldest API version that newer engines of such labs speak: 1.44 is that
/// of 29.0 to 29.2.
pub const LAB_MIN_API: &str = "LAB_MIN_API";

/// The engine of each of so many hosts: those given in turn, else those of
/// `LAB_ENGINE`, else the machine's.
pub fn engines(given: &[EngineRelease], hosts: usize) -> anyhow::Result<Vec<EngineRelease>> {
    let mut turn = given.to_vec();
    if turn.is_empty() {
        turn = variable(LAB_ENGINE)?;
    }
    if turn.is_empty() {
        turn.push(EngineRelease::Machine);
    }
    Ok(turn.into_iter().cycle().take(hosts).collect())
}

/// A list with commas.
pub fn list<T: FromStr<Err = anyhow::Error>>(text: &str) -> anyhow::Result<Vec<T>> {
    text.split(',').map(str::parse).collect()
}

fn variable<T: FromStr<Err = anyhow::Error>>(name: &str) -> anyhow::Result<Vec<T>> {
    match std::env::var(name) {
        Ok(text) if !text.is_empty() => {
            list(&text).map_err(|error| error.context(format!("{name}={text}")))
        }
        _ => Ok(Vec::new()),
    }
}

fn named<T: Copy>(all: &[(T, &str)], text: &str, what: &str) -> anyhow::Result<T> {
    if let Some((one, _)) = all.iter().find(|(_, name)| *name == text) {
        return Ok(*one);
    }
    let names: Vec<&str> = all.iter().map(|(_, name)| *name).collect();
    bail!("no {what} `{text}`; expected {}", names.join(", "))
}

fn name<T: PartialEq>(all: &[(T, &'static str)], one: T) -> &'static str {
    all.iter()
        .find(|(other, _)| *other == one)
        .map_or("", |(_, name)| name)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn hosts_get_the_engines_in_turn() {
        let mixed: Vec<EngineRelease> = list("20,28-containerd").expect("a list");
        let hosts = engines(&mixed, 3).expect("engines");
        let names: Vec<String> = hosts.iter().map(ToString::to_string).collect();
        assert_eq!(names, ["20", "28-containerd", "20"]);
    }

    #[test]
    fn what_is_not_known_is_answered_with_what_is() {
        let error = "29".parse::<EngineRelease>().expect_err("unknown");
        assert!(
            error.to_string().contains("26, 28, 28-containerd"),
            "{error}"
        );
        "3.7".parse::<EtcdRelease>().expect_err("unknown");
    }
}
