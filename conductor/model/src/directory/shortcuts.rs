//! A shortcut to what DNS is asked for most: the addresses of a service that new connections may go to.
//!
//! By the octets of the service's name in a question. Those with a part of the
//! hash in common are one piece of memory, a hash table and its entries, so that
//! a look-up reads few cache lines and few pages, however many services there
//! are. Immutable to readers as the table is: a change copies two small arrays
//! and one piece. The table's own maps are trees of two children a node, and with
//! 100,000 services each of the 17 steps down is some misses of the cache.

use std::net::IpAddr;
use std::sync::Arc;

use manifests::{AppName, ServiceName};
use xxhash_rust::xxh3::xxh3_64;

use super::{Endpoints, ServiceId};
use crate::skydns::WILDCARDS;

/// Services with more endpoints have no shortcut: a change of one of them reads all of them.
const MOST: usize = 32;
/// Children of the root, and of each of these; a change counts a reference to each of both.
const CHILDREN: usize = 32;
/// Octets of a place in a piece's table.
const PLACE: usize = 4;
/// Of these, the lower three are an offset.
const OFFSET: u32 = 0x00ff_ffff;

/// Shortcuts by name.
#[derive(Debug, Clone)]
pub(super) struct Shortcuts(Arc<[Option<Arc<Branch>>; CHILDREN]>);

type Branch = [Option<Piece>; CHILDREN];

/// Addresses of one family, as octets.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Addresses<'a> {
    /// Of version 4.
    V4(&'a [[u8; 4]]),
    /// Of version 6.
    V6(&'a [[u8; 16]]),
}

/// Shortcuts with two parts of the hash in common.
///
/// A table of places, by another part of the hash: 0 if it is free, else a part of the hash and an offset. There is a
/// shortcut: length of the name, the name, length of an address, number of addresses, the addresses.
#[derive(Debug, Clone)]
struct Piece {
    octets: Arc<[u8]>,
    /// Places in the table, a power of two.
    places: usize,
}

impl Default for Shortcuts {
    fn default() -> Self {
        Self(Arc::new([const { None }; CHILDREN]))
    }
}

impl Shortcuts {
    /// By labels in lower case, each behind its length.
    pub(super) fn get(&self, name: &[u8]) -> Option<Addresses<'_>> {
        let hash = Hash::of(name);
        let piece = self.0[hash.branch()].as_ref()?[hash.piece()].as_ref()?;
        let (_, shortcut) = piece.find(hash, name)?;
        let ([size, _], octets) = shortcut.addresses.split_first_chunk()?;
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
        let hash = Hash::of(&name);
        let addresses = addresses(endpoints);
        let new = addresses.as_deref();
        let branch = self.0[hash.branch()].as_ref();
        let piece = branch.and_then(|branch| branch[hash.piece()].as_ref());
        let old = piece.and_then(|piece| piece.find(hash, &name));
        let (at, old) = old.map_or((0, None), |(at, old)| (at, Some(old.addresses)));
        if old == new {
            return;
        }
        let is_as_long = old.map(<[u8]>::len) == new.map(<[u8]>::len);
        let replacement = (!is_as_long).then(|| {
            let all = piece.into_iter().flat_map(Piece::shortcuts);
            let others = all.filter(|other| other.name != name);
            let new = new.map(|addresses| Shortcut {
                name: &name,
                addresses,
            });
            Piece::new(&others.chain(new).collect::<Vec<_>>())
        });
        let branch = Arc::make_mut(&mut self.0)[hash.branch()]
            .get_or_insert_with(|| Arc::new([const { None }; CHILDREN]));
        let piece = &mut Arc::make_mut(branch)[hash.piece()];
        match (replacement, new) {
            (Some(replacement), _) => *piece = replacement,
            // Where it is, as in most changes: a service has as many addresses as before.
            (None, Some(new)) => {
                if let Some(piece) = piece {
                    let octets = &mut Arc::make_mut(&mut piece.octets)[at..];
                    octets[1 + name.len()..][..new.len()].copy_from_slice(new);
                }
            }
            (None, None) => {}
        }
    }
}

impl Piece {
    fn new(shortcuts: &[Shortcut<'_>]) -> Option<Self> {
        if shortcuts.is_empty() {
            return None;
        }
        let places = (2 * shortcuts.len()).next_power_of_two();
        let mut octets = vec![0; places * PLACE];
        for Shortcut { name, addresses } in shortcuts {
            let hash = Hash::of(name);
            let at = octets.len() as u32;
            if at > OFFSET {
                // A shortcut is only the quicker way.
                break;
            }
            let free = hash.places(places).find(|place| {
                let octets = octets[place * PLACE..].first_chunk();
                octets == Some(&[0; PLACE])
            });
            let place = (u32::from(hash.tag()) << 24 | at).to_le_bytes();
            octets[free? * PLACE..][..PLACE].copy_from_slice(&place);
            octets.push(name.len() as u8);
            octets.extend_from_slice(name);
            octets.extend_from_slice(addresses);
        }
        let octets = octets.into();
        Some(Self { octets, places })
    }

    /// A shortcut, and its offset.
    fn find(&self, hash: Hash, name: &[u8]) -> Option<(usize, Shortcut<'_>)> {
        for place in hash.places(self.places) {
            let place = u32::from_le_bytes(*self.octets.get(place * PLACE..)?.first_chunk()?);
            if place == 0 {
                return None;
            }
            // The tag tells it from nearly all others, which are not read.
            if (place >> 24) as u8 != hash.tag() {
                continue;
            }
            let at = (place & OFFSET) as usize;
            let (shortcut, _) = Shortcut::read(self.octets.get(at..)?)?;
            if shortcut.name == name {
                return Some((at, shortcut));
            }
        }
        None
    }

    fn shortcuts(&self) -> impl Iterator<Item = Shortcut<'_>> {
        let mut rest = self.octets.get(self.places * PLACE..).unwrap_or_default();
        std::iter::from_fn(move || {
            let (shortcut, more) = Shortcut::read(rest)?;
            rest = more;
            Some(shortcut)
        })
    }
}

#[derive(Debug, Clone, Copy)]
struct Shortcut<'a> {
    name: &'a [u8],
    /// Behind their length and number.
    addresses: &'a [u8],
}

impl<'a> Shortcut<'a> {
    /// The first one, and what is behind it.
    fn read(octets: &'a [u8]) -> Option<(Self, &'a [u8])> {
        let (length, rest) = octets.split_first()?;
        let (name, rest) = rest.split_at_checked((*length).into())?;
        let [size, count] = *rest.first_chunk()?;
        let length = 2 + usize::from(size) * usize::from(count);
        let (addresses, rest) = rest.split_at_checked(length)?;
        Some((Self { name, addresses }, rest))
    }
}

/// Hash of a name: the parts say where its shortcut is.
#[derive(Debug, Clone, Copy)]
struct Hash(u64);

impl Hash {
    fn of(name: &[u8]) -> Self {
        Self(xxh3_64(name))
    }

    fn branch(self) -> usize {
        self.0 as usize % CHILDREN
    }

    fn piece(self) -> usize {
        self.0 as usize / CHILDREN % CHILDREN
    }

    fn tag(self) -> u8 {
        (self.0 >> 56) as u8
    }

    /// All places of a table, beginning with its own.
    fn places(self, places: usize) -> impl Iterator<Item = usize> {
        let first = self.0 as usize / CHILDREN / CHILDREN;
        (0..places).map(move |next| (first + next) & (places - 1))
    }
}

/// The labels of a service's name, each behind its length.
fn name(app: &AppName, service: &ServiceName) -> Vec<u8> {
    let labels = [service.as_str(), app.as_str()];
    let octets = |label: &str| [&[label.len() as u8], label.as_bytes()].concat();
    labels.map(octets).concat()
}

/// Length of an address, their number, and the addresses in order; none where there is none, or many, or both families.
fn addresses(endpoints: &Endpoints) -> Option<Vec<u8>> {
    if endpoints.size() > MOST {
        return None;
    }
    let serving = super::serving(endpoints);
    let first = serving.first()?;
    let size = if first.addr.is_ipv4() { 4 } else { 16 };
    let mut octets = vec![size, serving.len() as u8];
    for endpoint in &serving {
        match endpoint.addr {
            IpAddr::V4(addr) => octets.extend(addr.octets()),
            IpAddr::V6(addr) => octets.extend(addr.octets()),
        }
    }
    (octets.len() == 2 + usize::from(size) * serving.len()).then_some(octets)
}

#[cfg(test)]
mod tests {
    #![expect(clippy::unwrap_used, reason = "names in tests are legal")]

    use std::collections::BTreeMap;
    use std::net::Ipv4Addr;

    use super::*;
    use crate::directory::tests::random;
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
        let mut next = random();
        let mut shortcuts = Shortcuts::default();
        let mut expected = BTreeMap::new();
        let mut before = (shortcuts.clone(), expected.clone());
        for step in 0..20_000 {
            // More than there are pieces, so that each has several.
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
