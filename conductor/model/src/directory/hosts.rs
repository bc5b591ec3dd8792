//! The hosts that have endpoints: their slots, and the addresses at which these are reached.

use std::net::IpAddr;

use manifests::{HostName, SlotId};
use rpds::{RedBlackTreeMapSync, RedBlackTreeSetSync};

/// Hosts by name and by address.
#[derive(Debug, Clone, Default)]
pub(super) struct Hosts {
    hosts: RedBlackTreeMapSync<HostName, Host>,
    by_addr: RedBlackTreeMapSync<IpAddr, RedBlackTreeSetSync<HostName>>,
}

#[derive(Debug, Clone, Default)]
struct Host {
    slots: RedBlackTreeSetSync<SlotId>,
    /// How many slots are reached at each address.
    addrs: RedBlackTreeMapSync<IpAddr, usize>,
}

impl Hosts {
    pub(super) fn names(&self) -> impl Iterator<Item = &HostName> {
        self.hosts.keys()
    }

    /// The name as it is here already.
    pub(super) fn shared(&self, name: &HostName) -> HostName {
        let known = self.hosts.get_key_value(name);
        known.map_or(name, |(name, _)| name).clone()
    }

    pub(super) fn slots_of(&self, host: &HostName) -> RedBlackTreeSetSync<SlotId> {
        let host = self.hosts.get(host);
        host.map(|host| host.slots.clone()).unwrap_or_default()
    }

    pub(super) fn addresses_of(&self, host: &HostName) -> impl Iterator<Item = IpAddr> {
        let host = self.hosts.get(host).into_iter();
        host.flat_map(|host| host.addrs.keys().copied())
    }

    pub(super) fn at(&self, addr: IpAddr) -> impl Iterator<Item = &HostName> {
        self.by_addr.get(&addr).into_iter().flatten()
    }

    pub(super) fn insert(&mut self, slot: &SlotId, name: &HostName, addrs: &[IpAddr]) {
        if !self.hosts.contains_key(name) {
            self.hosts.insert_mut(name.clone(), Host::default());
        }
        let Some(host) = self.hosts.get_mut(name) else {
            return;
        };
        host.slots.insert_mut(slot.clone());
        for addr in addrs {
            let count = host.addrs.get(addr).copied().unwrap_or_default();
            host.addrs.insert_mut(*addr, count + 1);
            if count == 0 {
                let mut hosts = self.by_addr.get(addr).cloned().unwrap_or_default();
                hosts.insert_mut(name.clone());
                self.by_addr.insert_mut(*addr, hosts);
            }
        }
    }

    pub(super) fn remove(&mut self, slot: &SlotId, name: &HostName, addrs: &[IpAddr]) {
        let Some(mut host) = self.hosts.get(name).cloned() else {
            return;
        };
        host.slots.remove_mut(slot);
        for addr in addrs {
            match host.addrs.get(addr).copied() {
                Some(count) if count > 1 => host.addrs.insert_mut(*addr, count - 1),
                _ => {
                    host.addrs.remove_mut(addr);
                    self.leaves(name, *addr);
                }
            }
        }
        if host.slots.is_empty() {
            self.hosts.remove_mut(name);
        } else {
            self.hosts.insert_mut(name.clone(), host);
        }
    }

    /// No slot of the host is reached at the address any more.
    fn leaves(&mut self, name: &HostName, addr: IpAddr) {
        let mut hosts = self.by_addr.get(&addr).cloned().unwrap_or_default();
        hosts.remove_mut(name);
        if hosts.is_empty() {
            self.by_addr.remove_mut(&addr);
        } else {
            self.by_addr.insert_mut(addr, hosts);
        }
    }
}
