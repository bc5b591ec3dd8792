//! `placement`: the hosts that may run a container.

use super::super::node::{Node, quoted};
use super::super::reader::Reader;
use super::not_global;
use crate::fields;
use crate::manifest::{Constraint, Placement, Scale};
use crate::placement::{MAX_CONSTRAINTS, check_label};

pub(super) fn placement(r: &mut Reader, node: &Node<'_>, scale: Scale) -> Option<Placement> {
    const EXPECTED: &str = "an object such as {\"constraints\": [\"disk==ssd\"]}";
    let f = &r.object(node, fields::PLACEMENT, EXPECTED)?;
    let mut placement = Placement::default();
    r.set(f, "constraints", &mut placement.constraints, constraints);
    r.set(
        f,
        "max_per_host",
        &mut placement.max_per_host,
        Reader::count,
    );
    r.set(f, "spread", &mut placement.spread, label);
    for name in ["max_per_host", "spread"] {
        if let Some(node) = f.get(name) {
            not_global(r, node, scale);
        }
    }
    Some(placement)
}

fn constraints(r: &mut Reader, node: &Node<'_>) -> Option<Vec<Constraint>> {
    const EXPECTED: &str = "a list such as [\"disk==ssd\", \"zone!=b\"]";
    let mut constraints: Vec<Constraint> = Vec::new();
    for element in r.short_list(node, (MAX_CONSTRAINTS, "constraints"), EXPECTED)? {
        let Some(constraint) = r.parsed::<Constraint>(&element, "a string such as \"disk==ssd\"")
        else {
            continue;
        };
        if let Some(other) = constraints.iter().find(|c| c.contradicts(&constraint)) {
            let both = format!("contradicts {}", quoted(&other.to_string()));
            r.wrong(&element, both, "constraints that a host can satisfy");
        }
        constraints.push(constraint);
    }
    Some(constraints)
}

fn label(r: &mut Reader, node: &Node<'_>) -> Option<String> {
    let text = r.string(node, "the name of a label such as \"zone\"")?;
    check_label(text)
        .map_err(|error| r.says(node, error))
        .ok()?;
    Some(text.to_owned())
}
