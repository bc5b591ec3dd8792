//! The keys in etcd. No other module spells one.

use std::fmt;

use crate::names::{AppName, ContainerId, HostName, SlotId};

/// First key of the watched range.
pub const WATCH_START: &str = "/apps/";
/// End (exclusive) of the watched range, which spans `/apps/`, `/claims/`, `/dokkaa/` and `/hosts/`.
pub const WATCH_END: &str = "/hosts0";
/// Claims of all slots.
pub const CLAIMS: &str = "/claims/";
/// Manifests of all apps.
pub const APPS: &str = "/apps/";
/// Members of the cluster.
pub const MEMBERS: &str = "/dokkaa/members/";
/// Settings of the operator.
pub const CONFIG: &str = "/dokkaa/config/";
/// Host records, availability, labels, unfit marks and what a drain has moved.
pub const HOSTS: &str = "/hosts/";
/// Status of slots, outside the watched range.
pub const STATUS: &str = "/status/";
/// Records of others in DNS, in SkyDNS's format.
pub const SKYDNS: &str = "/skydns/";
/// Bookkeeping of the v2 API, which never shows it.
pub const V2_META: &str = "/v2meta";

/// A key in etcd.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Key {
    /// `/apps/<app>/<container>/manifest`
    Manifest(ContainerId),
    /// `/claims/<app>/<container>/slots/<slot>`
    Claim(SlotId),
    /// `/claims/<app>/<container>/slots/<slot>.state`
    State(SlotId),
    /// `/claims/<app>/<container>/slots/<slot>.next`
    Next(SlotId),
    /// `/claims/<app>/<container>/versions/<mod revision of the manifest>`
    Version(ContainerId, i64),
    /// `/claims/<app>/<container>/rollout`
    Rollout(ContainerId),
    /// `/claims/<app>/<container>/image`
    FoundImage(ContainerId),
    /// `/claims/<app>/<container>/before`
    Before(ContainerId),
    /// `/claims/<app>/<container>/data/<slot>`
    Data(SlotId),
    /// `/dokkaa/cluster`
    Cluster,
    /// `/dokkaa/members/<host>`
    Member(HostName),
    /// `/hosts/<host>/record`
    HostRecord(HostName),
    /// `/hosts/<host>/availability`
    Availability(HostName),
    /// `/hosts/<host>/labels`
    Labels(HostName),
    /// `/hosts/<host>/unfit/<app>/<container>`
    Unfit(HostName, ContainerId),
    /// `/hosts/<host>/moved/<app>/<container>/<slot>`
    Moved(HostName, SlotId),
    /// `/status/<app>/<container>/<slot>` (not watched)
    Status(SlotId),
}

impl Key {
    /// Parses a key; `None` if it is not dokkaa's.
    pub fn parse(key: &str) -> Option<Self> {
        let parts: Vec<&str> = key.strip_prefix('/')?.split('/').collect();
        match parts.as_slice() {
            ["apps", app, container, "manifest"] => Some(Self::Manifest(id(app, container)?)),
            ["claims", app, container, rest @ ..] => {
                let container = id(app, container)?;
                match rest {
                    ["slots", slot] => match slot.split_once('.') {
                        None => Some(Self::Claim(container.slot(number(slot)?))),
                        Some((slot, "state")) => Some(Self::State(container.slot(number(slot)?))),
                        Some((slot, "next")) => Some(Self::Next(container.slot(number(slot)?))),
                        Some(_) => None,
                    },
                    ["versions", rev] => Some(Self::Version(container, number(rev)?)),
                    ["rollout"] => Some(Self::Rollout(container)),
                    ["image"] => Some(Self::FoundImage(container)),
                    ["before"] => Some(Self::Before(container)),
                    ["data", slot] => Some(Self::Data(container.slot(number(slot)?))),
                    _ => None,
                }
            }
            ["dokkaa", "cluster"] => Some(Self::Cluster),
            ["dokkaa", "members", host] => Some(Self::Member(host.parse().ok()?)),
            ["hosts", host, "record"] => Some(Self::HostRecord(host.parse().ok()?)),
            ["hosts", host, "availability"] => Some(Self::Availability(host.parse().ok()?)),
            ["hosts", host, "labels"] => Some(Self::Labels(host.parse().ok()?)),
            ["hosts", host, "unfit", app, container] => {
                Some(Self::Unfit(host.parse().ok()?, id(app, container)?))
            }
            ["hosts", host, "moved", app, container, slot] => {
                let slot = id(app, container)?.slot(number(slot)?);
                Some(Self::Moved(host.parse().ok()?, slot))
            }
            ["status", app, container, slot] => {
                Some(Self::Status(id(app, container)?.slot(number(slot)?)))
            }
            _ => None,
        }
    }
}

fn id(app: &str, container: &str) -> Option<ContainerId> {
    Some(ContainerId::new(app.parse().ok()?, container.parse().ok()?))
}

/// A number in its one canonical spelling, so that no two keys mean the same.
fn number<N: std::str::FromStr + fmt::Display>(text: &str) -> Option<N> {
    let number: N = text.parse().ok()?;
    (number.to_string() == text).then_some(number)
}

impl fmt::Display for Key {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Manifest(c) => write!(f, "/apps/{c}/manifest"),
            Self::Claim(s) => write!(f, "/claims/{}/slots/{}", s.container, s.slot),
            Self::State(s) => write!(f, "/claims/{}/slots/{}.state", s.container, s.slot),
            Self::Next(s) => write!(f, "/claims/{}/slots/{}.next", s.container, s.slot),
            Self::Version(c, rev) => write!(f, "/claims/{c}/versions/{rev}"),
            Self::Rollout(c) => write!(f, "/claims/{c}/rollout"),
            Self::FoundImage(c) => write!(f, "/claims/{c}/image"),
            Self::Before(c) => write!(f, "/claims/{c}/before"),
            Self::Data(s) => write!(f, "/claims/{}/data/{}", s.container, s.slot),
            Self::Cluster => f.write_str("/dokkaa/cluster"),
            Self::Member(host) => write!(f, "/dokkaa/members/{host}"),
            Self::HostRecord(host) => write!(f, "/hosts/{host}/record"),
            Self::Availability(host) => write!(f, "/hosts/{host}/availability"),
            Self::Labels(host) => write!(f, "/hosts/{host}/labels"),
            Self::Unfit(host, c) => write!(f, "/hosts/{host}/unfit/{c}"),
            Self::Moved(host, s) => write!(f, "{}{s}", moved(host)),
            Self::Status(s) => write!(f, "/status/{s}"),
        }
    }
}

/// Prefix of all claims of one container.
pub fn claims_of(container: &ContainerId) -> String {
    format!("{CLAIMS}{container}/")
}

/// Prefix of the versions of one container.
pub fn versions_of(container: &ContainerId) -> String {
    format!("{CLAIMS}{container}/versions/")
}

/// Prefix of the slots of one container.
pub fn slots_of(container: &ContainerId) -> String {
    format!("{CLAIMS}{container}/slots/")
}

/// Prefix of one host's keys.
pub fn host(host: &HostName) -> String {
    format!("{HOSTS}{host}/")
}

/// Prefix of the slots that one host has given away.
pub fn moved(host: &HostName) -> String {
    format!("{HOSTS}{host}/moved/")
}

/// Prefix of the manifests of one app.
pub fn app(app: &AppName) -> String {
    format!("{APPS}{app}/")
}

/// End of the range of keys that begin with `prefix` (etcd's convention: the last byte one higher).
pub fn prefix_end(prefix: &str) -> Vec<u8> {
    let mut end = prefix.as_bytes().to_vec();
    while let Some(last) = end.pop() {
        if last < 0xff {
            end.push(last + 1);
            return end;
        }
    }
    vec![0]
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_key_reads_back_as_it_is_written() {
        for text in [
            "/apps/shop/web/manifest",
            "/claims/shop/web/slots/0",
            "/claims/shop/web/slots/12.state",
            "/claims/shop/web/slots/12.next",
            "/claims/shop/web/versions/1234",
            "/claims/shop/web/rollout",
            "/claims/shop/web/image",
            "/claims/shop/web/before",
            "/claims/shop/web/data/3",
            "/dokkaa/cluster",
            "/dokkaa/members/host-1.example",
            "/hosts/h1/record",
            "/hosts/h1/availability",
            "/hosts/h1/unfit/shop/web",
            "/hosts/h1/moved/shop/web/3",
            "/status/shop/web/0",
        ] {
            let key = Key::parse(text);
            assert_eq!(key.map(|k| k.to_string()).as_deref(), Some(text));
        }
    }

    #[test]
    fn other_keys_are_ignored() {
        for text in [
            "",
            "/",
            "apps/shop/web/manifest",
            "/apps/shop/web",
            "/apps/Shop/web/manifest",
            "/apps/a---b/web/manifest",
            "/claims/shop/web/slots/00",
            "/claims/shop/web/slots/-1",
            "/claims/shop/web/slots/1.other",
            "/claims/shop/web/versions/+5",
            "/hosts/h1/record/x",
        ] {
            assert_eq!(Key::parse(text), None, "{text}");
        }
    }

    #[test]
    fn the_watched_range_holds_what_decisions_need_and_nothing_else() {
        let inside = |key: &str| (WATCH_START..WATCH_END).contains(&key);
        assert!(inside("/apps/a/b/manifest") && inside("/claims/a/b/rollout"));
        assert!(inside("/dokkaa/cluster") && inside("/hosts/h1/record"));
        assert!(!inside("/status/a/b/0") && !inside("/v2meta/x"));
    }

    #[test]
    fn a_prefix_ends_before_the_next_sibling() {
        assert_eq!(prefix_end("/apps/"), b"/apps0".to_vec());
    }
}
