//! `ulimits`.

use std::collections::BTreeMap;

use strum::VariantNames as _;

use super::super::node::{Node, quoted};
use super::super::reader::Reader;
use crate::fields;
use crate::manifest::{Ulimit, UlimitName};
use crate::schema::MOST_LIMIT;

const LIMIT: &str = "-1 (unlimited), or a whole number up to 1125899906842624";

/// Adds what is written to the defaults.
pub(super) fn ulimits(r: &mut Reader, node: &Node<'_>, ulimits: &mut BTreeMap<UlimitName, Ulimit>) {
    let entries = r.entries(node, "a map of names to limits such as {\"nofile\": 65536}");
    for entry in entries.into_iter().flatten() {
        let name = entry.name.parse::<UlimitName>();
        if name.is_err() {
            r.wrong(
                &entry,
                format_args!("{} is not a limit of Docker", quoted(entry.name)),
                format_args!("one of {}", UlimitName::VARIANTS.join(", ")),
            );
        }
        if let (Some(limit), Ok(name)) = (ulimit(r, &entry.node), name) {
            ulimits.insert(name, limit);
        }
    }
}

fn ulimit(r: &mut Reader, node: &Node<'_>) -> Option<Ulimit> {
    if node.as_number().is_some() {
        return limit(r, node).map(Ulimit::both);
    }
    let expected = "a number, or an object such as {\"soft\": 1024, \"hard\": 4096}";
    let f = &r.object(node, fields::ULIMIT, expected)?;
    let [soft, hard] = ["soft", "hard"].map(|name| r.need(node, f, name, LIMIT));
    let soft_limit = soft.and_then(|node| limit(r, node));
    let hard = hard.and_then(|node| limit(r, node))?;
    let ulimit = Ulimit {
        soft: soft_limit?,
        hard,
    };
    let is_above = hard != -1 && (ulimit.soft == -1 || ulimit.soft > hard);
    if is_above {
        r.wrong(
            soft?,
            format_args!("{} is above `hard`", ulimit.soft),
            format_args!("at most {hard}"),
        );
        return None;
    }
    Some(ulimit)
}

fn limit(r: &mut Reader, node: &Node<'_>) -> Option<i64> {
    r.whole(node, -1..=MOST_LIMIT, LIMIT)
}
