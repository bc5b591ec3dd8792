//! Names with values: `env` and `labels`, as a map or as a list.

use std::collections::BTreeMap;

use super::super::reader::{Node, Reader, quoted, shortened};
use crate::env::RESERVED_PREFIXES;

/// Prefix of the labels that are ours.
const OUR_LABELS: &str = "dokkaa.";

/// What is to be said of a name.
enum Verdict {
    Good,
    /// It is allowed, but odd.
    Odd(String),
    Wrong(String),
}

/// The user's environment.
pub(super) fn env(r: &mut Reader, node: &Node<'_>) -> BTreeMap<String, String> {
    pairs(r, node, env_name, "NAME=value")
}

/// The user's labels.
pub(super) fn labels(r: &mut Reader, node: &Node<'_>) -> BTreeMap<String, String> {
    pairs(r, node, label_name, "name=value")
}

fn pairs(
    r: &mut Reader,
    node: &Node<'_>,
    judge: fn(&str) -> Verdict,
    shape: &str,
) -> BTreeMap<String, String> {
    let mut pairs = BTreeMap::new();
    if node.is_list() {
        let element_shape = format!("a string such as \"{shape}\"");
        for element in r.list(node, "a list").unwrap_or_default() {
            let Some(text) = r.string(&element, &element_shape) else {
                continue;
            };
            let Some((name, value)) = text.split_once('=') else {
                r.wrong(
                    &element,
                    format_args!("{} has no `=`", quoted(text)),
                    &element_shape,
                );
                continue;
            };
            match judge(name) {
                Verdict::Good => {}
                Verdict::Odd(what) => r.warn(&element, what),
                Verdict::Wrong(what) => r.says(&element, what),
            }
            if pairs.insert(name.to_owned(), value.to_owned()).is_some() {
                r.wrong(
                    &element,
                    format_args!("`{}` is there twice", shortened(name)),
                    "each name once",
                );
            }
        }
    } else {
        let expected = format!("a map of names to values, or a list of \"{shape}\"");
        for entry in r.entries(node, expected).unwrap_or_default() {
            match judge(entry.name) {
                Verdict::Good => {}
                Verdict::Odd(what) => r.warn_name(&entry, what),
                Verdict::Wrong(what) => r.wrong_name(&entry, what),
            }
            if let Some(value) = r.scalar(&entry.node) {
                pairs.insert(entry.name.to_owned(), value);
            }
        }
    }
    pairs
}

fn env_name(name: &str) -> Verdict {
    let first = |c: char| c.is_ascii_alphabetic() || matches!(c, '_' | '.' | '-');
    let legal = name.starts_with(first) && name.chars().all(|c| first(c) || c.is_ascii_digit());
    if !legal {
        return Verdict::Wrong(format!(
            "`{}` is not the name of a variable; expected letters, digits, `_`, `.` and `-`, no digit first",
            shortened(name)
        ));
    }
    match RESERVED_PREFIXES
        .iter()
        .find(|prefix| name.starts_with(**prefix))
    {
        Some(prefix) => Verdict::Odd(format!(
            "`{}` begins with `{prefix}`; a variable of that name that dokkaa sets wins",
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
            "{} is not the name of a label; expected one without blanks and `=`, such as `com.example.team`",
            quoted(name)
        ))
    } else if name.starts_with(OUR_LABELS) {
        Verdict::Wrong(format!(
            "`{}` is one of dokkaa's own; expected a name that does not begin with `{OUR_LABELS}`",
            shortened(name)
        ))
    } else {
        Verdict::Good
    }
}
