//! Names of hosts: `<host>.hosts.<domain>`, and the names of their addresses.
//!
//! An address is that of a host, and all instances there share it: its name is the host's.

use std::net::IpAddr;

use hickory_proto::op::Query;
use hickory_proto::rr::rdata::PTR;
use hickory_proto::rr::{Name, RData, Record, RecordType};
use model::directory::Directory;

use super::Zone;
use super::records::record;

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
    /// The names of an address at which instances are published; no records if it is another one, or no such query.
    pub(crate) fn reverse(&self, directory: &Directory, query: &Query) -> Vec<Record> {
        if !matches!(query.query_type(), RecordType::PTR | RecordType::ANY) {
            return Vec::new();
        }
        let Some(addr) = address_of(query.name()) else {
            return Vec::new();
        };
        let name = |host: &str| Name::from_ascii(host).ok()?.append_name(&self.hosts).ok();
        let names = directory
            .hosts_at(addr)
            .filter_map(|host| name(host.as_str()));
        names
            .map(|host| record(query.name(), RData::PTR(PTR(host))))
            .collect()
    }
}

/// The address that a name below `in-addr.arpa` or `ip6.arpa` spells in full.
fn address_of(name: &Name) -> Option<IpAddr> {
    let addr = name.parse_arpa_name().ok()?.addr();
    // Neither a part of one, nor another spelling.
    (Name::from(addr) == *name).then_some(addr)
}
