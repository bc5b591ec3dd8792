//! Records of others, for names that are not ours: answered as SkyDNS does.
//!
//! A name has its own records and all those below it. Where it has no address
//! and a record leads to another name, it is an alias (CNAME) of that one.

use std::collections::{BTreeMap, BTreeSet};
use std::net::IpAddr;

use hickory_proto::op::Query;
use hickory_proto::rr::rdata::{CNAME, MX, SRV, TXT};
use hickory_proto::rr::{Name, RData, RecordType};
use model::skydns::{Record, RecordError, Records, Target};

use super::records::{address_with_ttl, is_of, with_ttl};
use super::select::MOST;
use super::{Answer, TTL};

/// Longest string in TXT.
const MAX_STRING: usize = 255;
/// Of a record that has none, a percentage.
const WEIGHT: u32 = 100;

/// A record, and its own name from the root down.
type Found<'a> = (Vec<&'a str>, &'a Record);

/// Adds the records of a name; false if there is no such name.
pub(super) fn add(records: &Records, query: &Query, turn: usize, answer: &mut Answer) -> bool {
    let name = query.name();
    let mut found = find(records, name);
    if found.is_empty() {
        return false;
    }
    let count = found.len();
    found.rotate_left(turn % count);
    match query.query_type() {
        RecordType::SRV => add_srv(name, &found, answer),
        RecordType::TXT => add_text(name, &found, answer),
        RecordType::MX => add_mail(name, &found, answer),
        wanted if found.iter().any(|(_, record)| addr(record).is_some()) => {
            add_addresses(name, &found, wanted, answer);
        }
        wanted => add_alias(name, &found, wanted, answer),
    }
    true
}

/// The record at exactly that name.
pub(super) fn at<'a>(records: &'a Records, name: &Name) -> Option<&'a Record> {
    let labels = labels(name)?;
    let labels: Vec<&str> = labels.iter().map(String::as_str).collect();
    records.at(&labels)
}

/// The name that a record leads to.
pub(super) fn target(record: &Record) -> Option<Name> {
    match record.host.as_ref()? {
        Target::Name(name) => Name::from_ascii(format!("{name}.")).ok(),
        Target::Addr(_) => None,
    }
}

pub(super) fn ttl(record: &Record) -> u32 {
    record.ttl.unwrap_or(TTL)
}

fn addr(record: &Record) -> Option<IpAddr> {
    match record.host.as_ref()? {
        Target::Addr(addr) => Some(*addr),
        Target::Name(_) => None,
    }
}

pub(super) fn find<'a>(records: &'a Records, name: &Name) -> Vec<Found<'a>> {
    if records.is_empty() {
        return Vec::new();
    }
    let Some(labels) = labels(name) else {
        return Vec::new();
    };
    let labels: Vec<&str> = labels.iter().map(String::as_str).collect();
    grouped(records.below(&labels, MOST))
}

/// Keys of the name and below it that are no records, and why.
pub(super) fn unreadable(records: &Records, name: &Name) -> Vec<(String, RecordError)> {
    let Some(labels) = labels(name) else {
        return Vec::new();
    };
    let labels: Vec<&str> = labels.iter().map(String::as_str).collect();
    let keys = records.unreadable(&labels);
    keys.map(|(key, error)| (key.to_owned(), error.clone()))
        .collect()
}

/// Labels in lower case, from the root down; none if a key can't spell them.
fn labels(name: &Name) -> Option<Vec<String>> {
    let text = |label| {
        let label = std::str::from_utf8(label).ok()?;
        (!label.contains('/')).then(|| label.to_ascii_lowercase())
    };
    let mut labels: Vec<String> = name.iter().map(text).collect::<Option<_>>()?;
    labels.reverse();
    Some(labels)
}

/// Leaves out other groups than that of the shortest names, if they have one.
fn grouped(mut found: Vec<Found<'_>>) -> Vec<Found<'_>> {
    let shortest = found.iter().map(|(labels, _)| labels.len()).min();
    let groups = found
        .iter()
        .filter(|(labels, _)| Some(labels.len()) == shortest)
        .map(|(_, record)| record.group.as_str())
        .filter(|group| !group.is_empty())
        .collect::<BTreeSet<_>>();
    if let (Some(group), 1) = (groups.first(), groups.len()) {
        let group = (*group).to_owned();
        found.retain(|(_, record)| record.group.is_empty() || record.group == group);
    }
    found
}

fn add_addresses(name: &Name, found: &[Found<'_>], wanted: RecordType, answer: &mut Answer) {
    let mut seen = BTreeSet::new();
    for (_, record) in found {
        if let Some(addr) = addr(record).filter(|addr| is_of(*addr, wanted))
            && seen.insert(addr)
        {
            answer
                .answers
                .push(address_with_ttl(name, ttl(record), addr));
        }
    }
}

/// One alias, since no name may have two. Whatever was asked for is asked for there.
fn add_alias(name: &Name, found: &[Found<'_>], wanted: RecordType, answer: &mut Answer) {
    let mut targets = found
        .iter()
        .filter_map(|(_, record)| Some((record, target(record)?)));
    if let Some((record, target)) = targets.find(|(_, target)| target != name) {
        let data = RData::CNAME(CNAME(target.clone()));
        answer.answers.push(with_ttl(name, ttl(record), data));
        answer.follow = (!matches!(wanted, RecordType::CNAME | RecordType::ANY)).then_some(target);
    }
}

fn add_text(name: &Name, found: &[Found<'_>], answer: &mut Answer) {
    let mut seen = BTreeSet::new();
    for (_, record) in found {
        let text = record.text.as_bytes();
        if !text.is_empty() && seen.insert(text) {
            let strings: Vec<&[u8]> = text.chunks(MAX_STRING).collect();
            let data = RData::TXT(TXT::from_bytes(strings));
            answer.answers.push(with_ttl(name, ttl(record), data));
        }
    }
}

fn add_srv(name: &Name, found: &[Found<'_>], answer: &mut Answer) {
    let weight = |record: &Record| match record.weight {
        0 => WEIGHT,
        weight => weight.into(),
    };
    // A share of those with the same priority.
    let mut sums: BTreeMap<u16, u32> = BTreeMap::new();
    for (_, record) in found {
        *sums.entry(record.priority).or_default() += weight(record);
    }
    let mut seen = BTreeSet::new();
    for (labels, record) in found {
        let sum = sums.get(&record.priority).copied().unwrap_or_default();
        let share = (100 * weight(record) / sum.max(1)).max(1) as u16;
        if let Some(target) = named(labels, record, answer)
            && seen.insert((record.priority, record.port, target.clone()))
        {
            let data = SRV::new(record.priority, share, record.port, target);
            answer
                .answers
                .push(with_ttl(name, ttl(record), RData::SRV(data)));
        }
    }
}

fn add_mail(name: &Name, found: &[Found<'_>], answer: &mut Answer) {
    let mut seen = BTreeSet::new();
    for (labels, record) in found.iter().filter(|(_, record)| record.mail) {
        if let Some(target) = named(labels, record, answer)
            && seen.insert((record.priority, target.clone()))
        {
            let data = RData::MX(MX::new(record.priority, target));
            answer.answers.push(with_ttl(name, ttl(record), data));
        }
    }
}

/// The name that a record leads to. An address has that of its record, or one above it, and is added.
fn named(labels: &[&str], record: &Record, answer: &mut Answer) -> Option<Name> {
    let Some(addr) = addr(record) else {
        return target(record);
    };
    let left = labels.len().checked_sub(record.target_strip);
    let left = left.filter(|left| *left > 0).unwrap_or(labels.len());
    let labels = labels[..left].iter().rev().map(|label| label.as_bytes());
    let name = Name::from_labels(labels).ok()?;
    let address = address_with_ttl(&name, ttl(record), addr);
    if !answer.additional.contains(&address) {
        answer.additional.push(address);
    }
    Some(name)
}

#[cfg(test)]
mod tests;
