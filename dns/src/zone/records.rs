//! Records of addresses, and of anything with the zone's TTL.

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
        .filter(|addr| match wanted {
            RecordType::A => addr.is_ipv4(),
            RecordType::AAAA => addr.is_ipv6(),
            // Any subset will do (RFC 8482).
            RecordType::ANY => true,
            _ => false,
        })
        .filter(|addr| seen.insert(*addr))
        .map(|addr| address(name, addr))
        .collect()
}

pub(super) fn address(name: &Name, addr: IpAddr) -> Record {
    let data = match addr {
        IpAddr::V4(addr) => RData::A(A(addr)),
        IpAddr::V6(addr) => RData::AAAA(AAAA(addr)),
    };
    record(name, data)
}

pub(super) fn record(name: &Name, data: RData) -> Record {
    Record::from_rdata(name.clone(), TTL, data)
}
