//! From text to a manifest, with every error at its position.
//!
//! The text is read as strict JSON; then one pass over its span tree checks
//! types and rules together and builds the manifest.

mod node;
mod reader;
mod rules;

use std::fmt::Write as _;
use std::ops::Range;

use jsonc_parser::{CollectOptions, ParseOptions, parse_to_ast};

use crate::manifest::Manifest;
use node::Node;
use reader::{Draft, Reader, WHOLE};

/// Most problems that are reported at once.
pub const MAX_PROBLEMS: usize = 20;

/// A parsed manifest.
#[derive(Debug, Clone, PartialEq)]
pub struct Parsed {
    /// The manifest.
    pub manifest: Manifest,
    /// The text as a JSON value.
    pub json: serde_json::Value,
    /// Unknown fields where they are allowed, and variables that dokkaa's may override.
    pub warnings: Vec<Problem>,
}

/// An error or warning: `line:column field: wrong; expected …`.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("{line}:{column} {field}: {what}")]
pub struct Problem {
    /// Line, from 1; 0 where there is no text.
    pub line: usize,
    /// Column in characters, from 1.
    pub column: usize,
    /// Path of the field, such as `services.web.port`.
    pub field: String,
    /// The message.
    pub what: String,
}

impl Problem {
    /// `field: wrong; expected …`, for who does not have the text.
    pub fn without_place(&self) -> String {
        format!("{}: {}", self.field, self.what)
    }
}

/// Treatment of unknown fields.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Unknown {
    Refused,
    Warned,
}

/// Parses for the API and `validate`: unknown fields are errors.
pub fn strict(text: &[u8]) -> Result<Parsed, Vec<Problem>> {
    parse(text, Unknown::Refused)
}

/// Parses for the agent: unknown fields are warnings.
pub fn lenient(text: &[u8]) -> Result<Parsed, Vec<Problem>> {
    parse(text, Unknown::Warned)
}

/// Parses a version, which is stored as a JSON value; unknown fields are warnings.
pub fn from_json(json: &serde_json::Value) -> Result<Parsed, Vec<Problem>> {
    let nowhere = |mut problems: Vec<Problem>| {
        for problem in &mut problems {
            (problem.line, problem.column) = (0, 0);
        }
        problems
    };
    match lenient(json.to_string().as_bytes()) {
        Ok(parsed) => Ok(Parsed {
            warnings: nowhere(parsed.warnings),
            ..parsed
        }),
        Err(problems) => Err(nowhere(problems)),
    }
}

fn parse(bytes: &[u8], unknown: Unknown) -> Result<Parsed, Vec<Problem>> {
    let text = match str::from_utf8(bytes) {
        Ok(text) => text,
        Err(error) => {
            let good = &bytes[..error.valid_up_to()];
            // The part before the fault is UTF-8 by definition of `valid_up_to`.
            let good = str::from_utf8(good).unwrap_or_default();
            let what = format!(
                "invalid UTF-8 byte 0x{:02x}; expected JSON in UTF-8",
                bytes[good.len()]
            );
            return Err(vec![at(good, good.len(), WHOLE.to_owned(), what)]);
        }
    };
    let whole = |offset: usize, what: String| vec![at(text, offset, WHOLE.to_owned(), what)];
    if text.starts_with('\u{feff}') {
        return Err(whole(
            0,
            "starts with a byte order mark; expected UTF-8 without one".to_owned(),
        ));
    }
    if text.trim_ascii().is_empty() {
        return Err(whole(
            0,
            "is empty; expected a JSON object such as {\"image\": \"nginx\"}".to_owned(),
        ));
    }
    // serde_json decides what is JSON; the parser of the span tree accepts more.
    let json: serde_json::Value = match serde_json::from_str(text) {
        Ok(json) => json,
        Err(error) => {
            let (offset, what) = syntax_error(text, &error);
            return Err(whole(offset, what));
        }
    };
    let tree = match parse_to_ast(text, &CollectOptions::default(), &strict_json()) {
        Ok(result) => result.value,
        Err(error) => {
            let what = format!("invalid JSON: {}; expected valid JSON", error.kind());
            return Err(whole(error.range().start, what));
        }
    };
    let Some(root) = tree else {
        return Err(whole(0, "is empty; expected a JSON object".to_owned()));
    };
    let mut reader = Reader::new(unknown == Unknown::Refused);
    let manifest = rules::manifest(&mut reader, &Node::root(&root));
    let Reader {
        problems, warnings, ..
    } = reader;
    if problems.is_empty() {
        Ok(Parsed {
            manifest,
            json,
            warnings: in_order(text, warnings),
        })
    } else {
        Err(in_order(text, problems))
    }
}

/// All ten extensions off.
fn strict_json() -> ParseOptions {
    ParseOptions {
        allow_comments: false,
        allow_loose_object_property_names: false,
        allow_trailing_commas: false,
        allow_missing_commas: false,
        allow_single_quoted_strings: false,
        allow_hexadecimal_numbers: false,
        allow_unary_plus_numbers: false,
        allow_bare_decimal_point_numbers: false,
        allow_non_finite_numbers: false,
        allow_extended_string_escapes: false,
    }
}

/// Position and message of a syntax error.
fn syntax_error(text: &str, error: &serde_json::Error) -> (usize, String) {
    if error.is_eof() {
        return (
            text.len(),
            "unexpected end of JSON input; expected a closing bracket or quote".to_owned(),
        );
    }
    let line = line_bytes(text, error.line());
    // serde_json counts bytes, and points at the last one read: column 0 is the line break before the line.
    let mut offset = (line.start + error.column())
        .saturating_sub(1)
        .min(line.end);
    while !text.is_char_boundary(offset) {
        offset -= 1;
    }
    let full = error.to_string();
    let cause = full.split(" at line ").next().unwrap_or(&full);
    let what = match cause {
        "trailing characters" => {
            "trailing characters after the JSON value; expected one JSON object"
                .to_owned()
        }
        "trailing comma" => {
            "trailing comma; expected none before the closing bracket".to_owned()
        }
        "key must be a string" => {
            "object key without double quotes; expected \"name\": value".to_owned()
        }
        "expected value" | "expected ident" => {
            "invalid JSON; expected a value: an object, a list, a \"string\", a number, true, false or null"
                .to_owned()
        }
        "control character (\\u0000-\\u001F) found while parsing a string" => {
            "control character in a string; expected an escape such as \\n".to_owned()
        }
        other => match other.strip_prefix("expected ") {
            Some(expected) => format!("invalid JSON; expected {expected}"),
            None => format!("invalid JSON: {other}; expected valid JSON"),
        },
    };
    (offset, what)
}

/// The bytes of a line (from 1), without its end.
fn line_bytes(text: &str, line: usize) -> Range<usize> {
    let start = match line.checked_sub(2) {
        None => 0,
        Some(nth) => text
            .match_indices('\n')
            .nth(nth)
            .map_or(text.len(), |(newline, _)| newline + 1),
    };
    let end = text[start..]
        .find('\n')
        .map_or(text.len(), |length| start + length);
    start..end
}

/// The first problems, in the order of the text; the last of them says how many follow.
fn in_order(text: &str, mut drafts: Vec<Draft>) -> Vec<Problem> {
    drafts.sort_by_key(|draft| draft.offset);
    let follow = drafts.len().saturating_sub(MAX_PROBLEMS);
    drafts.truncate(MAX_PROBLEMS);
    let mut problems: Vec<Problem> = drafts
        .into_iter()
        .map(|draft| at(text, draft.offset, draft.field, draft.what))
        .collect();
    if let Some(last) = problems.last_mut().filter(|_| follow > 0) {
        let _ = write!(last.what, "; and {follow} more");
    }
    problems
}

fn at(text: &str, offset: usize, field: String, what: String) -> Problem {
    let before = &text[..offset];
    let line_start = before.rfind('\n').map_or(0, |newline| newline + 1);
    Problem {
        line: before.bytes().filter(|b| *b == b'\n').count() + 1,
        column: before[line_start..].chars().count() + 1,
        field,
        what,
    }
}

#[cfg(test)]
mod tests;
