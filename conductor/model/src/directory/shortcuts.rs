//! A shortcut to what DNS is asked for most: the addresses of a service that new connections may go to.
//!
//! By the octets of the service's name in a question, and each in one piece, so
//! that a look-up reads few places in memory, however many services there are.
//! Immutable to readers as the table is: a change copies one path from the root,
//! three arrays. The table's own maps are trees of two children a node, and with
//! 100,000 services each of the 17 steps down is some misses of the cache.

use std::net::IpAddr;
use std::sync::Arc;

use manifests::{AppName, ServiceName};
use xxhash_rust::xxh3::xxh3_64;

use super::{Endpoints, ServiceId};
use crate::skydns::WILDCARDS;

/// Services with more endpoints have no shortcut: a change of one of them reads all of them.
const MOST: usize = 32;
/// Children of the root, and of each of these.
const BRANCHES: usize = 64;
const BUCKETS: usize = 128;

/// Shortcuts by name.
#[derive(Debug, Clone)]
pub(super) struct Shortcuts(Arc<[Option<Arc<Branch>>; BRANCHES]>);

type Branch = [Option<Bucket>; BUCKETS];

/// Shortcuts with one part of the hash in common, one behind the other: length of the rest, a part of the hash, length of
/// the name, the name, length of an address, the addresses.
type Bucket = Arc<[u8]>;

/// Addresses of one family, as octets.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Addresses<'a> {
    /// Of version 4.
    V4(&'a [[u8; 4]]),
    /// Of version 6.
    V6(&'a [[u8; 16]]),
}

impl Default for Shortcuts {
    fn default() -> Self {
        Self(Arc::new([const { None }; BRANCHES]))
    }
}

impl Shortcuts {
    /// By labels in lower case, each behind its length.
    pub(super) fn get(&self, name: &[u8]) -> Option<Addresses<'_>> {
        let at = Place::of(name);
        let bucket = self.0[at.branch].as_ref()?[at.bucket].as_ref()?;
        let (size, octets) = shortcuts(bucket)
            .find_map(|shortcut| shortcut.strip_prefix(&at.tag(name))?.strip_prefix(name))?
            .split_first()?;
        Some(match size {
            4 => Addresses::V4(octets.as_chunks().0),
            _ => Addresses::V6(octets.as_chunks().0),
        })
    }

    /// Follows a service.
    pub(super) fn set(&mut self, service: &ServiceId, endpoints: &Endpoints) {
        let ServiceId { app, service } = service;
        if [app.as_str(), service.as_str()]
            .iter()
            .any(|label| WILDCARDS.contains(label))
        {
            return;
        }
        let name = name(app, service);
        let at = Place::of(&name);
        let head = [&at.tag(&name), &name[..]].concat();
        let new = addresses(endpoints).map(|addresses| [head.clone(), addresses].concat());
        let branch = self.0[at.branch].as_ref();
        let bucket = branch.and_then(|branch| branch[at.bucket].as_deref());
        let old = shortcuts(bucket.unwrap_or_default()).find(|one| one.starts_with(&head));
        if old == new.as_deref() {
            return;
        }
        let others = shortcuts(bucket.unwrap_or_default()).filter(|one| !one.starts_with(&head));
        let mut bucket = Vec::new();
        for shortcut in others.chain(new.as_deref()) {
            bucket.extend((shortcut.len() as u16).to_be_bytes());
            bucket.extend(shortcut);
        }
        let branches = Arc::make_mut(&mut self.0);
        let branch = branches[at.branch].get_or_insert_with(|| Arc::new([const { None }; BUCKETS]));
        Arc::make_mut(branch)[at.bucket] = (!bucket.is_empty()).then(|| bucket.into());
    }
}

/// Those of a bucket, each without its length.
fn shortcuts(mut bucket: &[u8]) -> impl Iterator<Item = &[u8]> {
    std::iter::from_fn(move || {
        let (length, rest) = bucket.split_first_chunk()?;
        let (shortcut, rest) = rest.split_at_checked(u16::from_be_bytes(*length).into())?;
        bucket = rest;
        Some(shortcut)
    })
}

/// Where a name is.
struct Place {
    branch: usize,
    bucket: usize,
    tag: u8,
}

impl Place {
    fn of(name: &[u8]) -> Self {
        let hash = xxh3_64(name);
        Self {
            branch: hash as usize % BRANCHES,
            bucket: hash as usize / BRANCHES % BUCKETS,
            tag: (hash >> 32) as u8,
        }
    }
}

impl Place {
    /// What tells a name from nearly all others of the bucket, and is read first.
    fn tag(&self, name: &[u8]) -> [u8; 2] {
        [self.tag, name.len() as u8]
    }
}

/// The labels of a service's name, each behind its length.
fn name(app: &AppName, service: &ServiceName) -> Vec<u8> {
    let labels = [service.as_str(), app.as_str()];
    let octets = |label: &str| [&[label.len() as u8], label.as_bytes()].concat();
    labels.map(octets).concat()
}

/// Length of an address, and the addresses in order; none where there is none, or many, or both families.
fn addresses(endpoints: &Endpoints) -> Option<Vec<u8>> {
    if endpoints.size() > MOST {
        return None;
    }
    let serving = super::serving(endpoints);
    let first = serving.first()?;
    let size = if first.addr.is_ipv4() { 4 } else { 16 };
    let mut octets = vec![size];
    for endpoint in &serving {
        match endpoint.addr {
            IpAddr::V4(addr) => octets.extend(addr.octets()),
            IpAddr::V6(addr) => octets.extend(addr.octets()),
        }
    }
    (octets.len() == 1 + usize::from(size) * serving.len()).then_some(octets)
}

#[cfg(test)]
mod tests {
    #![expect(clippy::unwrap_used, reason = "names in tests are legal")]

    use std::collections::BTreeMap;
    use std::net::Ipv4Addr;

    use super::*;
    use crate::directory::{Endpoint, Phase, Protocol};

    fn service(app: &str, name: &str) -> ServiceId {
        ServiceId {
            app: app.parse().unwrap(),
            service: name.parse().unwrap(),
        }
    }

    fn endpoints(addrs: &[IpAddr]) -> Endpoints {
        let endpoint = |(slot, addr): (usize, &IpAddr)| Endpoint {
            container: "web".parse().unwrap(),
            slot: slot as u32,
            host: "h1".parse().unwrap(),
            addr: *addr,
            port: 1,
            protocol: Protocol::Tcp,
            phase: Phase::Ready,
            live: true,
        };
        let all = addrs.iter().enumerate().map(endpoint);
        all.map(|one| ((one.container.clone(), one.slot), one))
            .collect()
    }

    #[test]
    fn services_are_found_as_they_were_set_last() {
        let mut random = 88_172_645_463_325_252_u64;
        let mut next = |below: u64| {
            random ^= random << 13;
            random ^= random >> 7;
            random ^= random << 17;
            random % below
        };
        let mut shortcuts = Shortcuts::default();
        let mut expected = BTreeMap::new();
        let mut before = (shortcuts.clone(), expected.clone());
        for step in 0..20_000 {
            // More than there are buckets, so that some have several.
            let number = next(16_000);
            let name = format!("s{}", number % 100);
            let service = service(&format!("a{}", number / 100), &name);
            let addrs: Vec<[u8; 4]> = (0..next(3)).map(|_| [10, 0, 0, next(9) as u8]).collect();
            let ips: Vec<IpAddr> = addrs.iter().map(|a| Ipv4Addr::from(*a).into()).collect();
            shortcuts.set(&service, &endpoints(&ips));
            expected.insert(super::name(&service.app, &service.service), addrs);
            if step == 10_000 {
                before = (shortcuts.clone(), expected.clone());
            }
        }
        // Readers of an older one see no change.
        for (shortcuts, expected) in [(shortcuts, expected), before] {
            assert!(expected.values().any(Vec::is_empty));
            for (name, addrs) in &expected {
                let found = (!addrs.is_empty()).then_some(Addresses::V4(addrs));
                assert_eq!(shortcuts.get(name), found, "{name:?}");
            }
        }
    }

    #[test]
    fn there_is_none_for_wildcards_many_addresses_and_both_families() {
        let v4 = |last: u8| IpAddr::from([10, 0, 0, last]);
        let v6 = IpAddr::from([7_u16; 8]);
        let many: Vec<IpAddr> = (0..=MOST as u8).map(v4).collect();
        let mut shortcuts = Shortcuts::default();
        for (app, name, addrs, is_found) in [
            ("shop", "web", &many[..MOST], true),
            ("shop", "six", &[v6], true),
            ("shop", "many", &many[..], false),
            ("shop", "both", &[v4(1), v6], false),
            ("shop", "any", &[v4(1)], false),
            ("any", "web", &[v4(1)], false),
            ("shop", "none", &[], false),
        ] {
            let service = service(app, name);
            shortcuts.set(&service, &endpoints(addrs));
            let labels = super::name(&service.app, &service.service);
            assert_eq!(shortcuts.get(&labels).is_some(), is_found, "{service}");
        }
        assert_eq!(
            shortcuts.get(b"\x03six\x04shop"),
            Some(Addresses::V6(&[[
                0, 7, 0, 7, 0, 7, 0, 7, 0, 7, 0, 7, 0, 7, 0, 7
            ]]))
        );
    }
}
