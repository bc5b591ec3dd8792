//! The hosts that may take a slot, in order.

use std::borrow::Cow;
use std::cmp::{Ordering, Reverse};

use manifests::{HostName, SlotId};
use model::records::Data;
use xxhash_rust::xxh3::xxh3_64;

use super::candidates::Candidates;
use super::load::{Eligible, Group, Load};
use crate::refusal::{Cpus, Refusal};
use crate::turn::Turn;
use crate::waiting::Waiting;

/// A slot, and the hosts that may take it. What costs more is computed on demand.
pub(crate) struct Ranking<'p> {
    pub(crate) slot: SlotId,
    load: &'p Load<'p>,
    group: &'p Group<'p>,
    data: Option<&'p Data>,
    /// Of a global container, the one host that it is for.
    only: Option<&'p HostName>,
    /// For the hash.
    key: String,
    /// In order of the hosts' names.
    eligible: Cow<'p, [Eligible]>,
    first: Option<usize>,
}

impl<'p> Ranking<'p> {
    pub(super) fn of(load: &'p Load<'p>, group: &'p Group<'p>, number: u32) -> Self {
        let slot = group.id.slot(number);
        let view = group.container.slots.get(&number);
        let mut placed = Self {
            key: slot.to_string(),
            slot,
            load,
            group,
            data: view
                .and_then(|view| view.data.as_ref())
                .map(|data| &data.value)
                .filter(|data| !load.leaves_behind(data)),
            only: group.container.host_of(number),
            eligible: Cow::Borrowed(&[]),
            first: None,
        };
        let spread = group
            .wanted
            .and_then(|manifest| manifest.placement.spread.as_deref())
            .filter(|_| load.version >= 2)
            .map(|label| group.spread(load, label));
        let depends = group.is_choosy || placed.data.is_some();
        placed.eligible = match group.stands(load) {
            Some(all) if !depends && spread.is_none() && !group.container.is_global() => {
                Cow::Borrowed(all)
            }
            _ => {
                let may = |host: &usize| {
                    placed.is_for(*host)
                        && group.refused[*host].is_none()
                        && !(depends && placed.refusal(*host).is_some())
                };
                let stand = |host| Eligible {
                    group: spread.as_ref().map_or(0, |spread| spread[host]),
                    ..group.stand(load, host)
                };
                (0..load.hosts.len()).filter(may).map(stand).collect()
            }
        };
        placed.first = placed.best();
        placed
    }

    fn is_for(&self, host: usize) -> bool {
        let name = self.load.hosts[host].name;
        !self.group.container.is_global() || self.only == Some(name)
    }

    /// The best host.
    pub(crate) fn first(&self) -> Option<usize> {
        self.first
    }

    /// The best host, by name.
    pub(crate) fn first_host(&self) -> Option<&'p HostName> {
        Some(self.load.hosts[self.first?].name)
    }

    fn best(&self) -> Option<usize> {
        let best = self.eligible.iter().map(|one| one.rank()).min()?;
        let best = |one: &&Eligible| one.rank() == best;
        let mut best = self.eligible.iter().filter(best).map(|one| one.host);
        let (first, second) = (best.next()?, best.next());
        if second.is_none() {
            return Some(first);
        }
        let others = second.into_iter().chain(best);
        std::iter::once(first)
            .chain(others)
            .min_by_key(|host| (Reverse(self.hash(*host)), *host))
    }

    /// How the host stands; none if it may not take the slot.
    pub(super) fn standing(&self, host: usize) -> Option<&Eligible> {
        let at = self.eligible.binary_search_by_key(&host, |one| one.host);
        self.eligible.get(at.ok()?)
    }

    /// The turn of a host; none if it may not take the slot. While nobody has had the time to leave it undone, it is
    /// enough to know that another one is first.
    pub(crate) fn turn(&self, host: &HostName, is_new: bool) -> Option<Turn> {
        let host = self.load.position(host)?;
        let own = self.standing(host)?;
        if self.first == Some(host) {
            return Some(Turn::in_placement(0));
        }
        if is_new {
            return Some(Turn::in_placement(1));
        }
        let mut hash = None;
        let before = |one: &&Eligible| match one.rank().cmp(&own.rank()) {
            Ordering::Less => true,
            Ordering::Greater => false,
            Ordering::Equal if one.host == host => false,
            Ordering::Equal => {
                let own = *hash.get_or_insert_with(|| self.hash(host));
                (Reverse(self.hash(one.host)), one.host) < (Reverse(own), host)
            }
        };
        let before = self.eligible.iter().filter(before).count();
        Some(Turn::in_placement(before))
    }

    /// Reason for which nobody takes it; none if some host may.
    pub(crate) fn why_waiting(&self) -> Option<Waiting> {
        if self.eligible.is_empty() {
            self.candidates().why_waiting()
        } else {
            None
        }
    }

    /// All candidates, with the reasons of the others.
    pub(super) fn candidates(&self) -> Candidates {
        let mut order = self.eligible.to_vec();
        order.sort_by_cached_key(|one| (one.rank(), Reverse(self.hash(one.host)), one.host));
        let name = |host: usize| self.load.hosts[host].name.clone();
        let refused = |host: usize| {
            let why = self.group.refused[host].clone();
            Some((name(host), why.or_else(|| self.refusal(host))?))
        };
        Candidates {
            slot: self.slot.clone(),
            order: order.into_iter().map(|one| name(one.host)).collect(),
            refused: (0..self.load.hosts.len())
                .filter(|host| self.is_for(*host))
                .filter_map(refused)
                .collect(),
        }
    }

    fn hash(&self, host: usize) -> u64 {
        rendezvous(&self.key, self.load.hosts[host].name.as_str())
    }

    /// Reason for which this host can't take this slot beside what it has now.
    fn refusal(&self, host: usize) -> Option<Refusal> {
        let same = self.group.same[host];
        let host = &self.load.hosts[host];
        if let Some(data) = self.data
            && data.host_id != host.record.id
        {
            return Some(if data.host == *host.name {
                Refusal::DataOnFormerMachine(data.host.clone())
            } else {
                Refusal::DataOn(data.host.clone())
            });
        }
        let wanted = self.group.wanted?;
        if let Some(most) = wanted.placement.max_per_host
            && same >= most
        {
            return Some(Refusal::MaxPerHost(most));
        }
        let capacity = &host.record.capacity;
        if let (Some(asks), total @ 1..) = (wanted.cpu_millis, capacity.cpu_millis) {
            let free = total.saturating_sub(host.cpu_millis);
            if u64::from(asks) > free {
                return Some(Refusal::Cpus {
                    free: Cpus(free),
                    total: Cpus(total),
                    asked: Cpus(u64::from(asks)),
                });
            }
        }
        if let (Some(asks), total @ 1..) = (wanted.memory, capacity.memory) {
            let free = total.saturating_sub(host.memory);
            if asks > free {
                return Some(Refusal::Memory {
                    free: free >> 20,
                    total: total >> 20,
                    asked: asks.div_ceil(1 << 20),
                });
            }
        }
        for (port, protocol) in &self.group.ports {
            let holder = host.ports.get(&(*port, *protocol));
            if let Some(holder) = holder.filter(|holder| **holder != self.slot) {
                return Some(Refusal::HostPort(*port, holder.clone()));
            }
        }
        None
    }
}

/// XXH3-64 of `<app>/<container>/<slot>\0<host>`: the highest wins.
pub(super) fn rendezvous(slot: &str, host: &str) -> u64 {
    // Mostly both are shorter; longer ones only cost an allocation.
    let mut text = [0; 128];
    let (slot, host) = (slot.as_bytes(), host.as_bytes());
    let length = slot.len() + 1 + host.len();
    match text.get_mut(..length) {
        Some(text) => {
            text[..slot.len()].copy_from_slice(slot);
            text[slot.len() + 1..].copy_from_slice(host);
            xxh3_64(text)
        }
        None => xxh3_64(&[slot, &[0], host].concat()),
    }
}
