//! Typed reading of values; every mistake is noted with its position and path.
//!
//! A method returns `None` only after it has noted a problem.

use std::collections::{BTreeMap, BTreeSet};
use std::fmt::{self, Display};
use std::ops::RangeInclusive;
use std::str::FromStr;
use std::time::Duration;

use jsonc_parser::ast::Value;
use strum::VariantNames;

use super::node::{Entry, Fields, Located, Node, quoted, shortened};
use crate::fields;
use crate::schema::Field;
use crate::units::{self, UnitError};

/// Field of a problem that concerns the text as a whole.
pub(super) const WHOLE: &str = "manifest";
/// Problems beyond this many are not collected.
const MAX_DRAFTS: usize = 1000;
/// Limit of counts such as retries and files.
const MAX_COUNT: u32 = 1000;

/// A problem whose line and column are not counted yet.
#[derive(Debug)]
pub(super) struct Draft {
    pub(super) offset: usize,
    pub(super) field: String,
    pub(super) what: String,
}

/// Reads values and collects the problems.
#[derive(Debug)]
pub(super) struct Reader {
    refuse_unknown: bool,
    pub(super) problems: Vec<Draft>,
    pub(super) warnings: Vec<Draft>,
}

impl Reader {
    pub(super) fn new(refuse_unknown: bool) -> Self {
        Self {
            refuse_unknown,
            problems: Vec::new(),
            warnings: Vec::new(),
        }
    }

    /// Notes a mistake and what was expected.
    pub(super) fn wrong(&mut self, at: &impl Located, wrong: impl Display, expected: impl Display) {
        self.says(at, format_args!("{wrong}; expected {expected}"));
    }

    /// Notes a complete message.
    pub(super) fn says(&mut self, at: &impl Located, what: impl Display) {
        push(&mut self.problems, at, what);
    }

    /// Notes a warning.
    pub(super) fn warn(&mut self, at: &impl Located, what: impl Display) {
        push(&mut self.warnings, at, what);
    }

    /// Reads a field into its place, which keeps its default without one.
    pub(super) fn set<'t, V, T: From<V>>(
        &mut self,
        fields: &Fields<'t>,
        name: &str,
        place: &mut T,
        read: impl FnOnce(&mut Self, &Node<'t>) -> Option<V>,
    ) {
        let value = fields.get(name).and_then(|node| read(self, node));
        if let Some(value) = value {
            *place = value.into();
        }
    }

    /// A required field.
    pub(super) fn need<'f, 't>(
        &mut self,
        object: &Node<'t>,
        fields: &'f Fields<'t>,
        name: &'static str,
        expected: &str,
    ) -> Option<&'f Node<'t>> {
        let field = fields.get(name);
        if field.is_none() {
            let missing = object.entry(name, object.value, object.offset());
            self.wrong(&missing, "is required", expected);
        }
        field
    }

    /// Notes that the value has the wrong type.
    fn shape(&mut self, node: &Node<'_>, expected: impl Display) {
        match node.value {
            // Templates like to write null for an omitted field.
            Value::NullKeyword(_) if !node.path().is_empty() => {
                self.wrong(node, "is null, not omitted", expected);
            }
            _ => self.wrong(node, format_args!("is {}", node.kind()), expected),
        }
    }

    /// A string without NUL, which neither arguments nor variables can hold.
    pub(super) fn string<'t>(
        &mut self,
        node: &Node<'t>,
        expected: impl Display,
    ) -> Option<&'t str> {
        let Some(text) = node.as_str() else {
            self.shape(node, expected);
            return None;
        };
        if text.contains('\0') {
            self.wrong(node, "contains a NUL character", expected);
            return None;
        }
        Some(text)
    }

    /// A string of at least one character.
    pub(super) fn text<'t>(&mut self, node: &Node<'t>, expected: impl Display) -> Option<&'t str> {
        let text = self.string(node, &expected)?;
        if text.is_empty() {
            self.wrong(node, "is empty", expected);
            return None;
        }
        Some(text)
    }

    /// A string that parses; the error says what was expected.
    pub(super) fn parsed<T: FromStr<Err: Display>>(
        &mut self,
        node: &Node<'_>,
        expected: &str,
    ) -> Option<T> {
        let parsed = self.string(node, expected)?.parse();
        parsed.map_err(|error| self.says(node, error)).ok()
    }

    /// A string, or a number or boolean as it is spelt.
    pub(super) fn scalar(&mut self, node: &Node<'_>) -> Option<String> {
        match node.value {
            Value::NumberLit(literal) => {
                let spelt = literal.value;
                // Versions keep the manifest as a JSON value, which must give the same text.
                let kept = spelt
                    .parse::<serde_json::Number>()
                    .map_or_else(|_| String::new(), |number| number.to_string());
                if kept != spelt {
                    self.wrong(
                        node,
                        format_args!("number `{}` has several spellings", shortened(spelt)),
                        format_args!("a string, {}", quoted(spelt)),
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
        let limits = (*limits.start()).into()..=(*limits.end()).into();
        let number = self.whole(node, limits, &expected)?;
        u32::try_from(number).ok()
    }

    /// A whole number of up to 53 bits within limits.
    pub(super) fn whole(
        &mut self,
        node: &Node<'_>,
        limits: RangeInclusive<i64>,
        expected: &str,
    ) -> Option<i64> {
        let Some(spelt) = node.as_number() else {
            self.shape(node, expected);
            return None;
        };
        let number: f64 = spelt.parse().unwrap_or(f64::NAN);
        let limits = *limits.start() as f64..=*limits.end() as f64;
        let wrong = if number.fract() != 0.0 {
            "is not a whole number"
        } else if limits.contains(&number) {
            return Some(number as i64);
        } else if number < 0.0 {
            "is negative"
        } else {
            "is out of range"
        };
        self.wrong(node, format_args!("{} {wrong}", shortened(spelt)), expected);
        None
    }

    /// A small number of things.
    pub(super) fn count(&mut self, node: &Node<'_>) -> Option<u32> {
        self.integer(node, 1..=MAX_COUNT)
    }

    pub(super) fn port(&mut self, node: &Node<'_>) -> Option<u16> {
        let port = self.integer(node, 1..=u16::MAX.into())?;
        u16::try_from(port).ok()
    }

    /// One of the variants of an enum.
    pub(super) fn choice<T: FromStr + VariantNames>(&mut self, node: &Node<'_>) -> Option<T> {
        let names: Vec<String> = T::VARIANTS
            .iter()
            .map(|name| format!("\"{name}\""))
            .collect();
        let expected = names.join(" or ");
        let text = self.string(node, &expected)?;
        let parsed = text.parse().ok();
        if parsed.is_none() {
            self.wrong(node, format_args!("is {}", quoted(text)), expected);
        }
        parsed
    }

    pub(super) fn duration(
        &mut self,
        node: &Node<'_>,
        limits: RangeInclusive<Duration>,
    ) -> Option<Duration> {
        const EXPECTED: &str = "a duration such as \"30s\", \"1m30s\" or \"500ms\"";
        let text = self.string(node, EXPECTED)?;
        let format = |duration: &Duration| format!("\"{}\"", units::format_duration(*duration));
        self.within(
            node,
            (text, units::parse_duration(text)),
            limits,
            format,
            ("a duration", EXPECTED),
        )
    }

    pub(super) fn size(&mut self, node: &Node<'_>, limits: RangeInclusive<u64>) -> Option<u64> {
        const EXPECTED: &str = "a size such as \"512m\" or \"10k\"";
        let text = self.string(node, EXPECTED)?;
        let format = |size: &u64| format!("\"{}\"", units::format_size(*size));
        self.within(
            node,
            (text, units::parse_size(text)),
            limits,
            format,
            ("a size", EXPECTED),
        )
    }

    /// CPUs, in thousandths.
    pub(super) fn cpus(&mut self, node: &Node<'_>, limits: RangeInclusive<u32>) -> Option<u32> {
        const EXPECTED: &str = "a number of CPUs such as 2, 0.5 or \"0.5\"";
        let text = match node.as_number() {
            Some(number) => number,
            None => self.string(node, EXPECTED)?,
        };
        let format = |millis: &u32| units::format_cpus(*millis);
        self.within(
            node,
            (text, units::parse_cpus(text)),
            limits,
            format,
            ("a number of CPUs", EXPECTED),
        )
    }

    /// A parsed quantity within limits.
    fn within<T: PartialOrd>(
        &mut self,
        node: &Node<'_>,
        (text, parsed): (&str, Result<T, UnitError>),
        limits: RangeInclusive<T>,
        format: impl Fn(&T) -> String,
        (noun, example): (&str, &str),
    ) -> Option<T> {
        match parsed {
            Ok(value) if limits.contains(&value) => return Some(value),
            Ok(_) | Err(UnitError::TooLarge) => {
                let (least, most) = (format(limits.start()), format(limits.end()));
                self.wrong(
                    node,
                    format_args!("{} is out of range", quoted(text)),
                    format_args!("{noun} from {least} to {most}"),
                );
            }
            Err(error) => self.wrong(node, format_args!("{} {error}", quoted(text)), example),
        }
        None
    }

    /// The elements of a list.
    pub(super) fn list<'t>(
        &mut self,
        node: &Node<'t>,
        expected: impl Display,
    ) -> Option<Vec<Node<'t>>> {
        let Value::Array(array) = node.value else {
            self.shape(node, expected);
            return None;
        };
        let elements = array.elements.iter().enumerate();
        Some(
            elements
                .map(|(index, value)| node.element(index, value))
                .collect(),
        )
    }

    /// A list of at most so many elements.
    pub(super) fn short_list<'t>(
        &mut self,
        node: &Node<'t>,
        (most, things): (usize, &str),
        expected: &str,
    ) -> Option<Vec<Node<'t>>> {
        let elements = self.list(node, expected)?;
        if elements.len() > most {
            let count = elements.len();
            self.wrong(
                node,
                format_args!("has {count} {things}"),
                format_args!("at most {most}"),
            );
            return None;
        }
        Some(elements)
    }

    /// The elements of a list of strings.
    pub(super) fn strings(&mut self, node: &Node<'_>, expected: &str) -> Option<Vec<String>> {
        let mut strings = Vec::new();
        for element in self.list(node, expected)? {
            strings.push(self.string(&element, "a string")?.to_owned());
        }
        Some(strings)
    }

    /// The properties of an object, each name once.
    pub(super) fn entries<'t>(
        &mut self,
        node: &Node<'t>,
        expected: impl Display,
    ) -> Option<Vec<Entry<'t>>> {
        let Value::Object(object) = node.value else {
            self.shape(node, expected);
            return None;
        };
        let mut seen = BTreeSet::new();
        let mut entries = Vec::new();
        for property in &object.properties {
            let name = property.name.as_str();
            let entry = node.entry(name, &property.value, property.range.start);
            if seen.insert(name) {
                entries.push(entry);
            } else {
                self.wrong(&entry, "is listed twice", "each name once");
            }
        }
        Some(entries)
    }

    /// The properties of an object that `table` has; all others are noted.
    pub(super) fn object<'t>(
        &mut self,
        node: &Node<'t>,
        table: &'static [Field],
        expected: impl Display,
    ) -> Option<Fields<'t>> {
        let mut by_name = BTreeMap::new();
        for entry in self.entries(node, expected)? {
            match fields::find(table, entry.name) {
                Some(field) if field.is_supported() => {
                    by_name.insert(field.name, entry.node);
                }
                Some(field) => {
                    let meanwhile = match field.meaning {
                        "" => String::new(),
                        meaning => format!(" ({meaning})"),
                    };
                    self.says(
                        &entry,
                        format_args!("is not supported yet; remove it{meanwhile}"),
                    );
                }
                None => self.unknown(&entry, table),
            }
        }
        Some(Fields(by_name))
    }

    fn unknown(&mut self, entry: &Entry<'_>, table: &'static [Field]) {
        let drafts = if self.refuse_unknown {
            &mut self.problems
        } else {
            &mut self.warnings
        };
        // The search for the nearest name is the expensive part.
        if drafts.len() >= MAX_DRAFTS {
            return;
        }
        let advice = match fields::nearest(table, entry.name) {
            Some(near) => format!("did you mean `{near}`?"),
            None => format!("expected one of {}", fields::names(table).join(", ")),
        };
        let what = format_args!("unknown field `{}`; {advice}", shortened(entry.name));
        push(drafts, entry, what);
    }
}

fn push(drafts: &mut Vec<Draft>, at: &impl Located, what: impl fmt::Display) {
    if drafts.len() < MAX_DRAFTS {
        let field = if at.path().is_empty() {
            WHOLE
        } else {
            at.path()
        };
        drafts.push(Draft {
            offset: at.offset(),
            field: field.to_owned(),
            what: what.to_string(),
        });
    }
}
