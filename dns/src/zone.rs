//! The cluster's zone: records of a query, from the directory.
//!
//! ```text
//! <domain>                             SOA, NS
//! ns.<domain>                          the agent itself
//! <app>.<domain>                       no records (empty non-terminal)
//! <service>.<app>.<domain>             endpoints for new connections
//! all.<service>.<app>.<domain>         all endpoints, also those not ready
//! <one>.<service>.<app>.<domain>       one instance, if it is ready
//! <one>.all.<service>.<app>.<domain>   one instance
//! ```
//!
//! `<one>` is a slot, `0`; where several containers offer the service, also
//! `<container>-<slot>`. Instances have A or AAAA (the host's address) and SRV
//! (the published port), whose target is the instance's own name, so that port
//! and address belong together. A name without the queried type is NODATA; only
//! a name that does not exist is NXDOMAIN.

use std::collections::BTreeSet;
use std::net::IpAddr;

use hickory_proto::op::{Query, ResponseCode};
use hickory_proto::rr::rdata::{A, AAAA, NS, SOA, SRV};
use hickory_proto::rr::{Name, RData, Record, RecordType};
use model::directory::{Directory, Endpoint, Endpoints, ServiceId};
use model::records::Phase;

/// Longest domain; labels of instances take the rest of the 255 octets.
const MAX_DOMAIN: usize = 100;
/// TTL of the zone's records, in seconds; short, since the server is local.
const TTL: u32 = 1;
/// Label of the agent's own address.
const NAME_SERVER: &str = "ns";
/// Label of the endpoints, ready or not.
const ALL: &str = "all";
/// As in SkyDNS.
const SRV_PRIORITY: u16 = 10;
/// Sum of the weights in one answer.
const SRV_WEIGHT: usize = 100;

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
    name_server: Name,
    contact: Name,
    addrs: Vec<IpAddr>,
}

/// Answer to a query.
#[derive(Debug, Clone, PartialEq)]
pub(crate) struct Answer {
    pub(crate) code: ResponseCode,
    pub(crate) answers: Vec<Record>,
    pub(crate) authority: Vec<Record>,
    pub(crate) additional: Vec<Record>,
}

/// Kind of a name.
enum Node<'a> {
    Apex,
    NameServer,
    /// An empty non-terminal.
    Empty,
    Instances(Instances<'a>),
    Missing,
}

/// Endpoints of a name.
struct Instances<'a> {
    service: ServiceId,
    /// Below `all`.
    all: bool,
    known: &'a Endpoints,
    /// Those in the answer; none if they are not ready.
    chosen: Vec<&'a Endpoint>,
}

/// Label of one instance.
enum One {
    Slot(u32),
    Of(String, u32),
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
            name_server: below(NAME_SERVER)?,
            contact: below("hostmaster")?,
            addrs: addrs
                .into_iter()
                .filter(|addr| !addr.is_unspecified())
                .collect(),
            origin,
        })
    }

    /// The name is in the zone, whether it exists or not.
    pub(crate) fn contains(&self, name: &Name) -> bool {
        self.origin.zone_of(name)
    }

    /// The answer for a name in the zone; `turn` rotates the records.
    pub(crate) fn answer(&self, directory: &Directory, query: &Query, turn: usize) -> Answer {
        let name = query.name();
        let wanted = query.query_type();
        let mut answer = Answer {
            code: ResponseCode::NoError,
            answers: Vec::new(),
            authority: Vec::new(),
            additional: Vec::new(),
        };
        match self.find(directory, name) {
            Node::Missing => answer.code = ResponseCode::NXDomain,
            Node::Empty => {}
            Node::NameServer => {
                answer.answers = addresses(name, wanted, self.addrs.iter().copied());
            }
            Node::Apex => {
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
            Node::Instances(mut instances) => {
                let count = instances.chosen.len().max(1);
                instances.chosen.rotate_left(turn % count);
                if wanted == RecordType::SRV {
                    self.srv(name, &instances, &mut answer);
                } else {
                    let addrs = instances.chosen.iter().map(|endpoint| endpoint.addr);
                    answer.answers = addresses(name, wanted, addrs);
                }
            }
        }
        if answer.answers.is_empty() {
            answer.authority.push(self.soa(directory));
        }
        answer
    }

    fn find<'a>(&self, directory: &'a Directory, name: &Name) -> Node<'a> {
        let depth = usize::from(name.num_labels()) - usize::from(self.origin.num_labels());
        // All names of the zone are ASCII.
        let labels: Option<Vec<String>> = name
            .iter()
            .take(depth)
            .map(|label| Some(std::str::from_utf8(label).ok()?.to_ascii_lowercase()))
            .collect();
        let labels: Vec<&str> = match &labels {
            Some(labels) => labels.iter().map(String::as_str).collect(),
            None => return Node::Missing,
        };
        let found = match labels[..] {
            [] => return Node::Apex,
            [NAME_SERVER] => return Node::NameServer,
            [app] => return app_node(directory, app),
            [service, app] => instances(directory, app, service, false, None),
            [ALL, service, app] => instances(directory, app, service, true, None),
            [one, service, app] => instances(directory, app, service, false, Some(one)),
            [one, ALL, service, app] => instances(directory, app, service, true, Some(one)),
            _ => None,
        };
        found.map_or(Node::Missing, Node::Instances)
    }

    fn srv(&self, name: &Name, instances: &Instances<'_>, answer: &mut Answer) {
        let weight = (SRV_WEIGHT / instances.chosen.len().max(1)).max(1) as u16;
        let mut named = BTreeSet::new();
        for endpoint in &instances.chosen {
            let Some(target) = self.name_of(instances, endpoint) else {
                continue;
            };
            let data = SRV::new(SRV_PRIORITY, weight, endpoint.port, target.clone());
            answer.answers.push(record(name, RData::SRV(data)));
            if named.insert((endpoint.slot, &endpoint.container)) {
                answer.additional.push(address(&target, endpoint.addr));
            }
        }
    }

    /// The instance's own name, for which [`MAX_DOMAIN`] leaves room.
    fn name_of(&self, instances: &Instances<'_>, endpoint: &Endpoint) -> Option<Name> {
        let is_alone = instances
            .known
            .keys()
            .all(|(container, slot)| *slot != endpoint.slot || *container == endpoint.container);
        let one = if is_alone {
            endpoint.slot.to_string()
        } else {
            format!("{}-{}", endpoint.container, endpoint.slot)
        };
        let ServiceId { app, service } = &instances.service;
        let mut name = self.origin.prepend_label(app.as_str()).ok()?;
        name = name.prepend_label(service.as_str()).ok()?;
        if instances.all {
            name = name.prepend_label(ALL).ok()?;
        }
        name.prepend_label(one.as_str()).ok()
    }

    fn soa(&self, directory: &Directory) -> Record {
        let hour = 3600;
        let data = SOA::new(
            self.name_server.clone(),
            self.contact.clone(),
            // Serial numbers wrap around by design (RFC 1982).
            directory.revision as u32,
            hour,
            hour,
            hour,
            TTL,
        );
        record(&self.origin, RData::SOA(data))
    }
}

fn app_node<'a>(directory: &'a Directory, app: &str) -> Node<'a> {
    let exists = directory
        .services()
        .any(|(service, _)| service.app.as_str() == app);
    if exists { Node::Empty } else { Node::Missing }
}

fn instances<'a>(
    directory: &'a Directory,
    app: &str,
    service: &str,
    all: bool,
    one: Option<&str>,
) -> Option<Instances<'a>> {
    let service = ServiceId {
        app: app.parse().ok()?,
        service: service.parse().ok()?,
    };
    let known: &Endpoints = directory.endpoints(&service)?;
    let one = match one {
        Some(label) => Some(One::parse(label)?),
        None => None,
    };
    if let Some(one) = &one
        && !known.values().any(|endpoint| one.is(endpoint))
    {
        return None;
    }
    let mut chosen = if all {
        present(known)
    } else {
        directory.serving(&service)
    };
    chosen.retain(|endpoint| one.as_ref().is_none_or(|one| one.is(endpoint)));
    Some(Instances {
        service,
        all,
        known,
        chosen,
    })
}

/// Endpoints, ready or not, on live hosts; without one, those on missing hosts.
fn present(known: &Endpoints) -> Vec<&Endpoint> {
    let there = || known.values().filter(|e| e.phase != Phase::Stopped);
    let live: Vec<&Endpoint> = there().filter(|e| e.live).collect();
    if live.is_empty() {
        there().collect()
    } else {
        live
    }
}

impl One {
    fn parse(label: &str) -> Option<Self> {
        match label.rsplit_once('-') {
            Some((container, slot)) => Some(Self::Of(container.to_owned(), number(slot)?)),
            None => Some(Self::Slot(number(label)?)),
        }
    }

    fn is(&self, endpoint: &Endpoint) -> bool {
        match self {
            Self::Slot(slot) => *slot == endpoint.slot,
            Self::Of(container, slot) => {
                *slot == endpoint.slot && *container == endpoint.container.as_str()
            }
        }
    }
}

/// A slot in its canonical spelling.
fn number(text: &str) -> Option<u32> {
    let number: u32 = text.parse().ok()?;
    (number.to_string() == text).then_some(number)
}

/// Records of the queried type, each address once, in order.
fn addresses(
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

fn address(name: &Name, addr: IpAddr) -> Record {
    let data = match addr {
        IpAddr::V4(addr) => RData::A(A(addr)),
        IpAddr::V6(addr) => RData::AAAA(AAAA(addr)),
    };
    record(name, data)
}

fn record(name: &Name, data: RData) -> Record {
    Record::from_rdata(name.clone(), TTL, data)
}

#[cfg(test)]
mod tests;
