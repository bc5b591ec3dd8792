//! Values of the span tree with their paths.

use std::collections::BTreeMap;

use jsonc_parser::ast::Value;
use jsonc_parser::common::Ranged as _;

/// Longest piece of the user's text that a message repeats, in characters.
const MAX_QUOTED: usize = 60;

/// A part of the text that a problem can be about.
pub(super) trait Located {
    /// Byte in the text.
    fn offset(&self) -> usize;
    /// Path of the field; empty for the whole.
    fn path(&self) -> &str;
}

/// A value and its path.
#[derive(Debug, Clone)]
pub(super) struct Node<'t> {
    pub(super) value: &'t Value<'t>,
    path: String,
}

/// One property of an object; located at its name.
#[derive(Debug)]
pub(super) struct Entry<'t> {
    pub(super) name: &'t str,
    pub(super) node: Node<'t>,
    offset: usize,
}

/// The properties of an object that its table has.
#[derive(Debug)]
pub(super) struct Fields<'t>(pub(super) BTreeMap<&'static str, Node<'t>>);

impl Located for Node<'_> {
    fn offset(&self) -> usize {
        self.value.range().start
    }

    fn path(&self) -> &str {
        &self.path
    }
}

impl Located for Entry<'_> {
    fn offset(&self) -> usize {
        self.offset
    }

    fn path(&self) -> &str {
        &self.node.path
    }
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

    /// The number as it is spelt, if it is one.
    pub(super) fn as_number(&self) -> Option<&'t str> {
        match self.value {
            Value::NumberLit(literal) => Some(literal.value),
            _ => None,
        }
    }

    pub(super) fn as_str(&self) -> Option<&'t str> {
        match self.value {
            Value::StringLit(literal) => Some(&literal.value),
            _ => None,
        }
    }

    pub(super) fn kind(&self) -> &'static str {
        match self.value {
            Value::StringLit(_) => "a string",
            Value::NumberLit(_) => "a number",
            Value::BooleanLit(_) => "a boolean",
            Value::Object(_) => "an object",
            Value::Array(_) => "a list",
            Value::NullKeyword(_) => "null",
        }
    }

    /// An element of this list.
    pub(super) fn element(&self, index: usize, value: &'t Value<'t>) -> Self {
        Self {
            value,
            path: format!("{}[{index}]", self.path),
        }
    }

    /// A property of this object.
    pub(super) fn entry(&self, name: &'t str, value: &'t Value<'t>, offset: usize) -> Entry<'t> {
        let plain = !name.is_empty()
            && name
                .bytes()
                .all(|b| b.is_ascii_alphanumeric() || b == b'_' || b == b'-');
        let shown = if plain && name.len() <= MAX_QUOTED {
            name.to_owned()
        } else {
            quoted(name)
        };
        let path = if self.path.is_empty() {
            shown
        } else {
            format!("{}.{shown}", self.path)
        };
        Entry {
            name,
            node: Self { value, path },
            offset,
        }
    }
}

impl<'t> Fields<'t> {
    /// The value of a field of the table.
    pub(super) fn get(&self, name: &str) -> Option<&Node<'t>> {
        self.0.get(name)
    }
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
