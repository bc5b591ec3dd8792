//! Names with values: `env` and `labels`, as a map or as a list.

use std::collections::BTreeMap;

use super::super::node::{Located, Node, quoted, shortened};
use super::super::reader::Reader;
use crate::env::RESERVED_PREFIXES;

/// Prefix of dokkaa's own labels.
const OUR_LABELS: &str = "dokkaa.";

/// Result of checking a name.
enum Verdict {
    Good,
    /// It is allowed, with a warning.
    Odd(String),
    Wrong(String),
}

pub(super) fn env(r: &mut Reader, node: &Node<'_>) -> Option<BTreeMap<String, String>> {
    pairs(r, node, env_name, "NAME=value")
}

pub(super) fn labels(r: &mut Reader, node: &Node<'_>) -> Option<BTreeMap<String, String>> {
    pairs(r, node, label_name, "name=value")
}

fn pairs(
    r: &mut Reader,
    node: &Node<'_>,
    judge: fn(&str) -> Verdict,
    shape: &str,
) -> Option<BTreeMap<String, String>> {
    let mut pairs = BTreeMap::new();
    if !node.is_list() {
        let expected = format!("a map of names to values, or a list of \"{shape}\"");
        for entry in r.entries(node, expected)? {
            note(r, &entry, judge(entry.name));
            if let Some(value) = r.scalar(&entry.node) {
                pairs.insert(entry.name.to_owned(), value);
            }
        }
        return Some(pairs);
    }
    let expected = format!("a string such as \"{shape}\"");
    for element in r.list(node, "a list")? {
        let Some(text) = r.string(&element, &expected) else {
            continue;
        };
        let Some((name, value)) = text.split_once('=') else {
            r.wrong(
                &element,
                format_args!("{} has no `=`", quoted(text)),
                &expected,
            );
            continue;
        };
        note(r, &element, judge(name));
        if pairs.insert(name.to_owned(), value.to_owned()).is_some() {
            let twice = format_args!("`{}` is listed twice", shortened(name));
            r.wrong(&element, twice, "each name once");
        }
    }
    Some(pairs)
}

fn note(r: &mut Reader, at: &impl Located, verdict: Verdict) {
    match verdict {
        Verdict::Good => {}
        Verdict::Odd(what) => r.warn(at, what),
        Verdict::Wrong(what) => r.says(at, what),
    }
}

fn env_name(name: &str) -> Verdict {
    let first = |c: char| c.is_ascii_alphabetic() || matches!(c, '_' | '.' | '-');
    let legal = name.starts_with(first) && name.chars().all(|c| first(c) || c.is_ascii_digit());
    if !legal {
        return Verdict::Wrong(format!(
            "`{}` is not a valid variable name; expected letters, digits, `_`, `.` and `-`, not starting with a digit",
            shortened(name)
        ));
    }
    match RESERVED_PREFIXES
        .iter()
        .find(|prefix| name.starts_with(**prefix))
    {
        Some(prefix) => Verdict::Odd(format!(
            "`{}` has the reserved prefix `{prefix}`; a variable of that name that dokkaa sets takes precedence",
            shortened(name)
        )),
        None => Verdict::Good,
    }
}

fn label_name(name: &str) -> Verdict {
    if name.is_empty()
        || name
            .chars()
            .any(|c| c == '=' || c.is_control() || c.is_whitespace())
    {
        Verdict::Wrong(format!(
            "{} is not a valid label name; expected one without whitespace and `=`, such as `com.example.team`",
            quoted(name)
        ))
    } else if name.starts_with(OUR_LABELS) {
        Verdict::Wrong(format!(
            "`{}` has the reserved prefix `{OUR_LABELS}`; expected another name",
            shortened(name)
        ))
    } else {
        Verdict::Good
    }
}
