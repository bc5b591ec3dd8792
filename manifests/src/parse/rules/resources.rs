//! What a container takes of its host, and which hosts may run it: `cpus`, `memory`, `placement`.

use super::super::reader::{Node, Reader, quoted};
use super::MAX_COUNT;
use crate::fields;
use crate::manifest::{Constraint, Placement};
use crate::placement::{MAX_CONSTRAINTS, check_label};
use crate::units;

/// Docker takes no smaller part of a processor.
const FEWEST_MILLIS: u32 = 10;
const MOST_MILLIS: u32 = 1_024_000;
/// Docker takes no less.
const LEAST_MEMORY: u64 = 6 << 20;
const MOST_MEMORY: u64 = 16 << 40;

/// Processors, in thousandths.
pub(super) fn cpus(r: &mut Reader, node: &Node<'_>) -> Option<u32> {
    const EXPECTED: &str = "a number of processors such as 2, 0.5 or \"0.5\"";
    let text = match node.as_number() {
        Some(number) => number,
        None => r.string(node, EXPECTED)?,
    };
    match units::parse_cpus(text) {
        Ok(millis) if (FEWEST_MILLIS..=MOST_MILLIS).contains(&millis) => Some(millis),
        Ok(_) | Err(units::UnitError::TooLarge) => {
            r.wrong(
                node,
                format_args!("{} is out of range", quoted(text)),
                format_args!(
                    "a number of processors from {} to {}",
                    units::format_cpus(FEWEST_MILLIS),
                    units::format_cpus(MOST_MILLIS)
                ),
            );
            None
        }
        Err(_) => {
            r.wrong(
                node,
                format_args!(
                    "{} is not a number with at most three decimals",
                    quoted(text)
                ),
                EXPECTED,
            );
            None
        }
    }
}

/// Memory, in bytes.
pub(super) fn memory(r: &mut Reader, node: &Node<'_>) -> Option<u64> {
    r.size(node, LEAST_MEMORY..=MOST_MEMORY)
}

/// Which hosts may run it.
pub(super) fn placement(r: &mut Reader, node: &Node<'_>) -> Placement {
    let Some(fields) = r.object(
        node,
        fields::PLACEMENT,
        "an object such as {\"constraints\": [\"disk==ssd\"]}",
    ) else {
        return Placement::default();
    };
    let constraints = fields.get("constraints");
    let max_per_host = fields.get("max_per_host");
    let spread = fields.get("spread");
    Placement {
        constraints: constraints.map_or_else(Vec::new, |node| self::constraints(r, node)),
        max_per_host: max_per_host.and_then(|node| r.integer(node, 1..=MAX_COUNT)),
        spread: spread.and_then(|node| label(r, node)),
    }
}

fn constraints(r: &mut Reader, node: &Node<'_>) -> Vec<Constraint> {
    let elements = r
        .list(node, "a list such as [\"disk==ssd\", \"zone!=b\"]")
        .unwrap_or_default();
    if elements.len() > MAX_CONSTRAINTS {
        r.wrong(
            node,
            format_args!("has {} constraints", elements.len()),
            format_args!("at most {MAX_CONSTRAINTS}"),
        );
        return Vec::new();
    }
    let mut constraints: Vec<Constraint> = Vec::new();
    for element in elements {
        let Some(text) = r.string(&element, "a string such as \"disk==ssd\"") else {
            continue;
        };
        let constraint: Constraint = match text.parse() {
            Ok(constraint) => constraint,
            Err(error) => {
                r.says(&element, error);
                continue;
            }
        };
        if let Some(other) = constraints.iter().find(|c| c.contradicts(&constraint)) {
            let both = format!("contradicts {}", quoted(&other.to_string()));
            r.wrong(&element, both, "constraints that a host can satisfy");
        }
        constraints.push(constraint);
    }
    constraints
}

fn label(r: &mut Reader, node: &Node<'_>) -> Option<String> {
    let text = r.string(node, "the name of a label such as \"zone\"")?;
    if let Err(error) = check_label(text) {
        r.says(node, error);
        return None;
    }
    Some(text.to_owned())
}
