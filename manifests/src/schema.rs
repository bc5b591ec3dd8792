//! The JSON Schema of a manifest, made from the table of its fields.
//!
//! It is never narrower than the parser: what the parser takes, the schema
//! takes. Rules over several fields are the parser's alone.

use serde_json::{Map, Value, json};

use crate::env::MAX_LINKS;
use crate::fields::{self, Field};
use crate::names::MAX_NAME;
use crate::placement::{MAX_CONSTRAINTS, MAX_LABEL};

const DURATION: &str = r"^(?=.)([0-9]+d)?([0-9]+h)?([0-9]+m)?([0-9]+s)?([0-9]+ms)?$";
const SIZE: &str = "^[0-9]+([bB]|[kKmMgG][iI]?[bB]?)$";
const LABEL: &str = "^[a-z0-9]([a-z0-9-]*[a-z0-9])?$";
const LINK: &str = "^([a-z0-9-]+/)?[a-z0-9-]+(:[a-z0-9-]+)?$";
const SIGNAL: &str = r"^([1-9][0-9]?|([Ss][Ii][Gg])?[A-Za-z]+[0-9]?([+-][0-9]{1,2})?)$";
const LABEL_NAME: &str = "^[A-Za-z0-9]([A-Za-z0-9._/-]*[A-Za-z0-9])?$";
const CONSTRAINT: &str = r"^\s*[A-Za-z0-9]([A-Za-z0-9._/-]*[A-Za-z0-9])?\s*[=!]=\s*[^=\s]";
const CPUS: &str = r"^\+?[0-9]*\.?[0-9]*([eE][+-]?[0-9]+)?$";
const VOLUME: &str = "^[^:]+:/[^:]*(:(ro|rw))?$";

/// JSON Schema, draft 2020-12, of a manifest.
pub fn json_schema() -> Value {
    let mut schema = object(fields::MANIFEST, &["image"], manifest_field);
    schema["$schema"] = json!("https://json-schema.org/draft/2020-12/schema");
    schema["title"] = json!("dokkaa manifest");
    schema
}

/// An object with the fields of `table` and no others.
fn object(table: &[Field], required: &[&str], shape: fn(&str) -> Value) -> Value {
    let properties: Map<String, Value> = table
        .iter()
        .filter(|field| !field.later)
        .map(|field| {
            let mut property = shape(field.name);
            property["description"] = field.meaning.into();
            (field.name.to_owned(), property)
        })
        .collect();
    json!({
        "type": "object",
        "properties": properties,
        "required": required,
        "additionalProperties": false,
    })
}

fn manifest_field(name: &str) -> Value {
    match name {
        "image" => json!({"type": "string", "pattern": r"^\S+$"}),
        "scale" => json!({"type": "integer", "minimum": 0, "maximum": 1000, "default": 1}),
        "command" => json!({"anyOf": [
            {"type": "string", "minLength": 1},
            {"type": "array", "items": {"type": "string"}, "minItems": 1},
        ]}),
        "entrypoint" => words(),
        "env" => pairs("^[A-Za-z_.-][A-Za-z0-9_.-]*", "$", "="),
        "labels" => pairs(r"^[^\s=]", "", "[^=]*="),
        "links" => json!({
            "type": "array",
            "items": {"type": "string", "pattern": LINK},
            "maxItems": MAX_LINKS,
        }),
        "services" => json!({
            "type": "object",
            "propertyNames": {
                "pattern": LABEL,
                "maxLength": MAX_NAME,
                "not": {"pattern": "---"},
            },
            "additionalProperties": {"anyOf": [
                port(),
                object(fields::SERVICE, &["port"], service_field),
            ]},
        }),
        "volumes" => json!({
            "type": "array",
            "items": {"anyOf": [
                {"type": "string", "pattern": VOLUME},
                object(fields::VOLUME, &["source", "target"], volume_field),
            ]},
        }),
        "user" => json!({"type": "string", "minLength": 1}),
        "workdir" => json!({"type": "string", "pattern": "^/"}),
        "stop_signal" => json!({"anyOf": [
            {"type": "string", "pattern": SIGNAL},
            {"type": "integer", "minimum": 1, "maximum": 64},
        ]}),
        "stop_timeout" => with_default(duration(), "10s"),
        "start_timeout" => with_default(duration(), "60s"),
        "pull" => with_default(json!({"enum": ["missing", "always", "never"]}), "missing"),
        "healthcheck" => json!({"anyOf": [
            {"const": "none"},
            object(fields::HEALTHCHECK, &["command"], healthcheck_field),
        ]}),
        "log" => object(fields::LOG, &[], log_field),
        "cpus" => json!({"anyOf": [
            {"type": "number", "minimum": 0.01, "maximum": 1024},
            {"type": "string", "pattern": CPUS},
        ]}),
        "memory" => json!({"type": "string", "pattern": SIZE}),
        "placement" => object(fields::PLACEMENT, &[], placement_field),
        // A field without a shape here: a test finds it.
        _ => Value::Bool(false),
    }
}

fn service_field(name: &str) -> Value {
    match name {
        "port" | "host_port" => port(),
        "protocol" => with_default(json!({"enum": ["tcp", "udp"]}), "tcp"),
        "role" => json!({"type": "string"}),
        "ready" => with_default(json!({"enum": ["listening", "started"]}), "listening"),
        "bind" => json!({"type": "string", "anyOf": [{"format": "ipv4"}, {"format": "ipv6"}]}),
        _ => Value::Bool(false),
    }
}

fn volume_field(name: &str) -> Value {
    match name {
        "source" => json!({"type": "string", "minLength": 1}),
        "target" => json!({"type": "string", "pattern": "^/."}),
        "read_only" | "external" => json!({"type": "boolean", "default": false}),
        _ => Value::Bool(false),
    }
}

fn healthcheck_field(name: &str) -> Value {
    match name {
        "command" => json!({"anyOf": [
            {"type": "string", "minLength": 1},
            {"type": "array", "items": {"type": "string"}, "minItems": 1},
        ]}),
        "interval" | "timeout" | "start_period" => duration(),
        "retries" => count(),
        _ => Value::Bool(false),
    }
}

fn log_field(name: &str) -> Value {
    match name {
        "max_size" => json!({"type": "string", "pattern": SIZE, "default": "10m"}),
        "max_file" => count(),
        _ => Value::Bool(false),
    }
}

fn placement_field(name: &str) -> Value {
    match name {
        "constraints" => json!({
            "type": "array",
            "items": {"type": "string", "pattern": CONSTRAINT},
            "maxItems": MAX_CONSTRAINTS,
        }),
        "max_per_host" => count(),
        "spread" => json!({"type": "string", "pattern": LABEL_NAME, "maxLength": MAX_LABEL}),
        _ => Value::Bool(false),
    }
}

fn words() -> Value {
    json!({"anyOf": [
        {"type": "string"},
        {"type": "array", "items": {"type": "string"}},
    ]})
}

/// A map of scalars whose names match `name` and `name_end`, or a list whose elements match `name` and `rest`.
fn pairs(name: &str, name_end: &str, rest: &str) -> Value {
    json!({"anyOf": [
        {
            "type": "object",
            "propertyNames": {"pattern": format!("{name}{name_end}")},
            "additionalProperties": {"type": ["string", "number", "boolean"]},
        },
        {
            "type": "array",
            "items": {"type": "string", "pattern": format!("{name}{rest}")},
        },
    ]})
}

fn port() -> Value {
    json!({"type": "integer", "minimum": 1, "maximum": u16::MAX})
}

fn count() -> Value {
    json!({"type": "integer", "minimum": 1, "maximum": 1000})
}

fn duration() -> Value {
    json!({"type": "string", "pattern": DURATION})
}

fn with_default(mut schema: Value, default: &str) -> Value {
    schema["default"] = default.into();
    schema
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_field_of_every_table_has_a_shape() {
        let check = |table: &[Field], shape: fn(&str) -> Value| {
            for field in table {
                let is_shape = shape(field.name).is_object();
                assert_eq!(is_shape, !field.later, "{}", field.name);
            }
        };
        check(fields::MANIFEST, manifest_field);
        check(fields::SERVICE, service_field);
        check(fields::VOLUME, volume_field);
        check(fields::HEALTHCHECK, healthcheck_field);
        check(fields::LOG, log_field);
        check(fields::PLACEMENT, placement_field);
    }
}
