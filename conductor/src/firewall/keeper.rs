//! Compares the rules that stand with those that are wanted, and changes them where they differ.

use std::collections::BTreeSet;
use std::fs;
use std::net::IpAddr;
use std::time::Instant;

use tracing::{debug, info, warn};

use super::HEAL;
use super::generation::Generation;
use super::iptables::{Iptables, IptablesError};
use super::removal::{remove, remove_of};
use super::rules::{Family, Wanted, change, rules};
use super::setup::{FirewallError, InstancePorts, Setup};
use super::wanted::{Site, peers, wanted};
use super::{ahead, localnet};

/// The rules of both families.
pub(super) struct Keeper<'a> {
    setup: &'a Setup,
    pub(super) tables: [Table; 2],
    /// Who was let in last, maybe by an earlier start.
    known: BTreeSet<IpAddr>,
    /// Counts the changes of rules; none where they are not counted.
    generation: Option<Generation>,
    /// The count before the rules were read last, and when that was.
    read_at: Option<(u32, Instant)>,
    /// What is wrong with the rules that were read.
    wrong: Vec<String>,
}

/// The rules of one family.
pub(super) struct Table {
    family: Family,
    tables: Iptables,
    /// None where there is nothing to close.
    pub(super) wanted: Option<Wanted>,
    /// That is known: before the first view of etcd what an earlier start set stands.
    is_decided: bool,
    /// The chain as this machine's program prints it, which differs between versions.
    as_shown: Vec<String>,
    /// It was made so once: where it is not now, somebody else changed it.
    is_set: bool,
}

impl<'a> Keeper<'a> {
    pub(super) fn new(setup: &'a Setup) -> Self {
        let table = |family| Table {
            family,
            tables: Iptables::new(family),
            wanted: None,
            is_decided: false,
            as_shown: Vec::new(),
            is_set: false,
        };
        Self {
            setup,
            tables: [Family::V4, Family::V6].map(table),
            known: BTreeSet::new(),
            generation: None,
            read_at: None,
            wrong: Vec::new(),
        }
    }

    /// The rules may be others than when they were read last.
    pub(super) fn may_differ(&mut self) -> bool {
        let Some((count, at)) = self.read_at else {
            return true;
        };
        at.elapsed() >= HEAL || self.count() != Some(count)
    }

    /// How often rules have changed; none where that is not known.
    fn count(&mut self) -> Option<u32> {
        match self.generation.as_mut()?.read() {
            Ok(count) => Some(count),
            Err(error) => {
                debug!(%error, "the kernel does not count the changes of rules; they are read each time");
                self.generation = None;
                None
            }
        }
    }

    /// Reads what is wanted now; whether that is something new.
    pub(super) fn follow(&mut self) -> bool {
        let seen = self.setup.published.seen.load();
        let Some(seen) = seen.as_ref() else {
            return false;
        };
        if self.setup.instance_ports == InstancePorts::Open {
            return false;
        }
        let bridge = self.setup.engine.borrow().bridge.clone();
        let site = Site {
            interfaces: &fs::read_to_string("/proc/thread-self/net/dev").unwrap_or_default(),
            v6_addresses: &fs::read_to_string("/proc/thread-self/net/if_inet6").unwrap_or_default(),
            bridge: &bridge,
        };
        let peers = peers(self.setup.host_ip(), seen, &self.known);
        let mut is_new = false;
        for table in &mut self.tables {
            let wanted = wanted(self.setup, seen, &site, table.family, &peers);
            is_new |= table.want(wanted);
        }
        self.known = peers;
        is_new
    }

    pub(super) async fn keep(&mut self) {
        let host_ip = self.setup.host_ip();
        // Before they are read: what is changed meanwhile, by us too, is read again.
        self.read_at = self.count().map(|count| (count, Instant::now()));
        let mut problems = Vec::new();
        for table in &mut self.tables {
            match table.set().await {
                Ok(ahead) => problems.extend(ahead),
                Err(source) => {
                    problems.push(model::error::chain(&FirewallError::Close {
                        host_ip,
                        source,
                    }));
                    self.read_at = None;
                }
            }
        }
        self.wrong = problems;
        self.report();
    }

    /// Says what is wrong, where that is something new.
    pub(super) fn report(&self) {
        let mut problems = self.wrong.clone();
        let bridge = self.setup.engine.borrow().bridge.interface.clone();
        let wanted = self.tables.iter().filter_map(|table| table.wanted.as_ref());
        let bridges = wanted.flat_map(|wanted| &wanted.bridges).chain([&bridge]);
        problems.extend(localnet::exposed(bridges.map(String::as_str)));
        self.setup.problems.send_if_modified(|before| {
            if *before == problems {
                return false;
            }
            for problem in problems.iter().filter(|one| !before.contains(one)) {
                warn!("{problem}");
            }
            for problem in before.iter().filter(|one| !problems.contains(one)) {
                info!(%problem, "problem solved");
            }
            *before = problems;
            true
        });
    }

    /// Whether the kernel counts what these programs change.
    async fn follow_changes(&mut self) {
        for table in &self.tables {
            match table.tables.is_counted().await {
                Ok(true) => {}
                Ok(false) => return,
                Err(error) => {
                    debug!(error = %model::error::chain(&error), "cannot tell which firewall it speaks to");
                    return;
                }
            }
        }
        match Generation::open() {
            Ok(generation) => self.generation = Some(generation),
            Err(error) => debug!(%error, "no nfnetlink here: rules are read each time"),
        }
    }

    /// What an earlier start left: those whom it knew stay known. What is not wanted any more goes.
    pub(super) async fn take_over(&mut self) {
        self.follow_changes().await;
        for table in &self.tables {
            match table.tables.shown().await {
                Ok(shown) => self.known.extend(shown.peers()),
                Err(error) => {
                    debug!(error = %model::error::chain(&error), "cannot read the rules of an earlier start");
                }
            }
        }
        if self.setup.instance_ports == InstancePorts::Open {
            match remove().await {
                Ok(true) => {
                    info!("--instance-ports open: firewall rules of an earlier start removed");
                }
                Ok(false) => {}
                Err(error) => {
                    debug!(error = %model::error::chain(&error), "cannot look for firewall rules");
                }
            }
        }
    }
}

impl Table {
    /// Whether that is something new.
    fn want(&mut self, wanted: Option<Wanted>) -> bool {
        if self.is_decided && self.wanted == wanted {
            return false;
        }
        self.is_decided = true;
        self.as_shown = wanted.as_ref().map(rules).unwrap_or_default();
        self.wanted = wanted;
        self.is_set = false;
        true
    }

    /// Writes only where something else stands; what comes before the rules and lets go what they close.
    async fn set(&mut self) -> Result<Option<String>, IptablesError> {
        let Some(wanted) = &self.wanted else {
            if self.is_decided && !self.is_set {
                self.is_set = true;
                if let Err(error) = remove_of(self.family).await {
                    // A kernel without IPv6 has no rules for it.
                    debug!(family = %self.family, error = %model::error::chain(&error), "cannot look for firewall rules");
                }
            }
            return Ok(None);
        };
        let mut shown = self.tables.shown().await?;
        if let Some(text) = change(&shown, wanted, &self.as_shown) {
            self.tables.load(&text).await?;
            shown = self.tables.shown().await?;
            let read_back = shown.chain.clone().unwrap_or_default();
            // Fewer are what somebody has left of them since, and to be set again.
            if read_back.len() == self.as_shown.len() {
                self.as_shown = read_back;
            }
            if self.is_set {
                warn!(
                    family = %self.family,
                    "firewall rules were removed or changed by another program; restored"
                );
            } else {
                let ports = wanted.published.as_ref();
                info!(
                    family = %self.family,
                    ports = ?ports.map(|ports| &ports.range), on = ?ports.map(|ports| ports.host_ip),
                    peers = ports.map(|ports| ports.peers.len()), exempt = ports.map(|ports| ports.exempt.len()),
                    bridge = wanted.closed,
                    "firewall rules set"
                );
            }
        }
        self.is_set = true;
        Ok(ahead::ahead(&shown, wanted))
    }
}
