//! What a name is, for people.

use hickory_proto::op::Query;
use hickory_proto::rr::{Name, RecordType};
use model::skydns::RecordError;

use super::hosts::{self, HOSTS, Host};
use super::select::{LeftOut, Pattern, Slots};
use super::{NAME_SERVER, Node, Tables, Zone, others};

/// Types that are in answers.
const TYPES: [RecordType; 9] = [
    RecordType::SOA,
    RecordType::NS,
    RecordType::A,
    RecordType::AAAA,
    RecordType::CNAME,
    RecordType::SRV,
    RecordType::MX,
    RecordType::TXT,
    RecordType::PTR,
];

/// What a name is.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Explanation {
    /// In full.
    pub name: String,
    /// In words.
    pub meaning: String,
    /// All its records, as in a zone file.
    pub records: Vec<String>,
    /// Instances that it means and that are in no answer.
    pub left_out: Vec<LeftOut>,
    /// The slots that it means, or would mean below the domain.
    pub slots: Option<Slots>,
    /// So many records of others have the name, and are not answered.
    pub hidden: usize,
    /// Keys of the name and below it that are no records, and why.
    pub unreadable: Vec<(String, RecordError)>,
    /// Of records that were there when an agent ended, and that etcd has not confirmed since.
    pub unconfirmed: bool,
}

impl Zone {
    /// Explains a name, in full or without the domain; none if it is no domain name.
    pub(crate) fn explain(&self, tables: Tables<'_>, name: &str) -> Option<Explanation> {
        let given = name;
        let name = self.meant(&tables, given)?;
        let mut records = Vec::new();
        for wanted in TYPES {
            let query = Query::query(name.clone(), wanted);
            let answer = self.answer(tables, &query, 0);
            for record in answer.into_iter().flat_map(|answer| answer.answers) {
                let record = record.to_string();
                if !records.contains(&record) {
                    records.push(record);
                }
            }
        }
        let labels = self.labels(&name).unwrap_or_default();
        let labels: Vec<&str> = labels.iter().map(String::as_str).collect();
        let pattern = self
            .contains(&name)
            .then(|| Pattern::parse(&labels))
            .flatten();
        let is_ours = !matches!(self.node(&tables, &name), Node::Missing | Node::Apex);
        let meaning = if self.contains(&name) {
            self.meaning(&tables, &name, &labels)
        } else if records.is_empty() {
            self.meaning_elsewhere(&tables, given)
        } else {
            "an address that this cluster names; its other records are forwarded".to_owned()
        };
        let slots = if self.contains(&name) {
            Slots::of(&labels)
        } else {
            let given = given.to_ascii_lowercase();
            Slots::of(&given.split('.').collect::<Vec<_>>())
        };
        Some(Explanation {
            meaning,
            slots,
            left_out: pattern.map_or_else(Vec::new, |one| one.left_out(tables.directory)),
            hidden: if is_ours {
                others::find(tables.records, &name).len()
            } else {
                0
            },
            unreadable: others::unreadable(tables.records, &name),
            unconfirmed: !is_ours
                && tables.records.is_saved()
                && !others::find(tables.records, &name).is_empty(),
            name: name.to_ascii(),
            records,
        })
    }

    /// The name as it is given, or else below the domain, where there is one.
    fn meant(&self, tables: &Tables<'_>, name: &str) -> Option<Name> {
        let full = Name::from_ascii(format!("{}.", name.strip_suffix('.').unwrap_or(name))).ok()?;
        if name.ends_with('.') || self.contains(&full) {
            return Some(full);
        }
        let below = Name::from_ascii(name)
            .ok()?
            .append_name(&self.origin)
            .ok()?;
        let is_tried = || !others::unreadable(tables.records, &below).is_empty();
        Some(if self.exists(tables, &below) || is_tried() {
            below
        } else {
            full
        })
    }

    /// Of a name outside the zone, as it was given: it may be one of the zone that is misspelt.
    fn meaning_elsewhere(&self, tables: &Tables<'_>, given: &str) -> String {
        let zone = self.origin.to_ascii();
        let zone = zone.trim_end_matches('.');
        match given.rsplit('.').next().and_then(|app| offers(tables, app)) {
            Some(offers) => format!(
                "there is no {given}.{zone}: {offers}; the name as it is, is forwarded to the host's resolvers"
            ),
            None => format!("not in {zone}: forwarded to the host's resolvers"),
        }
    }

    fn meaning(&self, tables: &Tables<'_>, name: &Name, labels: &[&str]) -> String {
        match self.node(tables, name) {
            Node::Apex => return "the cluster's zone".to_owned(),
            Node::NameServer => return "the agent that answers".to_owned(),
            Node::Instances(..) => {
                if let Some(pattern) = Pattern::parse(labels) {
                    return pattern.to_string();
                }
            }
            Node::Addresses(_) | Node::Empty | Node::Missing => {}
        }
        if let Some((&HOSTS, host)) = labels.split_last()
            && let Some(found) = hosts::find(tables.directory, host)
        {
            return match found {
                Host::At(_) => format!("host {}", host.join(".")),
                Host::Above => "hosts are below it".to_owned(),
            };
        }
        if !others::find(tables.records, name).is_empty() {
            let unconfirmed = if tables.records.is_saved() {
                ", as last known: etcd has not confirmed them since the agent has started"
            } else {
                ""
            };
            return format!("records under {}{unconfirmed}", manifests::keys::SKYDNS);
        }
        if let Some(target) = self.searched(tables, name) {
            let target = target.to_ascii();
            return format!(
                "no such name; in containers an alias of {}, for which their resolvers search here first",
                target.trim_end_matches('.')
            );
        }
        let known = labels.last().filter(|app| **app != NAME_SERVER);
        match known.and_then(|app| offers(tables, app)) {
            Some(offers) => format!("no such name; {offers}"),
            None => "no such name".to_owned(),
        }
    }
}

/// What the app of this name has; none if there is no such app, or it has no service.
fn offers(tables: &Tables<'_>, app: &str) -> Option<String> {
    let app = app.parse().ok()?;
    let services = tables.directory.services_of(&app);
    let services: Vec<String> = services.map(|(id, _)| id.service.to_string()).collect();
    (!services.is_empty()).then(|| format!("app {app} has {}", services.join(", ")))
}

#[cfg(test)]
mod tests;
