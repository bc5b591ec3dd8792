//! Changes of single fields of a manifest, as JSON. Pure; the result is validated
//! by the caller.

use serde_json::{Map, Value, json};

/// One change: `image=nginx:1.27`, `env.LEVEL=debug`, `env.OLD-`.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Change {
    path: Vec<String>,
    /// None takes the field away.
    value: Option<String>,
}

impl Change {
    pub(super) fn read(text: &str) -> Result<Self, String> {
        let (path, value) = match text.split_once('=') {
            Some((path, value)) => (path, Some(value.to_owned())),
            None => match text.strip_suffix('-') {
                Some(path) => (path, None),
                None => {
                    return Err(format!(
                        "`{text}` is not a change; expected FIELD=VALUE, or FIELD- to take it away"
                    ));
                }
            },
        };
        let path: Vec<String> = match path.split_once('.') {
            // Names of variables and labels may have dots of their own.
            Some((field @ ("env" | "labels"), name)) => vec![field.to_owned(), name.to_owned()],
            _ => path.split('.').map(ToOwned::to_owned).collect(),
        };
        if path.iter().any(String::is_empty) {
            return Err(format!("`{text}` names no field"));
        }
        Ok(Self { path, value })
    }

    fn name(&self) -> String {
        self.path.join(".")
    }

    /// The value in the type that the field has.
    fn json(&self, text: &str) -> Value {
        const TEXTS: [&str; 6] = [
            "image",
            "user",
            "workdir",
            "stop_signal",
            "pull",
            "stop_timeout",
        ];
        let field = self.path[0].as_str();
        let is_text = TEXTS.contains(&field) || matches!(field, "env" | "labels");
        if is_text && (self.path.len() > 1 || TEXTS.contains(&field)) {
            return Value::String(text.to_owned());
        }
        serde_json::from_str(text).unwrap_or_else(|_| Value::String(text.to_owned()))
    }
}

/// The changed text; none if nothing changed.
pub(super) fn edit(text: &str, changes: &[Change]) -> Result<Option<String>, String> {
    let before: Value = serde_json::from_str(text)
        .map_err(|error| format!("the manifest can't be read: {error}"))?;
    let mut after = before.clone();
    for change in changes {
        let Value::Object(manifest) = &mut after else {
            return Err("the manifest is not a JSON object".to_owned());
        };
        apply(manifest, change)?;
    }
    if before == after {
        return Ok(None);
    }
    Ok(Some(format!("{after:#}\n")))
}

fn apply(manifest: &mut Map<String, Value>, change: &Change) -> Result<(), String> {
    if let [field, name] = change.path.as_slice()
        && let Some(Value::Array(pairs)) = manifest.get_mut(field)
    {
        return apply_pair(pairs, name, change);
    }
    let (last, parents) = change.path.split_last().ok_or("no field is named")?;
    let mut object = manifest;
    for parent in parents {
        if change.value.is_none() && !object.contains_key(parent) {
            return Err(format!("there is no {}", change.name()));
        }
        let inner = object.entry(parent.as_str()).or_insert_with(|| json!({}));
        // A service in its short form, `"web": 80`.
        if let Value::Number(port) = inner {
            *inner = json!({ "port": port });
        }
        object = inner
            .as_object_mut()
            .ok_or_else(|| format!("{parent} has no fields"))?;
    }
    match &change.value {
        Some(text) => {
            object.insert(last.clone(), change.json(text));
        }
        None => {
            object
                .remove(last)
                .ok_or_else(|| format!("there is no {}", change.name()))?;
        }
    }
    Ok(())
}

/// In the list form, `["A=b"]`.
fn apply_pair(pairs: &mut Vec<Value>, name: &str, change: &Change) -> Result<(), String> {
    let at = pairs.iter().position(|pair| {
        pair.as_str()
            .and_then(|pair| pair.split_once('='))
            .is_some_and(|(key, _)| key == name)
    });
    match (&change.value, at) {
        (Some(text), at) => {
            let pair = Value::String(format!("{name}={text}"));
            match at {
                Some(at) => pairs[at] = pair,
                None => pairs.push(pair),
            }
        }
        (None, Some(at)) => {
            pairs.remove(at);
        }
        (None, None) => return Err(format!("there is no {}", change.name())),
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    #![expect(clippy::unwrap_used, reason = "a failed unwrap is a failed test")]

    use super::*;

    fn changed(text: &str, changes: &[&str]) -> Result<Value, String> {
        let changes: Vec<Change> = changes
            .iter()
            .map(|text| Change::read(text).unwrap())
            .collect();
        let after = edit(text, &changes)?.unwrap();
        Ok(serde_json::from_str(&after).unwrap())
    }

    #[test]
    fn values_take_the_type_of_their_field() {
        let text = r#"{"image": "a", "env": {"OLD": "x"}}"#;
        let after = changed(
            text,
            &[
                "image=1",
                "scale=3",
                "env.N=5",
                "env.A.B=c=d",
                "env.OLD-",
                "links=[\"db\"]",
                "command=sleep 1",
                "start_timeout=30s",
            ],
        );
        assert_eq!(
            after.unwrap(),
            json!({
                "image": "1", "scale": 3, "env": {"N": "5", "A.B": "c=d"}, "links": ["db"],
                "command": "sleep 1", "start_timeout": "30s",
            })
        );
    }

    #[test]
    fn short_forms_are_kept_or_widened() {
        let text = r#"{"image": "a", "services": {"web": 80}, "env": ["A=1", "B=2"]}"#;
        let after = changed(
            text,
            &[
                "services.web.host_port=8080",
                "services.api=90",
                "env.A=9",
                "env.C=3",
                "env.B-",
            ],
        );
        assert_eq!(
            after.unwrap(),
            json!({
                "image": "a", "services": {"web": {"port": 80, "host_port": 8080}, "api": 90},
                "env": ["A=9", "C=3"],
            })
        );
    }

    #[test]
    fn nothing_changed_is_said() {
        let change = Change::read("image=a").unwrap();
        assert_eq!(edit(r#"{"image":"a"}"#, &[change]), Ok(None));
    }

    #[test]
    fn what_can_not_be_done_is_an_error() {
        for text in ["image", "=x", "env.=x", "a..b=1", "-"] {
            assert!(Change::read(text).is_err(), "{text}");
        }
        let text = r#"{"image": "a", "links": ["db"]}"#;
        assert!(changed(text, &["env.X-"]).unwrap_err().contains("no env.X"));
        assert!(
            changed(text, &["image.x=1"])
                .unwrap_err()
                .contains("no fields")
        );
        assert!(changed("[1]", &["image=1"]).is_err());
        assert!(changed("{", &["image=1"]).is_err());
    }
}
