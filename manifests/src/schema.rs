//! Rows of the tables of fields, with the JSON Schema of each.
//!
//! The schema is never narrower than the parser. Rules over several fields are
//! the parser's alone.

use serde_json::{Map, Value, json};

const DURATION: &str = r"^(?=.)([0-9]+d)?([0-9]+h)?([0-9]+m)?([0-9]+s)?([0-9]+ms)?$";

/// Highest limit of a process that is no `unlimited`: whole as a JSON number everywhere.
pub(crate) const MOST_LIMIT: i64 = 1 << 50;

/// One field of an object.
#[derive(Debug, Clone, Copy)]
pub struct Field {
    /// Its name.
    pub name: &'static str,
    /// Type and limits, as text.
    pub kind: &'static str,
    /// Default, as text or as JSON between backticks; empty if there is none.
    pub default: &'static str,
    /// Description; of an unsupported field, what holds meanwhile.
    pub meaning: &'static str,
    /// An object without it is invalid.
    pub required: bool,
    /// JSON Schema; none if the field is not supported yet.
    schema: Option<fn() -> Value>,
}

impl Field {
    /// Supported by this version.
    pub fn is_supported(&self) -> bool {
        self.schema.is_some()
    }
}

pub(crate) const fn field(
    name: &'static str,
    kind: &'static str,
    default: &'static str,
    meaning: &'static str,
    schema: fn() -> Value,
) -> Field {
    Field {
        name,
        kind,
        default,
        meaning,
        required: false,
        schema: Some(schema),
    }
}

pub(crate) const fn required(
    name: &'static str,
    kind: &'static str,
    meaning: &'static str,
    schema: fn() -> Value,
) -> Field {
    Field {
        required: true,
        ..field(name, kind, "", meaning, schema)
    }
}

/// A field of a later version.
pub(crate) const fn later(name: &'static str, meanwhile: &'static str) -> Field {
    Field {
        schema: None,
        ..field(name, "", "", meanwhile, || Value::Null)
    }
}

/// An object with the supported fields of `table` and no others.
pub(crate) fn object(table: &[Field]) -> Value {
    let mut properties = Map::new();
    for field in table {
        let Some(schema) = field.schema else { continue };
        let mut property = schema();
        property["description"] = field.meaning.into();
        let default = field.default.trim_matches('`');
        if default.len() < field.default.len()
            && let Ok(default) = serde_json::from_str(default)
        {
            property["default"] = default;
        }
        properties.insert(field.name.to_owned(), property);
    }
    let required = table.iter().filter(|field| field.required);
    json!({
        "type": "object",
        "properties": properties,
        "required": required.map(|field| field.name).collect::<Vec<_>>(),
        "additionalProperties": false,
    })
}

pub(crate) fn pattern(pattern: &str) -> Value {
    json!({"type": "string", "pattern": pattern})
}

pub(crate) fn text() -> Value {
    json!({"type": "string", "minLength": 1})
}

pub(crate) fn boolean() -> Value {
    json!({"type": "boolean"})
}

/// A list of at least so many strings, or one string.
pub(crate) fn strings(least: u32) -> Value {
    json!({"anyOf": [
        {"type": "string", "minLength": least},
        {"type": "array", "items": {"type": "string"}, "minItems": least},
    ]})
}

pub(crate) fn command() -> Value {
    strings(1)
}

/// A map of scalars whose names match `name` and `name_end`, or a list whose elements match `name` and `rest`.
pub(crate) fn pairs(name: &str, name_end: &str, rest: &str) -> Value {
    json!({"anyOf": [
        {
            "type": "object",
            "propertyNames": {"pattern": format!("{name}{name_end}")},
            "additionalProperties": {"type": ["string", "number", "boolean"]},
        },
        {"type": "array", "items": pattern(&format!("{name}{rest}"))},
    ]})
}

pub(crate) fn port() -> Value {
    json!({"type": "integer", "minimum": 1, "maximum": u16::MAX})
}

/// A limit of a process.
pub(crate) fn limit() -> Value {
    json!({"type": "integer", "minimum": -1, "maximum": MOST_LIMIT})
}

pub(crate) fn count() -> Value {
    json!({"type": "integer", "minimum": 1, "maximum": 1000})
}

pub(crate) fn duration() -> Value {
    pattern(DURATION)
}
