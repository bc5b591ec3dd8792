//! The fields in which two manifests differ.

use std::collections::BTreeSet;
use std::fmt;

use serde::{Deserialize, Serialize};
use serde_json::{Value, json};

use crate::canonical::{container_part, to_json};
use crate::manifest::Manifest;

/// A field that differs.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct FieldChange {
    /// Its path, such as `env.LEVEL`.
    pub field: String,
    /// Its value before, the default where none was written; none if it has no default.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub from: Option<Value>,
    /// Its value after.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub to: Option<Value>,
    /// It affects the container: another value means another container.
    pub replaces: bool,
}

/// The fields in which `after` differs from `before`, by path. A list is one field.
pub fn changes(before: &Manifest, after: &Manifest) -> Vec<FieldChange> {
    let part = |manifest: &Manifest| container_part(manifest, &manifest.image);
    let mut affecting = Vec::new();
    differences(
        &Side::of(&part(before)),
        &Side::of(&part(after)),
        &mut affecting,
    );
    let affecting: BTreeSet<String> = affecting.into_iter().map(|change| change.field).collect();
    let mut found = Vec::new();
    differences(&Side::of(before), &Side::of(after), &mut found);
    for change in &mut found {
        change.replaces = affecting.contains(&change.field);
    }
    found
}

/// All that is written in a manifest, as changes of none to it.
pub fn written(manifest: &Manifest) -> Vec<FieldChange> {
    let none = Side {
        written: json!({}),
        whole: Value::Null,
    };
    let all = Side {
        whole: Value::Null,
        ..Side::of(manifest)
    };
    let mut found = Vec::new();
    differences(&none, &all, &mut found);
    found
}

/// A manifest, and what it means where nothing is written.
struct Side {
    written: Value,
    whole: Value,
}

impl Side {
    fn of(manifest: &Manifest) -> Self {
        Self {
            written: to_json(manifest),
            whole: json!(manifest),
        }
    }
}

fn differences(before: &Side, after: &Side, found: &mut Vec<FieldChange>) {
    let sides = [before, after].map(|side| At {
        written: Some(&side.written),
        whole: Some(&side.whole),
    });
    compare(String::new(), sides, found);
}

/// What is written and what is meant at one path.
#[derive(Clone, Copy)]
struct At<'a> {
    written: Option<&'a Value>,
    whole: Option<&'a Value>,
}

impl<'a> At<'a> {
    fn value(self) -> Option<&'a Value> {
        self.written.or(self.whole).filter(|value| !value.is_null())
    }

    /// Names of its properties.
    fn names(self) -> Option<impl Iterator<Item = &'a String>> {
        Some(self.value()?.as_object()?.keys())
    }

    fn get(self, name: &str) -> Self {
        let get = |value: Option<&'a Value>| value.and_then(|value| value.get(name));
        Self {
            written: get(self.written),
            whole: get(self.whole),
        }
    }

    fn in_full(self) -> Self {
        Self {
            written: None,
            ..self
        }
    }
}

fn compare(path: String, sides: [At<'_>; 2], found: &mut Vec<FieldChange>) {
    // In full where one is written in a short form, as a service may be.
    for sides in [sides, sides.map(At::in_full)] {
        let [before, after] = sides;
        if let (Some(one), Some(other)) = (before.names(), after.names()) {
            let names: BTreeSet<&String> = one.chain(other).collect();
            for name in names {
                let dot = if path.is_empty() { "" } else { "." };
                let path = format!("{path}{dot}{name}");
                compare(path, sides.map(|side| side.get(name)), found);
            }
            return;
        }
    }
    let [from, to] = sides.map(At::value);
    if from != to {
        found.push(FieldChange {
            field: path,
            from: from.cloned(),
            to: to.cloned(),
            replaces: false,
        });
    }
}

impl FieldChange {
    /// The way back.
    #[must_use]
    pub fn reversed(self) -> Self {
        Self {
            from: self.to,
            to: self.from,
            ..self
        }
    }
}

impl fmt::Display for FieldChange {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let (from, to) = (text(self.from.as_ref()), text(self.to.as_ref()));
        write!(f, "{}: {from} -> {to}", self.field)
    }
}

/// A value for people: text without quotes.
pub fn text(value: Option<&Value>) -> String {
    match value {
        None => "none".to_owned(),
        Some(Value::String(text)) if !text.is_empty() => text.clone(),
        Some(value) => value.to_string(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::canonical::same_container;
    use crate::parse;

    fn manifest(text: &str) -> Manifest {
        parse::strict(text.as_bytes()).expect(text).manifest
    }

    fn said(before: &str, after: &str) -> Vec<String> {
        let (before, after) = (manifest(before), manifest(after));
        let found = changes(&before, &after);
        assert_eq!(
            found.iter().any(|change| change.replaces),
            !same_container(&before, &after)
        );
        let marked = |change: &FieldChange| {
            let mark = if change.replaces { "! " } else { "" };
            format!("{mark}{change}")
        };
        found.iter().map(marked).collect()
    }

    #[test]
    fn each_field_is_named_with_both_values() {
        assert_eq!(
            said(
                r#"{"image": "a:1", "env": {"A": "1", "B": "2"}}"#,
                r#"{"image": "a:2", "scale": 3, "env": {"A": "", "C": "3"}, "stop_timeout": "1m",
                    "command": ["x"], "services": {"web": 80}}"#,
            ),
            [
                "! command: none -> [\"x\"]",
                "! env.A: 1 -> \"\"",
                "! env.B: 2 -> none",
                "! env.C: none -> 3",
                "! image: a:1 -> a:2",
                "scale: 1 -> 3",
                "! services.web: none -> 80",
                "stop_timeout: 10s -> 1m",
            ]
        );
    }

    #[test]
    fn a_new_manifest_is_what_is_written_in_it() {
        let new = manifest(r#"{"image": "a", "scale": 1, "services": {"web": 80}}"#);
        let found: Vec<String> = written(&new).iter().map(ToString::to_string).collect();
        assert_eq!(
            found,
            ["image: none -> a", "services: none -> {\"web\":80}"]
        );
    }

    #[test]
    fn other_spellings_are_no_change() {
        let none: [&str; 0] = [];
        assert_eq!(
            said(
                r#"{"image": "a", "services": {"web": 80}, "stop_timeout": "60s", "env": ["A=1"]}"#,
                r#"{"stop_timeout": "1m", "services": {"web": {"port": 80}}, "image": "a", "scale": 1,
                    "env": {"A": "1"}}"#,
            ),
            none
        );
    }

    #[test]
    fn a_service_is_compared_in_both_forms() {
        assert_eq!(
            said(
                r#"{"image": "a", "services": {"web": 80, "api": 90}}"#,
                r#"{"image": "a", "services": {"web": {"port": 80, "host_port": 8080}}}"#,
            ),
            [
                "! services.api: 90 -> none",
                "! services.web.host_port: none -> 8080",
            ]
        );
    }
}
