//! What holds for the crate as a whole: texts of errors, schema, hashes, documentation.
#![expect(clippy::disallowed_methods, reason = "tests read their own data files")]

mod cases;
mod docs;
mod examples;
mod properties;
mod vectors;

use std::path::PathBuf;
use std::sync::LazyLock;

/// A file of this crate, or beside it.
fn path(name: &str) -> PathBuf {
    PathBuf::from(env!("CARGO_MANIFEST_DIR")).join(name)
}

/// The file says what it should; with `REWRITE` set it is made to.
fn same_as_file(name: &str, expected: &str) {
    let path = path(name);
    if std::env::var_os("REWRITE").is_some() {
        std::fs::write(&path, expected).expect("writable");
    }
    let found = std::fs::read_to_string(&path).unwrap_or_default();
    assert!(
        found == expected,
        "{name} is out of date: REWRITE=1 cargo test -p manifests\n{}",
        first_difference(&found, expected)
    );
}

fn first_difference(found: &str, expected: &str) -> String {
    let mut found = found.lines();
    for (number, line) in expected.lines().enumerate() {
        let other = found.next();
        if other != Some(line) {
            return format!("line {}\n- {other:?}\n+ {line:?}", number + 1);
        }
    }
    "its end".to_owned()
}

/// Judges by the JSON Schema.
fn schema() -> &'static jsonschema::Validator {
    static SCHEMA: LazyLock<jsonschema::Validator> = LazyLock::new(|| {
        jsonschema::options()
            .should_validate_formats(true)
            .build(&manifests::fields::json_schema())
            .expect("the schema is one")
    });
    &SCHEMA
}
