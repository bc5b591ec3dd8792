//! `before`: what runs once before the instances of a version.

use std::time::Duration;

use super::super::node::Node;
use super::super::reader::Reader;
use crate::fields;
use crate::update::Before;

const SHORTEST: Duration = Duration::from_secs(1);
const LONGEST: Duration = Duration::from_secs(24 * 3600);

pub(super) fn before(r: &mut Reader, node: &Node<'_>) -> Option<Before> {
    const EXPECTED: &str = "an object such as {\"command\": [\"./manage.py\", \"migrate\"]}";
    let f = &r.object(node, fields::BEFORE, EXPECTED)?;
    let command = r.need(node, f, "command", "what is run, such as \"migrate --all\"");
    let command = command.and_then(|node| {
        let words = super::arguments(r, node)?;
        if words.is_empty() {
            r.wrong(node, "is empty", "at least one word");
        }
        Some(words)
    });
    let mut before = Before {
        command: Vec::new(),
        image: None,
        timeout: Before::TIMEOUT,
    };
    r.set(f, "image", &mut before.image, super::image);
    r.set(f, "timeout", &mut before.timeout, |r, node| {
        r.duration(node, SHORTEST..=LONGEST)
    });
    before.command = command?;
    Some(before)
}
