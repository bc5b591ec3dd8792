//! Our zone: a question to records, out of the directory.
//!
//! ```text
//! <domain>                             SOA, NS
//! ns.<domain>                          the agent itself
//! <app>.<domain>                       there is a name below it, no records
//! <service>.<app>.<domain>             the endpoints that new connections may go to
//! all.<service>.<app>.<domain>         also those that are not ready
//! <one>.<service>.<app>.<domain>       one instance, if it is ready
//! <one>.all.<service>.<app>.<domain>   one instance
//! ```
//!
//! `<one>` is a slot, `0`; where several containers offer the service, also
//! `<container>-<slot>`. Instances have A or AAAA (the host's address) and SRV
//! (the published port), whose target is the instance's own name, so that
//! address and port never come apart. A name that exists without such a record
//! is NODATA, and only a name that does not exist is NXDOMAIN. Pure: the same
//! table, question and turn give the same answer.

use std::collections::BTreeSet;
use std::net::IpAddr;

use conductor_core::directory::{Directory, Endpoint, Endpoints, ServiceId};
use conductor_core::records::Phase;
use hickory_proto::op::{Query, ResponseCode};
use hickory_proto::rr::rdata::{A, AAAA, NS, SOA, SRV};
use hickory_proto::rr::{Name, RData, Record, RecordType};

/// Longest domain: what stands in front of it takes the rest of the 255 octets.
const MAX_DOMAIN: usize = 100;
/// How long an answer of ours may be kept, in seconds: the resolver is local.
const TTL: u32 = 1;
/// The label of the agent's own address.
const NAME_SERVER: &str = "ns";
/// The label of the instances, ready or not.
const ALL: &str = "all";
/// As SkyDNS gives it; there is only one priority.
const SRV_PRIORITY: u16 = 10;
/// What the SRV records of one answer share.
const SRV_WEIGHT: usize = 100;

/// Why a text is not a domain for the zone.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum DomainError {
    /// Not labels joined by dots.
    #[error("`{0}` is not a domain; expected DNS labels such as `skydns.local`")]
    NotADomain(String),
    /// No room for names in it.
    #[error("`{0}` is too long for a domain; expected at most {MAX_DOMAIN} characters")]
    TooLong(String),
}

/// The zone and what it says of itself.
#[derive(Debug, Clone)]
pub struct Zone {
    origin: Name,
    name_server: Name,
    contact: Name,
    addrs: Vec<IpAddr>,
}

/// What is said to a question.
#[derive(Debug, Clone, PartialEq)]
pub(crate) struct Answer {
    pub(crate) code: ResponseCode,
    pub(crate) answers: Vec<Record>,
    pub(crate) authority: Vec<Record>,
    pub(crate) additional: Vec<Record>,
}

/// What a name stands for.
enum Node<'a> {
    Apex,
    NameServer,
    /// A name with names below it.
    Empty,
    Instances(Instances<'a>),
    Missing,
}

/// Endpoints under a name, and how each of them is called.
struct Instances<'a> {
    service: ServiceId,
    /// Among those that are not ready.
    all: bool,
    known: &'a Endpoints,
    /// Those that the name stands for; none if they are not ready.
    chosen: Vec<&'a Endpoint>,
}

/// The label of one instance.
enum One {
    Slot(u32),
    Of(String, u32),
}

impl Zone {
    /// The zone of a domain; `addrs` is where the agent answers.
    pub fn new(domain: &str, addrs: impl IntoIterator<Item = IpAddr>) -> Result<Self, DomainError> {
        let labels = domain.strip_suffix('.').unwrap_or(domain);
        if labels.len() > MAX_DOMAIN {
            return Err(DomainError::TooLong(domain.to_owned()));
        }
        let not = || DomainError::NotADomain(domain.to_owned());
        // A host's name follows the same rules, and is checked in one place.
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

    /// The name is ours to answer, whether it exists or not.
    pub(crate) fn contains(&self, name: &Name) -> bool {
        self.origin.zone_of(name)
    }

    /// Answers a question about a name of ours; `turn` rotates the records.
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
        // A name of ours is ASCII; any other does not exist.
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

    /// The instance's own name; a domain of legal length leaves room for it.
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
            // Serial numbers wrap round by design.
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

/// Ready or not, on live hosts; where none of those is left, on missing ones.
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

/// A slot has one spelling.
fn number(text: &str) -> Option<u32> {
    let number: u32 = text.parse().ok()?;
    (number.to_string() == text).then_some(number)
}

/// Records of the wanted type, each address once, in order.
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
            // Any of what there is will do (RFC 8482).
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
mod tests {
    use super::*;
    use crate::tests::fixture::Cluster;

    fn shop() -> Directory {
        let mut cluster = Cluster::default();
        cluster.host("h1");
        cluster.host("h2");
        cluster.state("shop/web/0", "h1", "10.0.0.1:20000", "ready", "web");
        cluster.state("shop/web/1", "h2", "10.0.0.2:20000", "ready", "web");
        cluster.state("shop/web/2", "h2", "10.0.0.2:20001", "ready", "web");
        cluster.state("shop/web/3", "h2", "10.0.0.2:20002", "unready", "web");
        cluster.state("shop/web/4", "h2", "10.0.0.2:20003", "stopped", "web");
        cluster.state("shop/six/0", "h1", "[fd00::1]:20004", "ready", "six");
        cluster.state("shop/slow/0", "h1", "10.0.0.1:20005", "unready", "slow");
        cluster.state("blog/a/0", "h1", "10.0.0.1:20006", "ready", "front");
        cluster.state("blog/b/0", "h2", "10.0.0.2:20006", "ready", "front");
        cluster.state("blog/b/1", "h2", "10.0.0.2:20007", "ready", "front");
        cluster.directory()
    }

    /// The answer on a few lines: code, then each record's section, type and data.
    fn ask(question: &str) -> String {
        ask_turn(question, 0)
    }

    fn ask_turn(question: &str, turn: usize) -> String {
        let zone = Zone::new("skydns.local", [[172, 17, 0, 1].into()]).expect("domain");
        let (name, wanted) = question.split_once(' ').expect("name and type");
        let name = Name::from_ascii(name).expect("name");
        assert!(zone.contains(&name), "{name} is not of the zone");
        let query = Query::query(name, wanted.parse().expect("type"));
        let answer = zone.answer(&shop(), &query, turn);
        let mut text = format!("{:?}\n", answer.code);
        let sections = [
            ("", answer.answers),
            ("authority ", answer.authority),
            ("additional ", answer.additional),
        ];
        for (section, records) in sections {
            for record in records {
                assert_eq!(record.ttl, 1);
                let owner = if record.name == query.name && section != "authority " {
                    String::new()
                } else {
                    format!("{} ", record.name)
                };
                let data = match &record.data {
                    RData::SOA(_) => "SOA".to_owned(),
                    data => format!("{} {data}", data.record_type()),
                };
                text += &[section, &owner, &data, "\n"].concat();
            }
        }
        text
    }

    const NODATA: &str = "NoError\nauthority skydns.local. SOA\n";
    const NXDOMAIN: &str = "NXDomain\nauthority skydns.local. SOA\n";

    #[test]
    fn addresses_are_of_ready_instances_each_once_and_in_turn() {
        let name = "web.shop.skydns.local. A";
        assert_eq!(ask(name), "NoError\nA 10.0.0.1\nA 10.0.0.2\n");
        assert_eq!(ask_turn(name, 1), "NoError\nA 10.0.0.2\nA 10.0.0.1\n");
        assert_eq!(ask_turn(name, 3), ask(name));
        assert_eq!(
            ask("six.shop.skydns.local. AAAA"),
            "NoError\nAAAA fd00::1\n"
        );
        assert_eq!(ask("six.shop.skydns.local. ANY"), "NoError\nAAAA fd00::1\n");
    }

    #[test]
    fn srv_has_the_published_port_and_a_target_that_resolves() {
        assert_eq!(
            ask("web.shop.skydns.local. SRV"),
            "NoError\n\
             SRV 10 33 20000 0.web.shop.skydns.local.\n\
             SRV 10 33 20000 1.web.shop.skydns.local.\n\
             SRV 10 33 20001 2.web.shop.skydns.local.\n\
             additional 0.web.shop.skydns.local. A 10.0.0.1\n\
             additional 1.web.shop.skydns.local. A 10.0.0.2\n\
             additional 2.web.shop.skydns.local. A 10.0.0.2\n"
        );
        assert_eq!(ask("0.web.shop.skydns.local. A"), "NoError\nA 10.0.0.1\n");
        assert_eq!(
            ask("2.web.shop.skydns.local. SRV"),
            "NoError\nSRV 10 100 20001 2.web.shop.skydns.local.\nadditional A 10.0.0.2\n"
        );
    }

    #[test]
    fn instances_of_several_containers_never_share_a_name() {
        assert_eq!(
            ask("front.blog.skydns.local. SRV"),
            "NoError\n\
             SRV 10 33 20006 a-0.front.blog.skydns.local.\n\
             SRV 10 33 20006 b-0.front.blog.skydns.local.\n\
             SRV 10 33 20007 1.front.blog.skydns.local.\n\
             additional a-0.front.blog.skydns.local. A 10.0.0.1\n\
             additional b-0.front.blog.skydns.local. A 10.0.0.2\n\
             additional 1.front.blog.skydns.local. A 10.0.0.2\n"
        );
        assert_eq!(
            ask("b-0.front.blog.skydns.local. A"),
            "NoError\nA 10.0.0.2\n"
        );
        assert_eq!(
            ask("0.front.blog.skydns.local. A"),
            "NoError\nA 10.0.0.1\nA 10.0.0.2\n"
        );
    }

    #[test]
    fn all_shows_also_what_is_not_ready() {
        assert_eq!(
            ask("all.slow.shop.skydns.local. SRV"),
            "NoError\n\
             SRV 10 100 20005 0.all.slow.shop.skydns.local.\n\
             additional 0.all.slow.shop.skydns.local. A 10.0.0.1\n"
        );
        assert_eq!(
            ask("0.all.slow.shop.skydns.local. A"),
            "NoError\nA 10.0.0.1\n"
        );
        assert_eq!(ask("0.slow.shop.skydns.local. A"), NODATA);
        assert_eq!(
            ask("3.all.web.shop.skydns.local. A"),
            "NoError\nA 10.0.0.2\n"
        );
        assert_eq!(ask("4.all.web.shop.skydns.local. A"), NODATA);
    }

    #[test]
    fn a_name_without_such_a_record_is_no_missing_name() {
        for there in [
            "skydns.local. A",
            "shop.skydns.local. A",
            "slow.shop.skydns.local. A",
            "web.shop.skydns.local. AAAA",
            "web.shop.skydns.local. TXT",
            "3.web.shop.skydns.local. A",
            "ns.skydns.local. AAAA",
        ] {
            assert_eq!(ask(there), NODATA, "{there}");
        }
        for missing in [
            "nobody.skydns.local. A",
            "gone.shop.skydns.local. A",
            "5.web.shop.skydns.local. A",
            "00.web.shop.skydns.local. A",
            "x.web.shop.skydns.local. A",
            "x-0.web.shop.skydns.local. A",
            "0.0.web.shop.skydns.local. A",
            "all.gone.shop.skydns.local. A",
            "a.b.c.d.e.skydns.local. A",
        ] {
            assert_eq!(ask(missing), NXDOMAIN, "{missing}");
        }
    }

    #[test]
    fn a_label_may_be_any_octets() {
        let zone = Zone::new("skydns.local", []).expect("domain");
        for label in [b"w\x01b".as_slice(), b"w\xffb", b"w.b", b" "] {
            let labels = [label, b"shop", b"skydns", b"local"];
            let name = Name::from_labels(labels).expect("name");
            let query = Query::query(name, RecordType::A);
            assert_eq!(
                zone.answer(&shop(), &query, 0).code,
                ResponseCode::NXDomain,
                "{label:?}"
            );
        }
    }

    #[test]
    fn the_zone_says_what_it_is() {
        assert_eq!(ask("skydns.local. SOA"), "NoError\nSOA\n");
        assert_eq!(
            ask("skydns.local. NS"),
            "NoError\nNS ns.skydns.local.\nadditional ns.skydns.local. A 172.17.0.1\n"
        );
        assert_eq!(ask("ns.skydns.local. A"), "NoError\nA 172.17.0.1\n");
    }

    #[test]
    fn names_are_the_same_in_either_case() {
        assert_eq!(ask("6.WEB.Shop.SKYDNS.local. A"), NXDOMAIN);
        assert_eq!(ask("1.WEB.Shop.SKYDNS.local. A"), "NoError\nA 10.0.0.2\n");
    }

    #[test]
    fn only_names_below_the_domain_are_ours() {
        let zone = Zone::new("SkyDNS.Local.", []).expect("domain");
        let ours = |name: &str| zone.contains(&Name::from_ascii(name).expect("name"));
        assert!(ours("skydns.local.") && ours("a.b.SKYDNS.LOCAL."));
        assert!(!ours("local.") && !ours(".") && !ours("myskydns.local."));
        assert!(!ours("skydns.local.example.com."));
    }

    #[test]
    fn a_domain_is_checked() {
        for bad in ["", ".", "a..b", "-a.local", "a b", "a_b.local", "é.local"] {
            let error = Zone::new(bad, []).expect_err(bad);
            assert_eq!(error, DomainError::NotADomain(bad.to_owned()));
        }
        let long = format!("{}.local", "a.".repeat(60));
        assert!(matches!(Zone::new(&long, []), Err(DomainError::TooLong(_))));
    }

    #[test]
    fn an_endpoint_of_a_missing_host_is_last_in_line() {
        let mut cluster = Cluster::default();
        cluster.host("h1");
        cluster.state("shop/web/0", "h1", "10.0.0.1:20000", "ready", "web");
        cluster.state("shop/web/1", "gone", "10.0.0.9:20000", "ready", "web");
        cluster.state("shop/db/0", "gone", "10.0.0.9:20001", "ready", "db");
        let directory = cluster.directory();
        let zone = Zone::new("skydns.local", []).expect("domain");
        let addrs = |name: &str| -> Vec<Option<IpAddr>> {
            let query = Query::query(Name::from_ascii(name).expect("name"), RecordType::A);
            let answer = zone.answer(&directory, &query, 0);
            answer.answers.iter().map(|r| r.data.ip_addr()).collect()
        };
        let ip = |last| Some(IpAddr::from([10, 0, 0, last]));
        assert_eq!(addrs("web.shop.skydns.local."), [ip(1)]);
        assert_eq!(addrs("all.web.shop.skydns.local."), [ip(1)]);
        assert_eq!(addrs("db.shop.skydns.local."), [ip(9)]);
    }
}
