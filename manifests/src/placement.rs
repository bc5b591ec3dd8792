//! Placement constraints as text, `label==value` or `label!=value`, and the rules for labels of hosts.

use std::fmt;
use std::str::FromStr;

use crate::manifest::Constraint;

/// Longest name of a host's label, in characters.
pub const MAX_LABEL: usize = 128;
/// Most constraints of a container.
pub const MAX_CONSTRAINTS: usize = 100;
/// Longest value of a label, in characters.
const MAX_VALUE: usize = 256;
/// Most labels of a host.
pub const MAX_LABELS: usize = 64;

/// Error of parsing a constraint.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum ConstraintError {
    /// Neither `==` nor `!=`.
    #[error("has neither `==` nor `!=`; expected {FORM}")]
    NoOperator,
    /// An invalid label.
    #[error("label {0}")]
    Label(LabelError),
    /// An empty value.
    #[error("has no value; expected {FORM}")]
    NoValue,
    /// More characters than allowed.
    #[error("has a value of {0} characters; expected at most {MAX_VALUE}")]
    LongValue(usize),
    /// A third `=`, or a control character.
    #[error("has a value that begins with `=` or contains control characters; expected {FORM}")]
    OddValue,
}

/// Form of a constraint.
const FORM: &str = "`label==value` or `label!=value`, such as `disk==ssd`";

/// Error of checking the name of a host's label.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum LabelError {
    /// An empty string.
    #[error("is empty; expected the name of a label such as `disk`")]
    Empty,
    /// More characters than allowed.
    #[error("has {0} characters; expected at most {MAX_LABEL}")]
    TooLong(usize),
    /// Another character, or a dot, hyphen, underscore or slash at an end.
    #[error(
        "`{}` is not a valid label name; expected letters, digits and inner `.`, `-`, `_` and `/`, such as `com.example.disk`",
        .0.escape_debug()
    )]
    Malformed(String),
}

/// Error of checking the value of a host's label.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum LabelValueError {
    /// More characters than allowed.
    #[error("has a value of {0} characters; expected at most {MAX_VALUE}")]
    TooLong(usize),
    /// No constraint could name it.
    #[error("has a value that begins with `=` or contains control characters")]
    Odd,
}

/// Checks the value of a host's label, which a constraint must be able to name.
pub fn check_label_value(value: &str) -> Result<(), LabelValueError> {
    let length = value.chars().count();
    if length > MAX_VALUE {
        return Err(LabelValueError::TooLong(length));
    }
    if value.starts_with('=') || value.contains(char::is_control) {
        return Err(LabelValueError::Odd);
    }
    Ok(())
}

/// Checks the name of a host's label: letters and digits, inside also `.`, `-`, `_` and `/`.
pub fn check_label(name: &str) -> Result<(), LabelError> {
    if name.is_empty() {
        return Err(LabelError::Empty);
    }
    let length = name.chars().count();
    if length > MAX_LABEL {
        return Err(LabelError::TooLong(length));
    }
    let ends = |c: char| c.is_ascii_alphanumeric();
    let inner = |c: char| ends(c) || matches!(c, '.' | '-' | '_' | '/');
    if name.starts_with(ends) && name.ends_with(ends) && name.chars().all(inner) {
        Ok(())
    } else {
        Err(LabelError::Malformed(name.to_owned()))
    }
}

impl Constraint {
    /// Tests the value of a host's label; none if the host has no such label.
    pub fn holds(&self, value: Option<&str>) -> bool {
        (value == Some(&self.value)) == self.equal
    }

    /// No host satisfies both constraints.
    pub(crate) fn contradicts(&self, other: &Self) -> bool {
        self.label == other.label
            && match (self.equal, other.equal) {
                (true, true) => self.value != other.value,
                (false, false) => false,
                _ => self.value == other.value,
            }
    }
}

impl FromStr for Constraint {
    type Err = ConstraintError;

    fn from_str(text: &str) -> Result<Self, ConstraintError> {
        let is_operator = |at: &usize| ["==", "!="].iter().any(|op| text[*at..].starts_with(op));
        let at = text
            .match_indices(['=', '!'])
            .map(|(at, _)| at)
            .find(is_operator)
            .ok_or(ConstraintError::NoOperator)?;
        let (label, value) = (text[..at].trim(), text[at + 2..].trim());
        check_label(label).map_err(ConstraintError::Label)?;
        if value.is_empty() {
            return Err(ConstraintError::NoValue);
        }
        check_label_value(value).map_err(|error| match error {
            LabelValueError::TooLong(length) => ConstraintError::LongValue(length),
            LabelValueError::Odd => ConstraintError::OddValue,
        })?;
        Ok(Self {
            label: label.to_owned(),
            equal: text[at..].starts_with('='),
            value: value.to_owned(),
        })
    }
}

impl fmt::Display for Constraint {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let operator = if self.equal { "==" } else { "!=" };
        write!(f, "{}{operator}{}", self.label, self.value)
    }
}

impl serde::Serialize for Constraint {
    fn serialize<S: serde::Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.collect_str(self)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn constraint(text: &str) -> Constraint {
        text.parse().expect(text)
    }

    #[test]
    fn constraints_read_back() {
        for text in [
            "disk==ssd",
            "disk!=ssd",
            "com.example/rack_1==a b",
            "a==b!=c",
            "a!=b==c",
            "a==!b",
            "a==ü",
        ] {
            assert_eq!(constraint(text).to_string(), text);
        }
        assert_eq!(constraint(" disk != ssd ").to_string(), "disk!=ssd");
    }

    #[test]
    fn errors_show_the_form() {
        let long = format!("a=={}", "v".repeat(MAX_VALUE + 1));
        for (text, said) in [
            ("", "has neither"),
            ("disk", "has neither"),
            ("disk=ssd", "has neither"),
            ("disk=!ssd", "has neither"),
            ("==ssd", "label is empty"),
            ("-a==b", "label `-a` is not a valid label name"),
            ("a.==b", "label `a.` is not a valid label name"),
            ("a b==c", "label `a b` is not a valid label name"),
            ("disk==", "has no value"),
            ("disk!= ", "has no value"),
            ("disk===ssd", "has a value that begins with `=`"),
            ("disk==s\nd", "has a value that begins with `=`"),
            (&long, "has a value of 257 characters"),
        ] {
            let error = text.parse::<Constraint>().expect_err(text).to_string();
            assert!(error.starts_with(said), "{text}: {error}");
            assert!(error.contains("; expected "), "{error}");
        }
        assert_eq!(
            check_label(&"a".repeat(MAX_LABEL + 1)),
            Err(LabelError::TooLong(MAX_LABEL + 1))
        );
    }

    #[test]
    fn a_host_without_the_label_satisfies_unequal() {
        let (is, is_not) = (constraint("disk==ssd"), constraint("disk!=ssd"));
        for (value, equal) in [(Some("ssd"), true), (Some("hdd"), false), (None, false)] {
            assert_eq!(is.holds(value), equal);
            assert_eq!(is_not.holds(value), !equal);
        }
    }

    #[test]
    fn contradictions_are_found() {
        for (one, other, expected) in [
            ("a==1", "a==2", true),
            ("a==1", "a!=1", true),
            ("a!=1", "a==1", true),
            ("a==1", "a==1", false),
            ("a==1", "a!=2", false),
            ("a!=1", "a!=2", false),
            ("a==1", "b==2", false),
        ] {
            assert_eq!(
                constraint(one).contradicts(&constraint(other)),
                expected,
                "{one} {other}"
            );
        }
    }
}
