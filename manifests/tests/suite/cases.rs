//! `tests/cases.txt`: manifests and what is said of them, by parser and schema.
//!
//! A case is `# title`, the text, `----`, the answer. `REWRITE=1` writes the
//! answers anew; they are read by a person before they are committed.

use std::fmt::Write as _;

use manifests::parse::{self, Problem};

use super::{path, same_as_file, schema};

const FILE: &str = "tests/cases.txt";

#[test]
fn answers() {
    let file = std::fs::read_to_string(path(FILE)).expect("the cases");
    let mut answered = String::new();
    for case in file
        .split("\n\n")
        .map(str::trim)
        .filter(|case| !case.is_empty())
    {
        let (title, rest) = case.split_once('\n').expect("a title and a text");
        let text = rest.split("\n----").next().expect("a text");
        let answer = answer(text);
        let _ = write!(answered, "{title}\n{text}\n----\n{answer}\n");
    }
    answered.pop();
    same_as_file(FILE, &answered);
}

fn answer(text: &str) -> String {
    let strict = parse::strict(text.as_bytes());
    let lenient = parse::lenient(text.as_bytes());
    let strict_lines = lines(strict.as_ref().map(|parsed| parsed.warnings.as_slice()));
    let lenient_lines = lines(lenient.as_ref().map(|parsed| parsed.warnings.as_slice()));
    let mut answer = strict_lines.clone();
    if lenient_lines != strict_lines {
        let _ = write!(answer, "the agent:\n{lenient_lines}");
    }
    if let Ok(json) = serde_json::from_str(text) {
        let valid = schema().is_valid(&json);
        if strict.is_ok() {
            assert!(valid, "the schema is narrower than the parser: {text}");
        } else if valid {
            answer.push_str("(the schema takes it)\n");
        }
    }
    answer
}

fn lines(result: Result<&[Problem], &Vec<Problem>>) -> String {
    let (verdict, problems) = match result {
        Ok([]) => ("valid\n", [].as_slice()),
        Ok(warnings) => ("valid, but\n", warnings),
        Err(problems) => ("", problems.as_slice()),
    };
    let mut lines = verdict.to_owned();
    for problem in problems {
        let _ = writeln!(lines, "{problem}");
    }
    lines
}
