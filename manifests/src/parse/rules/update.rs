//! `update`: how another version takes the place of the present one.

use std::time::Duration;

use super::super::node::{Node, quoted};
use super::super::reader::Reader;
use super::{LONGEST, MAX_SCALE};
use crate::fields;
use crate::manifest::Manifest;
use crate::update::{OnFailure, Order, Parallelism};

/// After everything else was read: what a policy may say depends on the ports and the volumes.
pub(super) fn update(r: &mut Reader, node: &Node<'_>, m: &mut Manifest) {
    const EXPECTED: &str = "an object such as {\"parallelism\": 2, \"on_failure\": \"rollback\"}";
    let Some(f) = &r.object(node, fields::UPDATE, EXPECTED) else {
        return;
    };
    r.set(f, "parallelism", &mut m.update.parallelism, parallelism);
    r.set(f, "order", &mut m.update.order, Reader::choice::<Order>);
    for (name, place) in [
        ("monitor", &mut m.update.monitor),
        ("delay", &mut m.update.delay),
    ] {
        r.set(f, name, place, |r, node| {
            r.duration(node, Duration::ZERO..=LONGEST)
        });
    }
    r.set(f, "max_failures", &mut m.update.max_failures, |r, node| {
        r.integer(node, 0..=MAX_SCALE)
    });
    r.set(f, "on_failure", &mut m.update.on_failure, Reader::choice);

    if let (Some(node), Some(Order::StartFirst)) = (f.get("order"), m.update.order)
        && let Some(why) = m.why_stop_first()
    {
        let wrong = format_args!("is \"start-first\", but {why}");
        r.wrong(node, wrong, "\"stop-first\"");
    }
    if let Some(node) = f.get("max_failures")
        && m.update.on_failure == OnFailure::Continue
    {
        r.wrong(
            node,
            "has no meaning where `on_failure` is \"continue\"",
            "one of the two",
        );
    }
}

fn parallelism(r: &mut Reader, node: &Node<'_>) -> Option<Parallelism> {
    const EXPECTED: &str = "a whole number from 1 to 1000, or a percentage such as \"25%\"";
    if node.as_number().is_some() {
        return r.count(node).map(Parallelism::Slots);
    }
    let text = r.string(node, EXPECTED)?;
    let percent = text.strip_suffix('%').and_then(|text| text.parse().ok());
    match percent.filter(|percent| (1..=100).contains(percent)) {
        Some(percent) if text.len() <= 4 => Some(Parallelism::Percent(percent)),
        _ => {
            r.wrong(node, format_args!("is {}", quoted(text)), EXPECTED);
            None
        }
    }
}
