//! The cluster's zone: records of a query, from the directory.
//!
//! ```text
//! <domain>                             SOA, NS
//! ns.<domain>                          the agent itself
//! <app>.<domain>                       endpoints of all services of the app
//! <service>.<app>.<domain>             endpoints for new connections
//! all.<service>.<app>.<domain>         all endpoints, also those not ready
//! <one>.<service>.<app>.<domain>       one instance, if it is ready
//! <one>.all.<service>.<app>.<domain>   one instance
//! <host>.hosts.<domain>                addresses of a host with instances
//! ```
//!
//! `<one>` is a slot, `0`; where several containers offer the service, also
//! `<container>-<slot>`. `*` or `any` in place of `<app>`, `<service>` or `<one>`
//! is every one. Instances have A or AAAA (the host's address) and SRV
//! (the published port), whose target is the instance's own name, so that port
//! and address belong together. A name without the queried type is NODATA; only
//! a name that does not exist is NXDOMAIN.
//!
//! Names that are not ours may have records of others. Outside of the zone, a
//! host's address has a name, that of the host.

mod explain;
mod hosts;
mod others;
mod publish;
mod records;
mod search;
mod select;

use std::net::IpAddr;

use hickory_proto::op::{Query, ResponseCode};
use hickory_proto::rr::rdata::{NS, SOA, SRV};
use hickory_proto::rr::{Name, RData, Record, RecordType};
use hickory_proto::serialize::binary::BinEncodable as _;
use model::directory::{Addresses, Directory, ServiceId};
use model::skydns::Records;

use crate::short::{Question, Soa};
pub use explain::Explanation;
use hosts::{HOSTS, Host};
use records::{address, addresses, record};
use select::{ALL, Instance, Pattern, Selected};
pub use select::{LeftOut, Slots};

/// Longest domain; labels of instances take the rest of the 255 octets.
const MAX_DOMAIN: usize = 100;
/// TTL of the zone's records, in seconds; short, since the server is local.
const TTL: u32 = 1;
/// Label of the agent's own address.
const NAME_SERVER: &str = "ns";
/// Label of the address of who keeps the zone.
const CONTACT: &str = "hostmaster";
/// Seconds, for servers that copy a zone; none copies this one.
const COPIES: u32 = 3600;
/// As in SkyDNS.
const SRV_PRIORITY: u16 = 10;
/// Of endpoints on missing hosts.
const SRV_LAST: u16 = 20;
/// Sum of the weights in one answer.
const SRV_WEIGHT: usize = 100;

/// Longest chain of aliases, as in SkyDNS.
const CHAIN: usize = 8;

/// What is answered from.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Tables<'a> {
    pub(crate) directory: &'a Directory,
    /// Of others.
    pub(crate) records: &'a Records,
}

/// Error of parsing a domain.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum DomainError {
    /// No labels joined by dots.
    #[error("`{0}` is not a domain; expected DNS labels such as `skydns.local`")]
    NotADomain(String),
    /// Too long for names below it.
    #[error("`{0}` is too long for a domain; expected at most {MAX_DOMAIN} characters")]
    TooLong(String),
}

/// The zone and its own records.
#[derive(Debug, Clone)]
pub struct Zone {
    origin: Name,
    /// The same as octets of a message.
    octets: Vec<u8>,
    name_server: Name,
    contact: Name,
    hosts: Name,
    addrs: Vec<IpAddr>,
}

/// Answer to a query.
#[derive(Debug, Clone, PartialEq)]
pub(crate) struct Answer {
    pub(crate) code: ResponseCode,
    pub(crate) answers: Vec<Record>,
    pub(crate) authority: Vec<Record>,
    pub(crate) additional: Vec<Record>,
    /// A name outside of the zone to which the last alias leads: what was asked for is asked for there.
    pub(crate) follow: Option<Name>,
}

/// Kind of a name.
enum Node<'a> {
    Apex,
    NameServer,
    /// An empty non-terminal.
    Empty,
    Addresses(Vec<IpAddr>),
    /// Instances, and whether they are below `all`.
    Instances(Selected<'a>, bool),
    Missing,
}

impl Answer {
    fn empty() -> Self {
        Self {
            code: ResponseCode::NoError,
            answers: Vec::new(),
            authority: Vec::new(),
            additional: Vec::new(),
            follow: None,
        }
    }

    /// The name that was asked for does not exist.
    pub(crate) fn is_missing(&self) -> bool {
        self.code == ResponseCode::NXDomain && self.answers.is_empty()
    }
}

impl Zone {
    /// The zone with other addresses of the agent.
    pub(crate) fn at(self, addrs: Vec<IpAddr>) -> Self {
        Self { addrs, ..self }
    }

    /// The zone of a domain; `addrs` are the agent's addresses.
    pub fn new(domain: &str, addrs: impl IntoIterator<Item = IpAddr>) -> Result<Self, DomainError> {
        let labels = domain.strip_suffix('.').unwrap_or(domain);
        if labels.len() > MAX_DOMAIN {
            return Err(DomainError::TooLong(domain.to_owned()));
        }
        let not = || DomainError::NotADomain(domain.to_owned());
        // The rules are those of a host name.
        let labels = labels.to_ascii_lowercase();
        labels.parse::<manifests::HostName>().map_err(|_| not())?;
        let origin = Name::from_ascii(format!("{labels}.")).map_err(|_| not())?;
        let below = |label: &str| origin.prepend_label(label).map_err(|_| not());
        Ok(Self {
            octets: origin.to_bytes().map_err(|_| not())?,
            name_server: below(NAME_SERVER)?,
            contact: below(CONTACT)?,
            hosts: below(HOSTS)?,
            addrs: addrs
                .into_iter()
                .filter(|addr| !addr.is_unspecified())
                .collect(),
            origin,
        })
    }

    /// The name is in the zone, whether it exists or not.
    fn contains(&self, name: &Name) -> bool {
        self.origin.zone_of(name)
    }

    /// The answer for a name in the zone, or of an address that we serve; none for others. `turn` rotates the records.
    pub(crate) fn answer(&self, tables: Tables<'_>, query: &Query, turn: usize) -> Option<Answer> {
        if !self.contains(query.name()) {
            let answers = self.reverse(&tables, query);
            return (!answers.is_empty()).then(|| Answer {
                answers,
                ..Answer::empty()
            });
        }
        let mut answer = self.own(&tables, query, turn);
        for _ in 0..CHAIN {
            let Some(target) = answer.follow.take_if(|target| self.contains(target)) else {
                return Some(answer);
            };
            let next = self.own(&tables, &Query::query(target, query.query_type()), turn);
            let before = std::mem::take(&mut answer.answers);
            answer = Answer {
                answers: before.into_iter().chain(next.answers).collect(),
                ..next
            };
        }
        // It is longer, or a circle.
        Some(Answer {
            code: ResponseCode::ServFail,
            ..Answer::empty()
        })
    }

    /// As `answer`, to a question for addresses, in octets; false if the answer needs more than instances.
    pub(crate) fn short(
        &self,
        tables: Tables<'_>,
        question: &Question<'_>,
        turn: usize,
        answer: &mut Vec<u8>,
    ) -> bool {
        let Some(labels) = question.labels_below(&self.octets) else {
            return false;
        };
        let count = match (tables.directory.addresses(labels.octets()), question.kind) {
            (Some(Addresses::V4(addrs)), RecordType::A) => {
                question.answer(turned(addrs, turn), TTL, answer)
            }
            (Some(Addresses::V6(addrs)), RecordType::AAAA) => {
                question.answer(turned(addrs, turn), TTL, answer)
            }
            (Some(_), _) => Some(0),
            (None, kind) => {
                let find = |labels: &[&str]| instances(tables.directory, labels, turn);
                let Some((selected, _)) = labels.split(find) else {
                    return false;
                };
                let addrs = selected.instances.iter().map(|one| one.endpoint.addr);
                if kind == RecordType::A {
                    question.answer(addrs.filter_map(octets_v4), TTL, answer)
                } else {
                    question.answer(addrs.filter_map(octets_v6), TTL, answer)
                }
            }
        };
        if count == Some(0) {
            let soa = Soa {
                domain: &self.octets,
                ttl: TTL,
                name_server: NAME_SERVER,
                contact: CONTACT,
                numbers: [serial(tables.directory), COPIES, COPIES, COPIES, TTL],
            };
            question.no_data(&soa, answer);
        }
        count.is_some()
    }

    fn own(&self, tables: &Tables<'_>, query: &Query, turn: usize) -> Answer {
        let name = query.name();
        let wanted = query.query_type();
        let directory = tables.directory;
        let mut answer = Answer::empty();
        match self.find(directory, name, turn) {
            Node::Missing => {
                if !others::add(tables.records, query, turn, &mut answer) {
                    answer.code = ResponseCode::NXDomain;
                }
            }
            Node::Empty => {}
            Node::NameServer => {
                answer.answers = addresses(name, wanted, self.addrs.iter().copied());
            }
            Node::Apex => {
                others::add(tables.records, query, turn, &mut answer);
                if matches!(wanted, RecordType::SOA | RecordType::ANY) {
                    answer.answers.push(self.soa(directory));
                }
                if matches!(wanted, RecordType::NS | RecordType::ANY) {
                    let data = RData::NS(NS(self.name_server.clone()));
                    answer.answers.push(record(name, data));
                    let addrs = self.addrs.iter().copied();
                    answer.additional = addresses(&self.name_server, RecordType::ANY, addrs);
                }
            }
            Node::Addresses(addrs) => answer.answers = addresses(name, wanted, addrs),
            Node::Instances(selected, all) if wanted == RecordType::SRV => {
                self.srv(name, &selected, all, &mut answer);
            }
            Node::Instances(selected, _) => {
                let addrs = selected.instances.iter().map(|one| one.endpoint.addr);
                answer.answers = addresses(name, wanted, addrs);
            }
        }
        if answer.answers.is_empty() {
            answer.authority.push(self.soa(directory));
        }
        answer
    }

    /// A name of the zone that exists.
    pub(super) fn exists(&self, tables: &Tables<'_>, name: &Name) -> bool {
        !matches!(self.node(tables, name), Node::Missing)
            || !others::find(tables.records, name).is_empty()
    }

    fn node<'a>(&self, tables: &Tables<'a>, name: &Name) -> Node<'a> {
        if self.contains(name) {
            self.find(tables.directory, name, 0)
        } else {
            Node::Missing
        }
    }

    fn find<'a>(&self, directory: &'a Directory, name: &Name, turn: usize) -> Node<'a> {
        let Some(labels) = self.labels(name) else {
            return Node::Missing;
        };
        let labels: Vec<&str> = labels.iter().map(String::as_str).collect();
        match labels[..] {
            [] => return Node::Apex,
            [NAME_SERVER] => return Node::NameServer,
            _ => {}
        }
        if let Some((selected, all)) = instances(directory, &labels, turn) {
            return Node::Instances(selected, all);
        }
        match labels.split_last() {
            Some((&HOSTS, labels)) => match hosts::find(directory, labels) {
                Some(Host::At(addrs)) => Node::Addresses(addrs),
                Some(Host::Above) => Node::Empty,
                None => Node::Missing,
            },
            _ => Node::Missing,
        }
    }

    /// The labels below the domain, in lower case. All names of the zone are ASCII.
    fn labels(&self, name: &Name) -> Option<Vec<String>> {
        // The library's count of labels leaves out `*`.
        let count = name.iter().count();
        let depth = count.saturating_sub(self.origin.iter().count());
        let text = |label| Some(std::str::from_utf8(label).ok()?.to_ascii_lowercase());
        name.iter().take(depth).map(text).collect()
    }

    fn srv(&self, name: &Name, selected: &Selected<'_>, all: bool, answer: &mut Answer) {
        let (live, last) = selected.instances.split_at(selected.live);
        for (part, priority) in [(live, SRV_PRIORITY), (last, SRV_LAST)] {
            let weight = (SRV_WEIGHT / part.len().max(1)).max(1) as u16;
            for instance in part {
                let Some(target) = self.name_of(instance, all) else {
                    continue;
                };
                let endpoint = instance.endpoint;
                answer.additional.push(address(&target, endpoint.addr));
                let data = SRV::new(priority, weight, endpoint.port, target);
                answer.answers.push(record(name, RData::SRV(data)));
            }
        }
    }

    /// The instance's own name, for which [`MAX_DOMAIN`] leaves room.
    fn name_of(&self, instance: &Instance<'_>, all: bool) -> Option<Name> {
        let endpoint = instance.endpoint;
        let one = if instance.alone {
            endpoint.slot.to_string()
        } else {
            format!("{}-{}", endpoint.container, endpoint.slot)
        };
        let ServiceId { app, service } = instance.service;
        let mut name = self.origin.prepend_label(app.as_str()).ok()?;
        name = name.prepend_label(service.as_str()).ok()?;
        if all {
            name = name.prepend_label(ALL).ok()?;
        }
        name.prepend_label(one.as_str()).ok()
    }

    fn soa(&self, directory: &Directory) -> Record {
        let data = SOA::new(
            self.name_server.clone(),
            self.contact.clone(),
            serial(directory),
            COPIES as i32,
            COPIES as i32,
            COPIES as i32,
            TTL,
        );
        record(&self.origin, RData::SOA(data))
    }
}

/// Serial numbers wrap around by design (RFC 1982).
fn serial(directory: &Directory) -> u32 {
    directory.revision as u32
}

/// Addresses, from another one on each time.
fn turned<const N: usize>(addrs: &[[u8; N]], turn: usize) -> impl Iterator<Item = [u8; N]> {
    let (before, from) = addrs.split_at(turn % addrs.len().max(1));
    from.iter().chain(before).copied()
}

fn octets_v4(addr: IpAddr) -> Option<[u8; 4]> {
    match addr {
        IpAddr::V4(addr) => Some(addr.octets()),
        IpAddr::V6(_) => None,
    }
}

fn octets_v6(addr: IpAddr) -> Option<[u8; 16]> {
    match addr {
        IpAddr::V4(_) => None,
        IpAddr::V6(addr) => Some(addr.octets()),
    }
}

/// The instances of a name with these labels below the domain, and whether it is below `all`.
fn instances<'a>(
    directory: &'a Directory,
    labels: &[&str],
    turn: usize,
) -> Option<(Selected<'a>, bool)> {
    if matches!(labels, [NAME_SERVER]) {
        return None;
    }
    let pattern = Pattern::parse(labels)?;
    Some((pattern.select(directory, turn)?, pattern.all))
}

#[cfg(test)]
mod tests;
