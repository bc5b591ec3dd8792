//! Names that a container's resolver has put its search domain behind.
//!
//! A container has one search domain, that of its app, and names with fewer
//! than two dots go there first: `db` is `db.<app>.<domain>`, and exists. With
//! `db.blog` and `example.com` that name does not exist, and the resolver would
//! go on by itself, a query each time. The search is finished here instead: the
//! answer is an alias (CNAME) of the name that exists.
//!
//! Never a name that somebody may have written in full: with one label in front
//! of the app, or below a name of the app that exists. Others are not asked for
//! what an instance of the app would be called, either: its service may not be
//! there yet, and have the name of a top-level domain.

use hickory_proto::op::{Query, ResponseCode};
use hickory_proto::rr::rdata::CNAME;
use hickory_proto::rr::{Name, RData, RecordType};
use model::skydns::WILDCARDS;

use super::hosts::HOSTS;
use super::records::record;
use super::select::Pattern;
use super::{Answer, Tables, Zone};

/// Fewest labels of a name that is searched for: those with one are services of the app.
const LABELS: usize = 2;
/// Types that say something of the name itself or of its zone, and not of what it leads to.
const OF_THE_NAME: [RecordType; 5] = [
    RecordType::ANY,
    RecordType::CNAME,
    RecordType::DS,
    RecordType::NS,
    RecordType::SOA,
];

impl Zone {
    /// The answer to a query of a container for a name that does not exist, if its search leads to a name that does, or
    /// out of the zone. That name may not exist either: then the first one does not.
    pub(crate) fn search(&self, tables: Tables<'_>, query: &Query, turn: usize) -> Option<Answer> {
        let wanted = query.query_type();
        if OF_THE_NAME.contains(&wanted) {
            return None;
        }
        let target = self.searched(&tables, query.name())?;
        let alias = record(query.name(), RData::CNAME(CNAME(target.clone())));
        let found = self.answer(tables, &Query::query(target.clone(), wanted), turn);
        let Some(mut found) = found else {
            return Some(Answer {
                answers: vec![alias],
                follow: Some(target),
                ..Answer::empty()
            });
        };
        found.answers.insert(0, alias);
        (found.code != ResponseCode::NXDomain).then_some(found)
    }

    /// What a container's search for that name comes to: a name below the domain that exists, or else the name alone.
    pub(super) fn searched(&self, tables: &Tables<'_>, name: &Name) -> Option<Name> {
        if !self.contains(name) {
            return None;
        }
        let labels = self.labels(name)?;
        let (app, short) = labels.split_last()?;
        if short.len() < LABELS {
            return None;
        }
        let is_special = |label: &String| WILDCARDS.contains(&label.as_str());
        if app == HOSTS || labels.iter().any(is_special) {
            return None;
        }
        if !tables.directory.has_app(&app.parse().ok()?) {
            return None;
        }
        // Where a name below it exists, the service does.
        let service = Name::from_labels(name.iter().skip(short.len() - 1)).ok()?;
        if self.exists(tables, &service) {
            return None;
        }
        let text: Vec<&str> = labels.iter().map(String::as_str).collect();
        let is_one_of_the_app = Pattern::parse(&text).is_some();
        let short = Name::from_labels(name.iter().take(short.len())).ok()?;
        let below = short.clone().append_name(&self.origin).ok();
        let below = below.filter(|below| self.exists(tables, below));
        below.or_else(|| (!is_one_of_the_app).then_some(short))
    }
}

#[cfg(test)]
mod tests;
