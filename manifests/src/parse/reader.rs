//! Typed reading from a span tree: what has the wrong shape is noted with its position and path.
//!
//! Every reader returns `None` only after it has noted a problem.

use std::collections::{BTreeMap, BTreeSet};
use std::fmt;
use std::ops::RangeInclusive;
use std::time::Duration;

use jsonc_parser::ast::Value;
use jsonc_parser::common::Ranged as _;

use super::WHOLE;
use crate::fields;
use crate::schema::Field;
use crate::units;

/// Problems beyond this many are not even collected.
const MAX_DRAFTS: usize = 1000;
/// Longest piece of the user's text that a message repeats, in characters.
const MAX_QUOTED: usize = 60;

/// A problem whose line and column are not counted yet.
#[derive(Debug)]
pub(super) struct Draft {
    /// Byte in the text.
    pub(super) offset: usize,
    /// Path of the field.
    pub(super) field: String,
    /// What is wrong, and what was expected.
    pub(super) what: String,
}

/// A value and where it is.
#[derive(Debug, Clone)]
pub(super) struct Node<'t> {
    value: &'t Value<'t>,
    path: String,
}

/// One property of an object.
#[derive(Debug)]
pub(super) struct Entry<'t> {
    /// Its name.
    pub(super) name: &'t str,
    /// Its value, with the name in the path.
    pub(super) node: Node<'t>,
    /// Where the name begins.
    name_offset: usize,
}

/// The properties of an object that its table knows.
#[derive(Debug)]
pub(super) struct Fields<'t> {
    by_name: BTreeMap<&'static str, Node<'t>>,
}

/// Reads values and collects what is wrong with them.
#[derive(Debug)]
pub(super) struct Reader {
    refuse_unknown: bool,
    /// What makes the manifest invalid.
    pub(super) problems: Vec<Draft>,
    /// What does not.
    pub(super) warnings: Vec<Draft>,
}

impl<'t> Node<'t> {
    pub(super) fn root(value: &'t Value<'t>) -> Self {
        Self {
            value,
            path: String::new(),
        }
    }

    pub(super) fn is_object(&self) -> bool {
        matches!(self.value, Value::Object(_))
    }

    pub(super) fn is_list(&self) -> bool {
        matches!(self.value, Value::Array(_))
    }

    pub(super) fn is_number(&self) -> bool {
        matches!(self.value, Value::NumberLit(_))
    }

    /// The number as it is spelt, if it is one.
    pub(super) fn as_number(&self) -> Option<&'t str> {
        match self.value {
            Value::NumberLit(literal) => Some(literal.value),
            _ => None,
        }
    }

    /// The string, if it is one.
    pub(super) fn as_str(&self) -> Option<&'t str> {
        match self.value {
            Value::StringLit(literal) => Some(&literal.value),
            _ => None,
        }
    }

    fn offset(&self) -> usize {
        self.value.range().start
    }

    fn named(&self, name: &str, value: &'t Value<'t>) -> Self {
        let plain = !name.is_empty()
            && name
                .bytes()
                .all(|b| b.is_ascii_alphanumeric() || b == b'_' || b == b'-');
        let name = if plain && name.len() <= MAX_QUOTED {
            name.to_owned()
        } else {
            quoted(name)
        };
        let path = if self.path.is_empty() {
            name
        } else {
            format!("{}.{name}", self.path)
        };
        Self { value, path }
    }

    fn kind(&self) -> &'static str {
        match self.value {
            Value::StringLit(_) => "a string",
            Value::NumberLit(_) => "a number",
            Value::BooleanLit(_) => "a boolean",
            Value::Object(_) => "an object",
            Value::Array(_) => "a list",
            Value::NullKeyword(_) => "null",
        }
    }
}

impl<'t> Fields<'t> {
    /// The value of a field of the table.
    pub(super) fn get(&self, name: &str) -> Option<&Node<'t>> {
        self.by_name.get(name)
    }
}

impl Reader {
    pub(super) fn new(refuse_unknown: bool) -> Self {
        Self {
            refuse_unknown,
            problems: Vec::new(),
            warnings: Vec::new(),
        }
    }

    /// Notes what is wrong with a value.
    pub(super) fn wrong(
        &mut self,
        node: &Node<'_>,
        wrong: impl fmt::Display,
        expected: impl fmt::Display,
    ) {
        self.note(
            node.offset(),
            &node.path,
            format!("{wrong}; expected {expected}"),
        );
    }

    /// Notes a complete sentence about a value.
    pub(super) fn says(&mut self, node: &Node<'_>, what: impl fmt::Display) {
        self.note(node.offset(), &node.path, what.to_string());
    }

    /// Notes what is wrong with the name of a property.
    pub(super) fn wrong_name(&mut self, entry: &Entry<'_>, what: impl fmt::Display) {
        self.note(entry.name_offset, &entry.node.path, what.to_string());
    }

    /// A field that must be there.
    pub(super) fn need<'f, 't>(
        &mut self,
        object: &Node<'_>,
        fields: &'f Fields<'t>,
        name: &str,
        expected: &str,
    ) -> Option<&'f Node<'t>> {
        let field = fields.get(name);
        if field.is_none() {
            let path = object.named(name, object.value).path;
            self.note(
                object.offset(),
                &path,
                format!("is missing; expected {expected}"),
            );
        }
        field
    }

    /// Notes what is odd about the name of a property.
    pub(super) fn warn_name(&mut self, entry: &Entry<'_>, what: impl fmt::Display) {
        push(
            &mut self.warnings,
            entry.name_offset,
            &entry.node.path,
            what.to_string(),
        );
    }

    /// Notes what is odd about a value.
    pub(super) fn warn(&mut self, node: &Node<'_>, what: impl fmt::Display) {
        push(
            &mut self.warnings,
            node.offset(),
            &node.path,
            what.to_string(),
        );
    }

    /// Notes that the value has the wrong type.
    pub(super) fn shape(&mut self, node: &Node<'_>, expected: impl fmt::Display) {
        if matches!(node.value, Value::NullKeyword(_)) {
            // Absent and null are not the same, and templates like to write null.
            let null = if node.path.is_empty() {
                "is null"
            } else {
                "is null, not left out"
            };
            self.wrong(node, null, expected);
        } else {
            self.wrong(node, format_args!("is {}", node.kind()), expected);
        }
    }

    /// A string without NUL, which neither arguments nor variables can hold.
    pub(super) fn string<'t>(
        &mut self,
        node: &Node<'t>,
        expected: impl fmt::Display,
    ) -> Option<&'t str> {
        let Value::StringLit(literal) = node.value else {
            self.shape(node, expected);
            return None;
        };
        if literal.value.contains('\0') {
            self.wrong(node, "contains a NUL character", expected);
            return None;
        }
        Some(&literal.value)
    }

    /// A string of at least one character.
    pub(super) fn text<'t>(
        &mut self,
        node: &Node<'t>,
        expected: impl fmt::Display,
    ) -> Option<&'t str> {
        let text = self.string(node, &expected)?;
        if text.is_empty() {
            self.wrong(node, "is empty", expected);
            return None;
        }
        Some(text)
    }

    /// A string, or a number or boolean as it is spelt.
    pub(super) fn scalar(&mut self, node: &Node<'_>) -> Option<String> {
        match node.value {
            Value::NumberLit(literal) => {
                let spelt = literal.value;
                // A version keeps the manifest as a JSON value: what that would spell differently is not unambiguous.
                let kept = spelt
                    .parse::<serde_json::Number>()
                    .map_or_else(|_| String::new(), |number| number.to_string());
                if kept != spelt {
                    let as_text = quoted(spelt);
                    self.wrong(
                        node,
                        format_args!("`{}` has more than one spelling", shortened(spelt)),
                        format_args!("it as a string, {as_text}"),
                    );
                    return None;
                }
                Some(kept)
            }
            Value::BooleanLit(literal) => Some(literal.value.to_string()),
            _ => self
                .string(node, "a string, a number or a boolean")
                .map(str::to_owned),
        }
    }

    /// `true` or `false`.
    pub(super) fn boolean(&mut self, node: &Node<'_>) -> Option<bool> {
        let Value::BooleanLit(literal) = node.value else {
            self.shape(node, "true or false");
            return None;
        };
        Some(literal.value)
    }

    /// A whole number within limits; `1.0` is one, as in JSON Schema.
    pub(super) fn integer(&mut self, node: &Node<'_>, limits: RangeInclusive<u32>) -> Option<u32> {
        let expected = format!("a whole number from {} to {}", limits.start(), limits.end());
        let Value::NumberLit(literal) = node.value else {
            self.shape(node, expected);
            return None;
        };
        let number: f64 = literal.value.parse().unwrap_or(f64::NAN);
        if number.fract() != 0.0 {
            self.wrong(
                node,
                format_args!("{} is not a whole number", shortened(literal.value)),
                expected,
            );
            return None;
        }
        if number < f64::from(*limits.start()) || number > f64::from(*limits.end()) {
            let wrong = if number < 0.0 {
                "is negative"
            } else {
                "is out of range"
            };
            self.wrong(
                node,
                format_args!("{} {wrong}", shortened(literal.value)),
                expected,
            );
            return None;
        }
        Some(number as u32)
    }

    /// One of the given words.
    pub(super) fn choice<T: Copy>(&mut self, node: &Node<'_>, choices: &[(&str, T)]) -> Option<T> {
        let names: Vec<String> = choices
            .iter()
            .map(|(name, _)| format!("\"{name}\""))
            .collect();
        let expected = names.join(" or ");
        let text = self.string(node, &expected)?;
        let found = choices.iter().find(|(name, _)| *name == text);
        if found.is_none() {
            self.wrong(node, format_args!("is {}", quoted(text)), expected);
        }
        found.map(|(_, choice)| *choice)
    }

    /// A duration with a unit, within limits.
    pub(super) fn duration(
        &mut self,
        node: &Node<'_>,
        limits: RangeInclusive<Duration>,
    ) -> Option<Duration> {
        let expected = "a duration such as \"30s\", \"1m30s\" or \"500ms\"";
        let text = self.string(node, expected)?;
        match units::parse_duration(text) {
            Ok(duration) if limits.contains(&duration) => Some(duration),
            Ok(_) => {
                self.wrong(
                    node,
                    format_args!("{} is out of range", quoted(text)),
                    format_args!(
                        "a duration from \"{}\" to \"{}\"",
                        units::format_duration(*limits.start()),
                        units::format_duration(*limits.end())
                    ),
                );
                None
            }
            Err(error) => {
                self.wrong(node, format_args!("{} {error}", quoted(text)), expected);
                None
            }
        }
    }

    /// A size with a unit, within limits.
    pub(super) fn size(&mut self, node: &Node<'_>, limits: RangeInclusive<u64>) -> Option<u64> {
        let expected = "a size such as \"512m\" or \"10k\"";
        let text = self.string(node, expected)?;
        match units::parse_size(text) {
            Ok(size) if limits.contains(&size) => Some(size),
            Ok(_) => {
                self.wrong(
                    node,
                    format_args!("{} is out of range", quoted(text)),
                    format_args!(
                        "a size from \"{}\" to \"{}\"",
                        units::format_size(*limits.start()),
                        units::format_size(*limits.end())
                    ),
                );
                None
            }
            Err(error) => {
                self.wrong(node, format_args!("{} {error}", quoted(text)), expected);
                None
            }
        }
    }

    /// The elements of a list.
    pub(super) fn list<'t>(
        &mut self,
        node: &Node<'t>,
        expected: impl fmt::Display,
    ) -> Option<Vec<Node<'t>>> {
        let Value::Array(array) = node.value else {
            self.shape(node, expected);
            return None;
        };
        Some(
            array
                .elements
                .iter()
                .enumerate()
                .map(|(index, value)| Node {
                    value,
                    path: format!("{}[{index}]", node.path),
                })
                .collect(),
        )
    }

    /// The properties of an object, each name once.
    pub(super) fn entries<'t>(
        &mut self,
        node: &Node<'t>,
        expected: impl fmt::Display,
    ) -> Option<Vec<Entry<'t>>> {
        let Value::Object(object) = node.value else {
            self.shape(node, expected);
            return None;
        };
        let mut seen = BTreeSet::new();
        let mut entries = Vec::new();
        for property in &object.properties {
            let name = property.name.as_str();
            let entry = Entry {
                name,
                node: node.named(name, &property.value),
                name_offset: property.range.start,
            };
            if seen.insert(name) {
                entries.push(entry);
            } else {
                self.wrong_name(&entry, "is there twice; expected each name once");
            }
        }
        Some(entries)
    }

    /// The properties of an object that `table` knows; all others are noted.
    pub(super) fn object<'t>(
        &mut self,
        node: &Node<'t>,
        table: &'static [Field],
        expected: impl fmt::Display,
    ) -> Option<Fields<'t>> {
        let mut by_name = BTreeMap::new();
        for entry in self.entries(node, expected)? {
            match fields::find(table, entry.name) {
                Some(field) if !field.is_supported() && field.meaning.is_empty() => {
                    self.wrong_name(&entry, "is not supported yet; remove it");
                }
                Some(field) if !field.is_supported() => {
                    let meanwhile = field.meaning;
                    let what = format_args!("is not supported yet; remove it ({meanwhile})");
                    self.wrong_name(&entry, what);
                }
                Some(field) => {
                    by_name.insert(field.name, entry.node);
                }
                // A guess costs more than the rest of the field.
                None if self.is_full() => {}
                None => {
                    let near = fields::nearest(table, entry.name);
                    let advice = match near {
                        Some(near) => format!("did you mean `{near}`?"),
                        None => format!("expected {}", names_of(table)),
                    };
                    let what = format!("unknown field `{}`; {advice}", shortened(entry.name));
                    if self.refuse_unknown {
                        self.wrong_name(&entry, what);
                    } else {
                        self.warn_name(&entry, what);
                    }
                }
            }
        }
        Some(Fields { by_name })
    }

    /// One more unknown field would not be collected.
    fn is_full(&self) -> bool {
        let drafts = if self.refuse_unknown {
            &self.problems
        } else {
            &self.warnings
        };
        drafts.len() >= MAX_DRAFTS
    }

    fn note(&mut self, offset: usize, path: &str, what: String) {
        push(&mut self.problems, offset, path, what);
    }
}

fn push(drafts: &mut Vec<Draft>, offset: usize, path: &str, what: String) {
    if drafts.len() < MAX_DRAFTS {
        let field = if path.is_empty() { WHOLE } else { path };
        drafts.push(Draft {
            offset,
            field: field.to_owned(),
            what,
        });
    }
}

fn names_of(table: &'static [Field]) -> String {
    let names: Vec<&str> = table
        .iter()
        .filter(|field| field.is_supported())
        .map(|field| field.name)
        .collect();
    format!("one of {}", names.join(", "))
}

/// The user's text in double quotes, on one line and not too long.
pub(super) fn quoted(text: &str) -> String {
    format!("\"{}\"", shortened(text))
}

/// The user's text on one line and not too long.
pub(super) fn shortened(text: &str) -> String {
    on_one_line(text, MAX_QUOTED)
}

/// The first `max` characters; a line break in a message would look like the next problem.
pub(super) fn on_one_line(text: &str, max: usize) -> String {
    let mut line = String::new();
    for c in text.chars().take(max) {
        if c.is_control() || matches!(c, '\u{2028}' | '\u{2029}') {
            line.extend(c.escape_default());
        } else {
            line.push(c);
        }
    }
    if text.chars().nth(max).is_some() {
        line.push('…');
    }
    line
}
