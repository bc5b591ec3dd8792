//! Records of addresses, and of anything.

use std::collections::BTreeSet;
use std::net::IpAddr;

use hickory_proto::rr::rdata::{A, AAAA};
use hickory_proto::rr::{Name, RData, Record, RecordType};

use super::TTL;

/// Records of the queried type, each address once, in order.
pub(super) fn addresses(
    name: &Name,
    wanted: RecordType,
    addrs: impl IntoIterator<Item = IpAddr>,
) -> Vec<Record> {
    let mut seen = BTreeSet::new();
    addrs
        .into_iter()
        .filter(|addr| is_of(*addr, wanted))
        .filter(|addr| seen.insert(*addr))
        .map(|addr| address(name, addr))
        .collect()
}

pub(super) fn is_of(addr: IpAddr, wanted: RecordType) -> bool {
    match wanted {
        RecordType::A => addr.is_ipv4(),
        RecordType::AAAA => addr.is_ipv6(),
        // Any subset will do (RFC 8482).
        RecordType::ANY => true,
        _ => false,
    }
}

pub(super) fn address(name: &Name, addr: IpAddr) -> Record {
    address_with_ttl(name, TTL, addr)
}

pub(super) fn address_with_ttl(name: &Name, ttl: u32, addr: IpAddr) -> Record {
    let data = match addr {
        IpAddr::V4(addr) => RData::A(A(addr)),
        IpAddr::V6(addr) => RData::AAAA(AAAA(addr)),
    };
    with_ttl(name, ttl, data)
}

pub(super) fn record(name: &Name, data: RData) -> Record {
    with_ttl(name, TTL, data)
}

pub(super) fn with_ttl(name: &Name, ttl: u32, data: RData) -> Record {
    Record::from_rdata(name.clone(), ttl, data)
}
