//! Names of hosts: `<host>.hosts.<domain>`, and the names of their addresses.
//!
//! An address is that of a host, and all instances there share it: its name is the host's.

use std::net::IpAddr;

use hickory_proto::op::Query;
use hickory_proto::rr::rdata::PTR;
use hickory_proto::rr::{Name, RData, Record, RecordType};
use model::directory::Directory;

use super::records::with_ttl;
use super::{TTL, Tables, Zone, others};

/// Label of the hosts.
pub(super) const HOSTS: &str = "hosts";

/// What there is at a name of a host.
#[derive(Debug)]
pub(super) enum Host {
    At(Vec<IpAddr>),
    /// Hosts are below it.
    Above,
}

/// A host with instances, by its labels.
pub(super) fn find(directory: &Directory, labels: &[&str]) -> Option<Host> {
    let name = labels.join(".");
    if let Ok(host) = name.parse() {
        let addrs: Vec<IpAddr> = directory.addresses_of(&host).collect();
        if !addrs.is_empty() {
            return Some(Host::At(addrs));
        }
    }
    // Hosts are few. A name may have dots.
    let is_above = |host: &str| {
        name.is_empty()
            || host
                .strip_suffix(&name)
                .is_some_and(|rest| rest.ends_with('.'))
    };
    let mut hosts = directory.hosts();
    hosts
        .any(|host| is_above(host.as_str()))
        .then_some(Host::Above)
}

impl Zone {
    /// The names of an address at which instances are published, or that others have named; no records if it is another
    /// one, or no such query.
    pub(super) fn reverse(&self, tables: &Tables<'_>, query: &Query) -> Vec<Record> {
        let name = query.name();
        if !matches!(query.query_type(), RecordType::PTR | RecordType::ANY) {
            return Vec::new();
        }
        let Some(addr) = address_of(name) else {
            return Vec::new();
        };
        let pointer = |ttl, host| with_ttl(name, ttl, RData::PTR(PTR(host)));
        let below = |host: &str| Name::from_ascii(host).ok()?.append_name(&self.hosts).ok();
        let hosts = tables.directory.hosts_at(addr);
        let mut names: Vec<Record> = hosts
            .filter_map(|host| Some(pointer(TTL, below(host.as_str())?)))
            .collect();
        if names.is_empty()
            && let Some(record) = others::at(tables.records, name)
            && let Some(target) = others::target(record)
        {
            names.push(pointer(others::ttl(record), target));
        }
        names
    }
}

/// The address that a name below `in-addr.arpa` or `ip6.arpa` spells in full.
fn address_of(name: &Name) -> Option<IpAddr> {
    let addr = name.parse_arpa_name().ok()?.addr();
    // Neither a part of one, nor another spelling.
    (Name::from(addr) == *name).then_some(addr)
}
